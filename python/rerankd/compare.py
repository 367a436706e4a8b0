"""Two precisions of one model, measured against each other on a user's own queries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rerankd import agreement
from rerankd.agreement import Difference
from rerankd.errors import InputError, InternalError
from rerankd.ranking import sigmoid
from rerankd.reranker import Reranker
from rerankd.samples import Sample

# Tokens per thread that a side computes before it is the other's turn: enough waves to keep the threads busy
# and to bring the weights back into the caches, few enough that what slows the machine slows both sides.
_TURN_TOKENS: Final = 1024

Logits = npt.NDArray[np.float32]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kernels:
    """The instruction sets: a precision may have one of its own."""

    dtype: str
    against: str


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over the queries of which the question could be asked; None where there were none."""

    queries: int
    mean: float | None


@dataclass(frozen=True, slots=True)
class LogitDifference(Difference):
    """As `Difference`, and on the scale of the logits themselves."""

    spread: float
    """The standard deviation of all logits of `against`."""
    mean_of_spread: float | None
    """The mean as a share of it; None where the spread is 0."""
    max_of_spread: float | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean nDCG@top_k over the queries with a label above 0."""

    queries: int
    dtype: float | None
    against: float | None
    difference: float | None
    """dtype - against."""


@dataclass(frozen=True, slots=True)
class Rate:
    pairs_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over the runs."""

    runs: int
    dtype: Rate
    against: Rate
    ratio: float
    """How many times as fast dtype is."""
    ratio_min: float
    ratio_max: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and all that was measured. `dtype` is one side of it, `against` the other."""

    model: str
    device: str
    kernels: Kernels
    threads: int
    dtype: str
    against: str
    top_k: int
    queries: int
    contexts: int
    tokens: int
    truncated: int
    scores: Difference
    """Of the scores from 0 to 1."""
    logits: LogitDifference
    top_1_changed: Mean
    """The share of queries for which another context is first."""
    top_k_overlap: Mean
    tau_b: Mean
    ndcg: Quality
    speed: Speed


def compare(
    samples: Sequence[Sample],
    candidate: Reranker,
    baseline: Reranker,
    *,
    top_k: int = 10,
    runs: int = 5,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measures the candidate against the baseline: the same model, loaded twice.

    top_k: how far down rankings are looked at. runs: how often speed is measured, over all samples. tell: is
    told what is being done. Raises InputError for a sample that the engine refuses, InternalError for one
    that it can't score.
    """
    tell(f"scoring with {candidate.engine.dtype}")
    new = _Scored.by(candidate, samples)
    tell(f"scoring with {baseline.engine.dtype}")
    old = _Scored.by(baseline, samples)
    both = list(zip(new.logits, old.logits, strict=True))
    all_new, all_old = np.concatenate(new.logits), np.concatenate(old.logits)
    engine = baseline.engine
    return Comparison(
        model=baseline.name,
        device=engine.device,
        kernels=Kernels(candidate.engine.kernels, engine.kernels),
        threads=engine.threads,
        dtype=candidate.engine.dtype,
        against=engine.dtype,
        top_k=top_k,
        queries=len(samples),
        contexts=len(all_old),
        tokens=sum(old.tokens),
        truncated=old.truncated,
        scores=agreement.difference(sigmoid(all_new), sigmoid(all_old)),
        logits=_logit_difference(all_new, all_old),
        top_1_changed=_mean(agreement.top_changed(a, b) for a, b in both),
        top_k_overlap=_mean(agreement.overlap(a, b, top_k) for a, b in both),
        tau_b=_mean(agreement.tau_b(a, b) for a, b in both),
        ndcg=_quality(samples, new.logits, old.logits, top_k),
        speed=_speed(samples, old.tokens, (candidate, baseline), runs, tell),
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """What one side makes of the samples."""

    logits: list[Logits]
    """Of each sample, by id."""
    tokens: list[int]
    """That the model read of each sample."""
    truncated: int
    """Contexts whose pair was cut to fit max_tokens."""

    @classmethod
    def by(cls, reranker: Reranker, samples: Iterable[Sample]) -> _Scored:
        logits, tokens, truncated = [], [], 0
        for sample in samples:
            try:
                ranking = reranker.rank(sample.query, sample.texts, score="logit")
            except InputError as error:
                raise sample.blame(error) from None
            except InternalError as error:
                # A precision too narrow for the model overflows: that is what the user came to find out.
                raise InternalError(f"{sample.where}, {reranker.engine.dtype}: {error}") from None
            by_id = np.empty(len(ranking), np.float32)
            by_id[[result.id for result in ranking]] = [result.score for result in ranking]
            logits.append(by_id)
            tokens.append(ranking.usage.tokens)
            truncated += ranking.usage.truncated
        return cls(logits, tokens, truncated)


def _logit_difference(new: Logits, old: Logits) -> LogitDifference:
    apart, spread = agreement.difference(new, old), float(old.std(dtype=np.float64))
    shares = (apart.mean / spread, apart.max / spread) if spread else (None, None)
    return LogitDifference(apart.mean, apart.p99, apart.max, spread, *shares)


def _mean(values: Iterable[float | None]) -> Mean:
    known = [value for value in values if value is not None]
    return Mean(len(known), sum(known) / len(known) if known else None)


def _quality(samples: Sequence[Sample], new: list[Logits], old: list[Logits], top_k: int) -> Quality:
    def mean(logits: list[Logits]) -> Mean:
        return _mean(
            agreement.ndcg(np.asarray(sample.labels), scores, top_k)
            for sample, scores in zip(samples, logits, strict=True)
            if sample.labels is not None
        )

    dtype, against = mean(new), mean(old)
    if dtype.mean is None or against.mean is None:
        return Quality(0, None, None, None)
    return Quality(against.queries, dtype.mean, against.mean, dtype.mean - against.mean)


def _speed(
    samples: Sequence[Sample],
    tokens: Sequence[int],
    sides: tuple[Reranker, Reranker],
    runs: int,
    tell: Callable[[str], None],
) -> Speed:
    """Times both sides in turns, each going first as often as the other. The weights are warm by now."""
    turns, repeats = _turns(samples, tokens, _TURN_TOKENS * sides[0].engine.threads)
    seconds = np.zeros((runs, 2))
    for run in range(runs):
        tell(f"measuring speed, run {run + 1} of {runs}")
        for at, pairs in enumerate(turns):
            for side in (0, 1) if (run + at) % 2 == 0 else (1, 0):
                started = time.perf_counter()
                sides[side].predict(pairs)
                seconds[run, side] += time.perf_counter() - started
    contexts = sum(map(len, turns))
    ratios = seconds[:, 1] / seconds[:, 0]
    dtype, against = (
        Rate(float(np.median(contexts / taken)), float(np.median(sum(tokens) * repeats / taken)))
        for taken in seconds.T
    )
    return Speed(runs, dtype, against, float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def _turns(samples: Sequence[Sample], tokens: Sequence[int], least: int) -> tuple[list[list[Pair]], int]:
    """The samples' pairs in pieces of at least so many tokens but for the last, and how often the samples are
    among them: more than once where all of them are less than a piece."""
    repeats = math.ceil(least / sum(tokens))
    turns: list[list[Pair]] = [[]]
    held = 0
    for sample, count in zip(samples, tokens, strict=True):
        if held >= least:
            turns.append([])
            held = 0
        turns[-1] += [(sample.query, text) for text in sample.texts] * repeats
        held += count * repeats
    return turns, repeats
