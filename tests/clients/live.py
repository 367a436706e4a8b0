"""A server as its users start it, in a process of its own, and what it must answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds after which what should have happened has not: a bound, never a measure."""

# As Cloudflare's page shows the model's bodies: a query, and contexts that are objects with a text.
QUERY = "Which one is cooler?"
CONTEXTS = [
    "a cyberpunk lizard",
    "a cyberpunk cat",
    "an ordinary house cat that sleeps all day in the sun",
    "The fridge keeps food cool, at four degrees.",
    "An ice-cold drink is cooler than a warm one.",
]

STARTED = re.compile(r'^grpc_server_started_total\{.*grpc_service="http".*\} (\S+)$', re.MULTILINE)
LISTENING = re.compile(r"serving (gRPC|HTTP) on (127\.0\.0\.1:\d+)")


class Addresses(NamedTuple):
    """Hosts and ports."""

    http: str
    grpc: str


@dataclass(frozen=True)
class Live:
    """A running server."""

    addresses: Addresses
    ranking: list[tuple[int, float]]
    """Ids and scores of CONTEXTS, best first, as Reranker has them in process."""

    @property
    def url(self) -> str:
        """Where a client is pointed: no path, no slash at its end."""
        return f"http://{self.addresses.http}"

    @property
    def best_texts(self) -> list[str]:
        return [CONTEXTS[at] for at, _ in self.ranking]

    def calls(self) -> int:
        """How many requests to rank it has had, refused ones included, by its own metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as response:
            text = response.read().decode()
        return int(sum(float(count) for count in STARTED.findall(text)))

    @contextmanager
    def one_call(self) -> Iterator[None]:
        """What is within makes one request and no more: a refusal that can't be mended is not tried again."""
        before = self.calls()
        yield
        assert self.calls() == before + 1


def environment() -> dict[str, str]:
    """What the server's process sees: no setting but ours, and the package from this tree."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("RERANKD_")}
    return found | {"PYTHONPATH": str(ROOT / "python")}


def rank_in_process(python: str) -> list[tuple[int, float]]:
    """The contexts' ranking by Reranker, on the interpreter that has it."""
    asked = json.dumps({"query": QUERY, "contexts": CONTEXTS})
    script = str(Path(__file__).with_name("in_process.py"))
    printed = subprocess.check_output(
        [python, script], input=asked, env=environment(), text=True, timeout=PATIENCE
    )
    return [(int(at), float(score)) for at, score in json.loads(printed)]


@contextmanager
def serving(python: str, *flags: str) -> Iterator[Addresses]:
    """`rerankd serve` with these flags besides, on ports that are free."""
    command = [python, "-m", "rerankd", "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--health", "", "--metrics", "", "--drain-seconds", "0", "--grace-seconds", "5", *flags]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            addresses = _addresses(server.stderr)
            # What it logs from then on is read too: it must not wait for a full pipe.
            reader = threading.Thread(target=deque, args=(server.stderr, 0))
            reader.start()
            yield addresses
        finally:
            server.terminate()
        reader.join()


def _addresses(log: Iterator[str]) -> Addresses:
    """Where the server says that it listens; HTTP's is the last that it says."""
    said = ""
    for line in log:
        said += line
        found = dict(LISTENING.findall(said))
        if "HTTP" in found:
            return Addresses(found["HTTP"], found["gRPC"])
    raise AssertionError(f"the server did not start:\n{said}")
