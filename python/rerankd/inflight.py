"""InFlight: how many calls are in progress, whatever protocol brought them; a stop waits for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Counts calls, on one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def count(self) -> int:
        """Calls in progress."""
        return self._count

    async def idle(self) -> None:
        """Returns when no call is in progress."""
        await self._idle.wait()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A call, or a part of one, is in progress within."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()
