"""tei.v1: the calls of text-embeddings-inference's gRPC that a reranker answers, for clients written for it.

Handlers raise the errors of errors.py, as those of service.py do; guard.py makes statuses of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias, cast

import grpc

from rerankd.catalogue import Catalogue
from rerankd.completions import RankStream
from rerankd.errors import InputError
from rerankd.limits import Limits, facts
from rerankd.ranking import Options, Passages, Ranking
from rerankd.tei.v1 import tei_pb2 as tei
from rerankd.tei.v1 import tei_pb2_grpc

TEI_SERVICES: Final = tuple(service.full_name for service in tei.DESCRIPTOR.services_by_name.values())

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class TeiInfo(tei_pb2_grpc.InfoServicer):
    """What is served: the default model."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits

    async def Info(  # noqa: N802 - the proto's name
        self, request: tei.InfoRequest, context: _Context
    ) -> tei.InfoResponse:
        told = facts(self._catalogue.default, self._limits)
        return tei.InfoResponse(model_type=tei.MODEL_TYPE_RERANKER, **told)


class TeiRerank(tei_pb2_grpc.RerankServicer):
    """Ranking, by the default model. Without `truncate` a pair that is too long is an error, as there."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits

    async def Rerank(  # noqa: N802
        self, request: tei.RerankRequest, context: _Context
    ) -> tei.RerankResponse:
        self._check_count(len(request.texts))
        options, left = _options(request), self._time_left(context)
        try:
            passages = Passages.of(list(request.texts), [""] * len(request.texts))
            ranking = await self._catalogue.default.answer(request.query, passages, options, left)
        except InputError as error:
            raise _blamed(error) from None
        chars = len(request.query) * len(request.texts) + sum(map(len, request.texts))
        return _response(ranking, chars)

    async def RerankStream(  # noqa: N802
        self, request_iterator: AsyncIterator[tei.RerankStreamRequest], context: _Context
    ) -> tei.RerankResponse:
        first = await anext(request_iterator, None)
        if first is None:
            raise InputError("query", "is missing: the stream had no message")
        left = self._time_left(context)
        try:
            async with self._catalogue.default.open_stream(first.query, _options(first), left) as stream:
                reading = _Reading(stream, first, self._limits)
                reader = asyncio.create_task(reading.feed(request_iterator))
                try:
                    async for _ in stream:
                        pass  # what is computed is gathered there
                    return _response(stream.ranking, reading.chars)
                finally:
                    reader.cancel()
                    await asyncio.wait([reader])
        except InputError as error:
            raise _blamed(error) from None

    def _check_count(self, count: int) -> None:
        most = self._limits.max_contexts
        if count > most:
            raise InputError("texts", f"at most {most} are ranked per request, and this one has {count}")

    def _time_left(self, context: _Context) -> float:
        # None where the caller set no deadline, whatever grpcio's stubs say.
        left = cast("float | None", context.time_remaining())
        return self._limits.max_seconds if left is None else min(left, self._limits.max_seconds)


class _Reading:
    """A stream's messages, on their way to the engine."""

    def __init__(self, stream: RankStream, first: tei.RerankStreamRequest, limits: Limits) -> None:
        self._stream = stream
        self._first = first
        self._limits = limits
        self._bytes = 0
        self.chars = 0
        """Characters of the queries and texts that were read."""

    async def feed(self, rest: AsyncIterator[tei.RerankStreamRequest]) -> None:
        try:
            await self._take(self._first)
            async for message in rest:
                await self._take(message)
            self._stream.close()
        except Exception as error:
            self._stream.fail(error)

    async def _take(self, message: tei.RerankStreamRequest) -> None:
        at, most = len(self._stream), self._limits.max_contexts
        self._bytes += message.ByteSize()
        if at >= most:
            raise InputError("texts", f"at most {most} are ranked per request")
        if self._bytes > self._limits.max_stream_bytes:
            limit = f"at most {self._limits.max_stream_bytes} bytes are taken from one stream"
            raise InputError("texts", f"{limit}, and this one has {self._bytes} so far")
        if message.query != self._first.query:
            raise InputError("query", "must be the same in all messages of a stream")
        self.chars += len(message.query) + len(message.text)
        await self._stream.feed(Passages.of([message.text], [""], first=at))


def _options(request: tei.RerankRequest | tei.RerankStreamRequest) -> Options:
    return Options(
        score="logit" if request.raw_scores else "sigmoid",
        overflow="truncate" if request.truncate else "reject",
        return_text=request.return_text,
    )


def _blamed(error: InputError) -> InputError:
    """The same with the field as it is called here."""
    field = error.field.replace("contexts[", "texts[").removesuffix(".text")
    return InputError(field, error.message)


def _response(ranking: Ranking, chars: int) -> tei.RerankResponse:
    timing = ranking.timing
    return tei.RerankResponse(
        ranks=[tei.Rank(index=each.id, text=each.text, score=each.score) for each in ranking],
        metadata=tei.Metadata(
            compute_chars=chars,
            compute_tokens=ranking.usage.tokens,
            total_time_ns=timing.total_us * 1000,
            tokenization_time_ns=timing.tokenize_us * 1000,
            queue_time_ns=timing.queue_us * 1000,
            inference_time_ns=timing.compute_us * 1000,
        ),
    )
