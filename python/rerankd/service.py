"""RerankService: messages to the engine and back. Errors are raised here; guard.py makes statuses of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import grpc

from rerankd.catalogue import Catalogue
from rerankd.completions import RankStream
from rerankd.errors import InputError
from rerankd.limits import Limits
from rerankd.ranking import Options, Passages, Ranking, Result
from rerankd.reranker import Reranker
from rerankd.status import Failure
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc

SERVICE: Final = pb.DESCRIPTOR.services_by_name["RerankService"].full_name

BATCH_IN_FLIGHT: Final = 256
"""Requests of one RerankBatch call that are read and not yet answered; the rest waits in flow control."""

BATCH_BYTES: Final = 1 << 20
"""Bytes of one RerankBatch call's requests in work and answers not yet taken, from which on no more is read.

Answers may have their contexts' texts: a reader that is stuck must not gather 256 of them."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_SCORES: Final[Mapping[int, str]] = {
    pb.SCORE_UNSPECIFIED: "sigmoid",
    pb.SCORE_SIGMOID: "sigmoid",
    pb.SCORE_LOGIT: "logit",
}
_OVERFLOWS: Final[Mapping[int, str]] = {
    pb.OVERFLOW_UNSPECIFIED: "truncate",
    pb.OVERFLOW_TRUNCATE: "truncate",
    pb.OVERFLOW_TRUNCATE_CONTEXT: "truncate_context",
    pb.OVERFLOW_CHUNK: "chunk",
    pb.OVERFLOW_REJECT: "reject",
}
_PRIORITIES: Final[Mapping[int, str]] = {
    pb.PRIORITY_UNSPECIFIED: "interactive",
    pb.PRIORITY_INTERACTIVE: "interactive",
    pb.PRIORITY_BATCH: "batch",
}


class RerankService(rerank_pb2_grpc.RerankServiceServicer):
    """The four RPCs. Handlers raise the errors of errors.py; Guard makes statuses of them."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits

    async def Rerank(  # noqa: N802 - the proto's name
        self, request: pb.RerankRequest, context: _Context
    ) -> pb.RerankResponse:
        return await self._answer(request, context)

    async def RerankStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RerankStreamRequest], context: _Context
    ) -> AsyncIterator[pb.RerankStreamResponse]:
        requests = self._measured(request_iterator)
        async with await self._open_stream(requests, context) as stream:
            # One task reads while this one writes: scores leave while contexts still come.
            reader = asyncio.create_task(self._feed(stream, requests))
            try:
                async for results in stream:
                    yield pb.RerankStreamResponse(scored=pb.ScoredChunk(results=_ranked(results)))
                yield pb.RerankStreamResponse(ranking=_response(stream.ranking))
            finally:
                reader.cancel()
                await asyncio.wait([reader])

    async def RerankBatch(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RerankBatchRequest], context: _Context
    ) -> AsyncIterator[pb.RerankBatchResponse]:
        batch = _Batch(self._answer, context)
        reader = asyncio.create_task(batch.read(request_iterator))
        try:
            async for response in batch.responses():
                yield response
        finally:
            await batch.cancel(reader)

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self._model(reranker) for reranker in self._catalogue])

    def _model(self, reranker: Reranker) -> pb.Model:
        return pb.Model(
            name=reranker.name,
            aliases=self._catalogue.aliases(reranker),
            architecture=reranker.engine.architecture,
            device=reranker.engine.device,
            dtype=reranker.engine.dtype,
            max_tokens=reranker.max_tokens,
            max_contexts=self._limits.max_contexts,
            is_default=reranker is self._catalogue.default,
            revision=reranker.revision,
        )

    async def _answer(self, request: pb.RerankRequest, context: _Context) -> pb.RerankResponse:
        reranker = self._catalogue.find(request.model)
        options = _options(request)
        passages = self._passages(request.contexts, first=0)
        ranking = await reranker.answer(request.query, passages, options, self._time_left(context))
        return _response(ranking)

    def _time_left(self, context: _Context) -> float:
        """Seconds for a request that begins now."""
        # None where the caller set no deadline, whatever grpcio's stubs say.
        left = cast("float | None", context.time_remaining())
        return self._limits.max_seconds if left is None else min(left, self._limits.max_seconds)

    def _passages(self, contexts: Sequence[pb.Context], first: int) -> Passages:
        total = first + len(contexts)
        if total > self._limits.max_contexts:
            limit = f"at most {self._limits.max_contexts} contexts are ranked per request"
            raise InputError("contexts", f"{limit}, and this one has {total}{' so far' * bool(first)}")
        return Passages.of([c.text for c in contexts], [c.key for c in contexts], first)

    async def _measured(
        self, requests: AsyncIterator[pb.RerankStreamRequest]
    ) -> AsyncIterator[pb.RerankStreamRequest]:
        """The same, up to the limit. The queue's limit is in tokens, of which a long text never has many."""
        total = 0
        async for message in requests:
            total += message.ByteSize()
            if total > self._limits.max_stream_bytes:
                limit = f"at most {self._limits.max_stream_bytes} bytes are taken from one stream"
                raise InputError("contexts", f"{limit}, and this one has {total} so far")
            yield message

    async def _open_stream(
        self, requests: AsyncIterator[pb.RerankStreamRequest], context: _Context
    ) -> RankStream:
        message = await anext(requests, None)
        if message is None or message.WhichOneof("part") != "start":
            raise InputError("start", "the first message must be start, and this one is not")
        start = message.start
        stream = self._catalogue.find(start.model).open_stream(
            start.query, _options(start), self._time_left(context)
        )
        stream.push_passages(self._passages(start.contexts, first=0))
        return stream

    async def _feed(self, stream: RankStream, requests: AsyncIterator[pb.RerankStreamRequest]) -> None:
        try:
            async for message in requests:
                if message.WhichOneof("part") != "more":
                    raise InputError("start", "only the first message is start; all others are more")
                # In portions, as there is room: else nothing is read, and the writer waits in flow control.
                await stream.feed(self._passages(message.more.contexts, first=len(stream)))
            stream.close()
        except Exception as error:
            stream.fail(error)


