"""Callers who leave, 10,000 a minute: `python -m benches.soak [--minutes N] [--record]`, on mini-en.

Calls of all three kinds are begun on time and cancelled a moment later, in the queue, in a wave or between
two messages, beside calls that wait for their answers. What they leave behind shows as memory that grows,
places in the queue that stay taken, or files that stay open.
"""

import argparse
import asyncio
import random
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
from benches.traffic import Account, Draw, closed_loop, known

SERVICE: Final = "rerankd.v1.RerankService"
RATE: Final = 10_000 / 60
# Seconds after which a caller leaves, at the most.
LONGEST: Final = 0.1
CONNECTIONS: Final = 8
# Calls that stay, at a time.
WORKERS: Final = 2
# Work that no caller who leaves lives to see the end of.
CONTEXTS, WORDS = 60, 100
MOST_GROWTH: Final = 1.0
"""MB an hour."""
# Seconds between two looks at the memory.
LOOK: Final = 1.0


@dataclass
class Left:
    """What became of those who were to leave."""

    begun: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    late: float = 0.0
    """Seconds that one was begun late, at the most."""
    seconds: float = 0.0
    """From the first one's begin to the last one's end."""


class Leaver:
    """Begins calls, and leaves them."""

    def __init__(self, target: str, left: Left) -> None:
        self._left = left
        self._rng = random.Random(5)
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(target, options) for _ in range(CONNECTIONS)]
        words = "bread and butter and a loaf that is still warm from the oven"
        text = " ".join((words.split() * WORDS)[:WORDS])
        request = pb.RerankRequest(
            query="How do I keep bread fresh?", contexts=[pb.Context(text=text) for _ in range(CONTEXTS)]
        )
        self._unary = request.SerializeToString()
        self._stream = pb.RerankStreamRequest(start=request).SerializeToString()
        self._items = [
            pb.RerankBatchRequest(request_id=f"id-{at}", request=request).SerializeToString()
            for at in range(4)
        ]

    async def leave(self) -> None:
        """One call, from its begin to where it is left."""
        self._left.begun += 1
        channel = self._rng.choice(self.channels)
        kind = self._rng.choice((self._ask, self._batch, self._listen))
        task = asyncio.create_task(kind(channel))
        await asyncio.wait([task], timeout=self._rng.uniform(0, LONGEST))
        task.cancel()
        try:
            await task
            self._left.ends["answered before that"] += 1
        except asyncio.CancelledError:
            self._left.ends["left"] += 1
        except grpc.aio.AioRpcError as error:
            self._left.ends[error.code().name] += 1

    async def _ask(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_unary(f"/{SERVICE}/Rerank")
        await method(self._unary)

    async def _listen(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.stream_stream(f"/{SERVICE}/RerankStream")
        await self._through(method(), [self._stream])

    async def _batch(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.stream_stream(f"/{SERVICE}/RerankBatch")
        await self._through(method(), self._items)

    @staticmethod
    async def _through(call: Any, messages: list[bytes]) -> None:
        try:
            for message in messages:
                await call.write(message)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
        finally:
            call.cancel()


async def leavers(target: str, left: Left, seconds: float) -> None:
    """Has callers come and leave, on time."""
    leaver = Leaver(target, left)
    running: set[asyncio.Task[None]] = set()
    begun = time.monotonic()
    for at in range(round(seconds * RATE)):
        ahead = begun + at / RATE - time.monotonic()
        left.late = max(left.late, -ahead)
        if ahead > 0 or at % 16 == 0:
            await asyncio.sleep(max(0.0, ahead))
        task = asyncio.create_task(leaver.leave())
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    left.seconds = time.monotonic() - begun
    for channel in leaver.channels:
        await channel.close()
    await asyncio.sleep(1)  # for the server to see that they are closed


async def look(server: Process, seen: list[tuple[float, float]]) -> None:
    """Notes the server's memory, as (seconds, VmRSS in MB), until it is cancelled."""
    begun = time.monotonic()
    while True:
        seen.append((time.monotonic() - begun, report.memory(server.pid)["VmRSS"]))
        if len(seen) % 60 == 0:
            print(
                f"{seen[-1][0] / 60:.0f} min: {seen[-1][1]:.1f} MB, {server.descriptors()} files", flush=True
            )
        await asyncio.sleep(LOOK)


def slope(seen: list[tuple[float, float]]) -> tuple[float, float]:
    """MB an hour that the second half of what was seen grows by, as a line, and the standard error."""
    seconds, memory = np.array(seen[len(seen) // 2 :]).T
    fit, residuals, *_ = np.polyfit(seconds, memory, 1, full=True)
    spread = residuals[0] if len(residuals) else 0.0
    error = np.sqrt(spread / max(1, len(seconds) - 2) / np.sum((seconds - seconds.mean()) ** 2))
    return float(fit[0] * 3600), float(error * 3600)


@dataclass
class Found:
    left: Left = field(default_factory=Left)
    stayed: Account = field(default_factory=Account)
    memory: list[tuple[float, float]] = field(default_factory=list)
    files: tuple[int, int] = (0, 0)
    """Open before any call of the measured time, and after the last."""
    gauges: tuple[float, float] = (0.0, 0.0)
    """Requests in flight, and tokens that wait, in the end."""
    free_after: float = 0.0
    """Seconds from the last call's end until they were what they are."""
    cancelled: float = 0.0


async def soak(server: Process, seconds: float, warmup: float) -> Found:
    found = Found()
    questions = await asyncio.to_thread(known)
    await leavers(server.target, Left(), warmup)
    files = server.descriptors()
    before = server.metric("rerankd_cancelled_total")
    stop = asyncio.Event()
    looking = asyncio.create_task(look(server, found.memory))
    async with AsyncClient(server.target) as client:
        draw = Draw(questions, seed=6)
        staying = asyncio.create_task(closed_loop(client, draw, found.stayed, WORKERS, stop))
        await leavers(server.target, found.left, seconds)
        stop.set()
        await staying
        looking.cancel()
        ended = time.monotonic()
    while True:
        found.gauges = (server.metric("rerankd_tickets_in_flight"), server.metric("rerankd_queue_tokens"))
        found.free_after = time.monotonic() - ended
        if not any(found.gauges) or found.free_after > 10:
            break
        await asyncio.sleep(0.01)
    found.files = (files, server.descriptors())
    found.cancelled = server.metric("rerankd_cancelled_total") - before
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warmup", type=float, default=30, help="seconds before anything counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    note = f"mini-en, {options.threads} threads, {options.minutes:g} min after {options.warmup:g} s "
    note += f"of the same; {report.load()}"
    seconds = options.minutes * 60
    with Process(options.threads) as server:
        found = uvloop.run(soak(server, seconds, options.warmup))
        alive, said, peak = server.alive, server.said(), report.memory(server.pid)["VmHWM"]
    growth, error = slope(found.memory)
    left, stayed = found.left, found.stayed
    rate = left.ends["left"] / left.seconds * 60
    first, middle, last = (found.memory[at][1] for at in (0, len(found.memory) // 2, -1))
    others = ", ".join(f"{count} {end}" for end, count in left.ends.items() if end != "left") or "none"
    rows = [
        ["calls left, a minute", f"{rate:.0f}", f"{RATE * 60:.0f}"],
        ["ended otherwise", others, ""],
        ["cancelled in the engine's count", f"{found.cancelled:.0f}", ""],
        ["begun late, at most, s", f"{left.late:.2f}", ""],
        ["ids of calls that stayed: answered once, of", f"{stayed.once}, {stayed.ids}", "all"],
        ["answered twice, wrong", f"{stayed.twice}, {stayed.wrong}", "0, 0"],
        ["VmRSS at the start, the middle, the end, MB", f"{first:.1f}, {middle:.1f}, {last:.1f}", ""],
        ["VmHWM, MB", f"{peak:.1f}", ""],
        ["growth in the second half, MB an hour", f"{growth:.2f} +- {error:.2f}", f"below {MOST_GROWTH:g}"],
        ["in flight in the end: requests, tokens", ", ".join(f"{each:.0f}" for each in found.gauges), "0, 0"],
        ["free after the last call's end, s", f"{found.free_after:.2f}", ""],
        ["open files before, after", ", ".join(map(str, found.files)), "the same"],
        ["tracebacks in the log", f"{said.count('Traceback')}", "0"],
    ]
    body = (
        report.table((f"{RATE * 60:.0f} callers a minute who leave", "measured", "promised"), rows) + "\n\n"
    )
    body += (
        f"{note}. Callers leave up to {LONGEST * 1e3:.0f} ms after they have come, of Rerank, RerankStream "
        f"and RerankBatch (4 items) with {CONTEXTS} contexts a request; {WORKERS} others stay for their "
        "answers. Growth is a straight line through VmRSS, looked at every second, with its standard error."
    )
    print(body)
    if options.record:
        report.record("Soak: callers who leave", body)
    kept = alive and not (any(found.gauges) or stayed.wrong or stayed.twice or stayed.failed)
    if not kept or growth >= MOST_GROWTH or found.files[1] > found.files[0] or "Traceback" in said:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
