"""pulse: `live` tells of threads that are stuck or dead, and of nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from rerankd import Pool, Reranker, pulse
from support import LONG, QUERY, until


class FakeCore:
    """A pool's core that says what the test has it say: no thread can be had to die on demand."""

    def __init__(self) -> None:
        self.threads = 2
        self.said = {"threads": 2, "oldest_step_ms": 0, "lost": 0}

    @property
    def core(self) -> FakeCore:
        return self

    def stats(self) -> dict[str, int]:
        return self.said


def fake(**said: int) -> Pool:
    core = FakeCore()
    core.said |= said
    return cast("Pool", core)


def test_what_is_trouble() -> None:
    assert pulse.trouble(fake()) == ""
    assert pulse.trouble(fake(oldest_step_ms=pulse.STUCK_MS - 1)) == ""
    assert (
        pulse.trouble(fake(oldest_step_ms=pulse.STUCK_MS))
        == "a step of the engine has been going on for 60 s"
    )
    assert pulse.trouble(fake(threads=1)) == "1 of 2 compute threads have died"
    assert pulse.trouble(fake(lost=1)).startswith("the GPU is lost")
    assert pulse.lost(fake(lost=1))
    assert not pulse.lost(fake())


async def test_load_is_no_trouble(own_reranker: Reranker) -> None:
    pool = own_reranker._own_pool
    assert pool is not None
    tasks = [asyncio.create_task(own_reranker.rank_async(QUERY, LONG)) for _ in range(4)]
    await until(lambda: own_reranker.engine.stats()["waves"] > 0)
    assert pool.core.stats()["tickets"] == 4
    assert pool.core.stats()["held_tokens"] >= pool.core.stats()["queue_tokens"] > 0
    assert pulse.trouble(pool) == ""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert pool.core.stats()["held_tokens"] == 0


async def test_changes_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    core, told = FakeCore(), list[bool]()

    @contextmanager
    def watching() -> Iterator[None]:
        task = asyncio.create_task(pulse.watch(cast("Pool", core), told.append, beat=0))
        try:
            yield
        finally:
            task.cancel()

    with watching(), caplog.at_level(logging.INFO):
        core.said = {"threads": 1, "oldest_step_ms": 0, "lost": 0}
        await until(lambda: told == [False])
        core.said = {"threads": 2, "oldest_step_ms": 5, "lost": 0}
        await until(lambda: told == [False, True])
        await asyncio.sleep(0.01)
    assert told == [False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 compute threads have died",
        "the engine gets on again",
    ]


def test_the_memory_is_told(own_reranker: Reranker, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(1, queue_tokens=1_000_000)
    with caplog.at_level(logging.INFO), Reranker("mini-en", pool=pool) as reranker:
        pulse.log_memory(pool, [reranker], 5 << 20)
        # A million tokens and a quarter, 640 bytes each.
        assert "763 MiB for requests, 5 MiB for messages" in caplog.records[-1].getMessage()
        assert 0 < reranker.engine.arena_bytes < 100 << 20
        assert own_reranker.engine.arena_bytes == reranker.engine.arena_bytes
    pool.close()
