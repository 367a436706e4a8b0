"""What a model in process takes on bge-reranker-base's shape: `python -m benches.memory [--record]`.

Seconds from the start of the interpreter to the first score, and memory after 1,000 pairs, in each precision,
from the checkpoint and packed.

Each line is a process of its own. The first score is of one short pair, and the files are in the page cache.
The pairs are short, for memory depends on their words and on a wave's tokens, not on a pair's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rerankd import pack

from benches import report
from benches.checkpoints import BGE_BASE, make
from benches.corpus import load_tokenizer, pairs

PAIRS = 1000
HEADER = ("model", "first score, s", "VmRSS, MB", "RssAnon", "RssFile", "peak")

CHILD = """
import json, sys, time
from rerankd import Reranker
with Reranker(sys.argv[1], dtype=sys.argv[2], threads=int(sys.argv[3]), emulate=True) as reranker:
    reranker.score("a query", ["a context"])
    print(json.dumps(None), flush=True)
    query, contexts = json.loads(sys.stdin.readline())
    reranker.score(query, contexts)
    print(json.dumps(reranker.engine.kernels), flush=True)
    sys.stdin.readline()
"""


def child(model: Path, dtype: str, threads: int, text: tuple[str, list[str]]) -> list[str]:
    """A row of the table."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), dtype, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    first = time.perf_counter() - start
    process.stdin.write(json.dumps(text) + "\n")
    process.stdin.flush()
    kernels = json.loads(process.stdout.readline())
    memory = report.memory(process.pid)
    process.stdin.close()
    process.wait()
    packed = ", packed" if (model / "packed").exists() else ""
    cells = [f"{memory[key]:.0f}" for key in ("VmRSS", "RssAnon", "RssFile", "VmHWM")]
    return [f"{dtype}{packed} ({kernels})", f"{first:.2f}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="+", default=["f32", "int8", "bf16"])
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    checkpoint, load = make(BGE_BASE), report.load()
    lengths = np.random.default_rng(1000).integers(24, 64, PAIRS).tolist()
    text = pairs(load_tokenizer(checkpoint), lengths)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as directory:
        for dtype in options.dtype:
            rows.append(child(checkpoint, dtype, options.threads, text))
            out = Path(directory) / dtype
            pack.pack(str(checkpoint), out, dtype=dtype, emulate=True)
            (out / "packed").touch()
            rows.append(child(out, dtype, options.threads, text))
    note = (
        f"After {PAIRS} pairs of 24 to 63 tokens; {options.threads} threads; {load}. RssFile is of mapped "
        "files: the pages touched of the word table, and a packed model's weights, which processes share."
    )
    body = report.table(HEADER, rows) + "\n\n" + note
    print(body)
    if options.record:
        report.record("Start and memory in process", body)


if __name__ == "__main__":
    main()
