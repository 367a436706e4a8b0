"""Peak memory under the worst that a server lets in, beside what it predicts: `python -m benches.peak`.

Each load has a server of its own on mini-en. Its client is unkind: many calls at once on each of several
connections, with messages as large as they may be, and it takes no answers where that is worse.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from rerankd.settings import default
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc

from benches import report
from benches.server import PATIENCE, free_port, serving

# Messages stay below max_message_bytes by what their fields take.
MESSAGE = (4 << 20) - (64 << 10)
CONTEXTS = 1000
PREDICTED = re.compile(r"memory: at most about (\d+) MiB")
METHOD = "/rerankd.v1.RerankService/Rerank"


@dataclass
class Load:
    """What is sent: so many calls on each of so many connections."""

    name: str
    calls: int
    connections: int
    message: bytes
    batch: bool = False


def request(contexts: int, size: int) -> pb.RerankRequest:
    """So many contexts of so many bytes, whose texts come back; in the queue as batch work, for long."""
    text = ("river " * (size // 6 + 1))[:size]
    each = [pb.Context(text=text)] * contexts
    return pb.RerankRequest(query="river", contexts=each, return_text=True, priority=pb.PRIORITY_BATCH)


def loads(calls: int, connections: int) -> list[Load]:
    most = request(CONTEXTS, MESSAGE // CONTEXTS - 8)
    item = pb.RerankBatchRequest(request_id="a", request=request(1, MESSAGE))
    return [
        Load("one small context", calls, connections, request(1, 60).SerializeToString()),
        Load(f"{CONTEXTS} contexts, 4 MiB", calls // 4, connections, most.SerializeToString()),
        Load("one context, 4 MiB", calls // 4, connections, request(1, MESSAGE).SerializeToString()),
        Load("RerankBatch, 4 MiB, no reader", calls // 4, connections, item.SerializeToString(), batch=True),
    ]


@contextmanager
def server(threads: int) -> Iterator[tuple[int, int, int]]:
    """A server that serves: its process, its port, and the bytes that it says it takes at most."""
    port, health = free_port(), free_port()
    command = [sys.executable, "-m", "rerankd", "serve", f"--threads={threads}", "--drain-seconds=0"]
    command += [
        f"--grpc=127.0.0.1:{port}",
        f"--health=127.0.0.1:{health}",
        "--metrics=",
        "--http=",
        "--grace-seconds=0",
    ]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            begun = time.monotonic()
            while not serving(health):
                if process.poll() is not None or time.monotonic() - begun > PATIENCE:
                    log.seek(0)
                    raise SystemExit(f"the server does not serve:\n{log.read().decode()}")
                time.sleep(0.01)
            log.seek(0)
            said = PREDICTED.search(log.read().decode())
            assert said is not None, "the server logs no prediction"
            yield process.pid, port, int(said[1]) << 20
        finally:
            process.terminate()


async def unary(channel: grpc.aio.Channel, message: bytes, seconds: float) -> str:
    call: Any = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
    try:
        await call(message, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def unread(channel: grpc.aio.Channel, message: bytes, seconds: float) -> str:
    """Writes for as long as the server reads, and reads nothing."""
    call: Any = rerank_pb2_grpc.RerankServiceStub(channel).RerankBatch(timeout=seconds)
    item = pb.RerankBatchRequest.FromString(message)
    try:
        for at in range(1 << 20):
            item.request_id = str(at)
            await call.write(item)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    # Whoever writes after the deadline gets an error of the client library's own, which tells nothing.
    own = (await call.details() or "").startswith("Internal error from Core")
    return "cut off by the deadline" if own else str((await call.code()).name)


async def play(load: Load, port: int, seconds: float) -> Counter[str]:
    """Sends all of it at once; what became of the calls."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(load.connections)]
    send: Callable[[grpc.aio.Channel, bytes, float], Awaitable[str]] = unread if load.batch else unary
    codes = await asyncio.gather(
        *(send(channel, load.message, seconds) for channel in channels for _ in range(load.calls))
    )
    for channel in channels:
        await channel.close()
    return Counter(codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--calls", type=int, default=256, help="on each connection; of large ones a quarter")
    parser.add_argument("--seconds", type=float, default=20, help="each call's deadline")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    before, rows = report.load(), list[list[str]]()
    for load in loads(options.calls, options.connections):
        with server(options.threads) as (pid, port, predicted):
            idle = report.memory(pid)["VmHWM"]
            codes = asyncio.run(play(load, port, options.seconds))
            peak = report.memory(pid)["VmHWM"]
        if peak * 1e6 > predicted:
            raise SystemExit(f"{load.name}: {peak:.0f} MB, and {predicted / 1e6:.0f} MB were predicted")
        became = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        asked = f"{load.connections} x {load.calls} {load.name}"
        rows.append([asked, f"{idle:.0f}", f"{peak:.0f}", f"{predicted / 1e6:.0f}", became])
    header = ("calls at once", "VmHWM when SERVING, MB", "peak", "predicted", "became")
    limits = ("queue_tokens", "message_room_bytes", "max_message_bytes", "max_streams")
    note = f"{options.threads} threads, {', '.join(f'{name} {default(name)}' for name in limits)}; {before}."
    body = report.table(header, rows) + "\n\n" + note
    print(body)
    if options.record:
        report.record("Peak memory under the worst queue", body)


if __name__ == "__main__":
    main()
