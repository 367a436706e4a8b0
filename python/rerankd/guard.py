"""The layer around every call's handler: who may make it, what its errors become, how many there are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeAlias, cast

import grpc

from rerankd.status import Failure
from rerankd.v1 import rerank_pb2 as pb

Authorize: TypeAlias = "Callable[[str, Iterable[tuple[str, str | bytes]]], None]"
"""Given a call's method and metadata, raises where it must not be made."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_OURS: Final = f"/{pb.DESCRIPTOR.services_by_name['RerankService'].full_name}/"


class Guard(grpc.aio.ServerInterceptor):
    """The layer around the handler of every RPC: whatever is raised below leaves as a status from the table.

    Without it, grpcio sends an exception's text to the caller as UNKNOWN, also that of a message which can't
    be parsed. It counts our calls, too, so that a server that stops can wait for the last of them.

    authorize: given the method and the call's metadata before anything of the call is parsed; what it raises
    is the call's end.
    """

    def __init__(self, authorize: Authorize | None = None) -> None:
        self._authorize = authorize
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._guarded: dict[str, _Handler] = {}

    @property
    def calls(self) -> int:
        """Calls of ours in progress; health and reflection don't count."""
        return self._calls

    async def idle(self) -> None:
        """Returns when no call is in progress."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrap = self._streaming if handler.response_streaming else self._unary
            self._guarded[method] = wrap(method, handler)
        return self._guarded[method]

    def _unary(self, method: str, handler: _Handler) -> _Handler:
        answer = cast("Callable[[Any, _Context], Awaitable[Any]]", handler.unary_unary)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)

        async def guarded(raw: bytes, context: _Context) -> Any:
            with self._counted(method):
                try:
                    self._admit(method, context)
                    # Parsed here: grpcio would call a failure UNKNOWN.
                    return await answer(parse(raw), context)
                except Exception as error:
                    await _abort(context, error, method)

        return grpc.unary_unary_rpc_method_handler(guarded, None, handler.response_serializer)

    def _streaming(self, method: str, handler: _Handler) -> _Handler:
        answers: Any = handler.stream_stream or handler.unary_stream
        parse: Any = None if handler.request_streaming else handler.request_deserializer
        assert inspect.isasyncgenfunction(answers), "interceptors can wrap nothing else"

        async def guarded(asked: Any, context: _Context) -> AsyncIterator[Any]:
            with self._counted(method):
                try:
                    self._admit(method, context)
                    async with aclosing(answers(parse(asked) if parse else asked, context)) as responses:
                        async for response in responses:
                            yield response
                except Exception as error:
                    await _abort(context, error, method)

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                guarded, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(guarded, None, handler.response_serializer)

    def _admit(self, method: str, context: _Context) -> None:
        # Not where the handler is looked up: handlers are kept, and what was decided then would be as well.
        if self._authorize is not None:
            self._authorize(method, context.invocation_metadata() or ())

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        mine = method.startswith(_OURS)
        self._calls += mine
        if self._calls:
            self._idle.clear()
        try:
            yield
        finally:
            self._calls -= mine
            if not self._calls:
                self._idle.set()


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: _Context, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.BaseError):
        raise error  # grpcio's own way to say that the call is over
    failure = Failure.of(error, method)
    await context.abort(_CODES[failure.code], failure.message, failure.to_trailers())
