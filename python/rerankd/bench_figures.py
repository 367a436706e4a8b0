"""What the calls of a load come to: rates, goodput, percentiles, counts. Arrays in, numbers out; no clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

OK: Final = "OK"
UNFINISHED: Final = "UNFINISHED"
"""The code of a call that had no answer when the run ended: it says nothing of the server."""


class Call(NamedTuple):
    """One call. Times are in seconds from the start of the run."""

    group: int
    """The index of its group."""
    due: float
    """When it was to be sent: latency counts from here, whenever it was sent."""
    sent: float
    first: float
    """When the first message of a stream's answer came; NaN where none did."""
    ended: float
    code: str
    """A gRPC status code's name, or UNFINISHED."""
    refused: bool
    """Whether the server turned it away and said when to come back."""
    contexts: int
    """Contexts scored."""
    unscored: int
    """Contexts that the budget did not reach."""
    tokens: int
    """Tokens that the model read."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of times in milliseconds. Each is one that a call had: at least so many of a hundred had no more."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, seconds: Array) -> Percentiles | None:
        """None where there are no times."""
        if not len(seconds):
            return None
        shares = (50, 90, 95, 99, 99.9, 100)
        # Nearest rank: what lies between two calls, nobody waited for.
        found = np.percentile(seconds, shares, method="inverted_cdf") * 1e3
        return cls(len(seconds), float(seconds.mean() * 1e3), *(float(value) for value in found))


@dataclass(frozen=True, slots=True)
class Goodput:
    """What callers had use of, per second of the window: answers that were OK and in time."""

    requests: float
    contexts: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Latency:
    """From when a call was due to its end, by how it ended. None where no call ended so."""

    ok: Percentiles | None
    refused: Percentiles | None
    failed: Percentiles | None
    first_scores: Percentiles | None
    """Of streams: to the first message of an answer that was OK."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Calls that were due in the window, and answers that came in it."""

    calls: int
    """Due in the window; all counts below are of these."""
    ok: int
    late: int
    """Of the OK ones, those past the deadline, counted from when they were due."""
    refused: int
    """Turned away by a server that was full or draining."""
    failed: int
    """Ended by any other code."""
    unfinished: int
    """Without an answer when the run ended."""
    refused_share: float | None
    """Of the calls; None where there were none."""
    codes: dict[str, int]
    """Calls by status code, the most frequent first."""
    unscored: int
    """Contexts of OK answers that budget_ms did not reach."""
    offered: float
    """Calls due, per second."""
    sent: float
    """Calls sent within the window, per second."""
    answered: float
    """Answers within the window of any code, per second."""
    goodput: Goodput
    """Of the answers within the window, wherever their calls were due: work that a queue still holds at
    the end is not done."""
    latency_ms: Latency


def figures(calls: Sequence[Call], window: tuple[float, float], deadline: float | None) -> Figures:
    """window: its begin and end, in seconds from the start. deadline: in seconds; None: none."""
    begin, end = window
    seconds = max(end - begin, 1e-9)
    within = [call for call in calls if begin <= call.due < end]
    answers = [call for call in calls if begin <= call.ended < end and call.code != UNFINISHED]
    good = [call for call in answers if call.code == OK and _in_time(call, deadline)]
    ok = [call for call in within if call.code == OK]
    refused = [call for call in within if call.refused]
    failed = [call for call in within if call.code not in (OK, UNFINISHED) and not call.refused]
    return Figures(
        calls=len(within),
        ok=len(ok),
        late=sum(not _in_time(call, deadline) for call in ok),
        refused=len(refused),
        failed=len(failed),
        unfinished=len(within) - len(ok) - len(refused) - len(failed),
        refused_share=len(refused) / len(within) if within else None,
        codes=dict(Counter(call.code for call in within).most_common()),
        unscored=sum(call.unscored for call in ok),
        offered=len(within) / seconds,
        sent=sum(begin <= call.sent < end for call in calls) / seconds,
        answered=len(answers) / seconds,
        goodput=Goodput(
            len(good) / seconds,
            sum(call.contexts for call in good) / seconds,
            sum(call.tokens for call in good) / seconds,
        ),
        latency_ms=Latency(
            _taken(ok),
            _taken(refused),
            _taken(failed),
            Percentiles.of(_column(c.first - c.due for c in ok if not math.isnan(c.first))),
        ),
    )


def capacity(calls: Sequence[Call], workers: int, mean: float, deadline: float | None) -> float | None:
    """Calls of the mean size that a server gets through in a second, from a closed loop of so many workers;
    None where too few were answered to tell.

    A call counts by its contexts: how many of the rare large ones happen to be among the first is luck. Time
    counts from the answer by which each worker may have had one: before, the server was filling up.
    """
    good = sorted(
        (call for call in calls if call.code == OK and _in_time(call, deadline)), key=lambda call: call.ended
    )
    skipped = min(workers, len(good) // 2)
    if not skipped or good[-1].ended <= good[skipped - 1].ended:
        return None
    contexts = sum(call.contexts + call.unscored for call in good[skipped:])
    return contexts / mean / (good[-1].ended - good[skipped - 1].ended)


def lag(calls: Sequence[Call], window: tuple[float, float]) -> Percentiles | None:
    """How long after they were due calls were sent: the generator's own delay, which latency holds too."""
    return Percentiles.of(_column(c.sent - c.due for c in calls if window[0] <= c.due < window[1]))


def warnings(total: Figures, lag_ms: Percentiles | None, cpu_share: float) -> list[str]:
    """What makes figures the generator's rather than the server's. cpu_share: of one core, that it had."""
    said = []
    ends = [kind.p99 for kind in (total.latency_ms.ok, total.latency_ms.refused) if kind is not None]
    if lag_ms is not None and ends and lag_ms.p99 > max(_NO_LAG_MS, _LAG_SHARE * min(ends)):
        said.append(
            f"calls left up to {lag_ms.p99:.1f} ms late (p99), and latencies hold that: the generator was "
            "the bottleneck; give it a core of its own, or ask for less"
        )
    if cpu_share > _BUSY_SHARE:
        said.append(
            f"the generator computed for {cpu_share:.0%} of the time, and has one core at most: it was the "
            "bottleneck; run several of them"
        )
    if total.unfinished:
        said.append(f"{total.unfinished} calls had no answer when the run ended, and are in no percentile")
    return said


# A lag that a person or a pager would not notice; and the share of a latency that is no more than its noise.
_NO_LAG_MS: Final = 5.0
_LAG_SHARE: Final = 0.1
_BUSY_SHARE: Final = 0.9


def _in_time(call: Call, deadline: float | None) -> bool:
    return deadline is None or call.ended - call.due <= deadline


def _taken(calls: Sequence[Call]) -> Percentiles | None:
    return Percentiles.of(_column(call.ended - call.due for call in calls))


def _column(values: Iterable[float]) -> Array:
    return np.fromiter(values, np.float64)
