"""Client and AsyncClient: a rerankd server, asked as a Reranker in this process is.

Both ship the service config that makes a rolling restart lose nothing: calls go round all addresses of the
target, leave out a server whose health says NOT_SERVING, and are tried again where a server refused them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from rerankd import outgoing, wire
from rerankd.errors import RerankdError
from rerankd.ranking import Options, Passages, Ranking
from rerankd.streams import AsyncClientStream, ClientStream
from rerankd.target import SERVICE_CONFIG, Target
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1.rerank_pb2_grpc import RerankServiceStub
from rerankd.wire import RankRequest, ServedModel

if TYPE_CHECKING:
    from rerankd.reranker import Context
    from rerankd.v1.rerank_pb2_grpc import RerankServiceAsyncStub

__all__ = [
    "SERVICE_CONFIG",
    "AsyncClient",
    "AsyncClientStream",
    "Client",
    "ClientStream",
    "RankRequest",
    "ServedModel",
]

_T = TypeVar("_T")


class Client(Target):
    """A server, asked from any thread. Nothing is connected before the first call; `close`, or leaving it as
    a context manager, ends the connections.

    target: "host:port", or any name that gRPC resolves ("dns:///rerankd:50051", "unix:/run/rerankd.sock").
    tls: speak TLS, by the authorities that gRPC knows of itself. `ca`, a file in PEM of those to trust
    instead, says so too, and so do `cert` and `key`, files in PEM for a server that wants to know us.
    token: a bearer token, or what gives the one of the day, asked before every call.
    model: a served name, for calls that give none; "" for the server's default.
    timeout: seconds, for `rank` and `list_models` where they give none; None: no limit. Streams have only
    their own.
    max_message_bytes: of one message, sent or received. options: further channel options, as gRPC has them.

    Raises InputError for a file that can't be read or used.
    """

    def _open(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._target, self._channel_options)
        else:
            self._channel = grpc.secure_channel(self._target, self._credentials, self._channel_options)
        self._stub = RerankServiceStub(self._channel)

    def rank(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
        model: str | None = None,
    ) -> Ranking:
        """Ranks contexts by relevance to the query, best first: as Reranker.rank, by the server's `model`.

        timeout: seconds for the whole call, its waiting and any second try included.

        Raises InputError (a ValueError; `field` names the argument), UnknownModelError, OverloadedError,
        DeadlineError, AuthError, UnreachableError, InternalError; gRPC's own error is the cause.
        """
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        message = wire.request(query, Passages.read(contexts), options, self._named(model))
        try:
            return wire.ranking(self._stub.Rerank(message, **self._call(self._seconds(timeout))))
        except grpc.RpcError as error:
            raise self._error(error) from error

    def rank_stream(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
        model: str | None = None,
    ) -> ClientStream:
        """As `rank`, but scores arrive as they are computed, and contexts leave as they come.

        An iterator of contexts is read on a thread of gRPC's, each context sent when it is there; a list is
        sent in chunks. What the iterator raises ends the call and is raised here.
        """
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        sent = outgoing.Feed(outgoing.stream(query, contexts, options, self._named(model)))
        call: Any = self._stub.RerankStream(sent, **self._call(timeout))
        sent.attach(call)
        return ClientStream(self._answers(call, sent), call.cancel)

    def rank_batch(
        self, requests: Iterable[RankRequest], *, timeout: float | None = None
    ) -> Iterator[tuple[str, Ranking | RerankdError]]:
        """Asks many queries on one call: yields (request_id, its ranking or its error) as each is ready.

        requests: mappings with the arguments of `rank`, and `request_id` (without one: its index, as "0").
        They are read, on a thread of gRPC's, from when the first answer is asked for. One bad request yields
        its error and no more; what ends the call as a whole is raised, as by `rank`.
        """
        rejected: deque[tuple[str, RerankdError]] = deque()
        numbered = ((at, item) for at, item in enumerate(requests))
        messages = (outgoing.batched(at, item, self._model, rejected) for at, item in numbered)
        sent = outgoing.Feed(message for message in messages if message is not None)
        call: Any = self._stub.RerankBatch(sent, **self._call(timeout))
        sent.attach(call)
        try:
            for answer in self._answers(call, sent):
                yield from _drained(rejected)
                yield answer.request_id, wire.outcome(answer)
            yield from _drained(rejected)
        finally:
            call.cancel()

    def list_models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """What is served, and its limits. Raises as `rank`."""
        try:
            return wire.models(
                self._stub.ListModels(pb.ListModelsRequest(), **self._call(self._seconds(timeout)))
            )
        except grpc.RpcError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Ends the connections; calls in flight are cancelled."""
        self._channel.close()

    def _answers(self, call: Iterator[_T], sent: outgoing.Feed[Any]) -> Iterator[_T]:
        try:
            yield from call
        except grpc.RpcError as error:
            sent.check()
            raise self._error(error) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Writer:
    """A call to write to until the server ends it. Why it did is for the call's reader to see."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def begin(self) -> None:
        with _until_ended():
            await self._call.wait_for_connection()

    async def write(self, message: pb.RerankStreamRequest | pb.RerankBatchRequest) -> None:
        # Where the server ends a call with an error while it is written to, grpc.aio's own `write` puts
        # INTERNAL in place of the server's status (seen in 1.85). What it writes with does not.
        raw = getattr(self._call, "_cython_call", None)
        with _until_ended():
            if raw is None:
                await self._call.write(message)
            else:
                await raw.send_serialized_message(message.SerializeToString())

    async def end(self) -> None:
        with _until_ended():
            await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()


@contextmanager
def _until_ended() -> Iterator[None]:
    try:
        yield
    except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise outgoing.CallEndedError from error


class AsyncClient(Target):
    """As Client, on an event loop: that which runs at its first call. Contexts and requests may come from
    asynchronous iterables too. A cancelled task cancels its call."""

    def _open(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._made_stub: RerankServiceAsyncStub | None = None

    async def rank(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
        model: str | None = None,
    ) -> Ranking:
        """As Client.rank."""
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        message = wire.request(query, Passages.read(contexts), options, self._named(model))
        try:
            return wire.ranking(await self._stub.Rerank(message, **self._call(self._seconds(timeout))))
        except grpc.RpcError as error:
            raise self._error(error) from error

    def rank_stream(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context] | AsyncIterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
        model: str | None = None,
    ) -> AsyncClientStream:
        """As Client.rank_stream; an iterator of contexts is read on the loop."""
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        messages = outgoing.async_stream(query, contexts, options, self._named(model))
        call: Any = self._stub.RerankStream(**self._call(timeout))
        sent = outgoing.AsyncFeed(_Writer(call), messages)
        return AsyncClientStream(self._answers(call, sent), sent.cancel)

    async def rank_batch(
        self,
        requests: Iterable[RankRequest] | AsyncIterable[RankRequest],
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[tuple[str, Ranking | RerankdError]]:
        """As Client.rank_batch; requests are read on the loop."""
        rejected: deque[tuple[str, RerankdError]] = deque()

        async def messages() -> AsyncIterator[pb.RerankBatchRequest]:
            at = 0
            async for item in outgoing.each(requests):
                message = outgoing.batched(at, item, self._model, rejected)
                at += 1
                if message is not None:
                    yield message

        call: Any = self._stub.RerankBatch(**self._call(timeout))
        sent = outgoing.AsyncFeed(_Writer(call), messages())
        try:
            async for answer in self._answers(call, sent):
                for early in _drained(rejected):
                    yield early
                yield answer.request_id, wire.outcome(answer)
            for early in _drained(rejected):
                yield early
        finally:
            sent.cancel()

    async def list_models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """As Client.list_models."""
        try:
            call = self._stub.ListModels(pb.ListModelsRequest(), **self._call(self._seconds(timeout)))
            return wire.models(await call)
        except grpc.RpcError as error:
            raise self._error(error) from error

    async def close(self) -> None:
        """Ends the connections; calls in flight are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def _answers(self, call: AsyncIterator[_T], sent: outgoing.AsyncFeed[Any]) -> AsyncIterator[_T]:
        try:
            async for answer in call:
                yield answer
        except asyncio.CancelledError:
            # Ours, or of the call, which the feed cancels where the caller's iterable raised.
            sent.check()
            raise
        except grpc.RpcError as error:
            sent.check()
            raise self._error(error) from error
        finally:
            sent.cancel()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _stub(self) -> RerankServiceAsyncStub:
        # A channel belongs to the loop that runs when it is made.
        if self._made_stub is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, self._channel_options)
            else:
                self._channel = grpc.aio.secure_channel(
                    self._target, self._credentials, self._channel_options
                )
            self._made_stub = RerankServiceStub(self._channel)
        return self._made_stub


def _drained(queue: deque[_T]) -> Iterator[_T]:
    while queue:
        yield queue.popleft()
