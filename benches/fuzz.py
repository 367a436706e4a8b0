"""A server that is sent messages which are none: `python -m benches.fuzz [--messages N] [--record]`.

Valid requests of all four methods are mutated (benches/mutators.py) and sent as bytes, one to a call, to a
`rerankd serve`; some follow a valid first message. The n-th message of a seed is always the same, whatever
has become of those before it. Every call must be answered, or refused with a status that says why. The model
is mini-en with but one of its layers: what is meant is the way to the engine and back.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvloop
from rerankd import Client, models
from rerankd.v1 import rerank_pb2 as pb

from benches import report
from benches.mutators import mutate
from benches.process import Process

SERVICE: Final = "rerankd.v1.RerankService"
# Looks, one a second, with no answer to any call: then those in flight hang. Not a deadline, for where this
# process and the server are held up together nobody is to blame.
PATIENCE: Final = 60
CONNECTIONS, WORKERS = 8, 24
# Messages before the memory counts: the first of everything costs something.
WARMUP_SHARE: Final = 0.1
# MB that the second half of the messages may add: a leak of 10 bytes a message would be as much in a million.
MOST_GROWTH: Final = 5.0
QUERY = "How do I keep bread fresh for longer?"
CONTEXTS = (
    "Freezing slices preserves them for up to three months.",
    "The bakery on Main Street opens at six.",
    "日本語のテキスト, and a crust of bread",
    "Wrap the loaf in a cloth and store it at room temperature, cut side down. " * 3,
)
# Statuses that nobody may ever see, and those that say nothing of the server: the client's own, told by what
# they lack.
NEVER = ("UNKNOWN", "INTERNAL", "hangs")


def request(contexts: int, **options: Any) -> pb.RerankRequest:
    given = [pb.Context(text=text, key=f"k{at}") for at, text in enumerate(CONTEXTS[:contexts])]
    return pb.RerankRequest(query=QUERY, contexts=given, **options)


def seeds() -> list[tuple[str, bytes | None, bytes]]:
    """What is mutated: a method, a first message that stays as it is, a message."""
    every = request(
        3,
        top_k=2,
        model="mini-en",
        score=pb.SCORE_LOGIT,
        overflow=pb.OVERFLOW_CHUNK,
        return_text=True,
        min_score=0.1,
        priority=pb.PRIORITY_BATCH,
        max_tokens=64,
        budget_ms=1000,
    )
    requests = [request(1), request(4, return_text=True), every, request(0)]
    more = pb.RerankStreamRequest(more=pb.ContextChunk(contexts=every.contexts))
    start = pb.RerankStreamRequest(start=every).SerializeToString()
    made: list[tuple[str, bytes | None, bytes]] = [("ListModels", None, b"")]
    for each in requests:
        item = pb.RerankBatchRequest(request_id="an id", request=each)
        made += [
            ("Rerank", None, each.SerializeToString()),
            ("RerankStream", None, pb.RerankStreamRequest(start=each).SerializeToString()),
            ("RerankBatch", None, item.SerializeToString()),
        ]
    return [*made, ("RerankStream", start, more.SerializeToString())]


def messages(seed: int, count: int) -> Iterator[tuple[int, str, bytes | None, bytes]]:
    """So many mutated messages, numbered."""
    rng, valid = random.Random(seed), seeds()
    for at in range(count):
        method, first, message = rng.choice(valid)
        yield at, method, first, mutate(rng, message)


@dataclass
class Found:
    """What became of the messages."""

    codes: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    """The statuses within RerankBatch's answers."""
    lost: int = 0
    """Statuses that the client's own library put INTERNAL in the place of: its write met the call's end."""
    bad: list[str] = field(default_factory=list)
    """The first messages that met a status which nobody may see."""
    waiting: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """Those that have no answer yet: their method and message."""
    sent: int = 0

    def add(self, code: str, at: int, method: str, message: bytes, said: str = "") -> None:
        self.codes[code] += 1
        if code in NEVER and len(self.bad) < 20:
            self.bad.append(f"{code} for message {at}, {method} {message.hex()}: {said}")


