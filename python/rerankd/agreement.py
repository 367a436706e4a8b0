"""How far two sets of scores for the same contexts agree, and how good a ranking is. Arrays in, numbers out.

All arrays of one call have the shape [contexts], by id. A question that does not arise, as of the order of a
single context, has the answer None, so that it can't raise a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of |a - b|, in the unit of a and b."""

    mean: float
    p99: float
    """Of 100 contexts, 99 differ by no more."""
    max: float


def difference(a: Numbers, b: Numbers) -> Difference:
    """How far apart the numbers are; there is at least one."""
    apart = np.abs(a.astype(np.float64) - b)
    # "higher": a difference that occurred, never one between two that did.
    p99 = np.quantile(apart, 0.99, method="higher")
    return Difference(float(apart.mean()), float(p99), float(apart.max()))


def ranked(scores: Numbers) -> npt.NDArray[np.intp]:
    """The ids, best first; equal scores by ascending id, as in every ranking of the service."""
    return np.argsort(-scores, kind="stable")


def top_changed(a: Numbers, b: Numbers) -> float | None:
    """1 where another context is first, else 0; None for fewer than two contexts."""
    if len(a) < 2:
        return None
    # The first of equals, as in a ranking.
    return float(np.argmax(a) != np.argmax(b))


def overlap(a: Numbers, b: Numbers, k: int) -> float | None:
    """The share of a's best k that are among b's best k, whatever their order: 0 to 1.

    None where there are no more than k contexts: all of them are the best k.
    """
    if len(a) <= k:
        return None
    return len(np.intersect1d(ranked(a)[:k], ranked(b)[:k])) / k


def tau_b(a: Numbers, b: Numbers) -> float | None:
    """Kendall's tau-b: 1 where both order all contexts alike, -1 where one reverses the other.

    (C - D) / sqrt((P - Ta) (P - Tb)) over the P pairs of contexts: C that both order alike, D that they order
    contrarily, Ta and Tb those that are tied in a and in b (Kendall 1945, The treatment of ties in ranking
    problems). None where a or b ties all of them, or there are fewer than two. Takes O(n^2) time, O(n) space.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    agreeing = untied_a = untied_b = 0
    for at in range(1, len(a)):
        of_a, of_b = np.sign(a[:at] - a[at]), np.sign(b[:at] - b[at])
        agreeing += int(of_a @ of_b)
        untied_a += np.count_nonzero(of_a)
        untied_b += np.count_nonzero(of_b)
    # The root is of an integer, so that a perfect agreement is 1 exactly.
    return agreeing / math.sqrt(untied_a * untied_b) if untied_a and untied_b else None


def ndcg(labels: Numbers, scores: Numbers, k: int) -> float | None:
    """nDCG@k of the ranking by these scores: 1 where no order of the contexts is better by their labels.

    DCG = sum over ranks 1 to k of (2^label - 1) / log2(rank + 1), as a share of the best that can be had: the
    measure of Järvelin & Kekäläinen (2002, Cumulated gain-based evaluation of IR techniques) with the gain
    of Burges et al. (2005, Learning to rank using gradient descent). labels: 0 is not relevant. None where no
    label is above 0.
    """
    gains = np.exp2(labels.astype(np.float64)) - 1
    discounts = 1 / np.log2(np.arange(2, min(k, len(gains)) + 2))
    best = np.sort(gains)[::-1][:k] @ discounts
    return float(gains[ranked(scores)[:k]] @ discounts / best) if best > 0 else None
