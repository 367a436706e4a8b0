"""Calls sent as a plan says, over as many connections as they need, and what became of each.

grpc.aio itself, not AsyncClient: what is measured is the server, so requests are bytes before the first is
sent, answers are read once their time has been taken, and nothing is tried again.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from rerankd import wire
from rerankd.bench import Group
from rerankd.bench_figures import OK, UNFINISHED, Array, Call
from rerankd.ranking import Options, Passages
from rerankd.target import Target
from rerankd.v1 import rerank_pb2 as pb
from rerankd.wire import ServedModel

_SERVICE: Final = "rerankd.v1.RerankService"
_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_MESSAGE_BYTES: Final = 1 << 30  # the server's limits are the ones to meet
# Calls at once on one connection: servers take 100 or more, and past that calls would wait on our side.
_PER_CONNECTION: Final = 100
# Seconds before a worker of a closed loop that got no answer asks again: a server that is full, or gone, must
# not be asked as fast as it can refuse.
_PAUSE: Final = 0.01
_PUSHBACK: Final = "grpc-retry-pushback-ms"


class Measured(Target):
    """The server to measure, told of as to a Client. Each of its channels is another connection."""

    def _open(self) -> None:
        """Nothing is opened before `connect`."""

    @property
    def address(self) -> str:
        """As it was given."""
        return self._target

    def connect(self) -> grpc.aio.Channel:
        """A channel with a connection of its own, all addresses of the target in turn, no second tries."""
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", _CONFIG),
            ("grpc.enable_retries", 0),
            # Channels that are alike would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ]
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options)
        return grpc.aio.secure_channel(self._target, self._credentials, options)

    def ask(self, method: Any, message: bytes, timeout: float | None) -> Any:
        """Begins a call of a method of one of its channels, with the token where there is one."""
        return method(message, **self._call(timeout))

    async def served(self, patience: float = 10.0) -> list[ServedModel]:
        """What it serves. patience: seconds. Raises UnreachableError, and what else `Client.list_models`
        does."""
        async with self.connect() as channel:
            method: Any = channel.unary_unary(f"/{_SERVICE}/ListModels")
            try:
                answer = await self.ask(method, pb.ListModelsRequest().SerializeToString(), patience)
            except grpc.aio.AioRpcError as error:
                raise self._error(error) from error
            return wire.models(pb.ListModelsResponse.FromString(answer))


@dataclass(frozen=True, slots=True)
class Messages:
    """Requests as they are sent, by group."""

    groups: Sequence[Sequence[bytes]]
    stream: bool
    """By RerankStream, in one message, rather than Rerank."""

    @classmethod
    def of(cls, groups: Sequence[Group], options: Options, model: str, *, stream: bool) -> Messages:
        """Raises InputError for a text that can't be sent."""

        def message(query: str, contexts: list[str]) -> bytes:
            asked = wire.request(query, Passages.read(contexts), options, model)
            return (pb.RerankStreamRequest(start=asked) if stream else asked).SerializeToString()

        return cls([[message(r.query, r.contexts) for r in group.requests] for group in groups], stream)


class Load:
    """One run: made on a running loop, driven by `open_loop` or `closed_loop`, ended early by `stop`.

    patience: seconds for the calls in flight when the last one has been sent; then they are cancelled.
    timeout: each call's deadline in seconds, from when it is sent.
    """

    def __init__(
        self,
        server: Measured,
        messages: Messages,
        draws: Iterator[tuple[int, int]],
        *,
        timeout: float | None,
        patience: float,
    ) -> None:
        self._messages = messages
        self._draws = draws
        self._timeout = timeout
        self._patience = patience
        self._server = server
        self._connections = _Connections(server, messages)
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._begun = time.perf_counter()
        self.stopped_at: float | None = None
        """When it was ended early, in seconds from the start; None where it was not."""
        self.calls: list[Call] = []
        """Those that have ended, in the order of their ends."""
        self.ok = 0
        self.refused = 0
        self.failed = 0
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def connections(self) -> int:
        """How many were opened."""
        return len(self._connections)

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begun

    def stop(self) -> None:
        """Sends nothing more, and gives up what is in flight. `open_loop` or `closed_loop` returns soon."""
        if self.stopped_at is None:
            self.stopped_at = self.now()
        self._stopped.set()

    async def open_loop(self, due: Array) -> None:
        """Sends a call at each of these seconds, whatever has become of the others."""
        async with self._running():
            pacer = _Pacer(due.tolist(), self._launch)
            pacer.start(self._begun)
            try:
                await self._unless_stopped(pacer.done.wait())
            finally:
                pacer.stop()
            await self._unless_stopped(self._settled())

    async def closed_loop(
        self, workers: int, seconds: float, enough: Callable[[], bool] = lambda: False
    ) -> None:
        """For so long, or until there is enough, so many workers each send a call when their last is over."""
        async with self._running():
            tasks = [self._task(self._work(seconds, enough)) for _ in range(workers)]
            await self._unless_stopped(asyncio.wait(tasks, timeout=seconds + self._patience))

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self._connections.open()
        self._begun = time.perf_counter()
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._connections.close()

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> None:
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            doing.cancel()
            stopping.cancel()
            await asyncio.wait((doing, stopping))

    async def _settled(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._patience)

    def _launch(self, due: float) -> None:
        self._task(self._call(due))

    def _task(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, seconds: float, enough: Callable[[], bool]) -> None:
        while (due := self.now()) < seconds and not enough():
            if not await self._call(due):
                await asyncio.sleep(_PAUSE)

    async def _call(self, due: float) -> bool:
        """Sends the next request, and says whether its answer was OK."""
        group, at = next(self._draws)
        connection = self._connections.take()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        answer = _Answer()
        sent = self.now()
        try:
            message = self._messages.groups[group][at]
            await answer.read(self._server.ask(connection.method, message, self._timeout), self.now)
        except asyncio.CancelledError:
            answer.code = UNFINISHED
            raise
        finally:
            ended = self.now()
            connection.in_flight -= 1
            self.in_flight -= 1
            self._record(
                Call(group, due, sent, answer.first, ended, answer.code, answer.refused, *answer.sizes())
            )
        return answer.code == OK

    def _record(self, call: Call) -> None:
        self.calls.append(call)
        self.ok += call.code == OK
        self.refused += call.refused
        self.failed += call.code not in (OK, UNFINISHED) and not call.refused


