"""Many streams whose readers have stopped reading: what they cost the server, and the calls beside them."""

import asyncio
import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import uvloop
from rerankd import AsyncClient
from rerankd.v1 import rerank_pb2 as pb

from benches import report
from benches.process import Process
from benches.traffic import PATIENCE, Account, Draw, ask, known

METHOD: Final = "/rerankd.v1.RerankService/RerankStream"
# Below the server's limit on streams of one connection.
PER_CONNECTION: Final = 100
# Texts that are asked back: long to send, and short to compute, for a pair is cut at so many tokens.
TEXT: Final = "bread and butter " * 120
LONG_TEXT: Final = TEXT * 8
MAX_TOKENS: Final = 16
CONTEXTS: Final = 8
"""Of one message."""
MODEST: Final = 6
"""Messages that a modest stream writes: their answers are more than a connection's window takes, and what
all of the streams hold leaves room in the queue. A greedy one writes on, and long texts."""
# Calls beside them: one at a time, and a pause, so that they wait for the server and not for each other.
GAP: Final = 0.02
WORSE: Final = 1.10
"""Times that p99 may grow to."""
LETHAL: Final = 4000.0
"""MB of a server that has broken its promise badly enough."""
NOTE: Final = (
    f"Each stream asks its texts back; nobody reads. Modest ones write {MODEST * CONTEXTS} contexts of "
    f"{len(TEXT) / 1e3:.1f} kB and stay open; greedy ones write contexts of {len(LONG_TEXT) / 1e3:.0f} kB "
    "until they are stopped, by flow control or by the server. Once the server has nothing to compute any "
    "more, calls of 3 contexts are timed one after another, alone and beside the modest streams in turns, "
    "and then beside the greedy ones."
)


@dataclass
class Stream:
    """A call that writes so many messages, or while it may, and is never read."""

    call: Any
    messages: float
    written: int = 0
    """Messages that flow control has let go."""

    @property
    def text(self) -> str:
        return TEXT if math.isfinite(self.messages) else LONG_TEXT

    async def write(self) -> None:
        contexts = [pb.Context(text=self.text) for _ in range(CONTEXTS)]
        start = pb.RerankRequest(query="bread", contexts=contexts, return_text=True, max_tokens=MAX_TOKENS)
        message = pb.RerankStreamRequest(start=start).SerializeToString()
        more = pb.RerankStreamRequest(more=pb.ContextChunk(contexts=contexts)).SerializeToString()
        while self.written < self.messages:
            # grpc.aio's own write puts INTERNAL in the place of the status that the server ends a call with.
            await self.call._cython_call.send_serialized_message(message)
            self.written += 1
            message = more


