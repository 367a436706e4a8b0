"""InFlight: how many calls are in progress, whatever protocol brought them; a stop waits for all."""

from __future__ import annotations

import asyncio


class InFlight:
    """Counts calls, on one event loop: within it, as a context manager, a call or a part of one is in
    progress.

    Not one that contextlib makes of a generator: that is several frames more, twice a call, which a call of
    one context, after another's computing, finds in no cache.
    """

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

    def __enter__(self) -> bool:
        """Gives True: a call that counts."""
        self._count += 1
        self._idle.clear()
        return True

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()
