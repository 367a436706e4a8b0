"""rerankd and its peers on the same pairs, in one run, in turns: `python -m benches.peers [--record]`.

Each contender has a process of its own. The driver gives them turns, ours, a peer, ours, the next, so that
whatever else the machine does hits all alike; ratios are taken within a round. Peers first choose their batch
size (and onnxruntime its graph) in processes that are then thrown away, so that a batch size they do not want
leaves no trace in their memory. Before any timing, the logits have to agree.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benches import report
from benches.checkpoints import make
from benches.contenders import GRAPHS
from benches.corpus import WORKLOADS, Workload, load_tokenizer, pairs

ROOT = Path(__file__).resolve().parent.parent
BATCHES = (1, 2, 4, 8, 32)
# Each peer's ways of running; the fastest is compared.
PEERS = {"onnxruntime f32": tuple(GRAPHS), "pytorch f32": ("pytorch f32",)}
OURS = "rerankd f32"
AGREEMENT = 1e-3


class Worker:
    """A contender's process. `ask` blocks until it answers."""

    def __init__(self, name: str, checkpoint: Path, text: Path, options: argparse.Namespace) -> None:
        python = sys.executable if name == OURS else str(options.peers_python)
        command = [python, "-W", "ignore", "-m", "benches.contenders", name, str(checkpoint), str(text)]
        self.name = name
        self.process = subprocess.Popen(
            [*command, "--threads", str(options.threads)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with {self.process.wait()}; its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, batch: int = 1) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "batch": batch}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Entry:
    """A contender in the race, with the times of its rounds in seconds."""

    peer: str
    variant: str
    batch: int
    score: list[float] = field(default_factory=list)
    tokenize: list[float] = field(default_factory=list)
    peak: float = 0.0
    error: float = 0.0

    def both(self) -> list[float]:
        return [a + b for a, b in zip(self.score, self.tokenize, strict=True)]


@dataclass
class Race:
    """One workload, its pairs written where the workers read them."""

    workload: Workload
    checkpoint: Path
    text: Path
    options: argparse.Namespace

    def worker(self, variant: str) -> Worker:
        return Worker(variant, self.checkpoint, self.text, self.options)

    def choose(self, peer: str) -> Entry:
        """The peer's fastest variant and batch size: all of them in turn, then again those not far behind."""
        workers = {variant: self.worker(variant) for variant in PEERS[peer]}
        for worker in workers.values():
            worker.ask("score", 8)  # warms up
        best = {(variant, batch): math.inf for variant in workers for batch in BATCHES}
        for margin in (math.inf, 1.5, 1.2):
            bound = margin * min(best.values())
            for variant, batch in [key for key, seconds in best.items() if seconds <= bound]:
                seconds = workers[variant].ask("time", batch)["score"]
                best[variant, batch] = min(best[variant, batch], seconds)
        for worker in workers.values():
            worker.close()
        tokens = sum(self.workload.lengths())
        for (variant, batch), seconds in best.items():
            print(f"  {variant}, batches of {batch}: {tokens / seconds:.0f} tokens/s", file=sys.stderr)
        variant, batch = min(best, key=best.__getitem__)
        return Entry(peer, variant, batch)

    def run(self, entries: list[Entry]) -> None:
        """Agreement, then the rounds. Fills the entries."""
        workers = [self.worker(entry.variant) for entry in entries]
        logits = [
            np.array(worker.ask("score", entry.batch)["logits"])
            for worker, entry in zip(workers, entries, strict=True)
        ]
        # Against the last one, a peer's, whether or not we are in the race.
        for entry, own in zip(entries, logits, strict=True):
            entry.error = float(np.abs(own - logits[-1]).max())
            if entry.error > AGREEMENT:
                other = entries[-1].variant
                raise SystemExit(f"{entry.variant} and {other} differ by {entry.error:.2e} in a logit")
        spread = float(np.ptp(logits[-1]))
        worst = max(entry.error for entry in entries)
        print(f"  logits agree within {worst:.1e}; they spread over {spread:.2f}", file=sys.stderr)
        for _ in range(self.options.rounds):
            for worker, entry in zip(workers, entries, strict=True):
                # Threads of the one before may still spin.
                time.sleep(0.2)
                answer = worker.ask("time", entry.batch)
                entry.score.append(answer["score"])
                entry.tokenize.append(answer["tokenize"])
        for worker, entry in zip(workers, entries, strict=True):
            entry.peak = worker.ask("memory")["peak"]
            worker.close()


