"""From the engine's threads to an event loop: finished work queues up, and the loop fetches it in one go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from rerankd._core import Completion, Completions, Engine
from rerankd.deferred import Deferred
from rerankd.ranking import Passages, Ranking, Result, Tally

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Deferred("asyncio")

PORTION: Final = 4096
"""Characters of a stream's texts that are handed to the engine at one go."""

Submit = Callable[[Completions], int]
"""Hands work to the engine, to be completed on the given queue; returns its ticket."""


class Mailbox:
    """One loop's end of one engine: hands every completion to who waits for its ticket.

    The loop wakes once for all that has finished meanwhile. Belongs to the loop that was running when it was
    made, and holds no reference to it, so that the loop's own end ends the mailbox too.
    """

    def __init__(self) -> None:
        self._completions = Completions()
        self._receivers: dict[int, Callable[[Completion], None]] = {}
        asyncio.get_running_loop().add_reader(self._completions.fileno(), self._fetch)

    def close(self) -> None:
        """To be called on the mailbox's own loop."""
        asyncio.get_running_loop().remove_reader(self._completions.fileno())

    def open(self, submit: Submit, receive: Callable[[Completion], None]) -> int:
        """Submits work whose completions go to `receive`, on the loop. Returns its ticket."""
        # Completions are fetched by this very thread, so none can arrive before its receiver is known.
        ticket = submit(self._completions)
        self._receivers[ticket] = receive
        return ticket

    def forget(self, ticket: int) -> None:
        """What still comes for this ticket is dropped."""
        self._receivers.pop(ticket, None)

    async def ask(self, engine: Engine, submit: Submit) -> Completion:
        """Submits work and waits for its one completion. A wait that is given up cancels the work."""
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()

        def receive(completion: Completion) -> None:
            if not answer.done():
                answer.set_result(completion)

        ticket = self.open(submit, receive)
        try:
            completion = await answer
        except BaseException:
            engine.cancel(ticket)
            raise
        finally:
            self.forget(ticket)
        if completion.error is not None:
            raise completion.error
        return completion

    def _fetch(self) -> None:
        for completion in self._completions.drain():
            receive = self._receivers.get(completion.ticket)
            if receive is not None:
                receive(completion)


class RankStream:
    """One query whose contexts come bit by bit; results leave as they are computed.

    Iterate over it for lists of results: each context once, in the order computed, whatever top_k and
    min_score. After `close`, the iteration ends when all is scored, and `ranking` holds the whole. Nothing
    waits but the iteration and `room`, so one task can push contexts while another iterates. Used as an async
    context manager, it frees its place in the engine on the way out; else call `cancel` where it is left
    unfinished.
    """

    def __init__(
        self,
        engine: Engine,
        mailbox: Mailbox,
        tally: Tally,
        begin: Callable[[Completions, Passages], int],
        extend: Callable[[int, Passages, int], None],
    ) -> None:
        self._engine = engine
        self._mailbox = mailbox
        self._tally = tally
        self._begin = begin
        self._extend = extend
        self._ticket: int | None = None
        self._closed = False
        self._ready: list[Result] = []
        self._error: BaseException | None = None
        self._ranking: Ranking | None = None
        self._news = asyncio.Event()
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        """Contexts pushed so far."""
        return len(self._tally)

    @property
    def ranking(self) -> Ranking:
        """The ranking, as top_k and min_score have it. Raises RuntimeError before the iteration's end."""
        if self._ranking is None:
            raise RuntimeError("the ranking is known when the iteration has ended")
        return self._ranking

    async def room(self) -> None:
        """Returns when less waits of what was pushed than keeps the threads busy: time to push more.

        Who waits for it before each push of a few contexts has the engine hold a bounded part of a long
        stream: its writer is held back, and not refused.
        """
        while self._ticket is not None and self._engine.waiting(self._ticket) >= self._engine.window:
            # More waits, so more completions come, and each brings news.
            self._moved.clear()
            await self._moved.wait()

    def push(self, contexts: object) -> None:
        """Adds contexts, strings or mappings as in Reranker.rank; ids run on.

        Raises InputError (a bad one: then none of these is added), OverloadedError, DeadlineError.
        """
        self.push_passages(Passages.read(contexts, first=len(self._tally)))

    def push_passages(self, passages: Passages) -> None:
        """As push, for contexts that were read already."""
        if self._closed:
            raise RuntimeError("the stream is closed")
        if not passages.texts or self._ranking is not None or self._error is not None:
            return
        first = len(self._tally)
        if self._ticket is None:
            self._ticket = self._mailbox.open(lambda queue: self._begin(queue, passages), self._receive)
        else:
            self._extend(self._ticket, passages, first)
        self._tally.extend(passages)

    async def feed(self, passages: Passages) -> None:
        """As push_passages, in portions, as there is room: who waits for it holds its own writer back."""
        for portion in passages.portions(PORTION):
            await self.room()
            self.push_passages(portion)

    def close(self) -> None:
        """No more contexts will come."""
        if self._closed:
            return
        self._closed = True
        if self._ticket is None:
            self._finish()
        elif self._ranking is None and self._error is None:
            self._engine.extend(self._ticket, [], more=False)

    def fail(self, error: BaseException) -> None:
        """Ends the stream: what is not yet computed never is, and the iteration raises `error`."""
        self.cancel()
        if self._ranking is None and self._error is None:
            self._error = error
        self._news.set()
        self._moved.set()

    def cancel(self) -> None:
        """Frees the stream's place in the engine. To be called where the iteration is given up."""
        self._closed = True
        if self._ticket is not None:
            self._mailbox.forget(self._ticket)
            self._engine.cancel(self._ticket)

    async def __aenter__(self) -> RankStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __aiter__(self) -> AsyncIterator[list[Result]]:
        return self

    async def __anext__(self) -> list[Result]:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._ranking is not None:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        # All that has gathered leaves as one: a slow reader gets fewer, larger lists.
        ready, self._ready = self._ready, []
        return ready

    def _receive(self, completion: Completion) -> None:
        if completion.error is not None:
            self._error = completion.error
        else:
            self._tally.add(completion)
            self._ready += self._tally.latest()
        if completion.last:
            assert self._ticket is not None
            self._mailbox.forget(self._ticket)
            if self._error is None:
                self._finish()
        self._news.set()
        self._moved.set()

    def _finish(self) -> None:
        self._ranking = self._tally.ranking()
        self._news.set()
