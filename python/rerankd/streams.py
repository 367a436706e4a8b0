"""A server's ranking in the making, as a client's caller sees it. Values and iteration; no channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

from rerankd import wire
from rerankd.errors import InternalError
from rerankd.ranking import Ranking, Result
from rerankd.v1 import rerank_pb2 as pb


class _Gathering:
    """What both kinds of stream share: the ranking, when it is there, and the way out."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._ranking: Ranking | None = None

    @property
    def ranking(self) -> Ranking:
        """The ranking, as top_k and min_score have it. Raises RuntimeError before the iteration's end."""
        if self._ranking is None:
            raise RuntimeError("the ranking is known when the iteration has ended")
        return self._ranking

    def cancel(self) -> None:
        """Gives up; the server frees the work's place."""
        self._cancel()

    def _scores(self, event: pb.RerankStreamResponse) -> list[Result] | None:
        """The event's scores; None where it is the ranking."""
        if event.WhichOneof("event") == "scored":
            return wire.results(event.scored.results)
        self._ranking = wire.ranking(event.ranking)
        return None

    def _check_ended(self) -> None:
        if self._ranking is None:
            raise InternalError("the server ended the stream without its ranking")


class ClientStream(_Gathering):
    """A ranking in the making: iterate for lists of results, each context once, in the order computed.

    `ranking` holds the whole, as top_k and min_score have it, once the iteration has ended; `finish` goes
    there at once. A context manager: leaving it cancels what has not ended.
    """

    def __init__(self, events: Iterator[pb.RerankStreamResponse], cancel: Callable[[], object]) -> None:
        super().__init__(cancel)
        self._events = events

    def finish(self) -> Ranking:
        """Iterates to the end. Raises as `Client.rank`."""
        for _ in self:
            pass
        return self.ranking

    def __iter__(self) -> Iterator[list[Result]]:
        return self

    def __next__(self) -> list[Result]:
        """The next scores. Raises as `Client.rank`, and what the caller's own contexts raised."""
        for event in self._events:
            results = self._scores(event)
            if results is not None:
                return results
        self._check_ended()
        raise StopIteration

    def __enter__(self) -> ClientStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncClientStream(_Gathering):
    """As ClientStream, on an event loop: `async for`, `await stream.finish()`, `async with`."""

    def __init__(self, events: AsyncIterator[pb.RerankStreamResponse], cancel: Callable[[], object]) -> None:
        super().__init__(cancel)
        self._events = events

    async def finish(self) -> Ranking:
        """Iterates to the end. Raises as `Client.rank`."""
        async for _ in self:
            pass
        return self.ranking

    def __aiter__(self) -> AsyncIterator[list[Result]]:
        return self

    async def __anext__(self) -> list[Result]:
        """The next scores. Raises as `Client.rank`, and what the caller's own contexts raised."""
        async for event in self._events:
            results = self._scores(event)
            if results is not None:
                return results
        self._check_ended()
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncClientStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
