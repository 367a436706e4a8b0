"""The engine's throughput in process, on checkpoints of real shapes: `python -m benches.engine [--record]`.

Text in, logits out: tokenizing is part of the time. One call ranks a whole workload, as a request does.
"""

import argparse
import statistics
import time

from rerankd import Reranker

from benches import report
from benches.checkpoints import make
from benches.corpus import WORKLOADS, Workload, load_tokenizer, pairs

HEADER = ("workload", "threads", "pairs/s", "pairs/s, best", "tokens/s", "tokens/s, best")


def times(reranker: Reranker, workload: tuple[str, list[str]], runs: int) -> list[float]:
    """Seconds of each run, after one that is not counted: it touches the word table's pages and the
    arenas.
    """
    query, contexts = workload
    reranker.score(query, contexts, score="logit")
    taken: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        reranker.score(query, contexts, score="logit")
        taken.append(time.perf_counter() - start)
    return taken


def measure(workload: Workload, threads: int, runs: int) -> tuple[list[str], str]:
    """A row of the table, and the engine in words."""
    checkpoint = make(workload.shape)
    text = pairs(load_tokenizer(checkpoint), workload.lengths())
    with Reranker(checkpoint, device="cpu", dtype="f32", threads=threads) as reranker:
        engine = reranker.engine
        words = f"{engine.dtype}, {engine.kernels} kernels"
        taken = times(reranker, text, runs)
    count, tokens = len(workload.lengths()), sum(workload.lengths())
    median, best = statistics.median(taken), min(taken)
    rates = [f"{count / median:.1f}", f"{count / best:.1f}", f"{tokens / median:.0f}", f"{tokens / best:.0f}"]
    return [workload.name, str(threads), *rates], words


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="one row of the table for each")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    load = report.load()
    rows: list[list[str]] = []
    words = ""
    for name in options.workload or WORKLOADS:
        for threads in options.threads:
            row, words = measure(WORKLOADS[name], threads, options.runs)
            rows.append(row)
    note = f"{words}; {options.runs} runs each, medians and the best; tokenizing included; {load}."
    body = report.table(HEADER, rows) + "\n\n" + note
    print(body)
    if options.record:
        report.record("The engine in process", body)


if __name__ == "__main__":
    main()
