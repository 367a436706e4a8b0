"""A caller's contexts and requests on their way out, read from any iterable by gRPC's thread or on the loop.

What the iterable raises ends the call, and is kept for the caller: gRPC itself would only log it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rerankd import wire
from rerankd.errors import RerankdError
from rerankd.ranking import Options, Passages
from rerankd.v1 import rerank_pb2 as pb

if TYPE_CHECKING:
    from rerankd.reranker import Context

_T = TypeVar("_T")
_Message_contra = TypeVar("_Message_contra", contravariant=True)


class _Call(Protocol):
    def cancel(self) -> object: ...


class _Failing:
    failure: BaseException | None = None

    def check(self) -> None:
        """Raises what the caller's iterable raised, if it did."""
        if self.failure is not None:
            raise self.failure from None


class Feed(_Failing, Generic[_T]):
    """A call's messages, as gRPC's own thread reads them."""

    def __init__(self, messages: Iterator[_T]) -> None:
        self._messages = messages
        self._call: _Call | None = None
        self._attached = threading.Event()

    def attach(self, call: _Call) -> None:
        self._call = call
        self._attached.set()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
        # gRPC may begin to read before it has returned the call.
        self._attached.wait()
        assert self._call is not None
        self._call.cancel()
        raise StopIteration


class CallEndedError(Exception):
    """The server has ended the call; why it did is for the call's reader."""


class _Writer(Protocol[_Message_contra]):
    """What a call can be told; all but `cancel` raises CallEndedError."""

    async def begin(self) -> None: ...
    async def write(self, message: _Message_contra) -> None: ...
    async def end(self) -> None: ...
    def cancel(self) -> None: ...


class AsyncFeed(_Failing, Generic[_Message_contra]):
    """As Feed, on the running loop: a task that writes the messages to a call."""

    def __init__(self, call: _Writer[_Message_contra], messages: AsyncIterator[_Message_contra]) -> None:
        self._call = call
        self._messages = messages
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._call.begin()
            async for message in self._messages:
                await self._call.write(message)
            await self._call.end()
        except CallEndedError:
            return
        except Exception as error:
            self.failure = error
            self._call.cancel()

    def cancel(self) -> None:
        """Reads and writes no more, and cancels the call if it has not ended."""
        self._task.cancel()
        self._call.cancel()


def stream(
    query: str, contexts: Iterable[Context], options: Options, model: str
) -> Iterator[pb.RerankStreamRequest]:
    """One query's messages: contexts that are there in chunks, those of an iterator one by one.

    Raises InputError at once for what is wrong already, and while it is read for what is wrong later.
    """
    lazy = wire.is_lazy(contexts, Iterable)
    head = wire.opening(query, Passages() if lazy else Passages.read(contexts), options, model)
    first = next(head)  # what is wrong with the request is raised here, not on gRPC's thread
    tail = (wire.later(at, context) for at, context in enumerate(contexts)) if lazy else ()
    return chain([first], head, tail)


def async_stream(
    query: str, contexts: Iterable[Context] | AsyncIterable[Context], options: Options, model: str
) -> AsyncIterator[pb.RerankStreamRequest]:
    """As stream."""
    lazy = wire.is_lazy(contexts, Iterable, AsyncIterable)
    head = wire.opening(query, Passages() if lazy else Passages.read(contexts), options, model)
    first = next(head)

    async def messages() -> AsyncIterator[pb.RerankStreamRequest]:
        yield first
        for message in head:
            yield message
        if lazy:
            at = 0
            async for context in each(contexts):
                yield wire.later(at, context)
                at += 1

    return messages()


async def each(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncIterator[_T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def batched(
    at: int, item: object, model: str, rejected: deque[tuple[str, RerankdError]]
) -> pb.RerankBatchRequest | None:
    """A batch's next message; a request that can't be one is answered here, and not sent."""
    try:
        return wire.batch_request(at, item, model)
    except RerankdError as error:
        rejected.append((wire.request_id(at, item), error))
        return None
