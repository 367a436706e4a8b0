"""A ranking over HTTP, from its body to the last byte of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from rerankd import http_answers, http_bodies, http_calls, models
from rerankd.catalogue import Catalogue
from rerankd.completions import RankStream
from rerankd.errors import InputError, RerankdError
from rerankd.http_answers import EVENTS, NDJSON, encode
from rerankd.http_bodies import Asked
from rerankd.http_errors import refusal
from rerankd.http_guard import Exchange
from rerankd.http_shapes import Dialect
from rerankd.limits import Limits
from rerankd.ranking import Ranking
from rerankd.reranker import Reranker
from rerankd.room import Room

_PART: Final = 64 << 10
"""Bytes that leave at one go; the next ones when the caller has taken most of these."""


class HttpRanking:
    """What the routes that rank do: they differ in whose body it is, and that the body tells.

    room: where bodies have their bytes, from before they are read until their answers are taken. What it
    raises, HttpGuard makes an answer of.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, room: Room) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._room = room

    async def run(self, model: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. model: the one in its path; None: the body may name it."""
        headers, most = Headers(scope=scope), self._limits.max_message_bytes
        deadline = time.monotonic() + http_calls.seconds(headers, self._limits.max_seconds)
        http_calls.check_kind(headers, lenient=model is not None)
        reranker = None if model is None else self._hosted(model)
        size = min(2 * http_calls.length(headers, most), most)
        stay = await http_calls.within(self._room.enter(size), deadline - time.monotonic())
        try:
            raw = await http_calls.within(http_calls.body(receive, most), deadline - time.monotonic())
            Exchange.of(scope).received()
            # The body, and an answer that may have its texts.
            stay.keep(2 * len(raw))
            asked = self._read(raw, scope)
            del raw
            answering = _Answering(reranker or self._named(asked.model), asked, scope, send, deadline)
            await http_calls.while_there(answering.run(), receive, deadline - time.monotonic())
        finally:
            stay.leave()

    def _hosted(self, name: str) -> Reranker:
        """The model in Cloudflare's path; its name for a reranker means the default, if it means no other."""
        found = self._catalogue.get(name)
        if found is None and name in models.HOSTED_NAMES:
            return self._catalogue.default
        return found or self._catalogue.find(name)

    def _named(self, name: str) -> Reranker:
        """The model in a body; clients of other services name their models: any of those is the default."""
        return self._catalogue.get(name) or self._catalogue.default

    def _read(self, raw: bytes, scope: Scope) -> Asked:
        exchange = Exchange.of(scope)
        most = self._limits.max_contexts
        data = http_bodies.parse(raw, most)
        if exchange.dialect is not Dialect.CLOUDFLARE:
            exchange.dialect = http_bodies.dialect_of(data)
        return http_bodies.read(data, exchange.dialect, most)


class _Answering:
    """One request's work, from what it asks for to the last byte of its answer."""

    def __init__(self, reranker: Reranker, asked: Asked, scope: Scope, send: Send, deadline: float) -> None:
        self._reranker = reranker
        self._asked = asked
        self._scope = scope
        self._exchange = Exchange.of(scope)
        self._send = send
        self._deadline = deadline

    async def run(self) -> None:
        media_type = preferred(Headers(scope=self._scope).get("accept", ""))
        with _blaming(self._asked):
            if media_type in http_answers.STREAMS:
                await self._stream(media_type)
            else:
                await self._whole()

    async def _whole(self) -> None:
        asked, left = self._asked, self._deadline - time.monotonic()
        ranking = await self._reranker.answer(asked.query, asked.passages, asked.options, left)
        self._exchange.sent(ranking)
        body = encode(self._answer(ranking))
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        if asked.dialect is Dialect.TEXTS:
            headers |= http_answers.headers(ranking)
        await self._begin(headers)
        # In parts: each waits until its reader has taken most of those before, and has the room till then.
        for at in range(0, len(body), _PART):
            await self._put(body[at : at + _PART], more=at + _PART < len(body))

    async def _stream(self, media_type: str) -> None:
        asked, left = self._asked, self._deadline - time.monotonic()
        begun = False
        async with self._reranker.open_stream(asked.query, asked.options, left) as stream:
            feeding = asyncio.create_task(_feed(stream, asked))
            try:
                async for results in stream:
                    if not begun:
                        await self._begin_stream(media_type)
                        begun = True
                    self._exchange.sent(None)
                    scored = http_answers.items(results, asked.dialect, scored=True)
                    await self._put(http_answers.event("scored", scored, media_type))
                if not begun:
                    await self._begin_stream(media_type)
                self._exchange.sent(stream.ranking)
                answer = self._answer(stream.ranking)
                await self._put(http_answers.event("ranking", answer, media_type), more=False)
            except RerankdError as error:
                if not begun:
                    raise
                await self._put(self._failed(error, media_type), more=False)
            finally:
                feeding.cancel()
                await asyncio.wait([feeding])

    def _answer(self, ranking: Ranking) -> Any:
        return http_answers.answer(ranking, self._asked.dialect, _version(self._scope))

    def _failed(self, error: RerankdError, media_type: str) -> bytes:
        """The last event of a stream that has begun: its status is gone already."""
        told = self._asked.blame(error) if isinstance(error, InputError) else error
        refused = refusal(told, "a stream's answer", self._asked.dialect)
        self._exchange.code = refused.code
        return http_answers.event("error", refused.body, media_type)

    async def _begin_stream(self, media_type: str) -> None:
        # Proxies, too, are to pass on what there is.
        await self._begin(
            {"content-type": media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
        )

    async def _begin(self, headers: dict[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _put(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def _feed(stream: RankStream, asked: Asked) -> None:
    try:
        await stream.feed(asked.passages)
        stream.close()
    except Exception as error:
        stream.fail(error)


@contextmanager
def _blaming(asked: Asked) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise asked.blame(error) from None


def _version(scope: Scope) -> str:
    """Cohere's API version, by the path that was asked."""
    return "2" if scope["path"].endswith("/v2/rerank") else "1"


def preferred(accept: str) -> str:
    """Which kind of answer an Accept header wants most; JSON where it wants none that there is."""
    best, most = "application/json", 0.0
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        known = kind in ("application/json", "application/*", "*/*", EVENTS, NDJSON)
        if known and weight > most:
            best, most = kind if kind in (EVENTS, NDJSON) else "application/json", weight
    return best
