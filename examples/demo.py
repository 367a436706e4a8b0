"""Starts a server on the embedded model, asks it twice, and stops it: `make demo`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rerankd import Client, Ranking

SERVICE = "rerankd.v1.RerankService"
PATIENCE_SECONDS = 60.0
# Where a proxy is configured, it is not for this machine's own ports.
NO_PROXY = [("grpc.enable_http_proxy", 0)]

PASSWORD = "how do I get back into my account if I forgot the password?"
PASSWORD_PASSAGES = [
    "Passwords should have twelve characters or more.",
    "The guard kept the word of the day secret.",
    "Click 'Can't sign in?' and follow the link in the e-mail to choose new credentials.",
    "Your account statement is sent on the first of each month.",
    "Forgetting is a normal part of memory, says a psychologist.",
    "If the recovery mail does not arrive, ask support to reset your login.",
    "We never ask for your password by phone.",
    "The savings account pays two percent interest.",
    "Two-factor codes come from the app on your phone.",
]

BREAD = "why does bread dough rise?"
BREAD_PASSAGES = [
    "Bread was first baked some fourteen thousand years ago.",
    "Yeast eats the sugars in the flour and gives off carbon dioxide, and the gluten traps the bubbles.",
    "Prices of bread and flour rose again this spring.",
    "The sun rises in the east because the earth turns.",
    "Leave it in a warm place: warmth makes the yeast work faster, and the loaf doubles in size.",
    "A baker's dozen is thirteen.",
    "Flat breads such as tortillas are made without any leaven.",
    "Sourdough needs no bought yeast; wild yeasts and bacteria in the starter do the raising.",
    "The company's shares rose by three percent.",
    "Knead for ten minutes, until the dough is smooth and springs back.",
]


def main() -> int:
    ports = free_ports(2)
    target, health = (f"127.0.0.1:{port}" for port in ports)
    print(f"rerankd serve --grpc {target} --health {health}", flush=True)
    begun = time.perf_counter()
    with serving(target, health) as server:
        wait_until_serving(server, health)
        print(f"SERVING after {time.perf_counter() - begun:.2f} s\n")
        with Client(target, timeout=PATIENCE_SECONDS, options=NO_PROXY) as client:
            one_call(client)
            one_stream(client)
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE_SECONDS)
    print(f"SIGTERM: the server ended with exit code {code}")
    return code


def one_call(client: Client) -> None:
    """Unary: all passages at once, the best five back."""
    print(f"Rerank: {PASSWORD}")
    show(client.rank(PASSWORD, PASSWORD_PASSAGES, top_k=5, return_text=True))


def one_stream(client: Client) -> None:
    """Streamed: each passage leaves when the search has it, and each score comes when it is computed."""
    print(f"RerankStream: {BREAD}")
    begun = time.perf_counter()
    with client.rank_stream(BREAD, searched(), top_k=4, return_text=True) as stream:
        for results in stream:
            milliseconds = (time.perf_counter() - begun) * 1000
            for result in results:
                print(f"  {milliseconds:6.1f} ms  {bar(result.score)}  {result.score:.3f}  {result.text}")
    print("and the ranking:")
    show(stream.ranking)


def searched() -> Iterator[str]:
    """A first stage that finds one passage after another."""
    yield from BREAD_PASSAGES


def show(ranking: Ranking) -> None:
    for place, result in enumerate(ranking, 1):
        print(f"  {place}. {bar(result.score)}  {result.score:.3f}  {result.text}")
    usage, timing = ranking.usage, ranking.timing
    print(
        f"  {usage.contexts} contexts, {usage.tokens} tokens, {timing.total_us / 1000:.1f} ms in the server\n"
    )


def bar(score: float, columns: int = 16) -> str:
    full, empty = ("█", "░") if (sys.stdout.encoding or "").lower().startswith("utf") else ("#", ".")
    length = round(score * columns)
    return full * length + empty * (columns - length)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def serving(target: str, health: str) -> Iterator[subprocess.Popen[bytes]]:
    """`rerankd serve` as a process, which is not left behind whatever happens."""
    # No wait for clients that may still come, as there would be in production; and no settings but these.
    command = [sys.executable, "-m", "rerankd", "serve", "--grpc", target, "--health", health]
    command += ["--metrics", "", "--http", "", "--drain-seconds", "0", "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANKD_")}
    with subprocess.Popen(command, env=environment) as server:
        try:
            yield server
        finally:
            if server.poll() is None:
                server.kill()


def wait_until_serving(server: subprocess.Popen[bytes], health: str) -> None:
    """Watches the health service until it says SERVING."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with grpc.insecure_channel(health, NO_PROXY) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise SystemExit(f"the server ended with exit code {server.returncode}")
            try:
                for answer in stub.Watch(request, wait_for_ready=True, timeout=1):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                continue  # not there yet, or gone: the next round tells
    raise SystemExit(f"the server is not SERVING after {PATIENCE_SECONDS:g} s")


if __name__ == "__main__":
    sys.exit(main())
