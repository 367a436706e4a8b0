"""Telemetry: what a server tells of itself, wired up: its calls' observer, /metrics on a port, traces."""

from __future__ import annotations

import asyncio
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from rerankd.errors import InputError
from rerankd.metrics import Metrics
from rerankd.observe import Observer, Watcher
from rerankd.settings import Settings

if TYPE_CHECKING:
    from rerankd.reranker import Reranker
    from rerankd.traces import Traces

log = logging.getLogger(__name__)

_SCRAPE_SECONDS: Final = 10.0
"""Seconds after which a connection to the metrics port that says nothing is closed."""


class Telemetry:
    """The server's watchers. Made, started and stopped with it; a stop without a start is fine.

    held: how many tokens the requests in work hold now.
    """

    def __init__(self, settings: Settings, rerankers: Sequence[Reranker], held: Callable[[], int]) -> None:
        self._settings = settings
        self._metrics = Metrics(rerankers, settings.queue_tokens, held)
        self._port: MetricsPort | None = None
        self._traces: Traces | None = None
        self._lag: asyncio.Task[None] | None = None
        self._watchers: list[Watcher] = []

    @property
    def watchers(self) -> Sequence[Watcher]:
        """Who wants to know of calls, once started."""
        return self._watchers

    @property
    def metrics(self) -> Metrics:
        return self._metrics

    @property
    def port(self) -> int:
        """Where metrics are served, once started; 0 for nowhere."""
        return self._port.number if self._port is not None else 0

    async def start(self) -> Observer:
        """Returns what is to stand before all other interceptors.

        Raises InputError for an address that can't be had, and where the library for traces is missing.
        """
        settings = self._settings
        watchers = self._watchers = [self._metrics]
        if settings.otlp_endpoint:
            self._traces = _traces(settings)
            watchers.append(self._traces)
            log.info("sending traces to %s", settings.otlp_endpoint)
        if settings.metrics:
            self._port = MetricsPort(settings.metrics, self._metrics.registry)
            log.info("serving metrics on %s:%d", settings.metrics.rpartition(":")[0], self.port)
        self._lag = asyncio.create_task(self._metrics.watch_loop())
        return Observer(watchers)

    async def stop(self) -> None:
        """Sends the last spans, for a few seconds at most, and closes the port."""
        if self._lag is not None:
            self._lag.cancel()
            await asyncio.wait([self._lag])
        port, self._port = self._port, None
        traces, self._traces = self._traces, None
        closing = [asyncio.to_thread(each.close) for each in (port, traces) if each is not None]
        await asyncio.gather(*closing)


class MetricsPort:
    """GET /metrics over plain HTTP, on a thread of its own, so that a busy loop can't keep it from answering.

    Raises InputError.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, _, number = address.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(number)))
        except OSError:
            raise InputError(
                "metrics", f"can't listen on {address}: taken, or not of this machine?"
            ) from None
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        """Blocks for about half a second at most."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    timeout = _SCRAPE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its parent's name
        log.debug("metrics: %s", format % args)


class _Server(ThreadingWSGIServer):
    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not as HTTPServer does it, which asks the name service who this host is, and may wait long for that.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a scrape from %s broke off", client_address, exc_info=True)


def _traces(settings: Settings) -> Traces:
    try:
        from rerankd.traces import Traces  # noqa: PLC0415 - costs nothing where it is not asked for
    except ImportError as error:
        raise InputError(
            "otlp_endpoint",
            f"traces need a library that is not installed ({error.name}): pip install rerankd[traces]",
        ) from None
    return Traces(settings.otlp_endpoint, settings.trace_ratio)
