"""Real servers, each in the condition that a test is about."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from clients.live import LISTENING, environment
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1.rerank_pb2_grpc import RerankServiceStub

from interop.programs import PATIENCE

SLOW = ("--threads", "1")
"""Of a server that is seen at its work: questions.WORK, questions.LONG."""

COUNTED = re.compile(
    r'^grpc_server_(\w+)_total\{(?=.*grpc_service="rerankd).*?(?:grpc_code="(\w+)",)?grpc_method.*\} (\S+)$',
    re.MULTILINE,
)


class Server:
    """`rerankd serve`, in a process of its own. `target` is where it answers gRPC."""

    def __init__(self, process: subprocess.Popen[str], target: str, web: str) -> None:
        self._process = process
        self._web = web
        self._said: list[str] = []
        self.target = target

    def calls(self) -> int:
        """Calls in progress, by its own metrics."""
        text = self._metrics()
        started = sum(float(n) for what, _, n in COUNTED.findall(text) if what == "started")
        return int(started - sum(float(n) for what, _, n in COUNTED.findall(text) if what == "handled"))

    def works(self) -> bool:
        """Whether a request is in its queue, or being computed."""
        return re.search(r"^rerankd_queue_tokens 0(\.0)?$", self._metrics(), re.MULTILINE) is None

    def ended(self, code: str) -> int:
        """Calls that ended with that code, as `Unavailable`."""
        return int(sum(float(n) for _, name, n in COUNTED.findall(self._metrics()) if name == code))

    def terminate(self) -> None:
        self._process.terminate()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """As if its machine had stopped: whoever connects gets no answer, not even a refusal."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def read(self, line: str) -> None:
        """Takes a line of its log."""
        self._said.append(line)

    def wait_until_it_says(self, words: str) -> None:
        until(lambda: any(words in line for line in self._said))

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE)

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self._web}/metrics", timeout=PATIENCE) as response:
            return str(response.read().decode())


@contextmanager
def serving(*flags: str) -> Iterator[Server]:
    """A server with these flags besides, on ports that are free."""
    command = [sys.executable, "-m", "rerankd", "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--health", "", "--metrics", "", "--drain-seconds", "0", *flags]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while "HTTP" not in (found := dict(LISTENING.findall(said))):
                line = process.stderr.readline()
                assert line, f"the server did not start:\n{said}"
                said += line
            server = Server(process, found["gRPC"], found["HTTP"])
            # What it logs from then on is read too: it must not wait for a full pipe.
            threading.Thread(target=deque, args=(map(server.read, process.stderr), 0), daemon=True).start()
            yield server
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


@contextmanager
def held(target: str) -> Iterator[None]:
    """Another client, whose stream is open and stays so: it holds its place in the server's queue."""
    leaving = threading.Event()

    def parts() -> Iterator[pb.RerankStreamRequest]:
        request = pb.RerankRequest(query="a query", contexts=[pb.Context(text="its first context")])
        yield pb.RerankStreamRequest(start=request)
        leaving.wait()

    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        answers = RerankServiceStub(channel).RerankStream(parts())
        next(iter(answers))
        try:
            yield
        finally:
            leaving.set()
            answers.cancel()


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails when it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
