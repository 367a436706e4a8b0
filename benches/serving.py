"""A server under load, as its promises have it: `python -m benches.serving`, on mini-en.

Each part starts a server of its own and puts `rerankd bench` against it, on the same machine: the generator
takes some of the cores that are measured, and its lag says whether it was the bottleneck.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from rerankd import Client, bench, bench_kinds
from rerankd.bench_kinds import Share

from benches import overhead as costs
from benches import report
from benches.process import Process
from benches.server import CHECK, PATIENCE

WORDS = (20, 120)
WORKERS = 16
# Of the default server's; a wave is what a budget may be overrun by.
WAVE_TOKENS = 256
# An overloaded server's calls: contexts each, and their deadline in seconds.
TIGHT = ("5", 2.0)
MIXED = ("5:0.9,100:0.1", 5.0)
ROUNDS = 3


def server(threads: int, *flags: str) -> Process:
    """A server of mini-en, to be entered."""
    return Process(threads, "--drain-seconds=0", "--metrics=", "--http=", *flags)


def start(target: str, *flags: str) -> subprocess.Popen[bytes]:
    """A generator, running."""
    words = f"--words={WORDS[0]}-{WORDS[1]}"
    command = [sys.executable, "-m", "rerankd", "bench", f"--target={target}", words, "--json=-", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def finish(generator: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it found. Exit code 130 is that of one that was interrupted."""
    said, _ = generator.communicate()
    if generator.returncode not in (0, 130):
        raise SystemExit(f"rerankd bench ended with code {generator.returncode}")
    found: dict[str, Any] = json.loads(said)
    for warning in found["warnings"]:
        print(f"rerankd bench: {warning}", file=sys.stderr)
    return found


def load(target: str, *flags: str) -> dict[str, Any]:
    return finish(start(target, *flags))


@contextmanager
def beside(target: str, *flags: str) -> Iterator[None]:
    """Another load, for as long as the block takes."""
    generator = start(target, "--duration=3600", "--warmup=0", *flags)
    try:
        time.sleep(1)  # its own start
        yield
    finally:
        generator.send_signal(signal.SIGINT)
        finish(generator)


def peak(target: str, contexts: int, seconds: float) -> dict[str, Any]:
    """The most that the server gets through, by a closed loop."""
    return load(target, f"--concurrency={WORKERS}", f"--mix={contexts}", f"--duration={seconds}")


