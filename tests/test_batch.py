"""RerankBatch over a real channel: every id answered exactly once, in any order, each on its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.rpc import code_pb2
from rerankd import Reranker
from rerankd.catalogue import Catalogue
from rerankd.service import BATCH_BYTES, BATCH_IN_FLIGHT, RerankService
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import (
    CONTEXTS,
    LONG,
    PATIENCE,
    QUERY,
    RunningServer,
    Serve,
    Stub,
    ask,
    limits,
    unhurried,
    until,
)


def item(request_id: str, **request: Any) -> pb.RerankBatchRequest:
    return pb.RerankBatchRequest(request_id=request_id, request=ask(**request))


async def played(stub: Stub, *items: pb.RerankBatchRequest) -> list[pb.RerankBatchResponse]:
    return [response async for response in stub.RerankBatch(iter(items))]


async def test_every_id_is_answered_once_with_what_a_call_would_say(stub: Stub) -> None:
    items = [item(f"id {at}", contexts=CONTEXTS[: at % 5], top_k=1 + at % 3) for at in range(20)]
    responses = await played(stub, *items)
    assert Counter(response.request_id for response in responses) == {f"id {at}": 1 for at in range(20)}
    by_id = {response.request_id: response.response for response in responses}
    for each in items:
        alone = await stub.Rerank(each.request)
        assert by_id[each.request_id].results == alone.results
        assert by_id[each.request_id].usage == alone.usage


async def test_an_empty_call_is_answered_with_nothing(stub: Stub) -> None:
    assert await played(stub) == []


async def test_a_small_request_overtakes_a_large_one(stub: Stub) -> None:
    call = stub.RerankBatch()
    await call.write(item("large", contexts=LONG))
    await call.write(item("small", contexts=CONTEXTS[:1]))
    response = await call.read()
    assert isinstance(response, pb.RerankBatchResponse)
    assert response.request_id == "small"
    call.cancel()


async def test_a_bad_request_is_an_error_of_its_own(stub: Stub) -> None:
    responses = await played(
        stub,
        item("good"),
        item("no query", query=""),
        item("no text", contexts=["fine", ""]),
        item("model", model="nobody"),
        item("top_k", top_k=0),
        item("overflow", overflow=17),
        item("long", overflow=pb.OVERFLOW_REJECT, max_tokens=16),
        item("many", contexts=["a"] * 1001),
        pb.RerankBatchRequest(request_id="none"),
        item(""),
        item("good too"),
    )
    by_id = {response.request_id: response for response in responses}
    assert len(by_id) == len(responses) == 11
    assert len(by_id["good"].response.results) == len(by_id["good too"].response.results) == 4
    fields = {
        "no query": "query",
        "no text": "contexts[1].text",
        "top_k": "top_k",
        "overflow": "overflow",
        "long": "contexts[0].text",
        "many": "contexts",
        "none": "request",
        "": "request_id",
    }
    for request_id, field in fields.items():
        error = by_id[request_id].error
        assert by_id[request_id].WhichOneof("outcome") == "error"
        assert (error.code, error.reason, error.field) == (
            code_pb2.INVALID_ARGUMENT,
            "INVALID_FIELD",
            field,
        ), request_id
        assert error.message
        assert not error.message.startswith(field)
    error = by_id["model"].error
    assert (error.code, error.reason, error.field) == (code_pb2.NOT_FOUND, "UNKNOWN_MODEL", "")
    assert error.message.endswith("served: mini-en")


async def test_an_id_in_flight_is_not_taken_twice_but_may_come_again(stub: Stub) -> None:
    call = stub.RerankBatch()
    await call.write(item("id", contexts=LONG[:24]))
    await call.write(item("id"))
    first, second = await call.read(), await call.read()
    assert isinstance(first, pb.RerankBatchResponse)
    assert isinstance(second, pb.RerankBatchResponse)
    assert (first.request_id, first.error.field) == ("id", "request_id")
    assert (second.request_id, len(second.response.results)) == ("id", 24)
    # It has been answered: now it is free.
    await call.write(item("id"))
    third = await call.read()
    assert isinstance(third, pb.RerankBatchResponse)
    assert (third.request_id, len(third.response.results)) == ("id", 4)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_more_requests_than_may_be_in_flight_are_all_answered(stub: Stub) -> None:
    total = BATCH_IN_FLIGHT * 2 + 9
    responses = await played(stub, *(item(str(at), contexts=["a"] * (at % 7 == 0)) for at in range(total)))
    assert sorted(int(response.request_id) for response in responses) == list(range(total))
    assert {response.WhichOneof("outcome") for response in responses} == {"response"}


async def test_no_more_are_read_than_may_be_in_flight(serve: Serve) -> None:
    server = serve(threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = rerank_pb2_grpc.RerankServiceStub(channel).RerankBatch()
        for at in range(BATCH_IN_FLIGHT + 20):
            await call.write(item(str(at), contexts=LONG[:1]))
        engine = server.reranker.engine
        await until(lambda: engine.stats()["tickets"] + engine.stats()["pairs"] >= BATCH_IN_FLIGHT)
        for _ in range(50):
            assert engine.stats()["tickets"] <= BATCH_IN_FLIGHT
            await asyncio.sleep(0)
        call.cancel()
        await until(lambda: engine.stats()["tickets"] == 0)


async def test_answers_that_nobody_takes_stop_the_reading(reranker: Reranker) -> None:
    service = RerankService(
        Catalogue([reranker]), limits(max_contexts=10, max_stream_bytes=1, max_seconds=PATIENCE)
    )
    text, total, read = "bamboo " * 8000, 80, 0
    size = item("00", contexts=[text]).ByteSize()
    assert total * size > 3 * BATCH_BYTES

    async def requests() -> AsyncIterator[pb.RerankBatchRequest]:
        nonlocal read
        for at in range(total):
            read += 1
            yield item(f"{at:02}", contexts=[text], return_text=True, max_tokens=16)

    answers = service.RerankBatch(requests(), unhurried())
    taken = [await anext(answers)]
    await until(lambda: read * size >= BATCH_BYTES and reranker.engine.stats()["tickets"] == 0)
    for _ in range(50):
        await asyncio.sleep(0)
        # One that was read and waits for room, and one that began below the limit.
        assert read * size <= BATCH_BYTES + 2 * size
    taken += [answer async for answer in answers]
    assert Counter(answer.request_id for answer in taken) == {f"{at:02}": 1 for at in range(total)}
    assert {answer.response.results[0].text for answer in taken} == {text}


async def test_a_full_queue_is_an_error_of_those_that_found_it_full(serve: Serve) -> None:
    server = serve(threads=1, queue_tokens=100)
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = rerank_pb2_grpc.RerankServiceStub(channel).RerankBatch()
        await call.write(item("first", contexts=LONG[:24]))
        await call.write(item("second", contexts=LONG[:24]))
        await call.done_writing()
        responses = {response.request_id: response async for response in call}
    assert len(responses["first"].response.results) == 24
    error = responses["second"].error
    assert (error.code, error.reason) == (code_pb2.UNAVAILABLE, "OVERLOADED")


async def test_a_client_that_leaves_frees_all_its_places(serve: Serve) -> None:
    server = serve(threads=1)
    engine = server.reranker.engine
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = rerank_pb2_grpc.RerankServiceStub(channel).RerankBatch()
        for at in range(10):
            await call.write(item(str(at), contexts=LONG))
        await until(lambda: engine.stats()["tickets"] == 10)
        call.cancel()
        await until(lambda: engine.stats()["tickets"] == 0)
    assert engine.stats()["cancelled"] == 10
    await until(lambda: server.server.calls == 0)


async def test_a_deadline_ends_what_is_still_queued(serve: Serve) -> None:
    server = serve(threads=1)
    reranker = server.reranker
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = rerank_pb2_grpc.RerankServiceStub(channel).RerankBatch(timeout=1)
        for at in range(20):
            await call.write(item(str(at), contexts=LONG))  # no thread does these in the time
        await until(lambda: reranker.engine.stats()["tickets"] == 20)
        await until(lambda: reranker.engine.stats()["tickets"] == 0)
        # What expired in the queue, or was cancelled there with its call, never reached the model.
        stats = reranker.engine.stats()
        assert stats["expired"] + stats["cancelled"] == 20
        assert stats["pairs"] < 20 * len(LONG)
        await until(lambda: server.server.calls == 0)
        assert reranker.engine.stats()["pairs"] - stats["pairs"] <= 256 // 100  # but for a wave in progress
        call.cancel()


async def test_a_batch_beside_a_call(stub: Stub, server: RunningServer) -> None:
    batch, alone = await asyncio.gather(
        played(stub, *(item(str(at)) for at in range(5))), stub.Rerank(ask(QUERY))
    )
    assert all(response.response.results == alone.results for response in batch)
