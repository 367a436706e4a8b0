"""The table of a result: what is in it, and that it fits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from rerankd import bench, bench_figures, bench_kinds, bench_result, bench_table, table
from rerankd.bench_figures import Call
from rerankd.bench_result import Asked, Calibration, Generator, Model, Result
from test_bench_figures import call

ASKED = Asked(
    rate="0.7x",
    concurrency=16,
    duration=2.0,
    warmup=1.0,
    mix="1:0.9,5:0.1",
    words="20-120",
    file=None,
    deadline_ms=None,
    budget_ms=None,
    priority="interactive",
    stream=False,
    seed=1,
)
GROUPS = bench.made(bench_kinds.parse_mix("1:0.9,5:0.1"), (1, 2), seed=1)


def result(calls: Sequence[Call], **asked: Any) -> Result:
    """A result of calls that are given, as of an open loop at 0.7x, with a window from 1 s to 3 s."""
    window = (1.0, 3.0)
    deadline = asked["deadline_ms"] / 1000 if asked.get("deadline_ms") else None
    total, lag = bench_figures.figures(calls, window, deadline), bench_figures.lag(calls, window)
    return Result(
        version="0",
        target="127.0.0.1:1",
        own_server=False,
        model=Model("mini-en", "r", "cpu", "f32"),
        loop="open",
        asked=dataclasses.replace(ASKED, **asked),
        calibration=Calibration(16, 3.0, 100.0),
        rate=70.0,
        seconds=2.0,
        interrupted=False,
        total=total,
        classes=bench_result.classes(GROUPS, calls, window, deadline),
        generator=Generator(lag, 0.1, 2, 3),
        warnings=tuple(bench_figures.warnings(total, lag, 0.1)),
    )


CALLS = [
    *[call(1.0 + at / 100, 0.010 + at / 1000, group=int(at >= 90)) for at in range(100)],
    *[call(2.5, 0.004, "UNAVAILABLE", refused=True)] * 24,
    call(2.5, 0.3, "INTERNAL"),
]


def shown(of: Result, columns: int = 1000) -> str:
    lines = bench_table.lines(of, table.Screen(columns, unicode=False, colour=False))
    return re.sub(" +", " ", "\n".join(lines))


def test_what_is_shown() -> None:
    said = shown(result(CALLS))
    assert said.startswith(
        "mini-en - f32 on cpu - open loop, 70.0 calls/s, 0.7x of a capacity of 100 - "
        "contexts 1:0.9,5:0.1 - 2 s\n"
    )
    for line in (
        "offered 62.5",
        "sent 62.5",
        "answered 62.5",
        "goodput 50.0 250 5,000",
        "latency, ms calls p50 p90 p95 p99 p99.9 max",
        "OK 100 59.0 99.0 104 108 109 109",
        "refused 24 4.0 4.0 4.0 4.0 4.0 4.0",
        "failed 1 300 300 300 300 300 300",
        "OK, 1 context 90 54.0 90.0 95.0 99.0 99.0 99.0",
        "OK, 5 contexts 10 104 108 109 109 109 109",
        "generator's lag 125 0.0 0.0 0.0 0.0 0.0 0.0",
        "contexts a call calls refused failed goodput/s contexts/s tokens/s",
        "1 115 24 1 45.0 225 4,500",
        "5 10 0 0 5.00 25.0 500",
        "125 calls: OK 100, UNAVAILABLE 24, INTERNAL 1. Refused: 19.2%.",
    ):
        assert f"\n{line}\n" in said + "\n", line
    assert "Beware" not in said


def test_what_is_shown_where_it_was_asked_for() -> None:
    calls = [call(1.5, 0.7, first=1.6, unscored=3), call(1.5, 0.1, first=1.55, sent=1.59)]
    of = result(
        calls, stream=True, deadline_ms=500, budget_ms=40, priority="batch", mix=None, file="mine.jsonl"
    )
    said = shown(dataclasses.replace(of, interrupted=True, calibration=None, classes=of.classes[:1]))
    for part in (
        "- open loop, 70.0 calls/s - mine.jsonl - 2 s - streams - deadline 500 ms - budget 40 ms - batch\n",
        "goodput, in time 0.50",
        "OK, first scores 2 50.0 100 100",
        " OK but late: 1. Contexts past the budget: 3.",
        "Interrupted: 2.0 s counted.",
        "Beware: calls left up to 90.0 ms late (p99)",
    ):
        assert part in said
    assert "contexts a call" not in said  # of one size, there is no more to say
    closed = shown(dataclasses.replace(of, rate=None, loop="closed"))
    assert "closed loop, 16 workers" in closed
    assert "offered" not in closed
    assert "generator's lag" not in closed
    assert "No call was due in the time that counts." in shown(result([]))


@settings(deadline=None)
@example(40, [1000.0])
@given(st.integers(20, 140), st.lists(st.floats(0, 9999), max_size=5))
def test_it_fits_its_terminal(columns: int, took: list[float]) -> None:
    of = result([*CALLS, *(call(1.5, each) for each in took)], stream=True, deadline_ms=1)
    lines = bench_table.lines(of, table.Screen(columns, unicode=True, colour=False))
    assert max(map(table.width, lines)) <= columns
    # Columns go rather than be cut, and these are the last of the latencies' to go.
    if columns >= 40:
        assert any(re.match("latency, ms .*p50 .*p99", line) for line in lines)
