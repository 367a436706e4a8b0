"""The port for metrics, the way up and down of what watches a server, and what it costs where it is off."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from rerankd import InputError
from rerankd.server import Server
from rerankd.settings import Settings
from support import LOCAL, PATIENCE, Serve, scrape


def settings(**changes: Any) -> Settings:
    return Settings(**{**LOCAL, "threads": 1, **changes})


def test_the_port_answers_as_render_does(serve: Serve) -> None:
    running = serve(metrics="127.0.0.1:0", threads=1)
    status, content_type, text = scrape(running.server.metrics_port)
    body, rendered_type = running.server.metrics.render()
    assert (status, content_type) == (200, rendered_type)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert names == [line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE")]
    assert "rerankd_model_info" in names
    assert scrape(running.server.metrics_port, method="POST")[0] == 405


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_port_can_be_of_ipv6(serve: Serve) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    running = serve(metrics="[::1]:0", threads=1)
    assert scrape(running.server.metrics_port, host="::1")[0] == 200


async def test_there_need_not_be_a_port() -> None:
    server = Server(settings(metrics=""))
    await server.start()
    assert server.metrics_port == 0
    assert server.metrics.render()[0]
    await server.stop()


async def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(settings(metrics=f"127.0.0.1:{port}"))
        with pytest.raises(InputError, match=f"^metrics: can't listen on 127.0.0.1:{port}"):
            await server.start()
        await server.stop()


async def test_a_stop_closes_the_port_whoever_hangs_on_it() -> None:
    server = Server(settings(metrics="127.0.0.1:0"))
    await server.start()
    port = server.metrics_port
    with socket.create_connection(("127.0.0.1", port)):  # and says nothing
        await server.stop()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    assert server.metrics_port == 0


PROGRAM = """
import asyncio, sys
from rerankd.server import Server
from rerankd.settings import Settings

async def main():
    server = Server(Settings(grpc="127.0.0.1:0", health="", http="", metrics="", threads=1))
    await server.start()
    await server.stop()

asyncio.run(main())
assert "prometheus_client" in sys.modules
print([name for name in sys.modules if name.startswith(("opentelemetry", "rerankd.traces"))])
"""


def test_traces_cost_nothing_where_they_are_off() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANKD_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "[]\n"


async def test_traces_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rerankd.traces", raising=False)
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    server = Server(settings(otlp_endpoint="http://127.0.0.1:4317"))
    with pytest.raises(InputError, match=r"^otlp_endpoint: .*pip install rerankd\[traces\]"):
        await server.start()
    await server.stop()
