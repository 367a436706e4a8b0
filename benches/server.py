"""The real server on bge-reranker-base's shape: how soon it serves, and what it holds: `python -m
benches.server`.

It is started twice: with the weights out of the page cache, as on a machine that has just booted, and with
them in it, as after a restart. Then 1,000 pairs go through gRPC, and its memory is read from /proc.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from rerankd import Client

from benches import report
from benches.checkpoints import BGE_BASE, make
from benches.corpus import load_tokenizer, pairs

# Seconds after which a server that does not serve, or a request of 100 pairs that has no answer, never will.
PATIENCE = 600.0
REQUESTS, CONTEXTS = 10, 100
CHECK = "/grpc.health.v1.Health/Check"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def evict(directory: Path) -> None:
    """Takes a checkpoint's files out of the page cache. A hint; it is obeyed for clean pages that nobody
    maps.
    """
    os.sync()
    for file in directory.iterdir():
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def serving(port: int) -> bool:
    """Whether the server listens there and says SERVING for all it has. A channel of its own for each try:
    one that has once failed would wait before it tries again.
    """
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return False
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def server(checkpoint: Path, threads: int, log: IO[bytes]) -> Iterator[tuple[int, int, float]]:
    """A running server: its process, its port, and the seconds from the start of its process to SERVING."""
    port, health = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "rerankd",
        "serve",
        "--model",
        str(checkpoint),
        "--threads",
        str(threads),
    ]
    command += [
        "--grpc",
        f"127.0.0.1:{port}",
        "--health",
        f"127.0.0.1:{health}",
        "--metrics",
        "",
        "--http",
        "",
    ]
    command += ["--drain-seconds", "0"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not serving(health):
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                log.seek(0)
                raise SystemExit(f"the server does not serve:\n{log.read().decode()}")
            time.sleep(0.005)
        yield process.pid, port, time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def thousand(checkpoint: Path) -> list[tuple[str, list[str]]]:
    """1,000 pairs of mixed lengths in requests of 100, each with a query of its own."""
    tokenizer = load_tokenizer(checkpoint)
    rng = np.random.default_rng(1000)
    lengths = np.clip(rng.lognormal(np.log(110), 0.65, (REQUESTS, CONTEXTS)).round(), 32, 400).astype(int)
    return [pairs(tokenizer, row.tolist(), seed) for seed, row in enumerate(lengths)]


def cells(memory: dict[str, float]) -> list[str]:
    return [f"{memory[key]:.0f}" for key in ("VmRSS", "RssAnon", "RssFile", "VmHWM")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    checkpoint, load = make(BGE_BASE), report.load()
    requests = thousand(checkpoint)
    starts: list[list[str]] = []
    rows: list[list[str]] = []
    with tempfile.TemporaryFile() as log:
        evict(checkpoint)
        with server(checkpoint, options.threads, log) as (pid, port, seconds):
            starts.append(["weights not in the page cache", f"{seconds:.2f}"])
        with server(checkpoint, options.threads, log) as (pid, port, seconds):
            starts.append(["weights in the page cache", f"{seconds:.2f}"])
            rows.append(["when SERVING", *cells(report.memory(pid))])
            begin = time.perf_counter()
            with Client(f"127.0.0.1:{port}") as client:
                answered = sum(len(client.rank(*request, timeout=PATIENCE)) for request in requests)
            elapsed = time.perf_counter() - begin
            rows.append([f"after {answered} pairs", *cells(report.memory(pid))])
    note = (
        f"{answered} pairs in {REQUESTS} requests in turn, {answered / elapsed:.1f} pairs/s through gRPC; "
        f"{options.threads} threads; {load}. RssFile is mostly the mapped word table's pages that were "
        "touched; they are the page cache's, not the process's own."
    )
    body = report.table(("start to SERVING", "seconds"), starts) + "\n\n"
    body += report.table(("memory, MB", "VmRSS", "RssAnon", "RssFile", "peak"), rows) + "\n\n" + note
    print(body)
    if options.record:
        report.record("The server on bge-reranker-base's shape", body)


if __name__ == "__main__":
    main()
