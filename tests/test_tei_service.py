"""tei.v1 on the gRPC port, as a client of text-embeddings-inference asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from rerankd.ranking import Ranking
from rerankd.reranker import Reranker
from rerankd.tei.v1 import tei_pb2 as tei
from rerankd.tei.v1 import tei_pb2_grpc
from support import CONTEXTS, LONG, QUERY, RunningServer, Serve, refused_sync, until

TOO_LONG = "river " * 600


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield tei_pb2_grpc.RerankStub(channel)


def messages(*texts: str, **options: Any) -> Iterator[tei.RerankStreamRequest]:
    return iter([tei.RerankStreamRequest(query=QUERY, text=text, **options) for text in texts])


def same(response: tei.RerankResponse, ranking: Ranking) -> bool:
    return [(rank.index, rank.score) for rank in response.ranks] == [
        (each.id, each.score) for each in ranking
    ]


def test_the_wire_is_that_of_the_other_server() -> None:
    """Its numbers: what a client made from its own .proto sends is read here, and the reverse."""
    numbers = {
        name: {field.name: field.number for field in tei.DESCRIPTOR.message_types_by_name[name].fields}
        for name in ("RerankRequest", "RerankStreamRequest", "Rank", "RerankResponse", "Metadata")
    }
    assert numbers == {
        "RerankRequest": {"query": 1, "texts": 2, "truncate": 3, "raw_scores": 4, "return_text": 5},
        "RerankStreamRequest": {"query": 1, "text": 2, "truncate": 3, "raw_scores": 4, "return_text": 5},
        "Rank": {"index": 1, "text": 2, "score": 3},
        "RerankResponse": {"ranks": 1, "metadata": 2},
        "Metadata": {
            "compute_chars": 1,
            "compute_tokens": 2,
            "total_time_ns": 3,
            "tokenization_time_ns": 4,
            "queue_time_ns": 5,
            "inference_time_ns": 6,
        },
    }
    methods = {
        f"{service.full_name}/{method.name}"
        for service in tei.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {"tei.v1.Rerank/Rerank", "tei.v1.Rerank/RerankStream", "tei.v1.Info/Info"}


def test_rerank_in_one_message_and_in_many(stub: Any, reranker: Reranker) -> None:
    expected = reranker.rank(QUERY, CONTEXTS)
    whole = stub.Rerank(tei.RerankRequest(query=QUERY, texts=CONTEXTS))
    streamed = stub.RerankStream(messages(*CONTEXTS))
    for response in (whole, streamed):
        assert same(response, expected)
        assert not response.ranks[0].HasField("text")
        assert response.metadata.compute_tokens == expected.usage.tokens
        chars = len(QUERY) * len(CONTEXTS) + sum(map(len, CONTEXTS))
        assert response.metadata.compute_chars == chars
        assert response.metadata.total_time_ns > response.metadata.queue_time_ns


def test_raw_scores_and_texts(stub: Any, reranker: Reranker) -> None:
    expected = reranker.rank(QUERY, CONTEXTS, score="logit")
    asked = {"raw_scores": True, "return_text": True}
    for response in (
        stub.Rerank(tei.RerankRequest(query=QUERY, texts=CONTEXTS, **asked)),
        stub.RerankStream(messages(*CONTEXTS, **asked)),
    ):
        assert same(response, expected)
        assert [rank.text for rank in response.ranks] == [CONTEXTS[rank.index] for rank in response.ranks]


def test_what_is_too_long_is_an_error_unless_it_is_to_be_cut(stub: Any) -> None:
    for call in (
        lambda: stub.Rerank(tei.RerankRequest(query=QUERY, texts=["a", TOO_LONG])),
        lambda: stub.RerankStream(messages("a", TOO_LONG)),
    ):
        refusal = refused_sync(call)
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "texts[1]")
    assert len(stub.Rerank(tei.RerankRequest(query=QUERY, texts=["a", TOO_LONG], truncate=True)).ranks) == 2
    assert len(stub.RerankStream(messages("a", TOO_LONG, truncate=True)).ranks) == 2


def test_refusals_name_the_field(stub: Any) -> None:
    other = iter([tei.RerankStreamRequest(query=query, text="a") for query in ("q", "r")])
    for call, field in (
        (lambda: stub.Rerank(tei.RerankRequest(query="", texts=["a"])), "query"),
        (lambda: stub.Rerank(tei.RerankRequest(query="q", texts=["a", ""])), "texts[1]"),
        (lambda: stub.Rerank(tei.RerankRequest(query="q", texts=["a"] * 1001)), "texts"),
        (lambda: stub.RerankStream(messages("a", "")), "texts[1]"),
        (lambda: stub.RerankStream(messages(*["a"] * 1001)), "texts"),
        (lambda: stub.RerankStream(iter([])), "query"),
        (lambda: stub.RerankStream(other), "query"),
    ):
        refusal = refused_sync(call)
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_no_texts_are_an_empty_answer(stub: Any) -> None:
    assert not stub.Rerank(tei.RerankRequest(query=QUERY)).ranks


def test_what_is_no_message_is_invalid(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for method in ("Rerank/Rerank", "Rerank/RerankStream", "Info/Info"):
            call: Any = channel.stream_unary(f"/tei.v1.{method}")
            refusal = refused_sync(lambda call=call: call(iter([b"\xff\xff"])))  # type: ignore[misc]
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_is_cancelled_frees_its_work(serve: Serve) -> None:
    own = serve(threads=1)

    async def endless() -> AsyncIterator[tei.RerankStreamRequest]:
        while True:
            for text in LONG:
                yield tei.RerankStreamRequest(query=QUERY, text=text)

    async with grpc.aio.insecure_channel(own.target) as channel:
        aio: Any = tei_pb2_grpc.RerankStub(channel)
        call = aio.RerankStream(endless())
        await until(lambda: own.server.streams == 1 and own.reranker.engine.stats()["tickets"] == 1)
        call.cancel()
        await until(lambda: own.server.calls == own.server.streams == 0)
        await until(lambda: own.reranker.engine.stats()["tickets"] == 0)


def test_info(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        told = tei_pb2_grpc.InfoStub(channel).Info(tei.InfoRequest())
    assert (told.model_id, told.model_type) == ("mini-en", tei.MODEL_TYPE_RERANKER)
    assert told.model_sha == server.reranker.revision
    assert told.max_input_length == server.reranker.max_tokens
    assert (told.max_client_batch_size, told.max_concurrent_requests) == (1000, 32)
    assert not told.HasField("docker_label")