class Connection:
    """A channel of its own, and the four methods as bytes to bytes."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        # One message to a stream is on the wire what a single request is.
        self._one: dict[str, Any] = {
            "Rerank": self.channel.unary_unary(f"/{SERVICE}/Rerank"),
            "ListModels": self.channel.unary_unary(f"/{SERVICE}/ListModels"),
            "RerankStream": self.channel.unary_stream(f"/{SERVICE}/RerankStream"),
            "RerankBatch": self.channel.unary_stream(f"/{SERVICE}/RerankBatch"),
        }
        self._stream: Any = self.channel.stream_stream(f"/{SERVICE}/RerankStream")

    async def send(self, method: str, first: bytes | None, message: bytes) -> list[bytes]:
        """All that is answered."""
        if first is None:
            call = self._one[method](message)
            if isinstance(call, grpc.aio.UnaryUnaryCall):
                return [await call]
        else:
            call = self._stream()
            await call.write(first)
            await call.write(message)
            await call.done_writing()
        return [answer async for answer in call]


async def work(connection: Connection, todo: Iterator[Any], found: Found) -> None:
    for at, method, first, message in todo:
        found.waiting[at] = method, message
        try:
            answers = await connection.send(method, first, message)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            told = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
            if code == "INTERNAL" and first is not None and not told:
                found.lost += 1
                code = "lost by the client's library"
            found.add(code, at, method, message, error.details() or "")
        except asyncio.InvalidStateError:
            # A write to a call that has ended: its status is the server's, and grpc.aio has let go of it.
            found.lost += 1
            found.add("lost by the client's library", at, method, message)
        else:
            found.add("OK", at, method, message)
            if method == "RerankBatch":
                for answer in answers:
                    item = pb.RerankBatchResponse.FromString(answer)
                    name = grpc_code(item.error.code) if item.HasField("error") else "OK"
                    found.items[name] += 1
        found.sent += 1
        del found.waiting[at]


def grpc_code(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


async def watch(server: Process, found: Found, count: int, every: float) -> list[tuple[int, float]]:
    """The server's memory, as (messages sent, VmRSS in MB), until it is cancelled, or nothing is answered any
    more."""
    seen: list[tuple[int, float]] = []
    begun = time.monotonic()
    try:
        while server.alive and (len(seen) < PATIENCE or seen[-PATIENCE][0] < found.sent):
            seen.append((found.sent, report.memory(server.pid)["VmRSS"]))
            rate = found.sent / (time.monotonic() - begun + 1e-9)
            print(
                f"\r{found.sent} of {count}, {rate:.0f} a second, {seen[-1][1]:.0f} MB ", end="", flush=True
            )
            await asyncio.sleep(every)
    except asyncio.CancelledError:
        print()
    return seen


async def fuzz(server: Process, seed: int, count: int) -> tuple[Found, list[tuple[int, float]]]:
    found, todo = Found(), messages(seed, count)
    connections = [Connection(server.target) for _ in range(CONNECTIONS)]
    watching = asyncio.create_task(watch(server, found, count, every=1.0))
    working: asyncio.Future[Any] = asyncio.gather(
        *(work(each, todo, found) for each in itertools.islice(itertools.cycle(connections), WORKERS))
    )
    either: list[asyncio.Future[Any]] = [working, watching]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    for at, (method, message) in found.waiting.items():
        found.add("hangs", at, method, message)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    for connection in connections:
        await connection.channel.close()
    return found, await watching


def shallow(directory: Path) -> str:
    """mini-en with one layer, in that directory."""
    made = shutil.copytree(models.resolve(models.DEFAULT).directory, directory / "mini-en")
    config = made / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "num_hidden_layers": 1}))
    return str(made)


def answer(target: str) -> list[tuple[int, float]]:
    """What a valid call is answered, to the bit."""
    with Client(target) as client:
        return [(each.id, each.score) for each in client.rank(QUERY, CONTEXTS, score="logit")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    note = f"mini-en with one layer, {options.threads} threads; seed {options.seed}; {report.load()}"
    with (
        tempfile.TemporaryDirectory() as directory,
        Process(options.threads, f"--model={shallow(Path(directory))}") as server,
    ):
        before = answer(server.target)
        begun = time.monotonic()
        found, memory = uvloop.run(fuzz(server, options.seed, options.messages))
        seconds = time.monotonic() - begun
        same = server.alive and answer(server.target) == before
        ended = report.memory(server.pid) if server.alive else {}
        tickets = server.metric("rerankd_tickets_in_flight") if server.alive else float("nan")
        said = server.said()
    rows, kept = verdict(found, memory, options.messages), same and "Traceback" not in said
    rows += [
        ["the server lives, and answers a valid call the same", "yes" if same else "no", "yes"],
        ["tracebacks in its log", f"{said.count('Traceback')}", "0"],
        ["requests in flight in the end", f"{tickets:.0f}", "0"],
        ["VmHWM, MB", f"{ended.get('VmHWM', float('nan')):.0f}", ""],
        ["messages a second", f"{found.sent / seconds:.0f}", ""],
    ]
    body = report.table(("mutated messages", "measured", "promised"), rows) + "\n\n"
    statuses = [
        [code, f"{found.codes[code]}", f"{found.items[code]}"]
        for code in sorted(found.codes | found.items, key=lambda code: -found.codes[code])
    ]
    body += report.table(("status", "calls", "items of RerankBatch"), statuses) + "\n\n"
    body += f"{note}; {WORKERS} calls at a time on {CONNECTIONS} connections. Growth is from a tenth of the "
    body += "messages to the half, and from there to the end."
    print(body)
    for line in found.bad:
        print(line)
    if options.record:
        report.record("Fuzz: mutated messages", body)
    if not kept or any(found.codes[code] + found.items[code] for code in NEVER):
        raise SystemExit(1)


def verdict(found: Found, memory: list[tuple[int, float]], count: int) -> list[list[str]]:
    """Rows of the table."""

    def at(share: float) -> float:
        return next((mb for sent, mb in memory if sent >= share * count), memory[-1][1])

    warm, half, end = at(WARMUP_SHARE), at(0.5), memory[-1][1]
    never = [[f"{code}, calls and items", f"{found.codes[code] + found.items[code]}", "0"] for code in NEVER]
    return [
        ["sent and answered", f"{found.sent}", f"{count}"],
        *never,
        ["VmRSS at a tenth, half, end, MB", f"{warm:.1f}, {half:.1f}, {end:.1f}", ""],
        ["growth, first part, MB", f"{half - warm:.1f}", ""],
        ["growth, second part, MB", f"{end - half:.1f}", f"at most {MOST_GROWTH:g}"],
    ]


if __name__ == "__main__":
    main()
