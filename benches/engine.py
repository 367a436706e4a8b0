"""The engine's speed in process, on checkpoints of real shapes: `python -m benches.engine
[--dtype int8] [--latency | --growth] [--record]`.

Text in, logits out: tokenizing is part of the time. One call ranks a whole workload, as a request does; with
`--latency` one call ranks one pair, alone, and one thread is compared with two; with `--growth` calls of 100
and of 1,000 contexts are compared.
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


def measure(workload: Workload, dtype: str, threads: int, runs: int) -> tuple[list[str], str]:
    """A row of the table, and the engine in words."""
    checkpoint = make(workload.shape)
    text = pairs(load_tokenizer(checkpoint), workload.lengths())
    with Reranker(checkpoint, device="cpu", dtype=dtype, threads=threads) as reranker:
        engine = reranker.engine
        words = f"{engine.dtype}, {engine.kernels} kernels"
        taken = times(reranker, text, runs)
    count, tokens = len(workload.lengths()), sum(workload.lengths())
    median, best = statistics.median(taken), min(taken)
    rates = [f"{count / median:.1f}", f"{count / best:.1f}", f"{tokens / median:.0f}", f"{tokens / best:.0f}"]
    return [workload.name, str(threads), *rates], words


def latencies(shape: Shape, dtype: str, threads: Sequence[int], runs: int) -> list[list[str]]:
    """A row for each number of threads. They take turns, so that what else the machine does hits all alike,
    and a ratio is of neighbours in time.
    """
    checkpoint = make(shape)
    query, contexts = pairs(load_tokenizer(checkpoint), [PAIR])
    taken: dict[int, list[float]] = {count: [] for count in threads}
    with ExitStack() as stack:
        rerankers = {
            count: stack.enter_context(Reranker(checkpoint, device="cpu", dtype=dtype, threads=count))
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


def growth(dtype: str, runs: int) -> str:
    """What ten times the contexts cost: 1.00 is ten times the time."""
    load, workload = report.load(), WORKLOADS["minilm-l6, 100 of 64-200"]
    checkpoint = make(workload.shape)
    tokenizer = load_tokenizer(checkpoint)
    hundred = pairs(tokenizer, workload.lengths())
    thousand = (hundred[0], hundred[1] * 10)
    taken: list[tuple[float, float]] = []
    with Reranker(checkpoint, device="cpu", dtype=dtype, threads=2) as reranker:
        for _ in range(runs):
            # In turns, the small ones on either side of the large one.
            before = times(reranker, hundred, 3)
            long = times(reranker, thousand, 1)[0]
            taken.append((statistics.median(before + times(reranker, hundred, 3)), long))
    short, long = (statistics.median(column) for column in zip(*taken, strict=True))
    ratio = statistics.median(long / (10 * short) for short, long in taken)
    row = [workload.name, f"{1e3 * short:.0f}", f"{1e3 * long:.0f}", f"{ratio:.3f}"]
    header = ("100 contexts, and ten times those", "ms of 100", "ms of 1,000", "1,000 / (10 x 100)")
    return report.table(header, [row]) + f"\n\n{dtype}; 2 threads; {runs} runs in turns; {load}."


def latency(dtype: str, runs: int) -> str:
    load = report.load()
    rows = [row for shape in SHAPES.values() for row in latencies(shape, dtype, (1, 2), runs)]
    note = f"{dtype}; {runs} runs each, in turns: the median ratio is that of the turns' ratios"
    return report.table(LATENCY_HEADER, rows) + f"\n\n{note}; tokenizing included; {load}."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="one row of the table for each")
    parser.add_argument("--runs", type=int, default=7, help="of each row, after one that is not counted")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--dtype", default="f32", help="the precision to compute in")
    parser.add_argument("--growth", action="store_true", help="100 contexts beside 1,000")
    parser.add_argument("--latency", action="store_true", help="one pair alone, by 1 and 2 threads")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    if options.latency or options.growth:
        of = latency if options.latency else growth
        body = of(options.dtype, options.runs)
        print(body)
        if options.record:
            report.record("The latency of one pair" if options.latency else "Ten times the contexts", body)
        return
    load = report.load()
    rows: list[list[str]] = []
    words = ""
    for name in options.workload or WORKLOADS:
        for threads in options.threads:
            row, words = measure(WORKLOADS[name], options.dtype, threads, options.runs)
            rows.append(row)
    note = f"{words}; {options.runs} runs each, medians and the best; tokenizing included; {load}."
    body = report.table(HEADER, rows) + "\n\n" + note
    print(body)
    if options.record:
        report.record("The engine in process", body)


if __name__ == "__main__":
    main()
