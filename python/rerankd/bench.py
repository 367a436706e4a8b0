"""What a load is made of: requests, and the moments at which they are due. Values only; no channel, no clock,
and the same seed always gives the same load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rerankd import bench_text
from rerankd.bench_kinds import Share
from rerankd.errors import InputError
from rerankd.samples import Sample

# More calls than this in one run is a slip of the keyboard: each of them is remembered until the end.
MOST_CALLS: Final = 10_000_000
# Different requests of one size: enough that no cache helps, few enough to be made at once.
_DIFFERENT: Final = 64
_DIFFERENT_CONTEXTS: Final = 4096
# Sizes that a file has; more of them than this are put into ranges.
_CLASSES: Final = 6
_RANGES: Final = ((1, 9), (10, 99), (100, 999), (1000, 10**9))


@dataclass(frozen=True, slots=True)
class Request:
    """A query and its candidates."""

    query: str
    contexts: list[str]


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that are counted together: those of one size, or of a range of sizes."""

    contexts: str
    """How many contexts a request has, as "5" or "10-99"."""
    weight: float
    """How often a call is of this group, next to the others."""
    requests: Sequence[Request]
    """One or more; which of them a call sends is drawn evenly."""


def mean_contexts(groups: Sequence[Group]) -> float:
    """Contexts of a call, on the average of those that will be drawn."""
    of_group = [sum(len(r.contexts) for r in group.requests) / len(group.requests) for group in groups]
    weights = [group.weight for group in groups]
    return sum(w * each for w, each in zip(weights, of_group, strict=True)) / sum(weights)


def made(mix: Sequence[Share], words: tuple[int, int], seed: int) -> list[Group]:
    """Groups of made-up text: one per size, each context of so many words, at least and at most."""
    groups = []
    for at, share in enumerate(mix):
        writer = bench_text.Writer(words, (seed, at))
        count = max(1, min(_DIFFERENT, _DIFFERENT_CONTEXTS // share.contexts))
        requests = [
            Request(writer.query(), [writer.context() for _ in range(share.contexts)]) for _ in range(count)
        ]
        groups.append(Group(str(share.contexts), share.weight, requests))
    return groups


def read(samples: Sequence[Sample]) -> list[Group]:
    """Groups of a user's own queries, each as often as the others: by size, or by ranges of it."""
    sizes = sorted({len(sample.texts) for sample in samples})
    ranges = [(size, size) for size in sizes] if len(sizes) <= _CLASSES else _RANGES
    groups = []
    for low, high in ranges:
        held = [Request(s.query, s.texts) for s in samples if low <= len(s.texts) <= high]
        if held:
            name = str(low) if low == high else f"{low}-{high}" if high < 10**9 else f"{low} and more"
            groups.append(Group(name, float(len(held)), held))
    return groups


def arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """When each call of an open loop is due, in seconds from the start, ascending: a Poisson process, drawn
    before the first call is sent, so that no answer can change it.

    rate: calls per second. Raises InputError for more calls than can be remembered.
    """
    if rate * seconds > MOST_CALLS:
        raise InputError(
            "rate", f"{rate:g} a second for {seconds:g} s are more than {MOST_CALLS:,} calls; ask for fewer"
        )
    rng = np.random.default_rng((seed, 1))
    due = np.empty(0)
    last = 0.0
    while last < seconds:
        gaps = rng.exponential(1 / rate, max(16, math.ceil((seconds - last) * rate * 1.1)))
        due = np.concatenate((due, last + np.cumsum(gaps)))
        last = float(due[-1])
    return due[due < seconds]


def draws(groups: Sequence[Group], seed: int) -> Iterator[tuple[int, int]]:
    """Without end, what the next call sends: the index of its group, and of its request there."""
    rng = np.random.default_rng((seed, 2))
    weights = np.array([group.weight for group in groups])
    counts = np.array([len(group.requests) for group in groups])
    while True:
        drawn = rng.choice(len(groups), 1024, p=weights / weights.sum())
        picked = (rng.random(1024) * counts[drawn]).astype(np.int64)
        yield from zip(drawn.tolist(), picked.tolist(), strict=True)
