"""Observer: the one interceptor that watches calls, so that nothing else need know that they are watched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
from google.rpc import code_pb2

from rerankd.tei.v1 import tei_pb2 as tei
from rerankd.v1 import rerank_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["RerankService"]

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

Outcome: TypeAlias = "pb.RerankResponse | pb.Error | None"
"""What a message that leaves tells of a request: its answer, a batch item's error, or nothing yet."""
Metadata: TypeAlias = "Callable[[], Iterable[tuple[str, str | bytes]]]"
"""Gives the caller's metadata; who does not need them does not pay for them."""


@dataclass(frozen=True)
class Method:
    """A method of ours."""

    service: str
    name: str
    kind: str
    """unary, client_stream, server_stream or bidi_stream."""


_SERVICES: Final = (_SERVICE, *tei.DESCRIPTOR.services_by_name.values())
METHODS: Final = tuple(
    Method(
        service.full_name,
        method.name,
        {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }[method.client_streaming, method.server_streaming],
    )
    for service in _SERVICES
    for method in service.methods
)
"""All methods that gRPC has of us: those of RerankService first."""
HTTP: Final = "http"
"""The service that HTTP's requests are counted as."""
HTTP_RERANK: Final = Method(HTTP, "Rerank", "unary")
"""POST /rerank, by any of its paths, streamed or not."""
AI_RUN: Final = Method(HTTP, "AiRun", "unary")
"""POST on Cloudflare's route."""
ALL_METHODS: Final = (*METHODS, HTTP_RERANK, AI_RUN)
"""All that watchers are told of."""
_PATHS: Final = {f"/{method.service}/{method.name}": method for method in METHODS}


class Call(Protocol):
    """One call, as a watcher follows it. Nothing here blocks or raises."""

    def received(self) -> None:
        """A message has come in."""

    def sent(self, outcome: Outcome) -> None:
        """A message is about to leave."""

    def ended(self, code: int) -> None:
        """The call is over, with that google.rpc.Code; said once, and last."""


class Watcher(Protocol):
    """Who wants to know of calls."""

    def begin(self, method: Method, metadata: Metadata) -> Call:
        """A call has begun; runs in the task that will handle it."""


class Observer(grpc.aio.ServerInterceptor):
    """Tells watchers of every call that ranks, or asks what can, and of no other.

    It stands before Guard, which turns what is raised into a status: so it sees the code that the caller
    gets, also where the message could not be parsed. Health and reflection are left alone: probes every few
    seconds would drown the calls that people care about.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)
        self._observed: dict[Method, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        method = _PATHS.get(handler_call_details.method)
        if handler is None or method is None:
            return handler
        # A later interceptor may answer with another handler than the last time, as for a caller it refuses.
        inner, observed = self._observed.get(method, (None, None))
        if inner is not handler or observed is None:
            observed = (self._streaming if handler.response_streaming else self._unary)(method, handler)
            self._observed[method] = (handler, observed)
        return observed

    def _begin(self, method: Method, context: _Context) -> list[Call]:
        metadata = cast("Metadata", context.invocation_metadata)
        return [watcher.begin(method, metadata) for watcher in self._watchers]

    def _unary(self, method: Method, handler: _Handler) -> _Handler:
        answer = cast(
            "Callable[[Any, _Context], Awaitable[Any]]", handler.unary_unary or handler.stream_unary
        )

        async def observed(request: Any, context: _Context) -> Any:
            calls = self._begin(method, context)
            if handler.request_streaming:
                request = _Received(request, calls)
            else:
                for call in calls:
                    call.received()
            try:
                response = await answer(request, context)
            except BaseException as error:
                _end(calls, context, error)
                raise
            outcome = _outcome(response)
            for call in calls:
                call.sent(outcome)
            _end(calls, context, None)
            return response

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(observed, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, method: Method, handler: _Handler) -> _Handler:
        answers: Any = handler.stream_stream or handler.unary_stream

        async def observed(asked: Any, context: _Context) -> AsyncIterator[Any]:
            calls = self._begin(method, context)
            if handler.request_streaming:
                asked = _Received(asked, calls)
            else:
                for call in calls:
                    call.received()
            try:
                async with aclosing(answers(asked, context)) as responses:
                    async for response in responses:
                        outcome = _outcome(response)
                        for call in calls:
                            call.sent(outcome)
                        yield response
            except BaseException as error:
                _end(calls, context, error)
                raise
            _end(calls, context, None)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(observed, handler.request_deserializer, handler.response_serializer)


class _Received:
    """A call's requests, told of as they are read."""

    def __init__(self, requests: AsyncIterator[Any], calls: list[Call]) -> None:
        self._requests = requests
        self._reading: AsyncIterator[Any] | None = None
        self._calls = calls

    def __aiter__(self) -> _Received:
        return self

    async def __anext__(self) -> Any:
        if self._reading is None:
            # Not before: grpcio's begins to wait there, and complains where a refused call is never read.
            self._reading = aiter(self._requests)
        request = await anext(self._reading)
        for call in self._calls:
            call.received()
        return request


def _outcome(message: Any) -> Outcome:
    if isinstance(message, pb.RerankResponse):
        return message
    if isinstance(message, pb.RerankStreamResponse):
        return message.ranking if message.HasField("ranking") else None
    if isinstance(message, pb.RerankBatchResponse):
        return message.response if message.HasField("response") else message.error
    if isinstance(message, tei.RerankResponse):
        return _of_tei(message)
    return None


def _of_tei(message: tei.RerankResponse) -> pb.RerankResponse:
    """What watchers want to know of it."""
    told = message.metadata
    return pb.RerankResponse(
        usage=pb.Usage(contexts=len(message.ranks), tokens=told.compute_tokens),
        timing=pb.Timing(
            queue_us=told.queue_time_ns // 1000,
            tokenize_us=told.tokenization_time_ns // 1000,
            compute_us=told.inference_time_ns // 1000,
            total_us=told.total_time_ns // 1000,
        ),
    )


def _end(calls: list[Call], context: _Context, error: BaseException | None) -> None:
    code = _code(context, error)
    for call in calls:
        call.ended(code)


def _code(context: _Context, error: BaseException | None) -> int:
    """The status that the caller gets."""
    given: Any = context.code() or code_pb2.OK  # a number, or an enumerated code, as it was set
    code: int = given.value[0] if isinstance(given, grpc.StatusCode) else given
    if error is None or code != code_pb2.OK:
        return code
    if isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError):
        return int(code_pb2.UNKNOWN)
    # The task was cancelled, or its generator closed: by the caller, by the deadline, or by a stop.
    left = cast("float | None", context.time_remaining())
    return int(code_pb2.DEADLINE_EXCEEDED if left is not None and left <= 0 else code_pb2.CANCELLED)
