"""More than one server: how evenly calls spread, what one more adds, how soon it is asked: `python -m
benches.scaling [--record]`.

Each server of mini-en is held to a part of a core, so that three of them and their clients fit this machine
and none takes what another lacks: what is found is how they add up, not how fast they are.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import uvloop
from rerankd import AsyncClient

from benches import report
from benches.names import Names
from benches.process import Process, fixed_port
from benches.quota import may_limit, quota
from benches.spread import Spread, by_connection, closed_loop, evenly, handled, open_loop
from benches.traffic import CONTEXTS, Account, Draw, Question, ask, known

REPLICAS: Final = 3
CLIENTS: Final = 8
"""That know nothing of each other, but that in one process channels to one address share a connection."""
CORES: Final = 0.4
"""What each server has of the CPU."""
PERIOD: Final = 0.02
"""Seconds, of which a server runs its part."""
WORKERS: Final = 8
"""Calls at a time, for each server."""
LOAD: Final = 0.6
"""Of what all servers get through."""
BAR: Final = 1.10
"""What the shipped client keeps to: most calls of a server to least."""
# The arrival of a third server.
RATE: Final = 3.0
"""Calls a second of each client."""
OWN: Final = [("grpc.use_local_subchannel_pool", 1)]
"""For clients whose connections are their own, and so end at times of their own, as other processes' do."""
PATIENCE: Final = 450.0
"""Seconds: longer than any connection lasts."""
FLAGS: Final = ("--http=", "--drain-seconds=0")


async def adding(servers: Sequence[Process], questions: Sequence[Question], seconds: float) -> list[Spread]:
    """The most that one server gets through, that two do, and so on."""
    found = []
    for count in range(1, len(servers) + 1):
        some = servers[:count]
        found.append(await closed_loop(evenly(some, 2), some, questions, WORKERS * count, seconds))
    return found


