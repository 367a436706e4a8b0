"""grpc.health.v1: what a server says of itself, on any of its ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rerankd.service import SERVICE

READINESS: Final = ("", SERVICE, "readiness")
"""Health: SERVING while new work is welcome."""
STARTUP: Final = "startup"
"""Health: SERVING once the models are loaded."""
LIVE: Final = "live"
"""Health: SERVING while the loop answers and the engine's threads get on; never tied to load, nor to the way
down."""


SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1, for any number of servers on one loop.

    Unlike with grpcio's own, a Watch ends on the way down, once it has said NOT_SERVING: an open one would
    hold the server's stop for the whole of its grace.
    """

    def __init__(self) -> None:
        self._status = dict.fromkeys((*READINESS, STARTUP, LIVE), NOT_SERVING)
        self._leaving = False
        self._closing = False
        self._changed = asyncio.Event()

    @property
    def leaving(self) -> bool:
        """Whether it says NOT_SERVING for good."""
        return self._leaving

    def serving(self, name: str) -> bool:
        """Whether it says SERVING of that name."""
        return self._status[name] == SERVING

    def set(self, status: int, *names: str) -> None:
        self._status.update(dict.fromkeys(names, status))
        self._changed.set()
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """NOT_SERVING for good, but for `live`: nobody should kill a server that is finishing its work."""
        self._leaving = True
        self.set(NOT_SERVING, *READINESS)

    def close(self) -> None:
        """Ends every Watch, that of `live` too."""
        self._closing = True
        self.leave()

    async def Check(  # noqa: N802 - the proto's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - newer than its type stubs
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status) for name, status in self._status.items()
        }
        return cast("Any", health_pb2).HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            changed = self._changed  # taken first, so that no change is missed while one is told
            status = self._status.get(request.service, _SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            elif self._closing or (self._leaving and status != SERVING):
                return
            else:
                await changed.wait()
