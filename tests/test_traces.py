"""Traces: what a collector receives of real calls. The collector is a gRPC server of the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import code_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rerankd.server import Server
from rerankd.settings import Settings
from rerankd.traces import ITEMS
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, LOCAL, PATIENCE, QUERY, Stub, ask, refused, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVICE = "rerankd.v1.RerankService"


def caller(sampled: bool) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{TRACE}-{PARENT}-0{int(sampled)}"), ("tracestate", "other=1"))


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.raw = b""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the proto's name
        self.raw += request.SerializeToString()
        for group in request.resource_spans:
            self.resource = {each.key: each.value.string_value for each in group.resource.attributes}
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def only(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def under(self, parent: Span) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


class Traced:
    """A server that sends traces, its collector, and a client."""

    def __init__(self, server: Server, stub: Stub, collector: Collector) -> None:
        self.server = server
        self.stub = stub
        self.collector = collector

    async def flush(self) -> Collector:
        """Stops the server, which sends what there is."""
        await self.server.stop()
        return self.collector


@pytest.fixture
async def traced(request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    collector, listener = Collector(), grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    await listener.start()
    changes = {"otlp_endpoint": f"http://127.0.0.1:{port}", "threads": 1, **getattr(request, "param", {})}
    server = Server(Settings(**{**LOCAL, **changes}))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Traced(server, rerank_pb2_grpc.RerankServiceStub(channel), collector)
    await server.stop()
    await listener.stop(0)


async def test_a_call_and_its_stages(traced: Traced) -> None:
    answer = await traced.stub.Rerank(ask(), metadata=caller(sampled=True))
    collector = await traced.flush()
    span = collector.only(f"{SERVICE}/Rerank")
    assert span.kind == Span.SPAN_KIND_SERVER
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "other=1"
    assert attributes(span) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "Rerank",
        "rpc.grpc.status_code": code_pb2.OK,
        "rerankd.model": "mini-en",
        "rerankd.contexts": len(CONTEXTS),
        "rerankd.tokens": answer.usage.tokens,
    }
    stages = collector.under(span)
    timing = answer.timing
    told = {name: attributes(stage)["rerankd.busy_us"] for name, stage in stages.items()}
    assert told == {"queue": timing.queue_us, "tokenize": timing.tokenize_us, "compute": timing.compute_us}
    begin = min(stage.start_time_unix_nano for stage in stages.values())
    end = max(stage.end_time_unix_nano for stage in stages.values())
    assert end - begin == timing.total_us * 1000
    for stage in stages.values():
        length = stage.end_time_unix_nano - stage.start_time_unix_nano
        assert 0 <= length <= attributes(stage)["rerankd.busy_us"] * 1000  # type: ignore[operator]
    assert collector.resource["service.name"] == "rerankd"


async def test_a_request_over_http_is_part_of_its_callers_trace(traced: Traced) -> None:
    url = f"http://127.0.0.1:{traced.server.http_port}/rerank"
    async with httpx.AsyncClient(timeout=PATIENCE) as web:
        body = {"query": QUERY, "documents": CONTEXTS}
        answer = (await web.post(url, json=body, headers=dict(caller(sampled=True)))).json()
    collector = await traced.flush()
    span = collector.only("http/Rerank")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(span) == {
        "http.request.method": "POST",
        "rpc.grpc.status_code": code_pb2.OK,
        "rerankd.model": "mini-en",
        "rerankd.contexts": len(CONTEXTS),
        "rerankd.tokens": answer["usage"]["total_tokens"],
    }
    assert collector.under(span).keys() == {"queue", "tokenize", "compute"}


async def test_who_decides_on_sampling(traced: Traced) -> None:
    """The caller, where it has a trace; else the ratio, which is 1 unless it is set."""
    await traced.stub.Rerank(ask(), metadata=caller(sampled=False))
    await traced.stub.Rerank(ask())
    await traced.stub.Rerank(ask(), metadata=(("traceparent", "00-nonsense"),))
    collector = await traced.flush()
    spans = collector.named(f"{SERVICE}/Rerank")
    assert len(spans) == 2
    assert all(span.parent_span_id == b"" and span.trace_id.hex() != TRACE for span in spans)


@pytest.mark.parametrize("traced", [{"trace_ratio": 0.0}], indirect=True)
async def test_a_caller_that_samples_beats_a_ratio_of_0(traced: Traced) -> None:
    await traced.stub.Rerank(ask())
    await traced.stub.Rerank(ask(), metadata=caller(sampled=True))
    collector = await traced.flush()
    assert collector.only(f"{SERVICE}/Rerank").trace_id.hex() == TRACE


async def test_a_refusal_is_no_fault_and_overload_is(traced: Traced) -> None:
    await refused(traced.stub.Rerank(ask(query="")))
    traced.server.rerankers[0].drain()
    await refused(traced.stub.Rerank(ask()))
    await until(lambda: not traced.server.calls)
    collector = await traced.flush()
    told = {attributes(span)["rpc.grpc.status_code"]: span.status for span in collector.spans}
    assert told.keys() == {code_pb2.INVALID_ARGUMENT, code_pb2.UNAVAILABLE}
    assert told[code_pb2.INVALID_ARGUMENT].code == told[code_pb2.INVALID_ARGUMENT].STATUS_CODE_UNSET
    assert told[code_pb2.UNAVAILABLE].code == told[code_pb2.UNAVAILABLE].STATUS_CODE_ERROR
    assert not told[code_pb2.UNAVAILABLE].message


async def test_a_stream_has_the_stages_of_its_ranking(traced: Traced) -> None:
    call = traced.stub.RerankStream()
    await call.write(pb.RerankStreamRequest(start=ask()))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass
    collector = await traced.flush()
    span = collector.only(f"{SERVICE}/RerankStream")
    assert collector.under(span).keys() == {"queue", "tokenize", "compute"}
    assert attributes(span)["rerankd.contexts"] == len(CONTEXTS)


async def test_a_batch_has_a_span_for_each_of_its_first_items(traced: Traced) -> None:
    call = traced.stub.RerankBatch()
    count = ITEMS + 2
    for number in range(count):
        await call.write(pb.RerankBatchRequest(request_id=str(number), request=ask(contexts=CONTEXTS[:1])))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass
    collector = await traced.flush()
    span = collector.only(f"{SERVICE}/RerankBatch")
    assert attributes(span)["rerankd.items"] == attributes(span)["rerankd.contexts"] == count
    items = collector.named("item")
    assert len(items) == ITEMS
    assert all(item.parent_span_id == span.span_id for item in items)
    assert all(collector.under(item).keys() == {"queue", "tokenize", "compute"} for item in items)
    assert len({span.trace_id for span in collector.spans}) == 1


async def test_nothing_that_a_caller_writes_is_sent(traced: Traced) -> None:
    request = pb.RerankRequest(query="hush", contexts=[pb.Context(text="hush", key="hush")], return_text=True)
    await traced.stub.Rerank(request, metadata=(("authorization", "Bearer hush"), *caller(sampled=True)))
    await refused(traced.stub.Rerank(ask(model="hush")))
    call = traced.stub.RerankBatch()
    await call.write(pb.RerankBatchRequest(request_id="hush", request=request))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass
    collector = await traced.flush()
    assert len(collector.spans) >= 3
    assert b"hush" not in collector.raw


async def test_the_log_of_a_fault_names_the_trace(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(traced.server.rerankers[0], "answer", fail)
    with caplog.at_level(logging.ERROR, "rerankd"):
        refusal = await refused(traced.stub.Rerank(ask(), metadata=caller(sampled=False)))
    assert refusal.code is grpc.StatusCode.INTERNAL
    (record,) = (each for each in caplog.records if "internal error" in each.message)
    assert refusal.info.metadata["correlation_id"] in record.message
    assert record.message.endswith(f"trace id {TRACE}")
    assert TRACE not in refusal.message


async def test_a_collector_that_is_away_holds_up_nothing() -> None:
    with_nobody = {"otlp_endpoint": "http://127.0.0.1:9", "threads": 1}
    server = Server(Settings(**{**LOCAL, **with_nobody}))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Stub = rerank_pb2_grpc.RerankServiceStub(channel)
        assert len((await stub.Rerank(ask())).results) == len(CONTEXTS)
    await asyncio.wait_for(server.stop(), 20)
