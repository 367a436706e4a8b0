"""The engine's speed in process, on checkpoints of real shapes: `python -m benches.engine [--latency]
[--record]`.

Text in, logits out: tokenizing is part of the time. One call ranks a whole workload, as a request does; with
`--latency` one call ranks one pair, alone, and one thread is compared with two.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from rerankd import Reranker

from benches import report
from benches.checkpoints import SHAPES, Shape, make
from benches.corpus import WORKLOADS, Workload, load_tokenizer, pairs

HEADER = ("workload", "threads", "pairs/s", "pairs/s, best", "tokens/s", "tokens/s, best")
LATENCY_HEADER = (
    "one pair alone",
    "threads",
    "ms, median",
    "ms, best",
    "to 1 thread, median",
    "to 1 thread, best",
)
# The pair of the latencies, in tokens.
PAIR = 128


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


def latencies(shape: Shape, threads: Sequence[int], runs: int) -> list[list[str]]:
    """A row for each number of threads. They take turns, so that what else the machine does hits all alike,
    and a ratio is of neighbours in time.
    """
    checkpoint = make(shape)
    query, contexts = pairs(load_tokenizer(checkpoint), [PAIR])
    taken: dict[int, list[float]] = {count: [] for count in threads}
    with ExitStack() as stack:
        rerankers = {
            count: stack.enter_context(Reranker(checkpoint, device="cpu", dtype="f32", threads=count))
            for count in threads
        }
        for run in range(runs + 1):
            for count, reranker in rerankers.items():
                start = time.perf_counter()
                reranker.score(query, contexts, score="logit")
                if run:  # the first touches the arenas and the word table's pages
                    taken[count].append(time.perf_counter() - start)
    first = taken[threads[0]]
    rows: list[list[str]] = []
    for count, times in taken.items():
        ratio = statistics.median(time / one for time, one in zip(times, first, strict=True))
        median, best = 1e3 * statistics.median(times), 1e3 * min(times)
        ratios = [f"{ratio:.2f}", f"{min(times) / min(first):.2f}"]
        rows.append([f"{shape.name}, {PAIR} tokens", str(count), f"{median:.1f}", f"{best:.1f}", *ratios])
    return rows


def latency(runs: int) -> str:
    load = report.load()
    rows = [row for shape in SHAPES.values() for row in latencies(shape, (1, 2), runs)]
    note = (
        f"f32; {runs} runs each, in turns: the median ratio is that of the turns' ratios; tokenizing included"
    )
    return report.table(LATENCY_HEADER, rows) + f"\n\n{note}; {load}."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="one row of the table for each")
    parser.add_argument("--runs", type=int, default=7, help="of each row, after one that is not counted")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--latency", action="store_true", help="one pair alone, by 1 and 2 threads")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    if options.latency:
        body = latency(options.runs)
        print(body)
        if options.record:
            report.record("The latency of one pair", body)
        return
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
