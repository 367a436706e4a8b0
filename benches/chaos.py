"""Servers that are frozen, killed, starved, or read by nobody: `python -m benches.chaos [--record]`.

They serve mini-en. Under each fault the shipped client goes on asking questions whose answers are known to
the bit: every id is answered once or fails, none is answered wrong, and soon after the fault all are answered
again.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import uvloop
from rerankd import AsyncClient

from benches import report, stalled
from benches.faults import BOUND, PAUSE, QUOTA, Authority, Blow, kill, pause, starve
from benches.process import Process
from benches.quota import may_limit
from benches.traffic import Account, Draw, Held, Question, closed_loop, known

WORKERS: Final = 6
# Seconds of calls before a fault, and after it.
BEFORE, AFTER = 3.0, BOUND + 2
HEADER = ("fault", "ids", "once", "failed", "twice", "wrong", "back after at most, s", "what was seen")

Fault = Callable[[Process], Coroutine[Any, Any, Blow]]


async def under(
    fault: Fault, servers: Sequence[Process], questions: Sequence[Question], times: int, **tls: Any
) -> tuple[Account, float, str]:
    """What became of the ids while a fault befell the first server, so many times; seconds until all was
    well, at the most; what was seen."""
    account, stop = Account(), asyncio.Event()
    target = "ipv4:" + ",".join(server.target for server in servers)
    async with AsyncClient(target, **tls) as client:
        load = asyncio.create_task(closed_loop(client, Draw(questions, seed=3), account, WORKERS, stop))
        blows: list[Blow] = []
        with Held() as held:
            for _ in range(times):
                await asyncio.sleep(BEFORE)
                blows.append(await fault(servers[0]))
                await asyncio.sleep(AFTER)
        stop.set()
        await load
    async with AsyncClient(target, **tls) as newcomer:
        await newcomer.list_models()
    seen = "; ".join(filter(None, [blow.seen for blow in blows]))
    errors = f"failed: {account.failures()}" if account.errors else ""
    late = f"the client itself was held up for {held.seconds:.1f} s" if held.seconds > 1 else ""
    return account, max(back(account, blows)), "; ".join(filter(None, (seen, errors, late)))


def back(account: Account, blows: Sequence[Blow]) -> list[float]:
    """Seconds after each blow until all was well; what comes after the next one is of that one's doing."""
    ends = [*(blow.since for blow in blows[1:]), float("inf")]
    return [account.back(blow.since, before=end) for blow, end in zip(blows, ends, strict=True)]


def faults(threads: int, times: int, questions: Sequence[Question]) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether all was kept."""
    rows: list[list[str]] = []
    kept = True
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory))
        cases: list[tuple[str, Fault, int, tuple[str, ...], dict[str, Any]]] = [
            (f"SIGSTOP for {PAUSE:g} s, one server", pause, 1, (), {}),
            ("SIGKILL of one of two, and a new start", kill, 2, (), {}),
            ("a new certificate, one server", authority.swap, 1, authority.flags, {"ca": str(authority.ca)}),
        ]
        if may_limit():
            cases.append((f"{QUOTA:.0%} of a core for {PAUSE:g} s, one server", starve, 1, (), {}))
        for name, fault, count, flags, tls in cases:
            with ExitStack() as stack:
                servers = [stack.enter_context(Process(threads, *flags)) for _ in range(count)]
                account, back, seen = uvloop.run(under(fault, servers, questions, times, **tls))
                kept &= all(server.alive for server in servers)
            numbers = (account.ids, account.once, account.failed, account.twice, account.wrong)
            kept &= back <= BOUND and not account.twice and not account.wrong
            kept &= account.once + account.failed == account.ids
            rows.append([name, *(str(n) for n in numbers), f"{back:.1f}", seen])
            print(rows[-1])
    return rows, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument(
        "--seconds", type=float, default=15, help="of each measurement beside the stalled readers"
    )
    parser.add_argument("--times", type=int, default=3, help="that each fault befalls a server")
    parser.add_argument(
        "--rounds", type=int, default=4, help="measurements alone, and beside stalled readers"
    )
    parser.add_argument("--streams", type=int, default=200, help="whose readers stall")
    parser.add_argument("--only", choices=("faults", "stalled"), help="this part, and not the other")
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    bodies: dict[str, str] = {}
    kept = True
    if options.only != "stalled":
        note = (
            f"mini-en, {options.threads} threads; each fault {options.times} times; {WORKERS} calls at a "
            "time, Rerank, RerankBatch and RerankStream, by AsyncClient; ids are calls, items, and contexts "
            "of streams; promised: failed or answered once, none twice or wrong, back within "
            f"{BOUND:g} s; {report.load()}."
        )
        if not may_limit():
            note += " The quota cut is left out: this system's cgroups can't be written."
        rows, kept = faults(options.threads, options.times, known())
        bodies["Chaos: faults"] = report.table(HEADER, rows) + "\n\n" + note
    if options.only != "faults":
        note = f"mini-en, {options.threads} threads; {report.load()}. "
        rows, fair = stalled.measure(options.threads, options.streams, options.rounds, options.seconds)
        kept &= fair
        bodies["Chaos: stalled readers"] = (
            report.table(("streams that nobody reads", "measured", "promised"), rows)
            + "\n\n"
            + note
            + stalled.NOTE
        )
    for title, body in bodies.items():
        print(body, end="\n\n")
        if options.record:
            report.record(title, body)
    if not kept:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
