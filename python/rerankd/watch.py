"""Files that are read again when they have changed: certificates, tokens."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

log = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks at the files. A look costs microseconds."""

_Stamp: TypeAlias = "tuple[int, ...] | None"


class Watched:
    """Says when any of the files has changed since it was made, or since it last said so.

    A change is told one look late, when the files have stayed as they are since the look before: a list of
    tokens that is half written would be a legal list, and a key follows its certificate.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        # Taken before anybody reads the files, so that what changes while they do is seen.
        self._told = self._seen = self._stamps()

    def changed(self) -> bool:
        """Looks. To be followed by reading the files, if True."""
        now = self._stamps()
        settled, self._seen = now == self._seen, now
        if not settled or now == self._told:
            return False
        self._told = now
        return True

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: str) -> _Stamp:
    try:
        # Of what a link leads to: Kubernetes swaps a secret's files by a link to their directory.
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev


async def keep_current(*refresh: Callable[[], None]) -> None:
    """Calls each now and then, on a thread, as a file system may be slow; until it is cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        await asyncio.to_thread(_call_all, refresh)


def _call_all(refresh: Iterable[Callable[[], None]]) -> None:
    for each in refresh:
        with _logged():
            each()


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except Exception:
        # What is in force stays so; and the next change must not go unseen for this one's sake.
        log.exception("reading changed files")
