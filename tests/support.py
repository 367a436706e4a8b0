"""A real server on a real port, and ways to wait for what must happen."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rerankd.limits import Limits
from rerankd.reranker import Reranker
from rerankd.server import Server
from rerankd.service import SERVICE
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc

T = TypeVar("T")
Stub: TypeAlias = "rerank_pb2_grpc.RerankServiceAsyncStub"
Serve: TypeAlias = "Callable[..., RunningServer]"

PATIENCE = 30.0
"""Seconds after which what should have happened has not: a bound, never a measure."""

LOCAL: dict[str, Any] = {
    "grpc": "127.0.0.1:0",
    "health": "127.0.0.1:0",
    "metrics": "",
    "http": "127.0.0.1:0",
    "drain_seconds": 0,
    "grace_seconds": PATIENCE,
    "reflection": True,
}

EMBEDDED = Path(__file__).parents[1] / "python" / "rerankd" / "models" / "mini-en"
CASES = json.loads((Path(__file__).parent / "golden" / "mini-en-cases.json").read_text("utf-8"))
CASE = CASES[0]
QUERY, CONTEXTS = CASE["query"], CASE["contexts"]
# Enough work to be seen in progress; mostly cancelled, never needed to its end.
LONG = ["a river runs through a wide green valley " * 12] * 60


def ask(query: str = QUERY, contexts: list[str] = CONTEXTS, **options: Any) -> pb.RerankRequest:
    keyed = [pb.Context(text=text, key=f"k{at}") for at, text in enumerate(contexts)]
    return pb.RerankRequest(query=query, contexts=keyed, **options)


def limits(**changes: Any) -> Limits:
    """The limits of a service with no server."""
    usual = Limits(
        max_contexts=1000,
        max_message_bytes=4 << 20,
        max_stream_bytes=64 << 20,
        max_seconds=PATIENCE,
        max_concurrent=1,
        wave_tokens=256,
    )
    return dataclasses.replace(usual, **changes)


def unhurried() -> Any:
    """The context of a call that has no deadline, for handlers that are called with no channel."""
    return SimpleNamespace(time_remaining=lambda: None)


class Channel:
    """Everything that a client can ask, on one channel."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.rerank: Stub = rerank_pb2_grpc.RerankServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)  # its stubs know no methods

    async def check(self, name: str) -> int:
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        return int(response.status)

    def watch(self, name: str) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        return aiter(self.health.Watch(health_pb2.HealthCheckRequest(service=name)))


class RunningServer:
    """A server on a loop and a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="server", daemon=True)
        self._thread.start()
        self.server = Server(settings)
        self.run(self.server.start())
        self.target = f"127.0.0.1:{self.server.port}"
        self.health_target = f"127.0.0.1:{self.server.health_port}"

    @property
    def reranker(self) -> Reranker:
        return self.server.rerankers[0]

    @property
    def web(self) -> str:
        """HTTP's address."""
        return f"http://127.0.0.1:{self.server.http_port}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def stop(self) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails when it never does."""

    async def watch() -> None:
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.002)

    await asyncio.wait_for(watch(), PATIENCE)


def raw(channel: grpc.Channel, method: str) -> Callable[[bytes], Any]:
    """Sends bytes, be they a message or not, and gives all that is answered."""
    if method in ("Rerank", "ListModels"):
        one: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/{method}")
        return one
    many: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/{method}")
    return lambda message: list(many(iter([message])))


def scrape(port: int, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str, str]:
    """What a metrics port answers: status, content type, body."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    connection.request(method, "/metrics")
    response = connection.getresponse()
    answer = response.status, response.getheader("Content-Type", ""), response.read().decode()
    connection.close()
    return answer


class Refusal:
    """A status with its details, taken apart and checked for consistency."""

    def __init__(self, error: Any) -> None:
        self.code, self.message = error.code(), error.details() or ""
        self.trailers = dict(tuple(error.trailing_metadata()))  # pairs, whatever else it looks like
        status = status_pb2.Status.FromString(self.trailers["grpc-status-details-bin"])
        assert (status.code, status.message) == (self.code.value[0], self.message)
        self.info = error_details_pb2.ErrorInfo()
        self.bad = error_details_pb2.BadRequest()
        self.retry = error_details_pb2.RetryInfo()
        for detail in status.details:
            assert any(detail.Unpack(kind) for kind in (self.info, self.bad, self.retry))
        assert self.info.domain == "rerankd"

    @property
    def field(self) -> str:
        (violation,) = self.bad.field_violations
        assert self.message == f"{violation.field}: {violation.description}"
        return str(violation.field)


async def refused(call: Any) -> Refusal:
    """The refusal that a call must meet."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return Refusal(error.value)


def refused_sync(call: Callable[[], Any]) -> Refusal:
    """As `refused`, for calls with a stream of requests.

    Where a server ends a call that it is still writing to, grpc.aio's client may lose the status and report
    INTERNAL; the sync client never does.
    """
    with pytest.raises(grpc.RpcError) as error:
        call()
    return Refusal(error.value)
