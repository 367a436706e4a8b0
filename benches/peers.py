"""rerankd and its peers on the same pairs, in one run, in turns: `python -m benches.peers [--record]`.

Each contender has a process of its own. The driver gives them turns, ours of a precision, its peers, ours of
the next, so that whatever else the machine does hits all alike; ratios are taken within a round. Peers first
choose their batch size and their graph in processes that are then thrown away, so that a batch size they do
not want leaves no trace in their memory (the search is most of the run: `--choices FILE` keeps what it
chose for the next one). Before any timing, the logits in f32 have to agree; those of less
precision are reported. A contender that can't run here, or takes far too long, is left out, and the note
says so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benches import environment, report
from benches.checkpoints import make
from benches.choices import Choice, Choices
from benches.contenders import CannotRunError
from benches.corpus import WORKLOADS, Workload, load_tokenizer, pairs
from benches.race import (
    HEADER,
    OURS,
    PEERS,
    SUMMARY,
    Entry,
    bars,
    batches,
    rows,
    search,
    summary,
    turns,
    ways,
)
from benches.worker import TooSlowError, Worker, folders, write

# What every contender's logits are compared with: not ours, and there whatever else is.
REFERENCE = "onnxruntime f32"
# A contender's first pass: of this batch size, and of at most so many times the reference's seconds.
FIRST, PATIENCE = 8, 4.0
# The largest difference of a logit between contenders in f32.
AGREEMENT = 1e-3
# With less correlation than this, logits no longer order the pairs: such speed is worth nothing.
SANE = 0.9


@dataclass
class Race:
    """One workload, its pairs written where the workers read them."""

    workload: Workload
    checkpoint: Path
    groups: Path
    options: argparse.Namespace
    reference: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    patience: float = 0.0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choices = Choices(self.options.choices, f"{self.workload.name}, {self.options.threads} threads")
        if self.choices.known:
            self.notes.append("Ways and batch sizes are those of an earlier search.")

    def worker(self, name: str) -> Worker:
        return Worker(name, self.checkpoint, self.groups, self.options.threads, self.options.peers_python)

    def set_reference(self) -> None:
        worker = self.worker(REFERENCE)
        self.reference = worker.logits(FIRST)
        self.patience = PATIENCE * float(worker.ask("time", FIRST)["score"])
        worker.close()

    def start(self, name: str) -> Worker | None:
        try:
            return self.worker(name)
        except CannotRunError as error:
            self.leave_out(name, str(error))
            return None

    def leave_out(self, name: str, why: str) -> None:
        self.notes.append(f"Left out: {name}: {why.rstrip('.')}.")
        print(f"  {self.notes[-1]}", file=sys.stderr)

    def candidate(self, way: str) -> Worker | None:
        """A worker that can run, is not hopelessly slow, and gives logits that mean something."""
        worker = self.start(way)
        if worker is None:
            return None
        try:
            logits = worker.logits(FIRST, self.patience)
        except TooSlowError:
            self.leave_out(way, f"a pass takes it more than {PATIENCE:.0f} times as long as {REFERENCE}")
            return None
        correlation = float(np.corrcoef(logits, self.reference)[0, 1])
        if not correlation >= SANE:  # a NaN too
            self.leave_out(way, f"its logits correlate by {correlation:.2f} with those in f32")
            worker.close()
            return None
        return worker

    def choose(self, peer: str) -> Entry | None:
        """The peer's fastest way and batch size, kept or searched for; none where it can't take part."""
        kept = self.choices.get(peer)
        if kept is not None:
            return Entry(peer, kept.way, kept.batch)
        entry = self.search(peer)
        if entry is not None:
            self.choices.keep(peer, Choice(entry.way, entry.batch))
        return entry

    def search(self, peer: str) -> Entry | None:
        candidates = {way: self.candidate(way) for way in ways(peer, report.flags())}
        workers = {way: worker for way, worker in candidates.items() if worker is not None}
        if not workers:
            return None
        keys = [(way, batch) for way in workers for batch in batches(self.workload.lengths())]
        best = search(lambda way, batch: float(workers[way].ask("time", batch)["score"]), keys)
        for worker in workers.values():
            worker.close()
        tokens = sum(self.workload.lengths())
        for (way, batch), seconds in best.items():
            print(f"  {way}, batches of {batch}: {tokens / seconds:.0f} tokens/s", file=sys.stderr)
        return Entry(peer, *min(best, key=best.__getitem__))

    def compare(self, entry: Entry, worker: Worker) -> None:
        """How far an entry's logits are from the reference's. In f32 they have to agree."""
        entry.error = float(np.abs(worker.logits(max(entry.batch, 1)) - self.reference).max())
        entry.share = entry.error / float(np.ptp(self.reference))
        if entry.precision == "f32" and not entry.error <= AGREEMENT:
            raise SystemExit(f"{entry.way} and {REFERENCE} differ by {entry.error:.2e} in a logit")

    def run(self, entries: list[Entry]) -> list[Entry]:
        """Agreement, then the rounds. Fills the entries, and gives those that took part."""
        workers: list[tuple[Entry, Worker]] = []
        for entry in turns(entries):
            worker = self.start(entry.way)
            if worker is not None:
                workers.append((entry, worker))
        for entry, worker in workers:
            self.compare(entry, worker)
        for number in range(self.options.rounds):
            for entry, worker in workers if number % 2 == 0 else reversed(workers):
                # Threads of the one before may still spin.
                time.sleep(0.2)
                answer = worker.ask("time", entry.batch)
                entry.score.append(answer["score"])
                entry.tokenize.append(answer["tokenize"])
        for entry, worker in workers:
            entry.peak = worker.ask("memory")["peak"]
            worker.close()
        return [entry for entry, _ in workers]

    def note(self, entries: list[Entry], load: str) -> str:
        said = NOTE.format(
            count=len(self.workload.lengths()),
            tokens=sum(self.workload.lengths()),
            threads=self.options.threads,
            rounds=self.options.rounds,
            load=load,
            exact=max((entry.error for entry in entries if entry.precision == "f32"), default=0.0),
            reference=REFERENCE,
            spread=float(np.ptp(self.reference)),
        )
        return "\n".join([said, *self.notes])


NOTE = """{count} pairs, {tokens} tokens; {threads} threads each; {rounds} rounds in turns, medians; {load}.
rerankd's figures always include tokenizing, the peers' only in "text to logits". "ours / it" is the median of
the rounds' ratios of speed, of ours in the same precision. Errors are of a logit, against {reference}: in f32
at most {exact:.1e}; the logits spread over {spread:.2f}."""


def plot(workload: Workload, entries: list[Entry], options: argparse.Namespace) -> str:
    """Draws the workload's chart beside RESULTS.md; the line that shows it there."""
    path = report.RESULTS.with_name(f"peers-{report.slug(workload.name)}.svg")
    what = json.dumps({"title": f"tokens/s: {workload.name}", "bars": bars(workload, entries)})
    command = [str(options.peers_python), "-m", "benches.plot", str(path)]
    subprocess.run(command, cwd=environment.ROOT, input=what, text=True, check=True)
    return f"![{workload.name}: tokens/s of each contender]({path.name})"


