"""`rerankd serve` as a process that is stopped, frozen or killed, and started again where it was."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from benches.server import PATIENCE, serving

SERVE: Final = (sys.executable, "-m", "rerankd", "serve")
# Below what systems take ports from for connections: one of a client's own must not sit on the port of a
# server that is away for a moment. Each process begins elsewhere: of two benches that began together one had
# asked the other's server.
_PORTS = iter(range(20000 + os.getpid() * 30 % 11000, 32000))


def fixed_port() -> int:
    """A port that is free, and stays free for whoever has been given it."""
    for port in _PORTS:
        with socket.socket() as probe:
            # As a server does: the last one's connections may linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit("no port from 20000 to 32000 is free")


class Process:
    """A server of mini-en on ports of its own, which it keeps. A context manager: inside, it serves.

    program: what serves, and passes on its signals and its exit code; flags are added to it.
    host, port: where it serves gRPC; without a port, on one of its own.
    """

    def __init__(
        self,
        threads: int,
        *flags: str,
        program: Sequence[str] = SERVE,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self._host, self.port = host, fixed_port() if port is None else port
        self.health, self._metrics = fixed_port(), fixed_port()
        self.http = fixed_port()
        self._command = [*program, f"--threads={threads}"]
        self._command += [f"--grpc={host}:{self.port}", f"--health=127.0.0.1:{self.health}"]
        self._command += [f"--http=127.0.0.1:{self.http}"]
        self._command += [f"--metrics=127.0.0.1:{self._metrics}", *flags]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, and returns at once."""
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def wait(self) -> None:
        """Returns when it serves. Blocks; raises SystemExit, with its log, where it never will."""
        begun = time.monotonic()
        while not serving(self.health):
            if not self.alive or time.monotonic() - begun > PATIENCE:
                raise SystemExit(f"the server does not serve:\n{self.said()}")
            time.sleep(0.02)

    def stop(self) -> tuple[int, float]:
        """Asks it to stop, by SIGTERM: its exit code, and how many seconds it took. Blocks."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE), time.monotonic() - begun

    def send(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def kill(self) -> None:
        """SIGKILL; returns when it is no more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """Its log, of all its lives."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def metric(self, name: str) -> float:
        """A metric as /metrics has it, all its labels added up."""
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        families = text_string_to_metric_families(text)
        found = [sample.value for family in families for sample in family.samples if sample.name == name]
        if not found:
            raise KeyError(f"/metrics has no {name}")
        return float(sum(found))

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def __enter__(self) -> "Process":
        self.start()
        try:
            self.wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self.kill()
        self._log.close()


@contextmanager
def pair(threads: int, *flags: str) -> Iterator[tuple[Process, Process]]:
    """Two that serve the same."""
    with ExitStack() as stack:
        first, second = Process(threads, *flags), Process(threads, *flags)
        yield stack.enter_context(first), stack.enter_context(second)
