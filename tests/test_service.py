"""The service over a real channel: what it answers, and every status that it refuses with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc_status import rpc_status
from rerankd import Reranker, errors
from rerankd.service import SERVICE
from rerankd.status import Failure
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import (
    CASE,
    CONTEXTS,
    EMBEDDED,
    LONG,
    PATIENCE,
    QUERY,
    RunningServer,
    Serve,
    Stub,
    ask,
    raw,
    refused,
    refused_sync,
    until,
)

# ---- answers ----------------------------------------------------------------------------------------------


async def test_an_answer_is_the_ranking_in_process(stub: Stub, reranker: Reranker) -> None:
    response = await stub.Rerank(ask(return_text=True))
    ranking = reranker.rank(QUERY, CONTEXTS)
    # Bitwise: a float32 crosses the wire as it is.
    assert [(r.id, r.score) for r in response.results] == [(r.id, r.score) for r in ranking]
    assert [(r.key, r.text) for r in response.results] == [(f"k{r.id}", CONTEXTS[r.id]) for r in ranking]
    assert not any(r.truncated for r in response.results)
    assert response.model == "mini-en"
    assert response.usage == pb.Usage(contexts=4, tokens=sum(CASE["tokens"]), truncated=0)
    assert response.timing.total_us >= response.timing.queue_us
    assert response.timing.compute_us > 0
    assert list(response.unscored) == []


async def test_options_are_heard(stub: Stub, reranker: Reranker) -> None:
    response = await stub.Rerank(ask(top_k=2, score=pb.SCORE_LOGIT, priority=pb.PRIORITY_BATCH))
    assert [r.score for r in response.results] == [
        r.score for r in reranker.rank(QUERY, CONTEXTS, top_k=2, score="logit")
    ]
    assert not response.results[0].HasField("text")
    response = await stub.Rerank(ask(min_score=0.5))
    assert {r.id for r in response.results} == {i for i, logit in enumerate(CASE["logits"]) if logit > 0}
    response = await stub.Rerank(ask(max_tokens=16, overflow=pb.OVERFLOW_TRUNCATE_CONTEXT))
    assert response.usage.truncated == 2
    assert {r.id for r in response.results if r.truncated} == {0, 1}
    assert len((await stub.Rerank(ask(top_k=4_000_000_000))).results) == len(CONTEXTS)


async def test_no_contexts_make_an_empty_answer(stub: Stub) -> None:
    response = await stub.Rerank(ask(contexts=[]))
    assert len(response.results) == 0
    assert response.model == "mini-en"
    assert response.usage == pb.Usage()


async def test_blanks_are_text(stub: Stub) -> None:
    response = await stub.Rerank(ask(" ", [" ", "\n"]))
    assert [r.id for r in response.results] == [0, 1]


async def test_models_are_listed(stub: Stub, server: RunningServer) -> None:
    (model,) = (await stub.ListModels(pb.ListModelsRequest())).models
    engine = server.reranker.engine
    assert (model.name, model.architecture, model.dtype) == ("mini-en", "bert", engine.dtype)
    assert model.device == engine.device
    assert (model.max_tokens, model.max_contexts, model.is_default) == (512, 1000, True)
    assert model.revision == server.reranker.revision != ""


async def test_models_are_found_by_name(serve: Serve, tmp_path: Path) -> None:
    server = serve(model=("mini-en", copy_of_the_embedded(tmp_path, "copy")), threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(model.name, model.is_default) for model in models] == [("mini-en", True), ("copy", False)]
        assert (await stub.Rerank(ask(model="copy"))).model == "copy"
        assert (await stub.Rerank(ask())).model == "mini-en"
        unknown = await refused(stub.Rerank(ask(model="nobody")))
    assert "mini-en, copy" in unknown.message


def copy_of_the_embedded(tmp_path: Path, name: str) -> str:
    copy = tmp_path / name
    copy.mkdir()
    for file in EMBEDDED.iterdir():
        (copy / file.name).symlink_to(file)
    return str(copy)


async def test_models_are_found_by_aliases(serve: Serve, tmp_path: Path) -> None:
    copy = copy_of_the_embedded(tmp_path, "copy")
    hosted = "@cf/baai/bge-reranker-base"
    aliases = (f"{hosted}={copy}", f"small={copy}", "mine=mini-en", "mini-en=mini-en")
    server = serve(model=("mini-en", copy), alias=aliases, threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [list(model.aliases) for model in models] == [["mine"], [hosted, "small"]]
        for alias, name in ((hosted, "copy"), ("small", "copy"), ("mine", "mini-en")):
            assert (await stub.Rerank(ask(model=alias))).model == name


def test_an_alias_is_no_other_models_name(serve: Serve, tmp_path: Path) -> None:
    copy = copy_of_the_embedded(tmp_path, "copy")
    with pytest.raises(errors.InputError, match=r"^alias: 'copy' is another model's own name"):
        serve(model=("mini-en", copy), alias=("copy=mini-en",), threads=1)
    with pytest.raises(
        errors.InputError, match=r"^alias: 'x' is to mean 'y', which is not served; models: mini-en$"
    ):
        serve(alias=("x=y",), threads=1)


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("query", ask(query="")),
        ("query", ask(query="", contexts=[])),
        ("query", pb.RerankRequest()),
        ("contexts[3].text", ask(contexts=["a", "b", "c", ""])),
        ("top_k", ask(top_k=0)),
        ("top_k", ask(top_k=0, contexts=[])),
        ("min_score", ask(min_score=float("nan"))),
        ("max_tokens", ask(max_tokens=0)),
        ("max_tokens", ask(max_tokens=513)),
        ("budget_ms", ask(budget_ms=0)),
        ("score", ask(score=7)),
        ("overflow", ask(overflow=-1)),
        ("priority", ask(priority=99)),
        ("contexts", ask(contexts=["a"] * 1001)),
        ("contexts[0].text", ask(overflow=pb.OVERFLOW_REJECT, max_tokens=16)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_field_is_named(stub: Stub, field: str, request_: pb.RerankRequest) -> None:
    refusal = await refused(stub.Rerank(request_))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.info.reason == "INVALID_FIELD"
    assert refusal.field == field


async def test_the_limit_on_contexts_is_told(serve: Serve) -> None:
    server = serve(max_contexts=3, threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        refusal = await refused(stub.Rerank(ask()))
        assert (await stub.ListModels(pb.ListModelsRequest())).models[0].max_contexts == 3
        assert len((await stub.Rerank(ask(contexts=CONTEXTS[:3]))).results) == 3
    assert refusal.message == "contexts: at most 3 contexts are ranked per request, and this one has 4"


@pytest.mark.parametrize("name", ["nobody", "\N{PILE OF POO}" * 5000])
async def test_an_unknown_model_is_not_found(stub: Stub, name: str) -> None:
    refusal = await refused(stub.Rerank(ask(model=name)))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert refusal.info.reason == "UNKNOWN_MODEL"
    assert refusal.message.endswith("served: mini-en")


async def test_a_message_over_the_limit_is_resource_exhausted(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Rerank(ask(contexts=["x" * (20 << 20)]))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(4 << 20) in (error.value.details() or "")
    assert len((await stub.Rerank(ask())).results) == 4


async def test_an_answer_over_the_limit_is_resource_exhausted(serve: Serve) -> None:
    server = serve(max_message_bytes=4096, threads=1)
    request = pb.RerankRequest(query="q", contexts=[pb.Context(text="a" * 40)] * 90, return_text=True)
    assert request.ByteSize() < 4096
    async with grpc.aio.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await rerank_pb2_grpc.RerankServiceStub(channel).Rerank(request)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


GARBAGE = (b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x12\x05\x0a")  # no tag; no UTF-8; cut short


@pytest.mark.parametrize(
    ("method", "garbage"),
    [
        *((method, garbage) for method in ("Rerank", "RerankStream", "RerankBatch") for garbage in GARBAGE),
        ("ListModels", GARBAGE[0]),
        ("ListModels", GARBAGE[2]),
    ],
)
def test_what_is_no_message_is_invalid(server: RunningServer, method: str, garbage: bytes) -> None:
    with grpc.insecure_channel(server.target) as channel:
        refusal = refused_sync(lambda: raw(channel, method)(garbage))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.info.reason == "MALFORMED_MESSAGE"


async def test_a_full_queue_is_unavailable_with_a_time_to_retry(serve: Serve) -> None:
    server = serve(queue_tokens=100, threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        first = stub.Rerank(ask(contexts=LONG))
        await until(lambda: server.reranker.engine.stats()["tickets"] == 1)
        refusal = await refused(stub.Rerank(ask(contexts=LONG)))
        first.cancel()
        # A cancelled call's place is free again.
        await until(lambda: server.reranker.engine.stats()["tickets"] == 0)
        assert len((await stub.Rerank(ask())).results) == 4
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.info.reason == "OVERLOADED"
    assert int(refusal.trailers["grpc-retry-pushback-ms"]) == refusal.retry.retry_delay.ToMilliseconds() > 0


async def test_the_servers_own_deadline_ends_what_its_caller_would_wait_for(serve: Serve) -> None:
    server = serve(threads=1, max_deadline_seconds=0.1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        for timeout in (None, 2 * PATIENCE):
            refusal = await refused(stub.Rerank(ask(contexts=LONG * 3), timeout=timeout))
            assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert refusal.info.reason == "DEADLINE_EXCEEDED"
        # A stream is one request: also one whose contexts are all scored, and which nobody closes.
        stream = stub.RerankStream()
        await stream.write(pb.RerankStreamRequest(start=ask()))
        refusal = await refused(_read_all(stream))
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        # Of a batch, each request is one.
        batch = stub.RerankBatch()
        for request_id in ("a", "b"):
            await batch.write(pb.RerankBatchRequest(request_id=request_id, request=ask(contexts=LONG * 3)))
            answer = await batch.read()
            assert isinstance(answer, pb.RerankBatchResponse)
            assert (answer.request_id, answer.error.reason) == (request_id, "DEADLINE_EXCEEDED")
        await batch.done_writing()
        assert await batch.read() is grpc.aio.EOF
        await until(lambda: server.reranker.engine.stats()["tickets"] == 0)


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_deadline_ends_the_work(serve: Serve) -> None:
    server = serve(threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Rerank(ask(contexts=LONG * 3), timeout=0.1)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The engine keeps the deadline itself, or hears from gRPC that the caller has gone.
        await until(lambda: server.server.calls == 0)
        stats = server.reranker.engine.stats()
        assert stats["tickets"] == stats["queue_tokens"] == 0
        assert stats["pairs"] < len(LONG * 3)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.InputError("top_k", "must be at least 1"), code_pb2.INVALID_ARGUMENT, "INVALID_FIELD"),
        (DecodeError("truncated"), code_pb2.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
        (errors.UnknownModelError("no such"), code_pb2.NOT_FOUND, "UNKNOWN_MODEL"),
        (errors.OverloadedError("full", 250), code_pb2.UNAVAILABLE, "OVERLOADED"),
        (errors.DeadlineError("late"), code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (errors.AuthError("no token"), code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (errors.InternalError("secret"), code_pb2.INTERNAL, "INTERNAL"),
        (errors.DeviceError("secret"), code_pb2.INTERNAL, "INTERNAL"),
        (errors.LostError("the GPU is lost"), code_pb2.UNAVAILABLE, "DEVICE_LOST"),
        (errors.ModelError("secret"), code_pb2.INTERNAL, "INTERNAL"),
        (ValueError("secret"), code_pb2.INTERNAL, "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_table(error: Exception, code: int, reason: str) -> None:
    failure = Failure.of(error, "a test")
    assert (failure.code, failure.reason) == (code, reason)
    assert "secret" not in str(failure)
    assert (failure.correlation_id != "") == (code == code_pb2.INTERNAL)
    assert failure.to_status().code == failure.to_error().code == code
    # The official reader of details agrees.
    assert rpc_status.to_status(failure.to_status()).details == failure.message


def test_a_long_message_fits_the_trailers() -> None:
    failure = Failure.of(errors.InputError("query", "long" * 10_000), "a test")
    assert len(failure.to_status().SerializeToString()) * 4 / 3 + len(failure.message) < 8192


def test_an_unknown_method_is_unimplemented(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for method in (f"/{SERVICE}/Nothing", "/other.Service/Rerank"):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as error:
                call(b"")
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_calls_at_once_and_some_given_up(serve: Serve) -> None:
    server = serve(threads=2)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        kept = [stub.Rerank(ask(contexts=[CONTEXTS[at % 4]] * 2)) for at in range(24)]
        left = [stub.Rerank(ask(contexts=LONG)) for _ in range(24)]
        await until(lambda: server.reranker.engine.stats()["tickets"] > 0)
        for call in left:
            call.cancel()
        responses = await asyncio.gather(*kept)
        await until(lambda: server.reranker.engine.stats()["tickets"] == 0)
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 30)
    assert [len(response.results) for response in responses] == [2] * 24
