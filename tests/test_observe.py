"""What the observer tells its watchers, of real calls to a real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rerankd.catalogue import Catalogue
from rerankd.guard import Guard
from rerankd.health import Health
from rerankd.observe import METHODS, Metadata, Method, Observer, Outcome
from rerankd.reranker import Reranker
from rerankd.service import SERVICE, RerankService
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, LONG, PATIENCE, Stub, ask, limits, until


class Seen:
    """A call as it was told."""

    def __init__(self, method: Method, metadata: Metadata) -> None:
        self.method = method
        self.metadata = dict(metadata())
        self.messages = 0
        self.outcomes: list[Outcome] = []
        self.codes: list[int] = []

    def received(self) -> None:
        assert not self.codes
        self.messages += 1

    def sent(self, outcome: Outcome) -> None:
        assert not self.codes
        self.outcomes.append(outcome)

    def ended(self, code: int) -> None:
        self.codes.append(code)


class Witness:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.calls: list[Seen] = []

    def begin(self, method: Method, metadata: Metadata) -> Seen:
        self.calls.append(Seen(method, metadata))
        return self.calls[-1]

    async def only(self) -> Seen:
        """The one call that there was, once it has ended: a caller may learn of an end before we do."""
        await until(lambda: len(self.calls) == 1 and bool(self.calls[0].codes))
        return self.calls[0]


class Bouncer(grpc.aio.ServerInterceptor):
    """Refuses who says so, as one that checks tokens would: with a handler of its own."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if "unwelcome" not in dict(handler_call_details.invocation_metadata):
            return await continuation(handler_call_details)

        async def refuse(request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def channel(witness: Witness, own_reranker: Reranker) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Observer([witness]), Bouncer(), Guard()])
    service = RerankService(
        Catalogue([own_reranker]), limits(max_contexts=100, max_stream_bytes=1 << 20, max_seconds=PATIENCE)
    )
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


@pytest.fixture
def watched(channel: grpc.aio.Channel) -> Stub:
    return rerank_pb2_grpc.RerankServiceStub(channel)


def test_the_methods_are_those_of_the_protos() -> None:
    assert {(method.service, method.name, method.kind) for method in METHODS} == {
        (SERVICE, "Rerank", "unary"),
        (SERVICE, "RerankStream", "bidi_stream"),
        (SERVICE, "RerankBatch", "bidi_stream"),
        (SERVICE, "ListModels", "unary"),
        ("tei.v1.Rerank", "Rerank", "unary"),
        ("tei.v1.Rerank", "RerankStream", "client_stream"),
        ("tei.v1.Info", "Info", "unary"),
    }


async def test_an_answer(watched: Stub, witness: Witness) -> None:
    answer = await watched.Rerank(ask(), metadata=(("traceparent", "something"),))
    seen = await witness.only()
    assert seen.method.name == "Rerank"
    assert seen.metadata["traceparent"] == "something"
    assert (seen.messages, seen.outcomes, seen.codes) == (1, [answer], [code_pb2.OK])


async def test_a_message_that_is_no_answer_has_no_outcome(watched: Stub, witness: Witness) -> None:
    await watched.ListModels(pb.ListModelsRequest())
    assert (await witness.only()).outcomes == [None]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (ask(query=""), code_pb2.INVALID_ARGUMENT),
        (ask(model="no-such"), code_pb2.NOT_FOUND),
        (b"\xff\xff", code_pb2.INVALID_ARGUMENT),
    ],
)
async def test_a_refusal(channel: grpc.aio.Channel, witness: Witness, asked: Any, code: int) -> None:
    call: Any = channel.unary_unary(f"/{SERVICE}/Rerank")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(asked if isinstance(asked, bytes) else asked.SerializeToString())
    seen = await witness.only()
    assert (seen.messages, seen.outcomes, seen.codes) == (1, [], [code])


async def test_a_deadline_and_a_cancel_are_told_apart(watched: Stub, witness: Witness) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await watched.Rerank(ask(contexts=LONG), timeout=0.02)
    await until(lambda: bool(witness.calls and witness.calls[0].codes))
    call = watched.Rerank(ask(contexts=LONG), timeout=3600)
    await until(lambda: len(witness.calls) == 2)
    call.cancel()
    await until(lambda: bool(witness.calls[1].codes))
    codes = [seen.codes for seen in witness.calls]
    assert codes == [[code_pb2.DEADLINE_EXCEEDED], [code_pb2.CANCELLED]]


async def test_a_stream(watched: Stub, witness: Witness) -> None:
    call = watched.RerankStream()
    await call.write(pb.RerankStreamRequest(start=ask(contexts=CONTEXTS[:1])))
    await call.write(pb.RerankStreamRequest(more=pb.ContextChunk(contexts=[pb.Context(text="more")])))
    await call.done_writing()
    messages = []
    while isinstance(message := await call.read(), pb.RerankStreamResponse):
        messages.append(message)
    seen = await witness.only()
    assert seen.messages == 2
    assert seen.outcomes == [None] * (len(messages) - 1) + [messages[-1].ranking]
    assert seen.codes == [code_pb2.OK]


async def test_a_stream_that_fails_and_one_that_is_left(watched: Stub, witness: Witness) -> None:
    failing = watched.RerankStream()
    await failing.write(pb.RerankStreamRequest(more=pb.ContextChunk()))
    with pytest.raises(grpc.aio.AioRpcError):
        await failing.read()
    left = watched.RerankStream()
    await left.write(pb.RerankStreamRequest(start=ask()))
    await left.read()
    left.cancel()
    await until(lambda: len(witness.calls) == 2 and all(seen.codes for seen in witness.calls))
    codes = [seen.codes for seen in witness.calls]
    assert codes == [[code_pb2.INVALID_ARGUMENT], [code_pb2.CANCELLED]]


async def test_a_batch_tells_of_its_items(watched: Stub, witness: Witness) -> None:
    call = watched.RerankBatch()
    await call.write(pb.RerankBatchRequest(request_id="good", request=ask()))
    await call.write(pb.RerankBatchRequest(request_id="bad", request=ask(query="")))
    await call.done_writing()
    assert await call.read() != await call.read()
    assert await call.read() is grpc.aio.EOF
    seen = await witness.only()
    assert (seen.messages, seen.codes) == (2, [code_pb2.OK])
    (answer,) = (each for each in seen.outcomes if isinstance(each, pb.RerankResponse))
    (error,) = (each for each in seen.outcomes if isinstance(each, pb.Error))
    assert len(answer.results) == len(CONTEXTS)
    assert error.code == code_pb2.INVALID_ARGUMENT


async def test_a_later_interceptors_refusal_is_seen_and_not_remembered(
    watched: Stub, witness: Witness
) -> None:
    await watched.Rerank(ask())
    with pytest.raises(grpc.aio.AioRpcError):
        await watched.Rerank(ask(), metadata=(("unwelcome", ""),))
    await watched.Rerank(ask())
    await until(lambda: len(witness.calls) == 3 and all(seen.codes for seen in witness.calls))
    codes = [seen.codes for seen in witness.calls]
    assert codes == [[code_pb2.OK], [code_pb2.UNAUTHENTICATED], [code_pb2.OK]]


async def test_health_and_what_does_not_exist_are_left_alone(
    channel: grpc.aio.Channel, witness: Witness
) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    await health.Check(health_pb2.HealthCheckRequest())
    unknown: Any = channel.unary_unary(f"/{SERVICE}/Guess")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unknown(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await asyncio.sleep(0)
    assert witness.calls == []
