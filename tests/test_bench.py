"""What a load is made of: rates, mixes, arrivals, requests."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankd import bench, bench_kinds
from rerankd.errors import InputError
from rerankd.samples import Sample


def test_gaps_are_exponential() -> None:
    """A Poisson process has exponential gaps, each independent of the one before; from one seed, so that what
    holds once holds always."""
    rate, seconds = 200.0, 500.0
    due = bench.arrivals(rate, seconds, seed=4)
    # The count's deviation is its mean's root, 316.
    assert abs(len(due) - rate * seconds) < 3 * 316
    gaps = np.diff(due, prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.01)
    assert gaps.std() == pytest.approx(1 / rate, rel=0.01)
    # Kolmogorov and Smirnov: the largest distance from the exponential's distribution, below its 1 % point.
    ordered = np.sort(gaps)
    ranks = np.arange(1, len(ordered) + 1) / len(ordered)
    assert np.abs(1 - np.exp(-rate * ordered) - ranks).max() < 1.63 / np.sqrt(len(gaps))
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.01


@settings(deadline=None)
@given(st.floats(0.01, 300), st.floats(0.01, 20), st.integers(0, 1000))
def test_arrivals_are_within_their_time_and_repeat(rate: float, seconds: float, seed: int) -> None:
    due = bench.arrivals(rate, seconds, seed)
    assert np.array_equal(due, bench.arrivals(rate, seconds, seed))
    assert (np.diff(due) >= 0).all()
    assert not len(due) or (due[0] > 0 and due[-1] < seconds)


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    """Within what is drawn at once: a run that is only stopped later is the same run."""
    short, other = bench.arrivals(10, 5, seed=1), bench.arrivals(10, 5, seed=2)
    assert len(short) > 20
    assert not np.array_equal(short, other)


def test_more_calls_than_can_be_remembered_are_refused() -> None:
    with pytest.raises(InputError, match=r"^rate: 1e\+06 a second for 60 s are more than 10,000,000 calls"):
        bench.arrivals(1e6, 60, seed=1)


def test_draws_have_the_shares_of_the_mix() -> None:
    groups = bench.made(bench_kinds.parse_mix("2:3,5:1"), (3, 9), seed=1)
    drawn = list(itertools.islice(bench.draws(groups, seed=1), 20_000))
    assert drawn == list(itertools.islice(bench.draws(groups, seed=1), 20_000))
    counts = Counter(group for group, _ in drawn)
    assert counts[0] / 20_000 == pytest.approx(0.75, abs=0.01)
    for group, of in enumerate(groups):
        picks = Counter(pick for each, pick in drawn if each == group)
        assert set(picks) == set(range(len(of.requests)))
        assert max(picks.values()) < 2 * min(picks.values())


def test_made_up_requests() -> None:
    mix = bench_kinds.parse_mix("1:1,7:2,3000:1")
    groups = bench.made(mix, (3, 9), seed=1)
    assert [(group.contexts, group.weight) for group in groups] == [("1", 1.0), ("7", 2.0), ("3000", 1.0)]
    for group, share in zip(groups, mix, strict=True):
        for request in group.requests:
            assert request.query
            assert len(request.contexts) == share.contexts
            assert all(3 <= len(text.split()) <= 9 for text in request.contexts[:50])
    assert [len(group.requests) for group in groups] == [64, 64, 1]
    assert groups == bench.made(mix, (3, 9), seed=1)
    assert groups != bench.made(mix, (3, 9), seed=2)
    # 1 + 2 x 7 + 3000, over the weights' sum.
    assert bench.mean_contexts(groups) == pytest.approx(3015 / 4)


def sample(contexts: int) -> Sample:
    return Sample("", "q", [f"text {at}" for at in range(contexts)], None)


def test_a_file_is_grouped_by_size() -> None:
    groups = bench.read([sample(size) for size in (3, 1, 3, 3)])
    assert [(group.contexts, group.weight, len(group.requests)) for group in groups] == [
        ("1", 1, 1),
        ("3", 3, 3),
    ]
    assert bench.mean_contexts(groups) == 2.5


@settings(deadline=None)
@given(st.lists(st.integers(1, 1200), min_size=1, max_size=30))
def test_every_query_of_a_file_is_in_one_group(sizes: list[int]) -> None:
    groups = bench.read([sample(size) for size in sizes])
    assert sorted(len(r.contexts) for group in groups for r in group.requests) == sorted(sizes)
    assert len(groups) <= 6
    assert len({group.contexts for group in groups}) == len(groups)


def test_many_sizes_become_ranges() -> None:
    groups = bench.read([sample(size) for size in (1, 9, 10, 11, 99, 100, 1000, 2000)])
    assert [(group.contexts, group.weight) for group in groups] == [
        ("1-9", 2),
        ("10-99", 3),
        ("100-999", 1),
        ("1000 and more", 2),
    ]
