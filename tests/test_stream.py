"""RerankStream over a real channel: scores leave while contexts still come; the ranking comes last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from rerankd import InputError, Reranker
from rerankd.catalogue import Catalogue
from rerankd.service import RerankService
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import (
    CASE,
    CONTEXTS,
    LONG,
    PATIENCE,
    RunningServer,
    Serve,
    Stub,
    ask,
    limits,
    refused,
    refused_sync,
    unhurried,
    until,
)


def start(contexts: list[str] = CONTEXTS, **options: Any) -> pb.RerankStreamRequest:
    return pb.RerankStreamRequest(start=ask(contexts=contexts, **options))


def more(*texts: str) -> pb.RerankStreamRequest:
    contexts = [pb.Context(text=text, key=f"more {text[:5]}") for text in texts]
    return pb.RerankStreamRequest(more=pb.ContextChunk(contexts=contexts))


async def played(stub: Stub, *messages: pb.RerankStreamRequest) -> list[pb.RerankStreamResponse]:
    return [message async for message in stub.RerankStream(iter(messages))]


def scored(messages: list[pb.RerankStreamResponse]) -> dict[int, pb.RankedContext]:
    results = [result for message in messages for result in message.scored.results]
    by_id = {result.id: result for result in results}
    assert len(by_id) == len(results), "a context was scored twice"
    return by_id


async def test_scores_leave_while_contexts_still_come(stub: Stub) -> None:
    call = stub.RerankStream()
    await call.write(start(CONTEXTS[:2]))
    first: dict[int, pb.RankedContext] = {}
    # The client has not closed its side, and sends nothing until it has the first scores.
    while len(first) < 2:
        message = await call.read()
        assert isinstance(message, pb.RerankStreamResponse)
        assert message.WhichOneof("event") == "scored"
        first |= scored([message])
    await call.write(more(*CONTEXTS[2:]))
    await call.done_writing()
    rest = await _rest(call)
    assert [message.WhichOneof("event") for message in rest][-1] == "ranking"
    assert [message.WhichOneof("event") for message in rest][:-1] == ["scored"] * (len(rest) - 1)
    results = first | scored(rest)
    assert sorted(results) == [0, 1, 2, 3]
    assert [results[0].key, results[2].key] == ["k0", f"more {CONTEXTS[2][:5]}"]
    ranking = rest[-1].ranking
    assert [r.id for r in ranking.results] == sorted(results, key=lambda at: -CASE["logits"][at])
    assert all(results[r.id] == r for r in ranking.results)
    assert ranking.usage == pb.Usage(contexts=4, tokens=sum(CASE["tokens"]), truncated=0)


async def test_a_stream_and_a_call_give_the_same_bits(stub: Stub) -> None:
    whole = await stub.Rerank(ask())
    for cut in range(len(CONTEXTS) + 1):
        messages = await played(stub, start(CONTEXTS[:cut]), *(more(text) for text in CONTEXTS[cut:]))
        streamed = messages[-1].ranking
        assert [(r.id, r.score) for r in streamed.results] == [(r.id, r.score) for r in whole.results]


async def test_only_the_ranking_honours_top_k_and_min_score(stub: Stub) -> None:
    everything = (await stub.Rerank(ask())).results
    messages = await played(stub, start(top_k=3, min_score=everything[1].score, return_text=True))
    results = scored(messages)
    assert sorted(results) == [0, 1, 2, 3]
    assert [r.id for r in messages[-1].ranking.results] == [r.id for r in everything[:2]]
    assert {r.id: r.text for r in results.values()} == dict(enumerate(CONTEXTS))


async def test_no_contexts_make_an_empty_ranking(stub: Stub) -> None:
    for messages in ([start([])], [start([]), more(), more()]):
        (only,) = await played(stub, *messages)
        assert only.WhichOneof("event") == "ranking"
        assert len(only.ranking.results) == 0
        assert only.ranking.model == "mini-en"


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("start", []),
        ("start", [more("early")]),
        ("start", [pb.RerankStreamRequest()]),
        ("start", [start(), start()]),
        ("start", [start(), pb.RerankStreamRequest()]),
        ("query", [start(query="")]),
        ("top_k", [start(top_k=0), more("never read")]),
        ("score", [start(score=9)]),
        ("contexts[2].text", [start(["a", "b", ""])]),
        # Ids run on across messages, and so does the path.
        ("contexts[6].text", [start(), more("four", "five", "")]),
        ("contexts", [start(["a"] * 1001)]),
        ("contexts", [start([]), *[more(*["a"] * 500)] * 3]),
        ("contexts[4].text", [start(overflow=pb.OVERFLOW_REJECT, max_tokens=64), more("long " * 100)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_field_is_named(
    sync_stub: rerank_pb2_grpc.RerankServiceStub, field: str, messages: list[pb.RerankStreamRequest]
) -> None:
    refusal = refused_sync(lambda: list(sync_stub.RerankStream(iter(messages))))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.field == field


def test_an_unknown_model_is_not_found(sync_stub: rerank_pb2_grpc.RerankServiceStub) -> None:
    refusal = refused_sync(lambda: list(sync_stub.RerankStream(iter([start(model="nobody")]))))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


async def test_an_error_ends_the_call_at_once(stub: Stub) -> None:
    call = stub.RerankStream()
    await call.write(start())
    await call.write(more(""))
    # The client's side stays open: the refusal does not wait for it.
    refusal = await refused(_rest(call))
    assert refusal.field == "contexts[4].text"


async def _rest(call: Any) -> list[pb.RerankStreamResponse]:
    """What is still to come of a call that was read from: grpcio won't iterate over it any more."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


