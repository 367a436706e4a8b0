"""Traces: a span for every call that the caller, or chance, has sampled, sent to an OpenTelemetry collector.

Imported only where an endpoint is set; it needs the extra `traces`. No span holds what a caller wrote.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from google.rpc import code_pb2
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rerankd._core import __version__
from rerankd.observe import HTTP, Metadata, Method, Outcome
from rerankd.status import TRACE_ID
from rerankd.v1 import rerank_pb2 as pb

ITEMS: Final = 64
"""Requests of one RerankBatch call that get spans of their own: a long one must not drown its trace."""

_PATIENCE: Final = 2.0
"""Seconds for the last spans to leave: a collector that is away must not hold the server's stop."""

_HEADERS: Final = frozenset(TraceContextTextMapPropagator().fields)

# The server's own fault, as OpenTelemetry's conventions have it; any other error is the caller's.
_FAULTS: Final = frozenset(
    {
        code_pb2.UNKNOWN,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.UNIMPLEMENTED,
        code_pb2.INTERNAL,
        code_pb2.UNAVAILABLE,
        code_pb2.DATA_LOSS,
    }
)


class Traces:
    """A Watcher of observe.py that makes spans of calls.

    endpoint: http://HOST:PORT or https://HOST:PORT of a collector that takes OTLP over gRPC.
    ratio: the part of the calls to sample whose caller has not decided already, from 0 to 1.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        ours = Resource.create({"service.name": "rerankd", "service.version": __version__})
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_PATIENCE
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=ours.merge(OTELResourceDetector().detect()),  # the operator's own names win
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("rerankd", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: Method, metadata: Metadata) -> _Call:
        carrier = {name: value for name, value in metadata() if name in _HEADERS}
        span = self._tracer.start_span(
            f"{method.service}/{method.name}",
            self._propagator.extract(carrier, Context()),
            SpanKind.SERVER,
            {"http.request.method": "POST"}
            if method.service == HTTP
            else {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name},
        )
        # Never reset: the call has a task, and so a context, of its own.
        TRACE_ID.set(format_trace_id(span.get_span_context().trace_id))
        if not span.is_recording():
            return _UNSAMPLED
        return _Sampled(self._tracer, span, batch=method.name == "RerankBatch")

    def close(self) -> None:
        """Sends what there is, for a few seconds at most; blocks meanwhile."""
        give_up = threading.Timer(_PATIENCE, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()


class _Call:
    """A call that is not sampled. A Call of observe.py."""

    def received(self) -> None:
        pass

    def sent(self, outcome: Outcome) -> None:
        pass

    def ended(self, code: int) -> None:
        pass


_UNSAMPLED: Final = _Call()


class _Sampled(_Call):
    """A call, and its span."""

    def __init__(self, tracer: Tracer, span: Span, batch: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._batch = batch
        self._items = self._contexts = self._tokens = 0
        self._model = ""

    def sent(self, outcome: Outcome) -> None:
        if outcome is None:
            return
        self._items += 1
        if not isinstance(outcome, pb.RerankResponse):
            return
        self._model = outcome.model
        self._contexts += outcome.usage.contexts
        self._tokens += outcome.usage.tokens
        if not outcome.usage.contexts:
            return  # nothing was computed
        now = time.time_ns()
        if not self._batch:
            self._stages(self._span, outcome.timing, now)
        elif self._items <= ITEMS:
            item = self._tracer.start_span(
                "item",
                set_span_in_context(self._span, Context()),
                attributes=_attributes(outcome.model, outcome.usage.contexts, outcome.usage.tokens),
                start_time=now - outcome.timing.total_us * 1000,
            )
            self._stages(item, outcome.timing, now)
            item.end(now)

    def ended(self, code: int) -> None:
        span = self._span
        span.set_attribute("rpc.grpc.status_code", code)
        if self._model:
            span.set_attributes(_attributes(self._model, self._contexts, self._tokens))
        if self._batch:
            span.set_attribute("rerankd.items", self._items)
        if code in _FAULTS:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _stages(self, parent: Span, timing: pb.Timing, end: int) -> None:
        """A span for each stage that the answer has a time for.

        Tokenizing and computing are summed over the threads, and can so be longer than the request took: a
        span is cut to lie within it, and the sum is told beside it. end: nanoseconds since the epoch.
        """
        begin = end - timing.total_us * 1000
        queued = begin + timing.queue_us * 1000
        context = set_span_in_context(parent, Context())
        for name, busy_us, start, stop in (
            ("queue", timing.queue_us, begin, queued),
            ("tokenize", timing.tokenize_us, queued, queued + timing.tokenize_us * 1000),
            ("compute", timing.compute_us, end - timing.compute_us * 1000, end),
        ):
            stage = self._tracer.start_span(
                name,
                context,
                attributes={"rerankd.busy_us": busy_us},
                start_time=max(begin, min(start, end)),
            )
            stage.end(min(stop, end))


def _attributes(model: str, contexts: int, tokens: int) -> dict[str, str | int]:
    return {"rerankd.model": model, "rerankd.contexts": contexts, "rerankd.tokens": tokens}