def replicas(rounds: Sequence[Sequence[Spread]]) -> list[list[str]]:
    """Rows: of rounds, the middle one."""
    best = [sorted(each.rate for each in column)[len(column) // 2] for column in zip(*rounds, strict=True)]
    rows = []
    for at, rate in enumerate(best):
        added = "" if at == 0 else f"{(rate - best[at - 1]) / best[0]:.0%}"
        row = [f"{at + 1}", f"{rate:.1f}", f"{rate * CONTEXTS:.0f}", f"{rate / best[0]:.2f}", added]
        rows.append([*row, f"{max(each[at].ratio for each in rounds):.2f}"])
    return rows


async def spreading(
    servers: Sequence[Process], questions: Sequence[Question], rate: float, seconds: float
) -> list[tuple[str, Spread]]:
    ways = (
        ("1 client, as shipped", evenly(servers, 1)),
        (f"{CLIENTS} clients, as shipped", evenly(servers, CLIENTS)),
        (f"{CLIENTS} clients by a ClusterIP", by_connection(servers, CLIENTS)),
        ("1 client by a ClusterIP", by_connection(servers, 1)),
    )
    return [(name, await open_loop(targets, servers, questions, rate, seconds)) for name, targets in ways]


def spreads(found: Sequence[tuple[str, Spread]]) -> list[list[str]]:
    def ordered(values: Sequence[float]) -> str:
        return ", ".join(f"{value:.0f}" for value in sorted(values, reverse=True))

    return [
        [
            name,
            ordered(spread.calls),
            f"{spread.ratio:.2f}" if min(spread.calls) else "one has all",
            ordered(spread.queue()),
            f"{spread.latency(50):.0f}",
            f"{spread.latency(99):.0f}",
            spread.account.failures(),
        ]
        for name, spread in found
    ]


def load(options: argparse.Namespace) -> tuple[str, bool]:
    """The two tables, and whether the shipped client keeps to the bar."""
    before, questions = report.load(), known()
    with ExitStack() as stack:
        servers = []
        for at in range(REPLICAS):
            servers.append(stack.enter_context(Process(1, *FLAGS)))
            group = stack.enter_context(quota(f"rerankd-scaling-{at}"))
            group.add(servers[-1].pid)
            group.limit(CORES, PERIOD)
        rounds = [uvloop.run(adding(servers, questions, options.seconds)) for _ in range(options.rounds)]
        rate = LOAD * sorted(each[-1].rate for each in rounds)[options.rounds // 2]
        found = uvloop.run(spreading(servers, questions, rate, options.seconds))
    adds = ("replicas", "calls/s", "pairs/s", "to one", "the last one adds", "most to least calls")
    body = report.table(adds, replicas(rounds)) + "\n\n"
    header = (
        *(
            f"{rate:.0f} calls/s to {REPLICAS} replicas",
            "calls of each",
            "most to least",
            "tokens queued in each",
        ),
        *("p50, ms", "p99, ms", "failed calls"),
    )
    body += report.table(header, spreads(found)) + "\n\n"
    body += (
        f"mini-en, 1 thread and {CORES:g} of a core for each server, {CONTEXTS} contexts a call; {WORKERS} "
        f"calls at a time for each replica, {options.rounds} rounds of {options.seconds:g} s, the "
        f"middle one; then an open loop at {LOAD:.0%} of what three do, {options.seconds:g} s for each row. "
        "By a ClusterIP: each client's one connection has one server, drawn at random, the middle draw of "
        f"many; {before}."
    )
    shipped = [spread for name, spread in found if name.endswith("as shipped")]
    return body, all(each.ratio <= BAR and not each.account.failed for each in shipped)


async def keep_asking(client: AsyncClient, questions: Sequence[Question], seed: int) -> None:
    draw = Draw(questions, seed)
    while True:
        await ask(client, draw, Account())
        await asyncio.sleep(1 / RATE)


async def arriving(servers: Sequence[Process], names: Names) -> tuple[float, float, float]:
    """Seconds from when the last server serves, and has its name, to its first call, to half of its fair part
    of them, and to nine tenths."""
    questions = await asyncio.to_thread(known)
    clients = [AsyncClient(names.target(servers[0].port), options=OWN) for _ in range(CLIENTS)]
    asking = [asyncio.create_task(keep_asking(client, questions, at)) for at, client in enumerate(clients)]
    await asyncio.sleep(10)
    late = servers[-1]
    late.start()
    await asyncio.to_thread(late.wait)
    names.addresses = tuple(server.target.partition(":")[0] for server in servers)
    begun, had = time.monotonic(), [handled(server) for server in servers]
    reached: dict[float, float] = {}
    while time.monotonic() - begun < PATIENCE and 0.9 not in reached:
        await asyncio.sleep(5)
        has = await asyncio.gather(*(asyncio.to_thread(handled, server) for server in servers))
        share = (has[-1] - had[-1]) / max(sum(has) - sum(had), 1) * len(servers)
        had = list(has)
        for part in (0.0, 0.5, 0.9):
            if share > part:
                reached.setdefault(part, time.monotonic() - begun)
    for task in asking:
        task.cancel()
    for client in clients:
        await client.close()
    if 0.9 not in reached:
        raise SystemExit(f"the new server never had its part of the calls: {reached}")
    return reached[0.0], reached[0.5], reached[0.9]


def arrival() -> str:
    before, port = report.load(), fixed_port()
    servers = [Process(1, *FLAGS, host=f"127.0.0.{2 + at}", port=port) for at in range(REPLICAS)]
    with ExitStack() as stack:
        for server in servers[:-1]:
            stack.enter_context(server)
        stack.push(servers[-1])
        names = stack.enter_context(Names(*(each.target.partition(":")[0] for each in servers[:-1])))
        first, half, most = uvloop.run(arriving(servers, names))
    rows = [
        ["its first call", f"{first:.0f}"],
        ["half of its part of the calls", f"{half:.0f}"],
        ["nine tenths of it", f"{most:.0f}"],
    ]
    return (
        report.table(("a third server, from SERVING and its name known", "s"), rows)
        + f"\n\n{CLIENTS} clients as shipped, on `dns:///`, of {RATE:g} calls a second each, connected a few "
        "seconds before; looked at every 5 s. A server ends its connections after 300 s, give or take a "
        f"tenth, and a client that loses one asks for the name anew; {before}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurement of the most that they do")
    parser.add_argument("--only", choices=("load", "arrival"), help="this part, and not the other")
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    kept = True
    if options.only != "arrival":
        if not may_limit():
            raise SystemExit(
                "this system's cgroups can't be written, and servers not be held to a part of a core"
            )
        body, kept = load(options)
        show("Several servers: load", body, options.record)
    if options.only != "load":
        show("Several servers: one more arrives", arrival(), options.record)
    if not kept:
        raise SystemExit(1)


def show(title: str, body: str, record: bool) -> None:
    print(body)
    if record:
        report.record(title, body)


if __name__ == "__main__":
    main()
