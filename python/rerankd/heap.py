"""The C library's heap, kept from growing: glibc's holds on to what was freed, and more of it each hour.

A server's messages and texts come and go on a dozen threads, in all sizes, and glibc gives each thread a heap
of its own. Under 10,000 cancelled calls a minute what was in use stayed at 50 MB, and they grew from 82
to 127 MB in five minutes (`make soak`). Other C libraries have no such calls: there nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
_FEWEST: Final = 2

_EVERY: Final = 30.0
"""Seconds between two times that free pages are given back, which takes milliseconds of one core."""


def share(threads: int) -> bool:
    """Has all threads share as many heaps as there are compute threads, 2 at the least; before any is
    started. Returns whether the C library can do that.

    Those threads allocate a thousand times a text when they tokenize: 16 of them, on two heaps, spent their
    time waiting for each other, and a GPU did a quarter of what it does.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(_FEWEST, threads)))
    except (AttributeError, OSError):
        return False


def give_back() -> bool:
    """Gives the system the pages that nothing is on. Whether there were any."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False


async def keep_small(every: float = _EVERY) -> None:
    """For ever: gives back what is free, on a thread of its own, for the heaps are locked meanwhile."""
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(give_back)
