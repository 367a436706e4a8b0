"""Guard around services made to fail, and around calls that must not be made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import grpc
import pytest
from rerankd.errors import AuthError
from rerankd.guard import Guard
from rerankd.inflight import InFlight
from rerankd.service import SERVICE
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, PATIENCE, Refusal, Serve, ask, refused_sync, until


class Faulty(rerank_pb2_grpc.RerankServiceServicer):
    """A service of which every method fails in a way that it should not."""

    async def Rerank(self, request: Any, context: Any) -> pb.RerankResponse:  # noqa: N802
        raise ValueError("secret /etc/path")

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        raise KeyError("secret")

    async def RerankStream(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.RerankStreamResponse]:
        yield pb.RerankStreamResponse()
        raise RuntimeError("secret")

    async def RerankBatch(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.RerankBatchResponse]:
        async for _ in request_iterator:
            raise KeyError("secret")
        yield pb.RerankBatchResponse()


async def test_a_fault_of_ours_is_internal_and_found_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    in_flight = InFlight()
    server = grpc.aio.server(interceptors=[Guard(in_flight=in_flight)])
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(Faulty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def call_all() -> list[Refusal]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rerank_pb2_grpc.RerankServiceStub(channel)
            return [
                refused_sync(lambda: stub.Rerank(ask())),
                refused_sync(lambda: stub.ListModels(pb.ListModelsRequest())),
                refused_sync(lambda: list(stub.RerankStream(iter([])))),
                refused_sync(lambda: list(stub.RerankBatch(iter([pb.RerankBatchRequest()])))),
            ]

    with caplog.at_level(logging.ERROR):
        refusals = await asyncio.to_thread(call_all)
    for refusal in refusals:
        assert refusal.code is grpc.StatusCode.INTERNAL
        assert refusal.info.reason == "INTERNAL"
        correlation_id = refusal.info.metadata["correlation_id"]
        assert refusal.message == f"internal error, correlation id {correlation_id}"
        (record,) = [record for record in caplog.records if correlation_id in record.getMessage()]
        assert record.exc_info is not None
        assert "secret" in str(record.exc_info[1])
    await asyncio.wait_for(in_flight.idle(), 30)
    assert in_flight.count == 0
    await server.stop(0)


async def test_every_call_is_authorized_before_it_is_parsed() -> None:
    asked: list[str] = []

    def authorize(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        asked.append(method)
        if ("authorization", "yes") not in [(key, value) for key, value in metadata]:
            raise AuthError("no")

    in_flight = InFlight()
    server = grpc.aio.server(interceptors=[Guard(authorize, in_flight=in_flight)])
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(Faulty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def codes(method: str) -> list[grpc.StatusCode]:
        """Of what is no message, without and with leave, and once more without."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return [
                refused_sync(partial(_send, channel, method, metadata)).code
                for metadata in ((), (("authorization", "yes"),), ())
            ]

    try:
        for method in ("Rerank", "ListModels", "RerankStream", "RerankBatch"):
            asked.clear()
            first, second, third = await asyncio.to_thread(codes, method)
            assert first is third is grpc.StatusCode.UNAUTHENTICATED
            # Faulty's stream ends before it reads.
            assert second in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
            assert asked == [f"/{SERVICE}/{method}"] * 3
        await asyncio.wait_for(in_flight.idle(), PATIENCE)
    finally:
        await server.stop(0)


def _send(channel: grpc.Channel, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    path, junk = f"/{SERVICE}/{method}", b"\xff\xff"
    if method in ("Rerank", "ListModels"):
        one: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        one(junk, metadata=metadata, timeout=PATIENCE)
    else:
        many: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        list(many(iter([junk]), metadata=metadata, timeout=PATIENCE))


async def test_streams_beyond_the_limit_are_refused_unread(serve: Serve) -> None:
    server = serve(threads=1, max_streams=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        first = stub.RerankBatch()
        await first.write(pb.RerankBatchRequest(request_id="a", request=ask()))
        assert isinstance(await first.read(), pb.RerankBatchResponse)
        refusal = await asyncio.to_thread(_streams, server.target)
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert "1 streaming calls already" in refusal.message
        assert len((await stub.Rerank(ask())).results) == len(CONTEXTS)
        first.cancel()
        await until(lambda: server.server.streams == 0)
        events = [event async for event in stub.RerankStream(iter([pb.RerankStreamRequest(start=ask())]))]
        assert len(events[-1].ranking.results) == len(CONTEXTS)


def _streams(target: str) -> Refusal:
    with grpc.insecure_channel(target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        return refused_sync(lambda: list(stub.RerankStream(iter([pb.RerankStreamRequest(start=ask())]))))


async def test_a_call_is_read_when_there_is_room_for_its_message(serve: Serve) -> None:
    server = serve(threads=1, max_message_bytes=1 << 20, message_room_bytes=1 << 20)
    sends = asyncio.Event()

    async def late() -> AsyncIterator[pb.RerankRequest]:
        await sends.wait()
        yield ask()

    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        # On the wire a unary call is a stream of one message: this one comes later than its call.
        slow: Any = channel.stream_unary(f"/{SERVICE}/Rerank", pb.RerankRequest.SerializeToString)
        first = slow(late())
        await until(lambda: server.server.room.free == 0)
        second, third = stub.Rerank(ask()), stub.Rerank(ask())
        await until(lambda: server.server.calls == 2)
        assert not second.done()
        third.cancel()
        await until(lambda: server.server.calls == 1)
        sends.set()
        await first
        assert len((await second).results) == len(CONTEXTS)
        await until(lambda: server.server.room.free == 1 << 20)
        # Who goes away before its message has come leaves nothing behind.
        sends.clear()
        fourth = slow(late())
        await until(lambda: server.server.room.free == 0)
        fourth.cancel()
        await until(lambda: server.server.room.free == 1 << 20)