def rows(workload: Workload, entries: list[Entry]) -> list[list[str]]:
    """The table's rows. Rates by the median round; tokens are the pairs' own, padding not counted."""
    count, tokens = len(workload.lengths()), sum(workload.lengths())
    ours = next((entry for entry in entries if entry.peer == OURS), None)

    def ratio(peer: list[float]) -> str:
        if ours is None:
            return ""
        return f"{statistics.median(b / a for a, b in zip(ours.score, peer, strict=True)):.2f}"

    def row(entry: Entry) -> list[str]:
        median = statistics.median(entry.score)
        how = f"{entry.variant}, batches of {entry.batch}" if entry.peer != OURS else entry.variant
        return [
            how,
            f"{count / median:.1f}",
            f"{tokens / median:.0f}",
            f"{tokens / min(entry.score):.0f}",
            f"{tokens / statistics.median(entry.both()):.0f}",
            f"{entry.peak:.0f}",
            "1.00" if entry is ours else ratio(entry.score),
            "1.00" if entry is ours else ratio(entry.both()),
        ]

    return [row(entry) for entry in entries]


HEADER = (
    "contender",
    "pairs/s",
    "tokens/s",
    "tokens/s, best",
    "tokens/s, text to logits",
    "peak RSS, MB",
    "ours / it",
    "ours / it, text to logits",
)
NOTE = """{count} pairs, {tokens} tokens; {threads} threads each; {rounds} rounds in turns, medians; {load}.
rerankd's figures always include tokenizing, the peers' only in "text to logits". "ours / it" is the
median of the rounds' ratios of speed. Largest difference of a logit: {error:.1e}."""


def race(workload: Workload, options: argparse.Namespace) -> None:
    print(f"{workload.name}:", file=sys.stderr)
    checkpoint, load = make(workload.shape), report.load()
    if not (checkpoint / "onnx").is_dir():
        export = [str(options.peers_python), "-W", "ignore", "-m", "benches.export_onnx", str(checkpoint)]
        subprocess.run(export, cwd=ROOT, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        text = Path(directory) / "pairs.json"
        made = pairs(load_tokenizer(checkpoint), workload.lengths())
        text.write_text(json.dumps(made), encoding="utf-8")
        running = Race(workload, checkpoint, text, options)
        peers = [running.choose(peer) for peer in PEERS if peer in options.peers]
        entries = [*([] if options.without_us else [Entry(OURS, OURS, 0)]), *peers]
        running.run(entries)
    note = NOTE.format(
        count=len(workload.lengths()),
        tokens=sum(workload.lengths()),
        threads=options.threads,
        rounds=options.rounds,
        load=load,
        error=max(entry.error for entry in entries),
    )
    body = report.table(HEADER, rows(workload, entries)) + "\n\n" + note
    print(f"\n{workload.name}\n\n{body}\n", flush=True)
    if options.record:
        report.record(f"Peers: {workload.name}", body)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--peers-python", type=Path, help="default: .peers, made if need be")
    parser.add_argument("--without-us", action="store_true", help="peers alone")
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    return parser.parse_args()


def install() -> Path:
    """The peers' own interpreter in .peers, with what peers-requirements.txt pins."""
    directory, requirements = ROOT / ".peers", ROOT / "benches" / "peers-requirements.txt"
    python, installed = directory / "bin" / "python", directory / "installed.txt"
    if not installed.is_file() or installed.read_text() != requirements.read_text():
        print(f"installing the peers in {directory}: a few GB", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
        installed.write_text(requirements.read_text())
    return python


def main() -> None:
    options = arguments()
    options.peers_python = options.peers_python or install()
    for name in options.workload or WORKLOADS:
        race(WORKLOADS[name], options)


if __name__ == "__main__":
    main()