def race(workload: Workload, options: argparse.Namespace) -> None:
    print(f"{workload.name}:", file=sys.stderr)
    checkpoint, load = make(workload.shape), report.load()
    names = [way for peer in options.peers for way in ways(peer, report.flags())]
    environment.prepare(checkpoint, options.peers_python, folders([REFERENCE, *names]))
    with tempfile.TemporaryDirectory() as directory:
        made = pairs(load_tokenizer(checkpoint), workload.lengths())
        running = Race(workload, checkpoint, write([made], Path(directory) / "pairs.json"), options)
        running.set_reference()
        peers = [running.choose(peer) for peer in PEERS if peer in options.peers]
        ours = [Entry(name, name) for name in options.ours]
        entries = running.run([*ours, *(entry for entry in peers if entry is not None)])
    body = report.table(HEADER, rows(workload, entries))
    compared = summary(entries)
    if compared:
        body += "\n\n" + report.table(SUMMARY, compared)
    body += "\n\n" + running.note(entries, load)
    print(f"\n{workload.name}\n\n{body}\n", flush=True)
    if options.record:
        report.record(f"Peers: {workload.name}", body + "\n\n" + plot(workload, entries, options))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--ours", nargs="*", choices=list(OURS), default=list(OURS), help="default: all")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="default: all")
    parser.add_argument("--peers-python", type=Path, help="default: .peers, made if need be")
    parser.add_argument(
        "--choices", type=Path, help="a file to keep the search's choices in, and take them from"
    )
    parser.add_argument("--record", action="store_true", help="append to benches/RESULTS.md, with a plot")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.peers_python = options.peers_python or environment.install()
    for name in options.workload or WORKLOADS:
        race(WORKLOADS[name], options)


if __name__ == "__main__":
    main()