class _Answer:
    """What came back for one call."""

    def __init__(self) -> None:
        self.code = OK
        self.first = math.nan
        self.refused = False
        self._last = b""
        self._streamed = False

    async def read(self, call: Any, now: Callable[[], float]) -> None:
        """Reads the call to its end. Only the last message is kept, the ranking; it is parsed later."""
        try:
            if isinstance(call, grpc.aio.UnaryStreamCall):
                self._streamed = True
                async for message in call:
                    if not self._last:
                        self.first = now()
                    self._last = message
            else:
                self._last = await call
        except grpc.aio.AioRpcError as error:
            self.code = error.code().name
            # Who is not there says UNAVAILABLE too, but not when to come back.
            told = any(key == _PUSHBACK for key, _ in error.trailing_metadata() or ())
            self.refused = told and error.code() == grpc.StatusCode.UNAVAILABLE

    def sizes(self) -> tuple[int, int, int]:
        """Contexts scored, contexts not reached, tokens; zeros where the call was not OK."""
        if self.code != OK:
            return (0, 0, 0)
        if self._streamed:
            ranking = pb.RerankStreamResponse.FromString(self._last).ranking
        else:
            ranking = pb.RerankResponse.FromString(self._last)
        return ranking.usage.contexts, len(ranking.unscored), ranking.usage.tokens


class _Connection:
    """One HTTP/2 connection, and how many calls are on it."""

    def __init__(self, server: Measured, stream: bool) -> None:
        self.channel = server.connect()
        # One message to a stream is on the wire what a single request is.
        self.method: Any = (
            self.channel.unary_stream(f"/{_SERVICE}/RerankStream")
            if stream
            else self.channel.unary_unary(f"/{_SERVICE}/Rerank")
        )
        self.in_flight = 0
        self.channel.get_state(try_to_connect=True)


class _Connections:
    """As many as there must be for no call to wait for a place on one, and one more that is ready."""

    def __init__(self, server: Measured, messages: Messages) -> None:
        self._server = server
        self._stream = messages.stream
        self._open: list[_Connection] = []

    def __len__(self) -> int:
        return len(self._open)

    async def open(self) -> None:
        """Connects, so that the first call does not have to. Calls find out where they can't."""
        first = self._open[0] if self._open else self._more()
        state = first.channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
            await first.channel.wait_for_state_change(state)
            state = first.channel.get_state()

    def take(self) -> _Connection:
        """The first that has room, which now has one call more."""
        found = next(connection for connection in self._open if connection.in_flight < _PER_CONNECTION)
        if found is self._open[-1]:
            self._more()
        found.in_flight += 1
        return found

    async def close(self) -> None:
        for connection in self._open:
            await connection.channel.close()

    def _more(self) -> _Connection:
        self._open.append(_Connection(self._server, self._stream))
        return self._open[-1]


class _Pacer:
    """Begins calls on time: a thread that sleeps until the next is due, since the loop's own timers round up
    to a millisecond."""

    def __init__(self, due: list[float], launch: Callable[[float], None]) -> None:
        self._due = due
        self._launch = launch
        self._loop = asyncio.get_running_loop()
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pacer", daemon=True)
        self._begun = 0.0
        self.done = asyncio.Event()
        """Set when all have been begun."""

    def start(self, begun: float) -> None:
        """begun: what time.perf_counter said when second 0 was."""
        self._begun = begun
        self._thread.start()

    def stop(self) -> None:
        """Begins no more."""
        self._halt.set()
        self._thread.join()

    def _run(self) -> None:
        at = 0
        while at < len(self._due) and not self._halt.is_set():
            now = time.perf_counter() - self._begun
            first = at
            while at < len(self._due) and self._due[at] <= now:
                at += 1
            if at > first:
                # All that are due in one go: where the loop is behind, waking it for each would set it back.
                self._loop.call_soon_threadsafe(self._begin, self._due[first:at])
            elif self._halt.wait(self._due[at] - now):
                return
        self._loop.call_soon_threadsafe(self.done.set)

    def _begin(self, due: list[float]) -> None:
        if not self._halt.is_set():
            for each in due:
                self._launch(each)
