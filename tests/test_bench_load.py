"""Calls sent as planned, to a real server, and what is told of each."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import numpy as np
import pytest
from rerankd import bench
from rerankd.bench_figures import OK, UNFINISHED
from rerankd.bench_load import Load, Measured, Messages
from rerankd.errors import InputError, UnreachableError
from rerankd.ranking import Options
from support import LONG, PATIENCE, RunningServer, Serve, until

SMALL = [bench.Group("2", 1.0, [bench.Request("what is bread?", ["it is baked", "it is a river"])])]
BIG = [bench.Group("60", 1.0, [bench.Request("what is bread?", LONG)])]


def load(
    target: str,
    groups: list[bench.Group],
    *,
    stream: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> Load:
    messages = Messages.of(groups, Options(**options), "", stream=stream)
    return Load(Measured(target), messages, bench.draws(groups, 1), timeout=timeout, patience=PATIENCE)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_open_loop_sends_every_call_when_it_is_due(server: RunningServer, stream: bool) -> None:
    due = np.array([0.0, 0.01, 0.01, 0.05])
    run = load(server.target, SMALL, stream=stream)
    await run.open_loop(due)
    assert sorted(call.due for call in run.calls) == due.tolist()
    for call in run.calls:
        assert (call.code, call.contexts, call.unscored, call.refused) == (OK, 2, 0, False)
        assert call.tokens > 10
        assert call.due <= call.sent <= call.ended
        assert not stream or call.sent <= call.first <= call.ended
    assert (run.ok, run.refused, run.failed, run.in_flight) == (4, 0, 0, 0)


async def test_an_open_loop_waits_for_nobody(server: RunningServer) -> None:
    """Calls are sent while the first is still being computed, and are counted from when they were due."""
    groups = [*BIG, *SMALL]
    messages = Messages.of(groups, Options(), "", stream=False)
    run = Load(
        Measured(server.target), messages, iter([(0, 0), *[(1, 0)] * 5]), timeout=None, patience=PATIENCE
    )
    await run.open_loop(np.array([0.0, 0.001, 0.002, 0.003, 0.004, 0.005]))
    assert run.most_in_flight > 1
    assert {call.code for call in run.calls} == {OK}
    assert max(run.calls, key=lambda call: call.ended).group == 0


async def test_a_generator_that_is_held_up_counts_its_own_delay(server: RunningServer) -> None:
    """No coordinated omission: a call that could not leave on time has waited since it was due."""
    run = load(server.target, SMALL)
    running = asyncio.create_task(run.open_loop(np.array([0.0, 1.0, 1.1])))
    await until(lambda: run.in_flight > 0 or bool(run.calls))
    time.sleep(1.5)  # noqa: ASYNC251 - the loop is to stand still
    freed = run.now()
    await running
    assert freed > 1.5
    late = [call for call in run.calls if call.due > 0]
    assert len(late) == 2
    for call in late:
        assert call.sent >= freed
        assert call.ended - call.due > freed - call.due > 0.4


async def test_a_closed_loop_has_no_more_calls_than_workers(server: RunningServer) -> None:
    run = load(server.target, SMALL)
    await run.closed_loop(3, 0.3)
    assert run.most_in_flight == 3
    assert len(run.calls) >= 3
    assert all(call.due < 0.3 for call in run.calls)
    enough = load(server.target, SMALL)
    await enough.closed_loop(2, PATIENCE, lambda: enough.ok >= 5)
    assert 5 <= enough.ok <= 6


async def test_calls_past_one_connections_share_get_another(server: RunningServer) -> None:
    """Beyond a server's limit of calls per connection, they would wait on our side and look slow."""
    run = load(server.target, SMALL)
    await run.open_loop(np.zeros(250))
    assert run.most_in_flight > 100
    assert run.connections >= 2
    assert {call.code for call in run.calls} == {OK}
    few = load(server.target, SMALL)
    await few.closed_loop(1, 0.05)
    assert few.connections == 2  # the one, and a spare


async def test_refusals_are_told_from_a_server_that_is_not_there(serve: Serve) -> None:
    # An empty queue takes anything, so one of them is computed, and meanwhile there is no room.
    run = load(serve(queue_tokens=30, threads=1).target, BIG)
    running = asyncio.create_task(run.open_loop(np.zeros(6)))
    await until(lambda: len(run.calls) == 5)
    assert all((call.code, call.refused, call.tokens) == ("UNAVAILABLE", True, 0) for call in run.calls)
    assert (run.ok, run.refused, run.failed) == (0, 5, 0)
    run.stop()
    await running
    nobody = load("127.0.0.1:1", SMALL)
    await nobody.closed_loop(1, 0.1)
    assert {(call.code, call.refused) for call in nobody.calls} == {("UNAVAILABLE", False)}
    # A worker that got no answer takes a breath: it does not ask as fast as it can be refused.
    assert nobody.failed == len(nobody.calls) <= 11


@pytest.mark.parametrize("stream", [False, True])
async def test_options_are_sent(server: RunningServer, stream: bool) -> None:
    budget = load(server.target, BIG, stream=stream, budget_ms=1, priority="batch")
    await budget.open_loop(np.zeros(1))
    (call,) = budget.calls
    assert call.code == OK
    assert call.unscored > 0
    assert call.contexts + call.unscored == len(LONG)
    hurried = load(server.target, BIG, stream=stream, timeout=0.01)
    await hurried.open_loop(np.zeros(1))
    assert [call.code for call in hurried.calls] == ["DEADLINE_EXCEEDED"]
    bad = Messages.of(SMALL, Options(), "nobody", stream=stream)
    run = Load(Measured(server.target), bad, bench.draws(SMALL, 1), timeout=None, patience=PATIENCE)
    await run.open_loop(np.zeros(1))
    assert [(call.code, call.refused) for call in run.calls] == [("NOT_FOUND", False)]


@pytest.mark.parametrize("open_loop", [True, False])
async def test_a_run_that_is_stopped_gives_up_what_is_in_flight(serve: Serve, open_loop: bool) -> None:
    own_server = serve(threads=1)
    run = load(own_server.target, BIG)
    far = np.concatenate((np.zeros(20), [PATIENCE * 10]))
    running = asyncio.create_task(run.open_loop(far) if open_loop else run.closed_loop(20, PATIENCE * 10))
    await until(lambda: run.in_flight == 20 or bool(run.calls))
    run.stop()
    stopped = run.stopped_at
    await asyncio.wait_for(running, PATIENCE)
    run.stop()
    assert stopped is not None
    assert run.stopped_at == stopped
    assert len(run.calls) >= 20
    assert UNFINISHED in {call.code for call in run.calls}
    assert (run.in_flight, run.failed) == (0, 0)
    await until(lambda: own_server.server.calls == 0)


async def test_what_is_served(server: RunningServer) -> None:
    (model,) = await Measured(server.target).served()
    assert (model.name, model.is_default) == ("mini-en", True)
    with pytest.raises(UnreachableError, match=r"^no answer from 127.0.0.1:1: "):
        await Measured("127.0.0.1:1").served()


def test_a_text_that_can_not_be_sent() -> None:
    bad = [bench.Group("1", 1.0, [bench.Request("q", ["\ud800"])])]
    with pytest.raises(InputError, match=r"^contexts\[0\].text: is not valid Unicode"):
        Messages.of(bad, Options(), "", stream=False)
    drawn = list(itertools.islice(bench.draws(bad, 1), 3))
    assert drawn == [(0, 0)] * 3
