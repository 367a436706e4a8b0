"""What HTTP adds to gRPC for the same request: `python -m benches.http_overhead`, on mini-en.

One caller asks the same server in turn by gRPC and by each of HTTP's bodies, over connections that stay open:
what else the machine does falls on all of them alike. HTTP's caller is as bare as can be, so that what is
measured is the server. With --contexts=0 the engine has nothing to do, and its noise is out of the way.
"""

import argparse
import http.client
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import grpc
from rerankd.bench_text import Writer
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc

from benches import report
from benches.process import Process

WORDS = (5, 25)
AT_MOST = 1.5
ENVELOPE = "/client/v4/accounts/any/ai/run/mini-en"


class Caller:
    """Makes one request, of a number of made-up ones, in each way."""

    def __init__(self, server: Process, contexts: int, count: int) -> None:
        self._channel = grpc.insecure_channel(server.target)
        self._stub = rerank_pb2_grpc.RerankServiceStub(self._channel)
        self._web = http.client.HTTPConnection("127.0.0.1", server.http, timeout=60)
        writer = Writer(WORDS, seed=32)
        self._texts = [(writer.query(), [writer.context() for _ in range(contexts)]) for _ in range(count)]
        self.ways: dict[str, Callable[[int], Any]] = {
            "gRPC": self._grpc,
            "HTTP, documents": lambda at: self._http("/rerank", "documents", at),
            "HTTP, texts": lambda at: self._http("/rerank", "texts", at),
            "HTTP, Cloudflare's contexts": lambda at: self._http(ENVELOPE, "contexts", at),
        }

    def _grpc(self, at: int) -> int:
        query, texts = self._texts[at % len(self._texts)]
        request = pb.RerankRequest(query=query, contexts=[pb.Context(text=text) for text in texts])
        return len(self._stub.Rerank(request).results)

    def _http(self, path: str, name: str, at: int) -> int:
        query, texts = self._texts[at % len(self._texts)]
        body: Any = [{"text": text} for text in texts] if name == "contexts" else texts
        raw = json.dumps({"query": query, name: body}).encode()
        self._web.request("POST", path, raw, {"content-type": "application/json"})
        answer = self._web.getresponse()
        told = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {told}")
        results = told["results"] if name == "documents" else told
        return len(results if name != "contexts" else told["result"]["response"])

    def close(self) -> None:
        self._web.close()
        self._channel.close()


def measure(caller: Caller, rounds: int, contexts: int) -> dict[str, list[float]]:
    """Milliseconds of each way's calls, the first of each left out."""
    taken: dict[str, list[float]] = {name: [] for name in caller.ways}
    for at in range(rounds + 1):
        for name, ask in caller.ways.items():
            begun = time.perf_counter()
            answered = ask(at)
            elapsed = (time.perf_counter() - begun) * 1e3
            if answered != contexts:
                raise SystemExit(f"{name} answered {answered} of {contexts} contexts")
            if at:
                taken[name].append(elapsed)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contexts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    load = report.load()
    with Process(options.threads, "--metrics=") as server:
        caller = Caller(server, options.contexts, count=16)
        taken = measure(caller, options.rounds, options.contexts)
        caller.close()
    base = statistics.median(taken["gRPC"])
    rows = []
    for name, times in taken.items():
        middle, tail = statistics.median(times), statistics.quantiles(times, n=100)[98]
        rows.append([name, f"{middle:.2f}", f"{middle - base:+.2f}", f"{tail:.2f}"])
    header = (f"{options.contexts} contexts a request", "p50, ms", "to gRPC's", "p99, ms")
    note = (
        f"Promised: at most {AT_MOST} ms more than gRPC at p50. {options.rounds} rounds, each way in turn; "
        f"{options.threads} threads; {load}."
    )
    body = f"{report.table(header, rows)}\n\n{note}"
    print(body)
    if options.record:
        report.record("HTTP beside gRPC on mini-en", body)


if __name__ == "__main__":
    main()
