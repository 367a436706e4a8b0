"""The way from the engine's threads to loops and back: nothing blocks, and who leaves frees its place."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from typing import Any

import pytest
from rerankd import DeadlineError, InputError, OverloadedError, Reranker, Result
from rerankd.ranking import Options, Passages
from support import CASES, CONTEXTS, LONG, PATIENCE, QUERY, until

# ---- threads and loops ------------------------------------------------------------------------------------


async def test_async_answers_are_those_of_rank(reranker: Reranker) -> None:
    asked = [(case["query"], case["contexts"]) for case in CASES[:4]]
    expected = [list(reranker.rank(*each)) for each in asked]
    answers = await asyncio.gather(*(reranker.rank_async(*each) for each in asked * 3))
    assert [list(answer) for answer in answers] == expected * 3
    assert len(await reranker.rank_async(QUERY, [])) == 0


async def test_the_loop_runs_on_while_the_engine_works(own_reranker: Reranker) -> None:
    task = asyncio.create_task(own_reranker.rank_async(QUERY, LONG))
    await until(
        lambda: own_reranker.engine.stats()["tickets"] == 1 and own_reranker.engine.stats()["waves"] > 0
    )
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_gil_is_free_while_the_engine_works(own_reranker: Reranker) -> None:
    done = threading.Event()

    def work() -> None:
        own_reranker.rank(QUERY, LONG[:20])
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    seen = False
    while not done.is_set() and not seen:
        seen = own_reranker.engine.stats()["tickets"] == 1 and own_reranker.engine.stats()["waves"] > 0
    worker.join()
    assert seen


async def test_a_budget_lets_go_of_who_waits_for_room(own_reranker: Reranker) -> None:
    passages = Passages.of(LONG, [""] * len(LONG))
    for budget_ms in (1, 2, 3, 5, 8):
        async with own_reranker.open_stream(QUERY, Options(budget_ms=budget_ms)) as stream:
            # More than may wait of a stream, and than is done in the time; no wave need come of it any more.
            await asyncio.wait_for(stream.feed(passages), PATIENCE)
            stream.close()
            scored = [result.id async for results in stream for result in results]
        left = stream.ranking.unscored
        assert left
        assert sorted([*scored, *left]) == list(range(len(LONG)))


async def test_a_cancelled_call_frees_its_place(own_reranker: Reranker) -> None:
    task = asyncio.create_task(own_reranker.rank_async(QUERY, LONG))
    await until(lambda: own_reranker.engine.stats()["tickets"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = own_reranker.engine.stats()
    assert (stats["tickets"], stats["cancelled"], stats["queue_tokens"]) == (0, 1, 0)
    assert len(await own_reranker.rank_async(QUERY, CONTEXTS)) == len(CONTEXTS)


def test_many_threads_and_loops_share_one_model(reranker: Reranker) -> None:
    expected = list(reranker.rank(QUERY, CONTEXTS))
    answers: list[list[Result]] = []

    async def ask() -> None:
        both = await asyncio.gather(*(reranker.rank_async(QUERY, CONTEXTS) for _ in range(2)))
        answers.extend(list(each) for each in both)

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(3)]
    threads += [
        threading.Thread(target=lambda: answers.append(list(reranker.rank(QUERY, CONTEXTS))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 9


def test_a_loop_that_ended_leaves_nothing_behind(own_reranker: Reranker) -> None:
    for _ in range(3):
        asyncio.run(own_reranker.rank_async(QUERY, CONTEXTS[:1]))
    gc.collect()
    assert len(own_reranker._mailboxes) == 0


async def test_closing_fails_what_is_queued(own_reranker: Reranker) -> None:
    task = asyncio.create_task(own_reranker.rank_async(QUERY, LONG))
    await until(lambda: own_reranker.engine.stats()["tickets"] == 1)
    own_reranker.engine.close()
    with pytest.raises(OverloadedError):
        await task
    with pytest.raises(OverloadedError):
        own_reranker.rank(QUERY, CONTEXTS)
    own_reranker.close()
    own_reranker.close()


def test_an_interrupt_ends_a_wait_and_frees_its_place(own_reranker: Reranker) -> None:
    def interrupt() -> None:
        asyncio.run(until(lambda: own_reranker.engine.stats()["waves"] > 0))  # then it waits
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background jobs start with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            own_reranker.rank(QUERY, LONG)
    finally:
        signal.signal(signal.SIGINT, before)
    assert own_reranker.engine.stats()["tickets"] == 0


# ---- streams ----------------------------------------------------------------------------------------------


async def test_a_stream_answers_while_it_is_open(reranker: Reranker) -> None:
    expected = reranker.rank(QUERY, CONTEXTS, top_k=2, return_text=True)
    async with reranker.stream(QUERY, CONTEXTS[:2], top_k=2, return_text=True) as stream:
        first = await anext(stream)
        assert {result.id for result in first} <= {0, 1}
        stream.push([])
        stream.push([{"text": CONTEXTS[2], "key": "two"}])
        stream.push(CONTEXTS[3:])
        with pytest.raises(RuntimeError):
            _ = stream.ranking
        stream.close()
        results = first + [result async for chunk in stream for result in chunk]
    assert sorted(result.id for result in results) == [0, 1, 2, 3]
    assert next(result.key for result in results if result.id == 2) == "two"
    assert list(stream.ranking) == list(expected)
    assert stream.ranking.usage == expected.usage
    with pytest.raises(RuntimeError):
        stream.push(CONTEXTS)


async def test_a_stream_without_contexts_has_an_empty_ranking(reranker: Reranker) -> None:
    async with reranker.stream(QUERY) as stream:
        stream.close()
        assert [chunk async for chunk in stream] == []
    assert len(stream.ranking) == 0


async def test_a_bad_context_of_a_stream_is_named_by_its_id(reranker: Reranker) -> None:
    async with reranker.stream(QUERY, CONTEXTS) as stream:
        with pytest.raises(InputError) as error:
            stream.push(["fine", ""])
        assert error.value.field == "contexts[5].text"
        with pytest.raises(InputError) as error:
            stream.push(["fine", "\ud800"])
        assert error.value.field == "contexts[5].text"
        stream.close()
        assert sum([len(chunk) async for chunk in stream]) == len(CONTEXTS)


async def test_a_stream_fails_with_what_it_is_told(reranker: Reranker) -> None:
    stream = reranker.stream(QUERY, LONG)
    stream.fail(InputError("contexts", "no more of these"))
    with pytest.raises(InputError, match="no more of these"):
        async for _ in stream:
            pass
    with pytest.raises(DeadlineError):
        await _scored(reranker, timeout=0.05)


async def _scored(reranker: Reranker, **options: Any) -> list[Result]:
    async with reranker.stream(QUERY, LONG, **options) as stream:
        stream.close()
        return [result async for chunk in stream for result in chunk]


async def test_a_stream_left_early_frees_its_place(own_reranker: Reranker) -> None:
    async with own_reranker.stream(QUERY, LONG) as stream:
        await anext(stream)
    assert own_reranker.engine.stats()["tickets"] == 0
    assert own_reranker.engine.stats()["cancelled"] == 1
