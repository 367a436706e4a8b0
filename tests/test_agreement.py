"""The metrics of `rerankd compare`, each against the plainest way to say it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import agreement

Scores = npt.NDArray[np.float32]

# Few values, so that many are tied; and any float32, so that none need be.
TIED = st.integers(-2, 2).map(float)
ANY = st.floats(-30, 30, width=32)


def _arrays(rows: list[tuple[float, float]]) -> tuple[Scores, Scores]:
    a, b = zip(*rows, strict=True)
    return np.array(a, np.float32), np.array(b, np.float32)


PAIRS_OF_SCORES = st.one_of(
    st.lists(st.tuples(TIED, TIED), min_size=1, max_size=30),
    st.lists(st.tuples(ANY, ANY), min_size=1, max_size=30),
).map(_arrays)


def naive_order(scores: Scores) -> list[int]:
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))


def naive_tau_b(a: Scores, b: Scores) -> float | None:
    concordant = discordant = tied_a = tied_b = pairs = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        pairs += 1
        tied_a += bool(a[i] == a[j])
        tied_b += bool(b[i] == b[j])
        if a[i] != a[j] and b[i] != b[j]:
            alike = (a[i] < a[j]) == (b[i] < b[j])
            concordant, discordant = concordant + alike, discordant + (not alike)
    untied = (pairs - tied_a) * (pairs - tied_b)
    return (concordant - discordant) / math.sqrt(untied) if untied else None


def naive_dcg(labels: list[float], k: int) -> float:
    return sum((2**label - 1) / math.log2(rank + 1) for rank, label in enumerate(labels[:k], 1))


@given(PAIRS_OF_SCORES)
def test_kendalls_tau_b(both: tuple[Scores, Scores]) -> None:
    a, b = both
    assert agreement.tau_b(a, b) == pytest.approx(naive_tau_b(a, b), abs=1e-12)
    assert agreement.tau_b(b, a) == agreement.tau_b(a, b)
    assert agreement.tau_b(a, a) in (1, None)
    assert agreement.tau_b(a, -a) in (-1, None)


def test_kendalls_tau_b_of_known_rankings() -> None:
    def tau(a: list[float], b: list[float]) -> float | None:
        return agreement.tau_b(np.array(a), np.array(b))

    assert tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # Five pairs agree, one is tied in one of them: 5 / sqrt(6 * 5).
    assert tau([1, 2, 3, 4], [1, 2, 3, 3]) == pytest.approx(5 / math.sqrt(30))
    assert tau([1, 2], [1, 1]) is None
    assert tau([1], [1]) is None


@given(PAIRS_OF_SCORES, st.integers(1, 12))
def test_overlap_and_top_1(both: tuple[Scores, Scores], k: int) -> None:
    a, b = both
    first, second = naive_order(a), naive_order(b)
    assert agreement.ranked(a).tolist() == first
    wanted = len(set(first[:k]) & set(second[:k])) / k if len(a) > k else None
    assert agreement.overlap(a, b, k) == wanted
    assert agreement.top_changed(a, b) == (float(first[0] != second[0]) if len(a) > 1 else None)


@given(PAIRS_OF_SCORES)
def test_differences(both: tuple[Scores, Scores]) -> None:
    a, b = both
    apart = sorted(abs(float(x) - float(y)) for x, y in zip(a, b, strict=True))
    found = agreement.difference(a, b)
    assert found.mean == pytest.approx(sum(apart) / len(apart))
    assert found.max == apart[-1]
    assert found.p99 == apart[math.ceil(0.99 * (len(apart) - 1))]


@given(st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 3.5, 100]), TIED), min_size=1, max_size=20))
def test_ndcg(rows: list[tuple[float, float]]) -> None:
    labels, scores = (np.array(side, np.float64) for side in zip(*rows, strict=True))
    for k in (1, 3, 10, 50):
        best = naive_dcg(sorted(labels, reverse=True), k)
        got = naive_dcg([labels[at] for at in naive_order(scores.astype(np.float32))], k)
        found = agreement.ndcg(labels, scores, k)
        assert found == (pytest.approx(got / best) if best else None)
        assert agreement.ndcg(labels, labels, k) == (pytest.approx(1) if best else None)


def test_ndcg_of_a_known_ranking() -> None:
    # Ranked 0, 3, 1: gains 0, 7, 1 at discounts 1, 1/log2(3), 1/2.
    found = agreement.ndcg(np.array([3.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0]), 10)
    assert found == pytest.approx((7 / math.log2(3) + 1 / 2) / (7 + 1 / math.log2(3)))
