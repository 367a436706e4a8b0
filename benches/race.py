"""What benches.peers knows without running anything: the contenders, the search for each one's best, the
turns, and the tables.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benches.contenders import RERANKD
from benches.corpus import Workload

BATCHES = (1, 2, 4, 8, 32)
OURS = tuple(name for name, (_, _, emulate) in RERANKD.items() if not emulate)
PRECISIONS = ("f32", "bf16", "int8")
# Each peer's ways of running; the fastest is compared. onnxruntime's ranges of int8: see `ways`.
PEERS = {
    "onnxruntime f32": ("onnxruntime f32", "onnxruntime f32, fused"),
    "openvino f32": ("openvino f32", "openvino f32, from PyTorch"),
    "pytorch f32": ("pytorch f32",),
    "openvino bf16": ("openvino bf16", "openvino bf16, from PyTorch"),
    "pytorch bf16": ("pytorch bf16",),
    "onnxruntime int8": ("onnxruntime int8", "onnxruntime int8, fused"),
}
# Instructions that add up products of 8 bits without saturating.
DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "asimddp", "i8mm"}


def ways(peer: str, flags: set[str]) -> tuple[str, ...]:
    """The peer's ways of running on a CPU with those flags.

    Of onnxruntime's int8 the more exact range. Both are equally fast (1.01 x, in turns), for they run the
    same instructions; but where those have no dot product, weights of 8 bits saturate.
    """
    if peer.endswith("int8") and not flags & DOT_PRODUCTS:
        return tuple(f"{way}, 7 bits" for way in PEERS[peer])
    return PEERS[peer]


def precision(name: str) -> str:
    """Of a contender or of one of its ways: its second word."""
    return name.split(",", maxsplit=1)[0].split()[1]


def batches(lengths: Sequence[int]) -> list[int]:
    """The batch sizes worth a try: where padding, of pairs sorted by length, does not double the tokens."""
    ordered = sorted(lengths)

    def padded(batch: int) -> int:
        chunks = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
        return sum(len(chunk) * chunk[-1] for chunk in chunks)

    return [batch for batch in BATCHES if padded(batch) < 2 * sum(ordered)]


def search(
    timed: Callable[[str, int], float], keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], float]:
    """The least seconds of each way and batch size: all of them in turn, then again those not far behind."""
    best = dict.fromkeys(keys, math.inf)
    for margin in (math.inf, 1.5, 1.2):
        bound = margin * min(best.values())
        for name, batch in [key for key, seconds in best.items() if seconds <= bound]:
            best[name, batch] = min(best[name, batch], timed(name, batch))
    return best


@dataclass
class Entry:
    """A contender in the race, with the times of its rounds in seconds."""

    contender: str
    way: str
    batch: int = 0
    score: list[float] = field(default_factory=list)
    tokenize: list[float] = field(default_factory=list)
    peak: float = 0.0
    # The largest difference of a logit from the reference's, and that as a share of their spread.
    error: float = 0.0
    share: float = 0.0

    @property
    def ours(self) -> bool:
        return self.contender in OURS

    @property
    def precision(self) -> str:
        return precision(self.contender)

    @property
    def how(self) -> str:
        return self.way if self.ours else f"{self.way}, batches of {self.batch}"

    def both(self) -> list[float]:
        """Text to logits. Ours tokenize while they score."""
        return [a + b for a, b in zip(self.score, self.tokenize, strict=True)]


def turns(entries: Sequence[Entry]) -> list[Entry]:
    """Ours of each precision, then its peers: what is compared is neighbours. A round runs it forwards, the
    next one backwards, so that a machine which slows down favours nobody.
    """
    return sorted(entries, key=lambda entry: (PRECISIONS.index(entry.precision), not entry.ours))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as fast we are, round by round."""
    return [b / a for a, b in zip(ours, theirs, strict=True)]


def fastest(entries: Sequence[Entry]) -> Entry | None:
    return min(entries, key=lambda entry: statistics.median(entry.score), default=None)


HEADER = (
    "contender",
    "pairs/s",
    "tokens/s",
    "tokens/s, best",
    "tokens/s, text to logits",
    "peak RSS, MB",
    "largest error, % of spread",
    "ours / it",
    "ours / it, text to logits",
)


def rows(workload: Workload, entries: Sequence[Entry]) -> list[list[str]]:
    """The table's rows. Rates by the median round; tokens are the pairs' own, padding not counted. Ratios are
    to ours of the same precision; none where that did not run.
    """
    count, tokens = len(workload.lengths()), sum(workload.lengths())
    ours = {entry.precision: entry for entry in entries if entry.ours}

    def row(entry: Entry) -> list[str]:
        median, own = statistics.median(entry.score), ours.get(entry.precision)
        compared = ["", ""]
        if own is not None:
            pairs = ((own.score, entry.score), (own.score, entry.both()))
            compared = [f"{statistics.median(ratios(a, b)):.2f}" for a, b in pairs]
        return [
            entry.how,
            f"{count / median:.1f}",
            f"{tokens / median:.0f}",
            f"{tokens / min(entry.score):.0f}",
            f"{tokens / statistics.median(entry.both()):.0f}",
            f"{entry.peak:.0f}",
            f"{100 * entry.share:.2g}",
            *compared,
        ]

    return [row(entry) for entry in turns(entries)]


SUMMARY = ("ours", "against", "ours / it", "least and most of a round", "text to logits")


def summary(entries: Sequence[Entry]) -> list[list[str]]:
    """Each of ours against the fastest peer of its precision, and against the fastest in f32."""
    found: list[list[str]] = []
    for own in [entry for entry in turns(entries) if entry.ours]:
        for kind in dict.fromkeys((own.precision, "f32")):
            peers = [entry for entry in entries if not entry.ours and entry.precision == kind]
            peer = fastest(peers)
            if peer is None:
                continue
            each = ratios(own.score, peer.score)
            found.append(
                [
                    own.contender,
                    f"the fastest {kind} peer: {peer.how}" if len(peers) > 1 else peer.how,
                    f"{statistics.median(each):.2f}",
                    f"{min(each):.2f} to {max(each):.2f}",
                    f"{statistics.median(ratios(own.score, peer.both())):.2f}",
                ]
            )
    return found


def bars(workload: Workload, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """What the plot shows."""
    tokens = sum(workload.lengths())
    return [
        {
            "name": entry.how,
            "precision": entry.precision,
            "ours": entry.ours,
            "value": tokens / statistics.median(entry.score),
        }
        for entry in turns(entries)
    ]
