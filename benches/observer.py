"""What it costs a unary call to be watched: `python -m benches.observer [--calls N]`.

CPU microseconds per call of the event loop's own thread, on a handler that answers at once with a ranking
of ten: bare; with metrics; with traces that are not sampled; with traces that are. Sending the spans is
another thread's work, and not in it.
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import grpc
from rerankd.metrics import Metrics
from rerankd.observe import METHODS, Observer, Watcher
from rerankd.traces import Traces
from rerankd.v1 import rerank_pb2 as pb

ROUNDS = 7
ANSWER = pb.RerankResponse(
    results=[pb.RankedContext(id=at, score=0.5) for at in range(10)],
    usage=pb.Usage(contexts=10, tokens=1000),
    timing=pb.Timing(queue_us=10, tokenize_us=200, compute_us=900, total_us=1200),
    model="mini-en",
)
# Nobody listens there: what the exporter does about it is not measured.
NOBODY = "http://127.0.0.1:9"


async def answer(request: bytes, context: Any) -> pb.RerankResponse:
    return ANSWER


async def measure(watchers: Sequence[Watcher] | None, calls: int) -> float:
    """CPU microseconds per call; None: without an observer."""
    bare: Any = grpc.unary_unary_rpc_method_handler(answer)
    details: Any = SimpleNamespace(method=f"/{METHODS[0].service}/Rerank", invocation_metadata=())
    context = SimpleNamespace(code=lambda: 0, time_remaining=lambda: None, invocation_metadata=lambda: ())
    observer = None if watchers is None else Observer(watchers)

    async def handler_for(_: Any) -> Any:
        return bare

    begun = time.thread_time()
    for _ in range(calls):
        handler: Any = await handler_for(details)
        if observer is not None:
            handler = await observer.intercept_service(handler_for, details)
        await handler.unary_unary(b"", context)
    return (time.thread_time() - begun) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000, help="calls per round")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    unsampled, sampled = Traces(NOBODY, 0.0), Traces(NOBODY, 1.0)
    setups: dict[str, Sequence[Watcher] | None] = {
        "bare": None,
        "metrics": [Metrics([], 1, int)],
        "metrics and traces, not sampled": [Metrics([], 1, int), unsampled],
        "metrics and traces, sampled": [Metrics([], 1, int), sampled],
    }
    taken: dict[str, list[float]] = {name: [] for name in setups}
    for _ in range(ROUNDS):
        for name, watchers in setups.items():
            taken[name].append(asyncio.run(measure(watchers, options.calls)))
    floor = statistics.median(taken["bare"])
    for name, each in taken.items():
        median = statistics.median(each)
        print(
            f"{name:32} {median:6.1f} us a call, {median - floor:+6.1f} ({min(each):.1f} to {max(each):.1f})"
        )
    for traces in (unsampled, sampled):
        traces.close()


if __name__ == "__main__":
    main()
