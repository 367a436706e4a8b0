"""Rates, goodput, percentiles and counts, from calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankd import bench_figures
from rerankd.bench_figures import OK, UNFINISHED, Call, Percentiles


def call(due: float, took: float, code: str = OK, **more: Any) -> Call:
    given: dict[str, Any] = {
        "group": 0,
        "sent": due,
        "first": math.nan,
        "refused": False,
        "contexts": 5 * (code == OK),
        "unscored": 0,
        "tokens": 100 * (code == OK),
    }
    return Call(due=due, ended=due + took, code=code, **(given | more))


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_by_nearest_rank(seconds: list[float]) -> None:
    found = Percentiles.of(np.array(seconds))
    assert found is not None
    ordered = sorted(seconds)
    for share, value in (
        (50, found.p50),
        (90, found.p90),
        (95, found.p95),
        (99, found.p99),
        (99.9, found.p99_9),
    ):
        # The least value that so large a share of the calls did not exceed.
        rank = next(at for at in range(1, len(ordered) + 1) if at * 1000 >= round(share * 10) * len(ordered))
        assert value == pytest.approx(ordered[rank - 1] * 1000)
        low, high = (np.percentile(seconds, share, method=way) * 1000 for way in ("lower", "higher"))
        assert low - 1e-9 <= value <= high + 1e-9 or value == pytest.approx(ordered[rank - 1] * 1000)
    assert found.count == len(seconds)
    assert found.max == pytest.approx(max(seconds) * 1000)
    assert found.mean == pytest.approx(np.mean(seconds) * 1000)


def test_of_nothing_there_are_no_percentiles() -> None:
    assert Percentiles.of(np.empty(0)) is None
    nothing = bench_figures.figures([], (0.0, 1.0), None)
    assert (nothing.calls, nothing.refused_share, nothing.latency_ms.ok, nothing.codes) == (0, None, None, {})
    assert bench_figures.lag([], (0.0, 1.0)) is None


def test_calls_count_by_when_they_were_due_and_answers_by_when_they_came() -> None:
    calls = [
        call(0.5, 0.2),  # in the warm-up
        call(0.9, 0.2),  # due in the warm-up, answered in the window
        call(1.5, 0.1),
        call(2.9, 0.5),  # due in the window, answered after it
        call(3.0, 0.1),  # after it
    ]
    found = bench_figures.figures(calls, (1.0, 3.0), None)
    assert (found.calls, found.ok, found.codes) == (2, 2, {OK: 2})
    assert (found.offered, found.sent, found.answered) == (1.0, 1.0, 1.0)
    assert (found.goodput.requests, found.goodput.contexts, found.goodput.tokens) == (1.0, 5.0, 100.0)
    assert found.latency_ms.ok is not None
    assert found.latency_ms.ok.max == pytest.approx(500)


def test_latency_counts_from_when_a_call_was_due() -> None:
    """A generator that was held up for a second has made its caller wait for that second."""
    (held_up,) = [call(1.0, 1.25, sent=2.0)]
    found = bench_figures.figures([held_up], (0.0, 5.0), None)
    assert found.latency_ms.ok is not None
    assert found.latency_ms.ok.p50 == pytest.approx(1250)
    lag = bench_figures.lag([held_up], (0.0, 5.0))
    assert lag is not None
    assert lag.max == pytest.approx(1000)
    late = bench_figures.figures([held_up], (0.0, 5.0), 1.0)
    assert (late.ok, late.late, late.goodput.requests, late.answered) == (1, 1, 0.0, 0.2)


def test_every_call_is_counted_once() -> None:
    calls = [
        *[call(0.1, 0.1)] * 5,
        *[call(0.1, 0.01, "UNAVAILABLE", refused=True)] * 3,
        call(0.1, 0.1, "UNAVAILABLE"),  # nobody there
        call(0.1, 0.1, "DEADLINE_EXCEEDED"),
        call(0.1, 0.1, UNFINISHED),
        call(0.1, 0.1, unscored=7),
    ]
    found = bench_figures.figures(calls, (0.0, 1.0), None)
    assert (found.calls, found.ok, found.refused, found.failed, found.unfinished) == (12, 6, 3, 2, 1)
    assert found.codes == {OK: 6, "UNAVAILABLE": 4, "DEADLINE_EXCEEDED": 1, UNFINISHED: 1}
    assert list(found.codes)[:2] == [OK, "UNAVAILABLE"]
    assert found.refused_share == 0.25
    assert found.unscored == 7
    assert found.answered == 11.0
    counts = [found.latency_ms.ok, found.latency_ms.refused, found.latency_ms.failed]
    assert [kind.count for kind in counts if kind is not None] == [6, 3, 2]
    assert found.latency_ms.first_scores is None
    streamed = bench_figures.figures([call(0.1, 0.5, first=0.3)], (0.0, 1.0), None)
    assert streamed.latency_ms.first_scores is not None
    assert streamed.latency_ms.first_scores.p50 == pytest.approx(200)


def test_capacity_is_of_the_time_in_which_all_workers_are_busy() -> None:
    # Two workers, each of whose calls takes a second: two calls a second, whatever the first of them cost.
    calls = [call(0.0, at + 5.0, contexts=10) for at in range(10) for _ in range(2)]
    assert bench_figures.capacity(calls, 2, 10.0, None) == pytest.approx(2.0)
    # Half of the mean size is half of a call; what the budget left is part of what was asked.
    assert bench_figures.capacity(calls, 2, 20.0, None) == pytest.approx(1.0)
    assert bench_figures.capacity([c._replace(contexts=3, unscored=7) for c in calls], 2, 10.0, None) == (
        pytest.approx(2.0)
    )
    assert bench_figures.capacity(calls[:1], 2, 10.0, None) is None
    assert bench_figures.capacity(calls, 2, 10.0, 1.0) is None
    assert bench_figures.capacity([call(0, 1, "INTERNAL")] * 9, 2, 10.0, None) is None


def test_a_generator_that_was_the_bottleneck_says_so() -> None:
    def said(lag: float, took: float, cpu: float = 0.5) -> list[str]:
        calls = [call(0.1, took, sent=0.1 + lag)]
        window = (0.0, 1.0)
        total = bench_figures.figures(calls, window, None)
        return bench_figures.warnings(total, bench_figures.lag(calls, window), cpu)

    assert said(0.004, 0.01) == []  # within what a timer is late
    assert said(0.05, 1.0) == []  # nothing beside the latency
    (late,) = said(0.05, 0.1)
    assert late.startswith("calls left up to 50.0 ms late (p99)")
    (busy,) = said(0.0, 0.1, cpu=0.97)
    assert busy.startswith("the generator computed for 97% of the time")
    total = bench_figures.figures([call(0.1, 0.1, UNFINISHED)], (0.0, 1.0), None)
    (unfinished,) = bench_figures.warnings(total, None, 0.0)
    assert unfinished.startswith("1 calls had no answer")
