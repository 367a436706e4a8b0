"""The layer around HTTP's requests: tokens, watchers, faults of ours, readers that are stuck."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc import code_pb2
from rerankd.catalogue import Catalogue
from rerankd.errors import AuthError
from rerankd.http_guard import OPEN_PATHS, Exchange, HttpGuard
from rerankd.http_ranking import HttpRanking
from rerankd.http_shapes import CloudflareError, DocumentsError
from rerankd.inflight import InFlight
from rerankd.observe import AI_RUN, HTTP_RERANK
from rerankd.reranker import Reranker
from rerankd.room import Room
from starlette.types import ASGIApp, Message
from support import CONTEXTS, PATIENCE, QUERY, Serve, limits, until
from test_observe import Witness

TOKEN = "AbCdEf0123456789"
BODY = {"query": QUERY, "documents": CONTEXTS}
CLOUDFLARE = "/client/v4/accounts/a/ai/run/mini-en"


def anybody(headers: Iterable[tuple[str, str | bytes]]) -> None:
    """Authorizes everybody."""


def guarded(app: ASGIApp, *watchers: Witness, authorize: Any = anybody) -> HttpGuard:
    return HttpGuard(app, authorize=authorize, in_flight=InFlight(), watchers=watchers, leaving=lambda: False)


class Transport:
    """A connection, of which only the end matters."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Asked:
    """One request to an ASGI application, with no network."""

    def __init__(self, path: str = "/rerank", body: bytes = b"", *, stuck: bool = False) -> None:
        self.transport = Transport()
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"traceparent", b"something")],
            "state": {"transport": self.transport},
        }
        self._parts = [body]
        self._stuck = stuck
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self._parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": self._parts.pop(), "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._stuck and message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def of(self, app: ASGIApp) -> None:
        await asyncio.wait_for(app(self.scope, self.receive, self.send), PATIENCE)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> Any:
        return json.loads(b"".join(each["body"] for each in self.sent[1:]))


def ranking(reranker: Reranker, **changes: Any) -> ASGIApp:
    work = HttpRanking(Catalogue([reranker]), limits(**changes), Room(1 << 24))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await work.run(None, scope, receive, send)

    return app


async def test_watchers_are_told_of_an_answer(reranker: Reranker) -> None:
    witness, asked = Witness(), Asked(body=json.dumps(BODY).encode())
    await asked.of(guarded(ranking(reranker), witness))
    seen = await witness.only()
    assert (seen.method, seen.messages, seen.codes) == (HTTP_RERANK, 1, [code_pb2.OK])
    assert seen.metadata["traceparent"] == "something"
    (outcome,) = seen.outcomes
    assert outcome.usage.tokens == asked.body["usage"]["total_tokens"]  # type: ignore[union-attr]
    assert outcome.model == "mini-en"  # type: ignore[union-attr]


async def test_watchers_are_told_of_a_refusal(reranker: Reranker) -> None:
    witness, asked = Witness(), Asked(body=b"{")
    await asked.of(guarded(ranking(reranker), witness))
    seen = await witness.only()
    assert (asked.status, seen.codes, seen.outcomes) == (400, [code_pb2.INVALID_ARGUMENT], [])


async def test_who_is_not_let_in_is_not_read() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it must not come to that")

    def nobody(headers: Iterable[tuple[str, str | bytes]]) -> None:
        raise AuthError("no")

    witness, asked = Witness(), Asked(CLOUDFLARE)
    await asked.of(guarded(app, witness, authorize=nobody))
    seen = await witness.only()
    assert (seen.method, seen.codes) == (AI_RUN, [code_pb2.UNAUTHENTICATED])
    assert asked.status == 401
    assert CloudflareError.model_validate(asked.body).errors[0].code == 10000


async def test_a_fault_of_ours_is_found_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("secret")

    witness, asked = Witness(), Asked()
    with caplog.at_level(logging.ERROR):
        await asked.of(guarded(app, witness))
    message = DocumentsError.model_validate(asked.body).message
    assert (asked.status, (await witness.only()).codes) == (500, [code_pb2.INTERNAL])
    assert "secret" not in message
    (record,) = [each for each in caplog.records if message.rpartition(" ")[2] in each.getMessage()]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_a_request_that_a_stop_cancels_is_told_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    witness, asked = Witness(), Asked()
    await asked.of(guarded(app, witness))
    assert (asked.status, (await witness.only()).codes) == (429, [code_pb2.CANCELLED])
    assert "shutting down" in asked.body["message"]


async def test_a_reader_that_is_stuck_is_cut_off_at_its_deadline(reranker: Reranker) -> None:
    witness, asked = Witness(), Asked(body=json.dumps(BODY).encode(), stuck=True)
    await asked.of(guarded(ranking(reranker, max_seconds=1.0), witness))
    assert asked.transport.aborted
    assert len(asked.sent) == 2  # no second answer, for there was part of a first
    assert (await witness.only()).codes == [code_pb2.DEADLINE_EXCEEDED]


async def test_what_does_not_rank_is_neither_watched_nor_counted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert Exchange.of(scope).dialect.value == "documents"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    witness, asked = Witness(), Asked("/health")
    await asked.of(guarded(app, witness))
    assert (asked.status, witness.calls) == (200, [])


def test_tokens(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    own = serve(threads=1, token_file=str(file))
    with httpx.Client(base_url=own.web, timeout=PATIENCE) as web:
        for authorization in (f"Bearer {TOKEN}", TOKEN, f"bearer {TOKEN}"):
            answer = web.post("/rerank", json=BODY, headers={"authorization": authorization})
            assert answer.status_code == 200
        for headers in ({}, {"authorization": "Bearer other"}):
            answer = web.post("/rerank", json=BODY, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            answer = web.post(CLOUDFLARE, json={}, headers=headers)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, 10000)
            for path in ("/v1/models", "/info", "/metrics"):
                assert web.get(path, headers=headers).status_code == 401
        for path in OPEN_PATHS - {"/"}:
            assert web.get(path).status_code == 200
        own.run(until(lambda: not own.server.calls))
