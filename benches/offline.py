"""A file of queries reranked offline: Ray Data beside a plain loop: `python -m benches.offline [--record]`.

Each way is a program of examples/ray, run on a file of one row first, which tells what its start takes, and
then on the whole. What they write must be the same.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benches import questions, report
from benches.questions import CONTEXTS

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples" / "ray"
QUESTIONS: Final = 300
# Small, so that of a short file too each actor has several.
BATCH: Final = ("--batch-rows=10",)
# Ray's workers are niced by itself, and the loop is not.
QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_worker_niceness": "0",
}


def write(path: Path, rows: int) -> None:
    """A file of so many queries with their contexts; after a few hundred they come again."""
    groups = itertools.islice(itertools.cycle(questions.groups(min(rows, QUESTIONS))), rows)
    lines = (json.dumps({"query": query, "contexts": contexts}) for query, contexts in groups)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path) -> list[Any]:
    """The rows of a file, or of a directory's files in their order. Scores are f32, and read as such: pandas,
    which writes JSON for Ray, leaves out the last digits of what they are as f64."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line, parse_float=lambda digits: float(np.float32(digits))) for line in lines]


def run(program: str, source: Path, target: Path, flags: Sequence[str]) -> float:
    """Seconds, the program's own start included."""
    command = [sys.executable, str(EXAMPLES / program), str(source), str(target), *flags]
    begun = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program} failed:\n{done.stderr}")
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, help=f"queries, of {CONTEXTS} contexts each")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    load, cores = report.load(), len(os.sched_getaffinity(0))
    ways = (
        (f"a plain loop, {cores} threads", "loop.py", [f"--threads={cores}"]),
        (f"Ray Data, 1 actor of {cores} threads", "rerank.py", ["--actors=1", f"--threads={cores}", *BATCH]),
        (f"Ray Data, {cores} actors of 1 thread", "rerank.py", [f"--actors={cores}", "--threads=1", *BATCH]),
    )
    rows, written, fastest = [], [], 0.0
    with tempfile.TemporaryDirectory() as directory:
        one, whole = Path(directory, "one.jsonl"), Path(directory, "whole.jsonl")
        write(one, 1)
        write(whole, options.rows)
        for at, (name, program, flags) in enumerate(ways):
            out = Path(directory, f"ranked-{at}")
            start = run(program, one, out.with_suffix(".one"), flags)
            seconds = run(program, whole, out, flags)
            rate = options.rows * CONTEXTS / (seconds - start)
            fastest = fastest or rate
            rows.append([name, f"{start:.1f}", f"{seconds:.1f}", f"{rate:.0f}", f"{rate / fastest:.2f}"])
            written.append(read(out))
    same = all(each == written[0] for each in written) and len(written[0]) == options.rows
    body = report.table(("one file", "one row, s", "all, s", "pairs/s beyond one row", "to the loop"), rows)
    body += (
        f"\n\nmini-en; {options.rows} queries of {CONTEXTS} contexts; "
        f"{'all wrote the same, in the same order' if same else 'what they wrote DIFFERS'}; {load}."
    )
    print(body)
    if options.record:
        report.record("Offline", body)
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
