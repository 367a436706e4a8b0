"""What int8 and bf16 cost in exactness, ours and onnxruntime's: `python -m benches.accuracy [--record]`.

On the embedded checkpoint, which has learned something, and on questions whose answers are not easy to pick:
errors mean little on random weights. The reference is rerankd in f32. onnxruntime's int8 takes one range of
activations for a whole batch, so its errors depend on the batch size.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benches import environment, report
from benches.checkpoints import linked
from benches.contenders import GRAPHS
from benches.questions import CONTEXTS, groups
from benches.vocabulary import MINI_EN
from benches.worker import Worker, folders, write

Array = npt.NDArray[np.float64]
REFERENCE = "rerankd f32"
OURS = {"rerankd bf16": "rerankd bf16, emulated", "rerankd int8": "rerankd int8, emulated"}
EIGHT_BITS = {"rerankd int8, 8 bits": "rerankd int8 in plain Rust"}
# In f32 a peer shows whether its graph is the checkpoint's at all.
CONTROL = "onnxruntime f32"
AGREEMENT = 1e-3
PEERS = tuple(name for name in GRAPHS if name.startswith("onnxruntime int8"))
BATCHES = (1, 8)
# What is asked of ours: of the peer's errors at most so much.
WANTED = 0.5


@dataclass(frozen=True)
class Error:
    """How far logits are from the reference's, which are one row of CONTEXTS a query."""

    mean_score: float
    max_score: float
    # Of the logits' spread.
    mean_logit: float
    # Of the queries: another context comes first.
    changed: float

    @classmethod
    def of(cls, logits: Array, reference: Array) -> "Error":
        scores = np.abs(sigmoid(logits) - sigmoid(reference))
        return cls(
            mean_score=float(scores.mean()),
            max_score=float(scores.max()),
            mean_logit=float(np.abs(logits - reference).mean() / np.ptp(reference)),
            changed=float((logits.argmax(axis=1) != reference.argmax(axis=1)).mean()),
        )


def sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits)))


def distribution(reference: Array) -> str:
    """Whether the questions were hard: in words, for scores near 0 and 1 hardly move."""
    scores = sigmoid(reference)
    bounds = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    shares = np.histogram(scores, bins=bounds)[0] / scores.size
    bins = [
        f"{low:g} to {high:g}: {share:.0%}"
        for low, high, share in zip(bounds, bounds[1:], shares, strict=False)
    ]
    top = np.sort(scores, axis=1)
    lead = float(np.median(top[:, -1] - top[:, -2]))
    return f"{', '.join(bins)}; the first of a query leads the second by {lead:.3f} in the median"


HEADER = (
    "contender",
    "mean error of a score",
    "largest",
    "mean error of a logit, % of spread",
    "first place changed, % of queries",
)


def row(name: str, error: Error) -> list[str]:
    return [
        name,
        f"{error.mean_score:.5f}",
        f"{error.max_score:.4f}",
        f"{100 * error.mean_logit:.3f}",
        f"{100 * error.changed:.1f}",
    ]


VERDICT = ("rerankd int8 / onnxruntime int8", "its median way", "its way with the least", "wanted")


def verdict(ours: Error, peers: Sequence[Error]) -> list[list[str]]:
    """Ours in int8 against the peer's ways. Their least flatters the peer where their differences are chance,
    as they are with the few first places that change.
    """

    def ratio(own: float, of: float) -> str:
        return f"{own / of:.2f}" if of else "no error there"

    found = []
    for what, own, of in (
        ("mean error of a score", ours.mean_score, [error.mean_score for error in peers]),
        ("first places changed", ours.changed, [error.changed for error in peers]),
    ):
        found.append([what, ratio(own, statistics.median(of)), ratio(own, min(of)), f"at most {WANTED:g}"])
    return found


@dataclass
class Bench:
    checkpoint: Path
    groups: Path
    options: argparse.Namespace

    def logits(self, name: str, batches: Sequence[int]) -> list[Array]:
        """One array a batch size, a row for each query."""
        worker = Worker(name, self.checkpoint, self.groups, self.options.threads, self.options.peers_python)
        found = [worker.logits(batch).reshape(-1, CONTEXTS) for batch in batches]
        worker.close()
        return found

    def ours(self, reference: Array) -> dict[str, Error]:
        ways = OURS | EIGHT_BITS if self.options.eight_bits else OURS
        return {name: Error.of(self.logits(way, [1])[0], reference) for name, way in ways.items()}

    def peers(self, reference: Array) -> dict[str, Error]:
        return {
            f"{name}, batches of {batch}": Error.of(logits, reference)
            for name in PEERS
            for batch, logits in zip(BATCHES, self.logits(name, BATCHES), strict=True)
        }

    def run(self) -> str:
        (reference,) = self.logits(REFERENCE, [1])
        (control,) = self.logits(CONTROL, [8])
        off = float(np.abs(control - reference).max())
        if not off <= AGREEMENT:
            raise SystemExit(f"{CONTROL} and {REFERENCE} differ by {off:.2e} in a logit")
        ours, peers = self.ours(reference), self.peers(reference)
        note = NOTE.format(
            queries=len(reference),
            contexts=CONTEXTS,
            reference=REFERENCE,
            spread=float(np.ptp(reference)),
            control=CONTROL,
            off=off,
            scores=distribution(reference),
        )
        rows = [row(name, error) for name, error in {**ours, **peers}.items()]
        compared = verdict(ours["rerankd int8"], list(peers.values()))
        return "\n\n".join([report.table(HEADER, rows), report.table(VERDICT, compared), note])


NOTE = """{queries} questions with {contexts} contexts each on mini-en, against {reference}, whose logits
spread over {spread:.2f} and agree with those of {control} within {off:.1e}. Shares of its scores by size:
{scores}.
Where the machine has no instructions for a precision of ours, they are emulated: that costs time, and rounds
the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--eight-bits", action="store_true", help="int8 as with AVX-512 and AMX too; takes minutes elsewhere"
    )
    parser.add_argument("--peers-python", type=Path, help="default: .peers, made if need be")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    options.peers_python = options.peers_python or environment.install()
    checkpoint = linked(MINI_EN)
    environment.prepare(checkpoint, options.peers_python, folders([CONTROL, *PEERS]))
    with tempfile.TemporaryDirectory() as directory:
        path = write(groups(options.queries), Path(directory) / "groups.json")
        body = Bench(checkpoint, path, options).run()
    print(body)
    if options.record:
        report.record("Exactness on mini-en", body)


if __name__ == "__main__":
    main()