class _Batch:
    """One RerankBatch call: each request is a task, and answers leave as they are ready."""

    def __init__(
        self, answer: Callable[[pb.RerankRequest, _Context], Awaitable[pb.RerankResponse]], context: _Context
    ) -> None:
        self._answer = answer
        self._context = context
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        # Of requests from when they are read, then of their answers until these are taken.
        self._count, self._bytes = 0, 0
        self._taken = asyncio.Event()
        # Holds what is ready, at most as much as there was room for; then None, or why the reading ended.
        self._ready: asyncio.Queue[tuple[pb.RerankBatchResponse, bool] | Exception | None] = asyncio.Queue()

    async def read(self, requests: AsyncIterator[pb.RerankBatchRequest]) -> None:
        """Starts a task per request, as there is room, and lets all finish."""
        try:
            async for request in requests:
                await self._room()
                self._count += 1
                self._bytes += request.ByteSize()
                error = self._fault(request)
                if error is None:
                    task = asyncio.create_task(self._run(request))
                    self._in_flight[request.request_id] = task
                else:
                    self._put(request, error, owned=False)
            await asyncio.gather(*self._in_flight.values())
            self._ready.put_nowait(None)
        except Exception as error:
            self._ready.put_nowait(error)

    async def responses(self) -> AsyncIterator[pb.RerankBatchResponse]:
        while (ready := await self._ready.get()) is not None:
            if isinstance(ready, Exception):
                raise ready
            response, owned = ready
            # Before the caller can know of the answer: from then on the id may be used again.
            if owned:
                del self._in_flight[response.request_id]
            yield response
            # Not before it has left: one that is stuck in flow control still takes its room.
            self._count -= 1
            self._bytes -= response.ByteSize()
            self._taken.set()

    async def cancel(self, reader: asyncio.Task[None]) -> None:
        """Leaves nothing running."""
        tasks = [reader, *self._in_flight.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _room(self) -> None:
        """Returns when one more may be started; a first one always may."""
        while self._count and (self._count >= BATCH_IN_FLIGHT or self._bytes >= BATCH_BYTES):
            self._taken.clear()
            await self._taken.wait()

    def _fault(self, request: pb.RerankBatchRequest) -> InputError | None:
        if not request.request_id:
            return InputError("request_id", "must not be empty")
        if request.request_id in self._in_flight:
            return InputError("request_id", "is that of a request still in flight on this call")
        if not request.HasField("request"):
            return InputError("request", "is missing")
        return None

    async def _run(self, request: pb.RerankBatchRequest) -> None:
        outcome: pb.RerankResponse | Exception
        try:
            outcome = await self._answer(request.request, self._context)
        except Exception as error:
            outcome = error
        self._put(request, outcome, owned=True)

    def _put(
        self, request: pb.RerankBatchRequest, outcome: pb.RerankResponse | Exception, *, owned: bool
    ) -> None:
        request_id = request.request_id
        if isinstance(outcome, Exception):
            error = Failure.of(outcome, f"/{SERVICE}/RerankBatch").to_error()
            outcome.__traceback__ = None  # its frames have the request's message
            response = pb.RerankBatchResponse(request_id=request_id, error=error)
        else:
            response = pb.RerankBatchResponse(request_id=request_id, response=outcome)
        self._bytes += response.ByteSize() - request.ByteSize()
        self._ready.put_nowait((response, owned))


def _options(request: pb.RerankRequest) -> Options:
    return Options(
        top_k=request.top_k if request.HasField("top_k") else None,
        score=_named("score", request.score, _SCORES),
        overflow=_named("overflow", request.overflow, _OVERFLOWS),
        return_text=request.return_text,
        min_score=request.min_score if request.HasField("min_score") else None,
        budget_ms=request.budget_ms if request.HasField("budget_ms") else None,
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        priority=_named("priority", request.priority, _PRIORITIES),
    )


def _named(field: str, number: int, names: Mapping[int, str]) -> str:
    if number not in names:
        raise InputError(field, f"has no value {number}; rerank.proto lists those that there are")
    return names[number]


def _response(ranking: Ranking) -> pb.RerankResponse:
    usage, timing = ranking.usage, ranking.timing
    return pb.RerankResponse(
        results=_ranked(ranking),
        usage=pb.Usage(contexts=usage.contexts, tokens=usage.tokens, truncated=usage.truncated),
        timing=pb.Timing(
            queue_us=timing.queue_us,
            tokenize_us=timing.tokenize_us,
            compute_us=timing.compute_us,
            total_us=timing.total_us,
        ),
        model=ranking.model,
        unscored=ranking.unscored,
    )


def _ranked(results: Iterable[Result]) -> list[pb.RankedContext]:
    return [
        pb.RankedContext(id=r.id, score=r.score, key=r.key, text=r.text, truncated=r.truncated)
        for r in results
    ]
