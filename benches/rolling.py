"""Two servers restarted in turn, again and again, under load: `python -m benches.rolling [--record]`.

The shipped client asks both, by calls that arrive at random at 70 % of what the two get through; a server is
told to stop by SIGTERM, and started again on its port once it has exited. No call may fail.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import uvloop
from rerankd import AsyncClient

from benches import report
from benches.process import Process, pair
from benches.traffic import CONTEXTS, ITEMS, Account, Draw, Held, Question, closed_loop, known, open_loop

LOAD: Final = 0.7
WORKERS: Final = 16
# Seconds after a server serves again, for clients to find that out, as a rollout waits between two pods.
SETTLE: Final = 3.0
# As shipped.
GRACE: Final = 30.0


@dataclass
class Restarts:
    """What the servers did."""

    codes: list[int] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    """Seconds from SIGTERM to the exit."""
    starts: list[float] = field(default_factory=list)
    """Seconds from there to SERVING."""
    held: float = 0.0
    """Seconds that all of this was held up by the machine, at the most."""


async def peak(client: AsyncClient, questions: Sequence[Question], seconds: float) -> float:
    """Calls a second that the two get through, by a closed loop."""
    account, stop = Account(), asyncio.Event()
    load = asyncio.create_task(closed_loop(client, Draw(questions, seed=1), account, WORKERS, stop))
    await asyncio.sleep(seconds / 4)  # the first calls of a server cost more
    before, begun = len(account.calls), time.monotonic()
    await asyncio.sleep(seconds)
    rate = (len(account.calls) - before) / (time.monotonic() - begun)
    stop.set()
    await load
    return rate


async def restart(server: Process, restarts: Restarts) -> None:
    code, seconds = await asyncio.to_thread(server.stop)
    restarts.codes.append(code)
    restarts.stops.append(seconds)
    begun = time.monotonic()
    server.start()
    await asyncio.to_thread(server.wait)
    restarts.starts.append(time.monotonic() - begun)


async def roll(
    servers: tuple[Process, Process], rounds: int, seconds: float
) -> tuple[float, float, Account, Restarts]:
    """The peak and the load, in calls a second; what became of the calls; what the servers did."""
    questions = await asyncio.to_thread(known)
    account, restarts, stop = Account(), Restarts(), asyncio.Event()
    target = "ipv4:" + ",".join(server.target for server in servers)
    async with AsyncClient(target) as client:
        best = await peak(client, questions, seconds)
        begun = time.monotonic()
        load = asyncio.create_task(open_loop(client, Draw(questions, seed=2), account, LOAD * best, stop))
        with Held() as held:
            for at in range(rounds):
                for server in servers:
                    await asyncio.sleep(SETTLE)
                    await restart(server, restarts)
                print(f"round {at + 1} of {rounds}: {len(account.calls)} calls, {account.failures()} failed")
            await asyncio.sleep(SETTLE)
        stop.set()
        rate = len(account.calls) / (time.monotonic() - begun)
        await load
    restarts.held = held.seconds
    return best, rate, account, restarts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="each restarts both")
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--seconds", type=float, default=20, help="to find what the two get through")
    parser.add_argument("--drain-seconds", type=float, default=5.0, help="the servers'; 5 is as shipped")
    parser.add_argument("--record", action="store_true", help="append the table to benches/RESULTS.md")
    options = parser.parse_args()
    load = report.load()
    flags = (f"--drain-seconds={options.drain_seconds:g}", f"--grace-seconds={GRACE:g}")
    with pair(options.threads, *flags) as servers:
        best, rate, account, restarts = uvloop.run(roll(servers, options.rounds, options.seconds))
    times = np.array(account.seconds()) * 1e3
    limit = options.drain_seconds + GRACE
    unclean = sum(code != 0 for code in restarts.codes)
    lost = sum(not whole for _, _, whole in account.calls)
    rows = [
        ["restarts", f"{len(restarts.codes)}", f"{2 * options.rounds}"],
        ["peak of both, closed loop, calls/s", f"{best:.1f}", ""],
        ["load, open loop, calls/s", f"{rate:.1f}", f"{LOAD * best:.1f}"],
        ["calls", f"{len(account.calls)}", ""],
        ["failed calls", account.failures(), "none"],
        ["ids: answered once, of", f"{account.once}, {account.ids}", "all"],
        ["ids: answered twice, wrong", f"{account.twice}, {account.wrong}", "0, 0"],
        ["exit codes other than 0", f"{unclean}", "0"],
        ["SIGTERM to exit, longest, s", f"{max(restarts.stops):.1f}", f"at most {limit:g}"],
        ["start to SERVING, longest, s", f"{max(restarts.starts):.1f}", ""],
        ["the client itself held up, at most, s", f"{restarts.held:.1f}", ""],
        [
            "latency p50, p99, longest, ms",
            ", ".join(f"{np.percentile(times, p):.0f}" for p in (50, 99, 100)),
            "",
        ],
    ]
    body = report.table(("rolling restarts at 70 % load", "measured", "promised"), rows) + "\n\n"
    body += (
        f"mini-en, {options.threads} threads each; the two and the client share the machine's cores, so that "
        f"one alone has what both had. drain_seconds {options.drain_seconds:g}; {SETTLE:g} s from SERVING to "
        f"the next SIGTERM. Of ten calls eight are Rerank of {CONTEXTS} contexts, one RerankBatch of {ITEMS} "
        f"such items, one RerankStream; what AsyncClient tries again counts once; {load}."
    )
    print(body)
    if options.record:
        report.record("Rolling restarts", body)
    if lost or unclean or account.twice or account.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
