"""How calls spread over servers: by the shipped client, and by connections that each stay with one server."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from rerankd import AsyncClient

from benches.process import Process
from benches.traffic import Account, Draw, Question, ask

# Draws of which the middle one is taken, where connections fall on servers by chance.
DRAWS: Final = 1001
LOOK: Final = 0.5
"""Seconds from one look at the queues to the next."""


@dataclass
class Spread:
    """What became of a load."""

    calls: list[int]
    """Calls that each server had."""
    seconds: float
    account: Account = field(default_factory=Account)
    queued: list[list[float]] = field(default_factory=list)
    """Tokens in each server's queue, at every look."""

    @property
    def ratio(self) -> float:
        """Of the calls of the server that had most to those of the one that had least."""
        return max(self.calls) / max(min(self.calls), 1)

    @property
    def rate(self) -> float:
        """Calls a second that were answered."""
        return len(self.account.seconds()) / self.seconds

    def queue(self) -> list[float]:
        """The mean of each server's."""
        return [float(mean) for mean in np.mean(self.queued, axis=0)]

    def latency(self, percent: float) -> float:
        """Milliseconds."""
        return float(np.percentile(self.account.seconds(), percent)) * 1e3


def evenly(servers: Sequence[Process], clients: int) -> list[str]:
    """Each client's target as it ships: all servers."""
    return ["ipv4:" + ",".join(server.target for server in servers)] * clients


def by_connection(servers: Sequence[Process], clients: int) -> list[str]:
    """Each client's one server, as a ClusterIP picks it: at random, for as long as the connection lasts.

    The middle one of many draws, in how uneven it is: most are neither lucky nor unlucky.
    """
    rng = random.Random(1)
    draws = [rng.choices(range(len(servers)), k=clients) for _ in range(DRAWS)]

    def unevenness(draw: list[int]) -> int:
        counts = [draw.count(at) for at in range(len(servers))]
        return max(counts) - min(counts)

    middle = sorted(draws, key=unevenness)[DRAWS // 2]
    return [servers[at].target for at in middle]


def handled(server: Process) -> int:
    """Calls that it has answered, or refused, so far."""
    return int(server.metric("grpc_server_handled_total"))


async def open_loop(
    targets: Sequence[str],
    servers: Sequence[Process],
    questions: Sequence[Question],
    rate: float,
    seconds: float,
) -> Spread:
    """So many calls a second from all clients together, for so long, whatever becomes of them."""
    gaps, running = random.Random(2), set[asyncio.Task[None]]()
    draw = Draw(questions, seed=3)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(target)) for target in targets]
        await warm(clients, draw)
        found = Spread([], seconds)
        before = [handled(server) for server in servers]
        looking = asyncio.create_task(look(servers, found))
        due, end = time.monotonic(), time.monotonic() + seconds
        turn = 0
        while (due := due + gaps.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(ask(clients[turn % len(clients)], draw, found.account))
            turn += 1
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        looking.cancel()
    found.calls = [handled(server) - had for server, had in zip(servers, before, strict=True)]
    return found


async def closed_loop(
    targets: Sequence[str],
    servers: Sequence[Process],
    questions: Sequence[Question],
    workers: int,
    seconds: float,
) -> Spread:
    """So many calls at a time: the most that the servers get through."""
    draw, stop = Draw(questions, seed=4), time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(target)) for target in targets]
        await warm(clients, draw)
        found = Spread([], seconds)
        before, stop = [handled(server) for server in servers], time.monotonic() + seconds

        async def work(client: AsyncClient) -> None:
            while time.monotonic() < stop:
                await ask(client, draw, found.account)

        await asyncio.gather(*(work(clients[at % len(clients)]) for at in range(workers)))
    found.calls = [handled(server) - had for server, had in zip(servers, before, strict=True)]
    return found


async def warm(clients: Sequence[AsyncClient], draw: Draw) -> None:
    """A few calls of each: connections are there, and no server's first call is among those counted."""
    for client in clients:
        for _ in range(6):
            await ask(client, draw, Account())


async def look(servers: Sequence[Process], found: Spread) -> None:
    while True:
        queues = [asyncio.to_thread(server.metric, "rerankd_queue_tokens") for server in servers]
        found.queued.append(list(await asyncio.gather(*queues)))
        await asyncio.sleep(LOOK)