class Checks:
    """Health/Check on the health port, 50 times a second, while a load is on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.failed = 0

    def _run(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            check = channel.unary_unary(
                CHECK,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while not self._end.wait(0.02):
                begun = time.perf_counter()
                try:
                    answer = check(health_pb2.HealthCheckRequest(), timeout=10)
                    self.failed += answer.status != health_pb2.HealthCheckResponse.SERVING
                except grpc.RpcError:
                    self.failed += 1
                self.seconds.append(time.perf_counter() - begun)

    def __enter__(self) -> "Checks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def overload(threads: int, seconds: float, mix: str, deadline: float) -> list[list[str]]:
    """Three times the capacity: what gets through in time, how soon others are refused, whether probes are
    answered. mix: as `rerankd bench` takes it; deadline: of each call, seconds.

    A closed loop of 5 contexts a call measures the capacity before each open loop, since a machine's speed
    changes within minutes.
    """
    shares = bench_kinds.parse_mix(mix)
    mean = sum(share.contexts * share.weight for share in shares) / sum(share.weight for share in shares)
    best, got = Counter[str](), Counter[str]()
    offered = calls = refused = late = 0.0
    refusals: list[float] = []
    with server(threads) as it, Checks(it.health) as checks:
        before = report.memory(it.pid)["VmRSS"]
        for seed in range(ROUNDS):
            most = peak(it.target, 5, seconds)["total"]["goodput"]
            # What was admitted first is to have ended before anything counts.
            flags = (f"--mix={mix}", f"--deadline-ms={deadline * 1e3:.0f}", f"--warmup={2 * deadline}")
            found = load(
                it.target,
                f"--rate={3 * most['contexts'] / mean}",
                f"--duration={seconds}",
                f"--seed={seed}",
                *flags,
            )
            total = found["total"]
            best.update(most)
            got.update(total["goodput"])
            offered, calls = offered + total["offered"] * mean / ROUNDS, calls + total["calls"]
            refused, late = refused + total["refused"], late + total["codes"].get("DEADLINE_EXCEEDED", 0)
            refusals += [total["latency_ms"]["refused"]["p99"]]
        after, alive = report.memory(it.pid)["VmRSS"], it.alive
    return [
        ["peak, closed loop, contexts/s", f"{best['contexts'] / ROUNDS:.1f}", ""],
        ["offered, contexts/s", f"{offered:.1f}", ""],
        ["goodput in contexts, share of peak", f"{got['contexts'] / best['contexts']:.0%}", "at least 90 %"],
        ["goodput in tokens, share of peak", f"{got['tokens'] / best['tokens']:.0%}", "at least 90 %"],
        ["calls refused, past their deadline", f"{refused / calls:.0%}, {late / calls:.1%}", ""],
        ["refusals, p99 of each round, ms", ", ".join(f"{each:.1f}" for each in refusals), "below 20"],
        ["Health/Check, p99, ms", f"{milliseconds(checks.seconds, 99):.1f}", "below 50"],
        ["Health/Check, not SERVING", f"{checks.failed} of {len(checks.seconds)}", "0"],
        ["server still the same process", "yes" if alive else "no", "yes"],
        ["VmRSS before, after, MB", f"{before:.0f}, {after:.0f}", "flat"],
    ]


def budget(threads: int, seconds: float) -> list[list[str]]:
    """budget_ms of 50 on 500 contexts: how long it takes, idle and busy, and that what is scored is exact."""
    asked = ("--concurrency=1", "--mix=500", "--budget-ms=50", f"--duration={seconds}")
    with server(threads) as it:
        best = peak(it.target, 5, seconds)["total"]["goodput"]
        wave = wave_milliseconds(best["tokens"], threads)
        idle = load(it.target, *asked)["total"]
        with beside(it.target, f"--rate={0.7 * best['requests']}", "--mix=5"):
            busy = load(it.target, *asked)["total"]
        checked, wrong = same_scores(it.target)
    rows = [["one wave of a thread, from the peak's tokens/s, ms", f"{wave:.1f}", ""]]
    for name, total in (("idle", idle), ("at 70 % load", busy)):
        times = total["latency_ms"]["ok"]
        scored = 500 * total["ok"] - total["unscored"]
        rows += [
            [f"{name}: answers, not OK", f"{total['ok']}, {total['calls'] - total['ok']}", ""],
            [f"{name}: p50, ms", f"{times['p50']:.1f}", ""],
            [f"{name}: p99, ms", f"{times['p99']:.1f}", f"at most {50 + wave:.1f}"],
            [f"{name}: contexts scored of 500, mean", f"{scored / total['ok']:.0f}", ""],
        ]
    return [*rows, ["scores that differ from the full run's", f"{wrong} of {checked}", "0"]]


def same_scores(target: str, tries: int = 20) -> tuple[int, int]:
    """How many scores of budgeted calls were compared with the full run's, and how many differ in any bit."""
    (group,) = bench.made([Share(500, 1.0)], WORDS, seed=9)
    request = group.requests[0]
    checked = wrong = 0
    with Client(target, timeout=PATIENCE) as client:
        full = {each.id: each.score for each in client.rank(request.query, request.contexts, score="logit")}
        for _ in range(tries):
            part = client.rank(request.query, request.contexts, score="logit", budget_ms=50)
            checked += len(part)
            wrong += sum(full[each.id] != each.score for each in part)
    return checked, wrong


