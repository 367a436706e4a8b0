"""The layer around every call's handler: who may make it, what its errors become, how many there are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, aclosing, nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, cast

import grpc

from rerankd.errors import OverloadedError
from rerankd.inflight import InFlight
from rerankd.room import Room, Stay
from rerankd.status import Failure
from rerankd.tei.v1 import tei_pb2 as tei
from rerankd.v1 import rerank_pb2 as pb

Authorize: TypeAlias = "Callable[[str, Iterable[tuple[str, str | bytes]]], None]"
"""Given a call's method and metadata, raises where it must not be made."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_OURS: Final = (
    f"/{pb.DESCRIPTOR.services_by_name['RerankService'].full_name}/",
    f"/{tei.DESCRIPTOR.package}.",
)

_STAY: ContextVar[Stay | None] = ContextVar("stay", default=None)
"""What the call of this task has in the room."""


class Guard(grpc.aio.ServerInterceptor):
    """The layer around the handler of every RPC: whatever is raised below leaves as a status from the table.

    Without it, grpcio sends an exception's text to the caller as UNKNOWN, also that of a message which can't
    be parsed. It counts our calls, too, so that a server that stops can wait for the last of them: in_flight;
    health and reflection don't count.

    room: where the message of a unary call has its bytes, from before it is read until the call is over; with
    it max_message_bytes, the most that one may have. max_streams: streaming calls at a time. None: no limit.
    What is refused for them, or for want of a token, is refused before anything of it is read.
    authorize: given the method and the call's metadata before anything of the call is parsed; what it raises
    is the call's end.
    """

    def __init__(
        self,
        authorize: Authorize | None = None,
        *,
        room: Room | None = None,
        max_message_bytes: int = 0,
        max_streams: int | None = None,
        in_flight: InFlight | None = None,
    ) -> None:
        self._authorize = authorize
        self._room = room
        self._max_message_bytes = max_message_bytes
        self._max_streams = max_streams
        self._streams = 0
        self._in_flight = in_flight or InFlight()
        self._guarded: dict[str, _Handler] = {}

    @property
    def streams(self) -> int:
        """Streaming calls, until the last of each is gone."""
        return self._streams

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
            if handler.request_streaming and not handler.response_streaming:
                wrap = self._gathering
            self._guarded[method] = wrap(method, handler)
        guarded = self._guarded[method]
        try:
            with self._counted(method) as ours:
                if self._authorize is not None:
                    self._authorize(method, handler_call_details.invocation_metadata or ())
                if ours:
                    await self._enter(streaming=guarded.request_streaming or guarded.response_streaming)
        except Exception as error:
            return self._refusing(method, error)
        return guarded

    async def _enter(self, *, streaming: bool) -> None:
        """Has a call take its place, until its task ends: the same task that waits here."""
        task = asyncio.current_task()
        assert task is not None
        if streaming:
            if self._max_streams is not None and self._streams >= self._max_streams:
                raise OverloadedError(f"there are {self._streams} streaming calls already, as many as may be")
            self._streams += 1
            task.add_done_callback(self._end_stream)
        elif self._room is not None:
            stay = await self._room.enter(self._max_message_bytes)
            _STAY.set(stay)
            task.add_done_callback(lambda _: stay.leave())

    def _end_stream(self, _: object) -> None:
        self._streams -= 1

    def _refusing(self, method: str, error: Exception) -> _Handler:
        """A handler that reads nothing. On the wire, who streams and who does not is one."""

        async def refuse(asked: Any, context: _Context) -> AsyncIterator[Any]:
            with self._counted(method):
                await _abort(context, error, method)
            yield  # a generator, as a stream's handler is

        return grpc.stream_stream_rpc_method_handler(refuse, None, None)

    def _unary(self, method: str, handler: _Handler) -> _Handler:
        answer = cast("Callable[[Any, _Context], Awaitable[Any]]", handler.unary_unary)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        counted = self._counted(method)

        async def guarded(raw: bytes, context: _Context) -> Any:
            with counted:
                try:
                    stay = _STAY.get()
                    if stay is not None:
                        # The message, and an answer that may have its texts.
                        stay.keep(2 * len(raw))
                    # Parsed here: grpcio would call a failure UNKNOWN.
                    return await answer(parse(raw), context)
                except Exception as error:
                    await _abort(context, error, method)

        return grpc.unary_unary_rpc_method_handler(guarded, None, handler.response_serializer)

    def _gathering(self, method: str, handler: _Handler) -> _Handler:
        """For a stream that is answered once."""
        answer = cast("Callable[[Any, _Context], Awaitable[Any]]", handler.stream_unary)
        counted = self._counted(method)

        async def guarded(asked: Any, context: _Context) -> Any:
            with counted:
                try:
                    return await answer(asked, context)
                except Exception as error:
                    await _abort(context, error, method)

        return grpc.stream_unary_rpc_method_handler(
            guarded, handler.request_deserializer, handler.response_serializer
        )

    def _streaming(self, method: str, handler: _Handler) -> _Handler:
        answers: Any = handler.stream_stream or handler.unary_stream
        parse: Any = None if handler.request_streaming else handler.request_deserializer
        assert inspect.isasyncgenfunction(answers), "interceptors can wrap nothing else"
        counted = self._counted(method)

        async def guarded(asked: Any, context: _Context) -> AsyncIterator[Any]:
            with counted:
                try:
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

    def _counted(self, method: str) -> AbstractContextManager[bool]:
        """What a call of the method is within; it says whether the method is ours."""
        return self._in_flight if method.startswith(_OURS) else nullcontext(False)


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: _Context, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.BaseError):
        raise error  # grpcio's own way to say that the call is over
    failure = Failure.of(error, method)
    # Its frames have the call's message, several times over; whoever still has the error need not have those.
    error.__traceback__ = None
    await context.abort(_CODES[failure.code], failure.message, failure.to_trailers())