def test_a_message_over_the_limit_is_resource_exhausted(serve: Serve) -> None:
    server = serve(max_message_bytes=4096, threads=1)
    with grpc.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            list(stub.RerankStream(iter([start(), more("x" * 5000)])))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_a_client_that_leaves_frees_its_place(serve: Serve, way: str) -> None:
    server = serve(threads=1)
    channel = grpc.aio.insecure_channel(server.target)
    stub = rerank_pb2_grpc.RerankServiceStub(channel)
    call = stub.RerankStream(timeout=1.5 if way == "deadline" else None)
    contexts = LONG * 10  # no thread does these in the time
    await call.write(start(contexts))
    await call.read()
    engine = server.reranker.engine
    assert engine.stats()["tickets"] == 1
    if way == "cancel":
        call.cancel()
    await until(lambda: engine.stats()["tickets"] == 0)
    stats = engine.stats()
    assert stats["cancelled"] + stats["expired"] == 1
    assert stats["pairs"] < len(contexts)
    await channel.close()
    # Nothing is left that would hold a stop.
    await until(lambda: server.server.calls == 0 and not server.run(_readers()))


async def _readers() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if "_feed" in str(task.get_coro())]


async def test_a_client_that_does_not_read_loses_nothing(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        call = stub.RerankStream()
        await call.write(start([]))
        for _ in range(20):
            await call.write(more(*CONTEXTS))
        await call.done_writing()
        await until(lambda: server.reranker.engine.stats()["tickets"] == 0)
        messages = [message async for message in call]
    assert sorted(scored(messages)) == list(range(80))
    assert len(messages[-1].ranking.results) == 80


async def test_a_fast_writer_is_held_back_and_not_refused(serve: Serve) -> None:
    server = serve(threads=1, queue_tokens=4000)
    engine = server.reranker.engine
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        call = stub.RerankStream()
        await call.write(start(LONG[:1]))
        writing = asyncio.create_task(_write_all(call, 30))
        seen = 0
        messages: list[pb.RerankStreamResponse] = []
        while (message := await call.read()) is not grpc.aio.EOF:
            assert isinstance(message, pb.RerankStreamResponse)
            messages.append(message)
            waiting = engine.stats()["queue_tokens"]
            seen = max(seen, waiting)
        await writing
    # 601 contexts of more than 100 tokens: no queue of 4000 tokens would let them in at once.
    assert sorted(scored(messages)) == list(range(601))
    assert 0 < seen < 4000
    assert engine.stats()["refused"] == 0
    await until(lambda: engine.stats()["tickets"] == 0)


async def _write_all(call: Any, count: int) -> None:
    for _ in range(count):
        await call.write(more(*LONG[:20]))
    await call.done_writing()


async def test_what_a_stream_asks_back_is_bounded(serve: Serve) -> None:
    server = serve(threads=1, queue_tokens=1000, max_contexts=100_000)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        other = stub.RerankStream()  # alone, a stream may keep what it likes
        await other.write(start(CONTEXTS[:1]))
        await other.read()
        call = stub.RerankStream()
        await call.write(start([], return_text=True))
        writing = asyncio.create_task(_write_all(call, 60))
        refusal = await refused(_rest(call))
        writing.cancel()
        await asyncio.wait([writing])
        other.cancel()
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert "this message's" in refusal.message
    await until(lambda: server.reranker.engine.stats()["tickets"] == 0)


async def test_two_streams_on_one_channel_do_not_mix(stub: Stub) -> None:
    one, two = await asyncio.gather(
        played(stub, start(CONTEXTS[:2]), more(CONTEXTS[2])),
        played(stub, start(CONTEXTS[2:]), more(CONTEXTS[0], CONTEXTS[1])),
    )
    by_text = {CONTEXTS[at]: result.score for at, result in scored(one).items()}
    order = [*CONTEXTS[2:], *CONTEXTS[:2]]
    assert {order[at]: result.score for at, result in scored(two).items()}.items() >= by_text.items()


def test_the_limit_on_a_streams_bytes_counts_all_its_messages(serve: Serve) -> None:
    messages = [start(CONTEXTS[:1]), more("a" * 400), more("b" * 400)]
    sizes = sum(message.ByteSize() for message in messages)
    for limit in (sizes, sizes - 1, messages[0].ByteSize() - 1):
        server = serve(max_stream_bytes=limit, threads=1)
        with grpc.insecure_channel(server.target) as channel:
            stub = rerank_pb2_grpc.RerankServiceStub(channel)
            if limit == sizes:
                assert len(list(stub.RerankStream(iter(messages)))[-1].ranking.results) == 3
                continue
            refusal = refused_sync(lambda: list(stub.RerankStream(iter(messages))))  # noqa: B023 - called here
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.field == "contexts"
            assert f"at most {limit} bytes are taken from one stream" in refusal.message


async def test_what_a_stuck_reader_leaves_is_bounded_by_the_contexts_of_a_request(reranker: Reranker) -> None:
    service = RerankService(
        Catalogue([reranker]), limits(max_contexts=40, max_stream_bytes=1 << 20, max_seconds=PATIENCE)
    )
    read, stuck = 0, asyncio.Event()

    async def requests() -> AsyncIterator[pb.RerankStreamRequest]:
        nonlocal read
        yield start(CONTEXTS[:1])
        await stuck.wait()
        while True:
            read += 1
            yield more("one more")

    events = service.RerankStream(requests(), unhurried())
    first = await anext(events)
    assert first.scored.results
    stuck.set()
    # Nobody asks for more; the writer goes on for ever, and the engine lets go of the stream.
    await until(lambda: read == 40 and reranker.engine.stats()["tickets"] == 0)
    with pytest.raises(InputError, match="at most 40 contexts"):
        _ = [event async for event in events]