class Stalled:
    """So many streams, opened, each to write so many messages."""

    def __init__(self, target: str, count: int, messages: float) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            grpc.aio.insecure_channel(target, options) for _ in range(math.ceil(count / PER_CONNECTION))
        ]
        methods: list[Any] = [channel.stream_stream(METHOD) for channel in self._channels]
        self._streams = [Stream(methods[at // PER_CONNECTION](), messages) for at in range(count)]
        self._writers = [asyncio.create_task(stream.write()) for stream in self._streams]

    def megabytes(self) -> float:
        """Of texts that were written."""
        return sum(stream.written * len(stream.text) for stream in self._streams) * CONTEXTS / 1e6

    async def ended(self) -> Counter[str]:
        """The statuses of those that the server has ended."""
        return Counter([(await stream.call.code()).name for stream in self._streams if stream.call.done()])

    async def close(self) -> None:
        for writer in self._writers:
            writer.cancel()
        for stream in self._streams:
            stream.call.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        for channel in self._channels:
            await channel.close()


async def quiet(server: Process, seconds: float = 2.0, patience: float = 180.0) -> None:
    """Returns when the server has computed nothing for a while. Raises SystemExit where it never ends."""
    begun = time.monotonic()
    last, since = -1.0, begun
    while time.monotonic() - since < seconds:
        if time.monotonic() - begun > patience:
            raise SystemExit(f"the server computes on, {patience:g} s after its readers have stalled")
        pairs = await asyncio.to_thread(server.metric, "rerankd_pairs_total")
        if pairs != last:
            last, since = pairs, time.monotonic()
        await asyncio.sleep(0.2)


async def timed(target: str, draw: Draw, seconds: float, account: Account) -> None:
    async with AsyncClient(target, timeout=PATIENCE) as client:
        await ask(client, draw, Account())  # the connection
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await ask(client, draw, account)
            await asyncio.sleep(GAP)


@dataclass
class Beside:
    """Calls beside stalled streams, and the server's memory meanwhile."""

    calls: Account = field(default_factory=Account)
    memory: float = 0.0
    """VmRSS in MB, at the most."""
    written: float = 0.0
    """MB, by all streams at a time."""
    ended: Counter[str] = field(default_factory=Counter)


@dataclass
class Found:
    alone: Account = field(default_factory=Account)
    modest: Beside = field(default_factory=Beside)
    greedy: Beside = field(default_factory=Beside)
    before: float = 0.0
    after: float = 0.0
    tickets: float = 0.0


async def beside(server: Process, held: Stalled, draw: Draw, seconds: float, found: Beside) -> None:
    """Times calls beside the streams, and closes these."""
    watching = asyncio.create_task(watch(server, found))
    await quiet(server)
    await timed(server.target, draw, seconds, found.calls)
    watching.cancel()
    found.written = max(found.written, held.megabytes())
    found.ended += await held.ended()
    await held.close()
    await quiet(server)


async def watch(server: Process, found: Beside) -> None:
    """Until it is cancelled; the machine is others' too, so a server that takes it all is killed."""
    while True:
        found.memory = max(found.memory, report.memory(server.pid)["VmRSS"])
        if found.memory > LETHAL:
            server.kill()
            raise SystemExit(f"the server took more than {LETHAL:g} MB beside {found.written:g} MB of texts")
        await asyncio.sleep(0.2)


async def rounds(server: Process, count: int, streams: int, seconds: float) -> Found:
    found, draw = Found(), Draw(await asyncio.to_thread(known), seed=4)
    await timed(server.target, draw, 2.0, Account())
    found.before = report.memory(server.pid)["VmRSS"]
    for _ in range(count):
        await timed(server.target, draw, seconds, found.alone)
        await beside(server, Stalled(server.target, streams, MODEST), draw, seconds, found.modest)
        print(f"alone {quantiles(found.alone)}, beside {quantiles(found.modest.calls)} ms")
    await beside(server, Stalled(server.target, streams, math.inf), draw, seconds, found.greedy)
    found.after = report.memory(server.pid)["VmRSS"]
    found.tickets = await asyncio.to_thread(server.metric, "rerankd_tickets_in_flight")
    return found


def quantiles(account: Account) -> str:
    times = account.seconds()
    return ", ".join(f"{np.percentile(times, p) * 1e3:.1f}" for p in (50, 99)) if times else "none"


def measure(threads: int, streams: int, count: int, seconds: float) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether the promise was kept."""
    with Process(threads) as server:
        found = uvloop.run(rounds(server, count, streams, seconds))
        alive, log = server.alive, server.said()
        said = re.search(r"(\d+) MiB for the threads to work in, (\d+) MiB for requests", log)
    modest, greedy = found.modest, found.greedy
    ratio = float(np.percentile(modest.calls.seconds(), 99) / np.percentile(found.alone.seconds(), 99))
    if said is None:
        raise SystemExit(f"the server does not tell what memory it may take:\n{log}")
    # Its own promise: what the threads work in, and what requests may hold.
    most = found.before + (int(said[1]) + int(said[2])) * (1 << 20) / 1e6
    wrong = found.alone.wrong + modest.calls.wrong + greedy.calls.wrong
    failed = found.alone.failed + modest.calls.failed
    rows = [
        [f"{streams} modest streams: texts written, MB", f"{modest.written:.0f}", ""],
        ["ended by the server", statuses(modest.ended), "none"],
        ["calls alone: p50, p99, ms", quantiles(found.alone), ""],
        ["calls beside: p50, p99, ms", quantiles(modest.calls), ""],
        ["p99, ratio", f"{ratio:.2f}", f"at most {WORSE:.2f}"],
        ["calls alone, beside; failed of these", f"{found.alone.ids}, {modest.calls.ids}; {failed}", "0"],
        [
            "VmRSS before, beside at most, MB",
            f"{found.before:.0f}, {modest.memory:.0f}",
            f"at most {most:.0f}",
        ],
        [f"{streams} greedy streams: texts written, MB", f"{greedy.written:.0f}", ""],
        ["ended by the server", statuses(greedy.ended), ""],
        ["calls beside: p50, p99, ms", quantiles(greedy.calls), ""],
        ["calls beside: failed, of", f"{greedy.calls.failed}, {greedy.calls.ids}", ""],
        ["VmRSS beside, at most, MB", f"{greedy.memory:.0f}", f"at most {most:.0f}"],
        ["VmRSS after, MB", f"{found.after:.0f}", ""],
        ["wrong answers", f"{wrong}", "0"],
        ["requests in flight in the end", f"{found.tickets:.0f}", "0"],
    ]
    kept = alive and ratio <= WORSE and not (wrong or failed or found.tickets or modest.ended)
    return rows, kept and max(modest.memory, greedy.memory) <= most


def statuses(ended: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in ended.most_common()) or "none"
