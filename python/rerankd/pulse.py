"""Whether the engine's threads get on, as `live` says; and what memory they and the queue may take."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rerankd.pool import Pool
from rerankd.reranker import Reranker

log = logging.getLogger(__name__)

STUCK_MS: Final = 60_000
"""A step that has been going on for so long will not end. No step is more than a wave, a few hundred tokens,
so no load makes one as long; the slowest kernels on a busy machine take seconds."""

_BEAT: Final = 1.0
"""Seconds between two looks."""


def trouble(pool: Pool) -> str:
    """Why the pool can't be relied on any more; "" where it can, however much there is to do."""
    stats, threads = pool.core.stats(), pool.core.threads
    if stats["threads"] < threads:
        return f"{threads - stats['threads']} of {threads} compute threads have died"
    if stats["oldest_step_ms"] >= STUCK_MS:
        return f"a step of the engine has been going on for {stats['oldest_step_ms'] // 1000} s"
    return "the GPU is lost, and will be until the server is started anew" if lost(pool) else ""


def lost(pool: Pool) -> bool:
    """Whether a GPU answers nothing any more: then no new work is welcome."""
    return bool(pool.core.stats()["lost"])


async def watch(pool: Pool, tell: Callable[[bool], None], beat: float = _BEAT) -> None:
    """For ever: tells, when it changes, whether the engine gets on. It got on before the first look.

    It runs on the loop that answers health: where that is stuck nothing is answered, which says it too.
    """
    well = True
    while True:
        await asyncio.sleep(beat)
        why = trouble(pool)
        if bool(why) == well:
            well = not why
            log.log(logging.INFO if well else logging.ERROR, "%s", why or "the engine gets on again")
            tell(well)


def log_memory(pool: Pool, rerankers: Sequence[Reranker], messages: int) -> None:
    """Says what memory the process will need at most, by its limits; messages: bytes for those."""
    now = _peak()
    arenas = sum(each.engine.arena_bytes for each in rerankers)
    parts = (now, arenas, pool.core.queue_bytes, messages)
    log.info(
        "memory: at most about %s: %s now, %s for the threads to work in, %s for requests, %s for messages",
        *(f"{size / (1 << 20):.0f} MiB" for size in (sum(parts), *parts)),
    )


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        # What there was before exec counts here too: a parent's memory.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
