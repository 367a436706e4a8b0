"""What a GPU's check counts and decides, without a GPU: operations, peaks, lengths, bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benches.checkpoints import Shape

# Dense tensor-core peaks in bf16 and f16, TFLOP/s, by a part of the GPU's name; of NVIDIA's data sheets (SXM
# where there are two).
PEAKS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "B200": 2250.0,
}

# |score - f32 score| that a precision may cost a model that was trained, scores being between 0 and 1.
BARS = {"f32": 1e-4, "f16": 2e-3, "bf16": 2e-2}
HALVES = Path(__file__).resolve().parent.parent / "tests" / "golden" / "halves.json"


def bar(model: str, dtype: str) -> float:
    """What a score may be off. Of the goldens, whose weights are random, twice what PyTorch itself loses."""
    lost = json.loads(HALVES.read_text())
    if dtype == "f32" or model == "mini-en" or model not in lost:
        return BARS[dtype]
    return max(BARS[dtype], 2 * float(lost[model][dtype]["score"]))


def operations(shape: Shape, tokens: int) -> float:
    """What a pair of so many tokens asks for, multiplications and additions counted apart, as the engine
    computes it: of the last layer, keys and values for all tokens, the rest for one.
    """
    hidden, ffn = shape.hidden, shape.ffn
    row = 2 * (4 * hidden * hidden + 2 * hidden * ffn)
    attention = 4 * tokens * hidden
    last = tokens * 2 * 2 * hidden * hidden + row - 2 * 2 * hidden * hidden + attention
    return (shape.layers - 1) * tokens * (row + attention) + last


def utilization(shape: Shape, lengths: Sequence[int], seconds: float, gpu: str) -> float | None:
    """The part of the GPU's peak that was used; None where its peak is not known."""
    peak = next((peak for name, peak in PEAKS.items() if name in gpu), None)
    if peak is None:
        return None
    return sum(operations(shape, length) for length in lengths) / seconds / (peak * 1e12)


def mixed(count: int) -> list[int]:
    """Lengths as of search results: lognormal, median 110, deviation 0.65 of the log, from 24 to 400."""
    drawn = np.random.default_rng(12).lognormal(np.log(110), 0.65, count)
    return [int(length) for length in np.clip(drawn.round(), 24, 400)]


def batches(
    lengths: Sequence[int], *, pairs: int | None = None, tokens: int | None = None
) -> list[list[int]]:
    """Places of the lengths, longest first, in batches of so many pairs, or of at most so many tokens when
    padded; as the most careful user of PyTorch would have it.
    """
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    made: list[list[int]] = []
    for at in order:
        batch = made[-1] if made else []
        fits = pairs is None or len(batch) < pairs
        fits = fits and (tokens is None or (len(batch) + 1) * lengths[batch[0] if batch else at] <= tokens)
        if batch and fits:
            batch.append(at)
        else:
            made.append([at])
    return made


@dataclass(frozen=True)
class Parity:
    """One model in one precision, against the reference's logits of each query."""

    worst: float
    """The largest difference of two scores."""
    changed: int
    """Queries whose best context is another one."""
    queries: int

    def fails(self, most: float) -> bool:
        return self.worst > most or self.changed > 0


def parity(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Parity:
    """From logits, one list for each query."""
    worst, changed = 0.0, 0
    for mine, reference in zip(ours, theirs, strict=True):
        a, b = (1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64))) for logits in (mine, reference))
        worst = max(worst, float(np.abs(a - b).max()))
        best = int(np.argmax(a))
        # Two that the reference itself can't tell apart may change places.
        changed += bool(best != int(np.argmax(b)) and float(b.max() - b[best]) > BARS["f32"])
    return Parity(worst, changed, len(ours))
