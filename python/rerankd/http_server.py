"""The HTTP port: uvicorn on the server's own loop, which leaves signals and the way down to the server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rerankd.errors import InputError

KEEP_ALIVE: Final = 75
"""Seconds that an idle connection is kept: longer than those of the proxies that may stand before it."""
HEADER_BYTES: Final = 64 << 10
"""Bytes of a request's line and headers."""


class HttpPort:
    """One address. One that somebody listens on is told at once; this one listens when it is started.

    tls: the context that connections are made with; None: plaintext. Raises InputError, of http.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._socket = _bound(address)
        self._tls = tls
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """The port's number."""
        return int(self._socket.getsockname()[1])

    async def start(self, app: ASGIApp) -> None:
        """Returns when it answers. Raises InputError where somebody else was quicker to listen there."""
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # What it would say of bad requests anybody could have it say, and our own errors are logged.
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        config.load()
        # It would make one of files, once; ours follows them.
        config.ssl = self._tls
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        started = asyncio.create_task(self._server.up.wait())
        await asyncio.wait((self._serving, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            try:
                self._serving.result()
            except OSError:
                raise _taken(self._address) from None

    async def stop(self, grace: float = 0) -> None:
        """Lets requests in progress finish for at most so many seconds, and closes all connections."""
        if self._server is None or self._serving is None:
            self._socket.close()
            return
        self._server.config.timeout_graceful_shutdown = max(grace, 0.001)  # type: ignore[assignment]
        self._server.should_exit = True
        await asyncio.wait([self._serving])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the server's

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class _Protocol(H11Protocol):
    """uvicorn's, which tells the layers above of the connection too."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # To be cut off where its reader is stuck: a close waits until all is read.
        self.app_state = {**self.app_state, "transport": transport}


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and host == "[::]":
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 too, as gRPC does
            made.bind(place)
        except OSError:
            made.close()
            raise
    except OSError:
        raise _taken(address) from None
    made.setblocking(False)
    return made


def _taken(address: str) -> InputError:
    return InputError("http", f"can't listen on {address}: taken, or not of this machine?")
