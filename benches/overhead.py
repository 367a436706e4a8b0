"""What a server costs beside its engine: CPU of its other threads, and the time that it adds to a call."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import uvloop
from rerankd import Reranker, bench
from rerankd.bench_kinds import Share
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc

from benches.lean import Lean

METHOD = "/rerankd.v1.RerankService/Rerank"
# The engine's threads, as `ps -L` names them; all others are Python's and gRPC's.
ENGINE = "rerankd-"


def cpu(pid: int) -> dict[str, int]:
    """Clock ticks of each thread of a process, by its id and name, from /proc."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "stat").read_text()
        # The name is in brackets, and may itself hold blanks and brackets.
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        found[f"{task.name} {name}"] = int(fields[11]) + int(fields[12])
    return found


def outside(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The share of the ticks between that threads other than the engine's took."""
    spent = {thread: ticks - before.get(thread, 0) for thread, ticks in after.items()}
    engine = sum(ticks for thread, ticks in spent.items() if thread.split(" ", 1)[1].startswith(ENGINE))
    return 1 - engine / max(sum(spent.values()), 1)


def added(target: str, threads: int, words: tuple[int, int], seconds: float) -> dict[str, float]:
    """Milliseconds, p50, of calls of one context: in process, through gRPC by a client that costs next to
    nothing and by grpcio's, and of a call that nothing is done for, to the server and to one that is grpcio
    alone.

    All in turns, so that the machine is the same to each, and every call finds the caches as one does that
    comes after another's computing.
    """
    (group,) = bench.made([Share(1, 1.0)], words, seed=1)
    messages = [
        pb.RerankRequest(query=each.query, contexts=[pb.Context(text=text) for text in each.contexts])
        for each in group.requests
    ]
    nothing = pb.RerankRequest(query="nothing").SerializeToString()
    taken: dict[str, list[float]] = {}
    with (
        Reranker("mini-en", threads=threads) as reranker,
        plain() as other,
        Lean(target, METHOD) as lean,
        Lean(other, METHOD) as beside,
        grpc.insecure_channel(target) as channel,
    ):
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        end = time.monotonic() + seconds
        for turn in count():
            request = group.requests[turn % len(group.requests)]
            message = messages[turn % len(messages)]
            turns: dict[str, Callable[[], object]] = {
                "through gRPC": partial(lean.call, message.SerializeToString()),
                "in process": partial(reranker.rank, request.query, request.contexts),
                "by grpcio": partial(stub.Rerank, message),
                "": partial(reranker.rank, request.query, request.contexts),
                "nothing": partial(lean.call, nothing),
                " ": partial(reranker.rank, request.query, request.contexts),
                "grpcio": partial(beside.call, nothing),
            }
            for name, call in turns.items():
                begun = time.perf_counter()
                call()
                taken.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)
            if time.monotonic() > end:
                return {name: float(np.median(times)) for name, times in taken.items()}
    raise AssertionError("turns never end by themselves")


@contextmanager
def plain() -> Iterator[str]:
    """A server that is grpcio and a handler that answers at once, in a process of its own: its target."""
    with subprocess.Popen([sys.executable, "-m", "benches.overhead"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


async def _nothing(message: bytes, context: object) -> bytes:
    return b""


async def _serve() -> None:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_nothing)
    server.add_registered_method_handlers("rerankd.v1.RerankService", {"Rerank": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
