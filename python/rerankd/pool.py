"""Pool: what rerankers of one process share, threads and a queue."""

from __future__ import annotations

from typing import Final

from rerankd import _core
from rerankd.errors import InputError

WAVE_TOKENS: Final = 256
GPU_WAVE_TOKENS: Final = 16384

# In process, what waits is the caller's own memory: no queue limit but the one that it asks for.
_NO_LIMIT: Final = 1 << 40


def cores() -> int:
    """Compute threads of a pool that isn't told how many: as the cgroup's quota and the affinity mask leave.

    Raises DeviceError where that can't be told.
    """
    return _core.cores()


class Pool:
    """Threads, and the queue that they work off, for any number of rerankers: `Reranker(..., pool=pool)`.

    Models that share a pool take waves in turn, where two pools would take each other's cores.

    threads: compute threads; None: as many as the machine gives this process.
    wave_tokens: tokens computed at one go.
    queue_tokens: tokens that requests may hold together before one is refused with OverloadedError; None: no
        limit.

    Raises InputError that names a bad argument, and DeviceError where the threads can't be started.
    """

    def __init__(
        self, threads: int | None = None, *, wave_tokens: int = WAVE_TOKENS, queue_tokens: int | None = None
    ) -> None:
        for name, count in (
            ("threads", threads),
            ("wave_tokens", wave_tokens),
            ("queue_tokens", queue_tokens),
        ):
            check_count(name, count)
        self._core = _core.Pool(
            threads=threads,
            wave_tokens=wave_tokens,
            queue_tokens=queue_tokens if queue_tokens is not None else _NO_LIMIT,
        )

    @property
    def core(self) -> _core.Pool:
        """The pool as the engine has it: its threads, its stats."""
        return self._core

    def close(self) -> None:
        """Stops the threads after the work they are in; what is queued fails with OverloadedError."""
        self._core.close()


def check_count(name: str, count: object) -> None:
    """Raises InputError for what is neither None nor an integer from 1 on."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(name, f"must be an integer, at least 1; not {count!r}")