def together(threads: int, seconds: float) -> list[list[str]]:
    """Small calls alone, and beside a 1,000-context call at all times."""
    with server(threads) as it:
        best = peak(it.target, 5, seconds)["total"]["goodput"]["requests"]
        small = (f"--rate={0.2 * best}", "--mix=5", f"--duration={seconds}")
        alone = load(it.target, *small)["total"]["latency_ms"]["ok"]
        with beside(it.target, "--concurrency=1", "--mix=1000"):
            crowded = load(it.target, *small)["total"]["latency_ms"]["ok"]
    return [
        ["small calls, calls/s", f"{0.2 * best:.1f}", ""],
        ["alone: p50, p99, ms", f"{alone['p50']:.1f}, {alone['p99']:.1f}", ""],
        ["beside the large one: p50, p99, ms", f"{crowded['p50']:.1f}, {crowded['p99']:.1f}", ""],
        ["p99, ratio", f"{crowded['p99'] / alone['p99']:.2f}", "at most 2"],
    ]


def overhead(threads: int, seconds: float) -> list[list[str]]:
    """What the server costs beside its engine."""
    with server(threads) as it:
        before = costs.cpu(it.pid)
        found = load(it.target, "--concurrency=4", "--mix=32", f"--duration={seconds}")
        share = costs.outside(before, costs.cpu(it.pid))
        one = costs.added(it.target, threads, WORDS, seconds)
    return [
        ["32 contexts a call, calls/s", f"{found['total']['goodput']['requests']:.1f}", ""],
        ["CPU outside the engine's threads", f"{share:.1%}", "at most 5 %"],
        ["1 context a call: p50 in process, ms", f"{one['in process']:.2f}", ""],
        ["1 context a call: p50 through gRPC, ms", f"{one['through gRPC']:.2f}", ""],
        ["p50 added, ms", f"{one['through gRPC'] - one['in process']:.2f}", "at most 1"],
        ["by grpcio's client instead: p50 added, ms", f"{one['by grpcio'] - one['in process']:.2f}", ""],
        ["no contexts: p50, ms", f"{one['nothing']:.2f}", ""],
        ["grpcio alone, a handler that does nothing: p50, ms", f"{one['grpcio']:.2f}", ""],
    ]


def wave_milliseconds(tokens_per_second: float, threads: int) -> float:
    """How long a thread computes on a full wave where all of them compute."""
    return WAVE_TOKENS / (tokens_per_second / threads) * 1e3


def milliseconds(seconds: list[float], share: float) -> float:
    return float(np.percentile(seconds, share, method="inverted_cdf") * 1e3) if seconds else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    names = ("overload", "mixed", "budget", "together", "overhead")
    parser.add_argument(
        "--only", choices=names, action="append", help="this part, and no other; may be repeated"
    )
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    threads, seconds = options.threads, options.seconds
    parts: dict[str, tuple[str, Callable[[], list[list[str]]]]] = {
        "overload": (
            "3 x the capacity, 5 contexts a call, deadlines of 2 s",
            lambda: overload(threads, seconds, *TIGHT),
        ),
        "mixed": (
            "3 x the capacity, every tenth call of 100 contexts and others of 5, deadlines of 5 s",
            lambda: overload(threads, seconds, *MIXED),
        ),
        "budget": ("budget_ms of 50 on 500 contexts", lambda: budget(threads, seconds)),
        "together": ("5 contexts a call, beside calls of 1,000", lambda: together(threads, seconds)),
        "overhead": ("the server beside its engine", lambda: overhead(threads, seconds)),
    }
    for name in options.only or names:
        about, measure = parts[name]
        note = f"mini-en, {threads} threads, {seconds:g} s a load; {report.load()}."
        body = report.table((about, "measured", "promised"), measure()) + "\n\n" + note
        print(body, end="\n\n")
        if options.record:
            report.record(f"Serving: {about}", body)


if __name__ == "__main__":
    main()
