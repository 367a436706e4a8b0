"""The layer around every HTTP request: who may make it, who watches it, what its errors become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from google.rpc import code_pb2
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankd.errors import OverloadedError
from rerankd.http_answers import encode
from rerankd.http_calls import GoneError
from rerankd.http_errors import Refusal, refusal
from rerankd.http_shapes import Dialect
from rerankd.inflight import InFlight
from rerankd.observe import AI_RUN, HTTP_RERANK, Call, Method, Watcher
from rerankd.ranking import Ranking
from rerankd.v1 import rerank_pb2 as pb

# Clients append a version of their own to a base URL that may have one already.
RERANK_PATHS: Final = tuple(
    f"{base}{own}/rerank" for base in ("", "/v1", "/v2") for own in ("", "/v1", "/v2") if own or not base
)
CLOUDFLARE_PATH: Final = "/client/v4/"
OPEN_PATHS: Final = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""What needs no token: what probes ask, and pages that hold nothing of anybody's."""

Authorize = Callable[[Iterable[tuple[str, str | bytes]]], None]
"""Given a request's headers, raises where it must not be made."""


class Exchange:
    """What the layers know of one request, in its scope's state."""

    def __init__(self, dialect: Dialect, calls: Sequence[Call] = ()) -> None:
        self.dialect = dialect
        """In which the caller is to be told of errors."""
        self.code: int = code_pb2.OK
        """The google.rpc.Code of a request that was answered."""
        self._calls = calls

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        found: Exchange = scope["state"]["exchange"]
        return found

    def received(self) -> None:
        """The body has come in."""
        for call in self._calls:
            call.received()

    def sent(self, ranking: Ranking | None) -> None:
        """Something is about to leave: the answer, or before it a part of it."""
        outcome = None if ranking is None else _outcome(ranking)
        for call in self._calls:
            call.sent(outcome)

    def ended(self, code: int) -> None:
        for call in self._calls:
            call.ended(code)


class HttpGuard:
    """ASGI middleware. What is raised below leaves as an answer of the table, in the caller's own dialect.

    in_flight counts the requests that rank; watchers are told of them. leaving: whether the server is on its
    way down.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authorize: Authorize,
        in_flight: InFlight,
        watchers: Sequence[Watcher],
        leaving: Callable[[], bool],
    ) -> None:
        self._app = app
        self._authorize = authorize
        self._in_flight = in_flight
        self._watchers = watchers
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method = method_of(scope)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        calls = [each.begin(method, lambda: headers) for each in self._watchers] if method else ()
        exchange = scope.setdefault("state", {})["exchange"] = Exchange(dialect_of(scope), calls)
        counted: AbstractContextManager[object] = self._in_flight if method else nullcontext()
        with counted:
            answer = _Answer(send, last=self._leaving())
            exchange.ended(await self._run(scope, receive, answer, headers))

    async def _run(
        self, scope: Scope, receive: Receive, answer: _Answer, headers: Iterable[tuple[str, str]]
    ) -> int:
        """Has the request answered; returns the google.rpc.Code that it came to."""
        try:
            if scope["path"] not in OPEN_PATHS:
                self._authorize(headers)
            await self._app(scope, receive, answer)
            return Exchange.of(scope).code
        except GoneError:
            return int(code_pb2.CANCELLED)
        except asyncio.CancelledError:
            # Only a stop that can't wait any longer cancels a request.
            error = OverloadedError("the server is shutting down")
            await answer.refuse(self._refusal(error, scope), scope, receive)
            return int(code_pb2.CANCELLED)
        except Exception as error:
            refused = self._refusal(error, scope)
            # Its frames have the request's body; whoever still has the error need not have that.
            error.__traceback__ = None
            await answer.refuse(refused, scope, receive)
            return refused.code

    def _refusal(self, error: Exception, scope: Scope) -> Refusal:
        doing = f"{scope['method']} {dialect_of(scope).value}"
        return refusal(error, doing, Exchange.of(scope).dialect, leaving=self._leaving())


class _Answer:
    """Where the answer goes, and whether it has begun. last: of its connection, for the server is leaving."""

    def __init__(self, send: Send, *, last: bool) -> None:
        self._send = send
        self._last = last
        self._begun = False

    async def __call__(self, message: Message) -> None:
        self._begun = True
        if self._last and message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)

    async def refuse(self, refused: Refusal, scope: Scope, receive: Receive) -> None:
        """Answers with an error; where there is part of an answer already, breaks the connection off."""
        if self._begun:
            transport = scope["state"].get("transport")
            if transport is not None:
                # A close would wait, with all that is unread, for a reader that is stuck.
                transport.abort()
            return
        response = Response(
            encode(refused.body), refused.status, refused.headers, media_type="application/json"
        )
        await response(scope, receive, self)


def method_of(scope: Scope) -> Method | None:
    """What a request is counted as; None for one that does not rank."""
    if scope["method"] != "POST":
        return None
    if scope["path"].startswith(CLOUDFLARE_PATH):
        return AI_RUN
    return HTTP_RERANK if scope["path"] in RERANK_PATHS else None


def dialect_of(scope: Scope) -> Dialect:
    """Whose route it is; the body may tell more."""
    return Dialect.CLOUDFLARE if scope["path"].startswith(CLOUDFLARE_PATH) else Dialect.DOCUMENTS


def _outcome(ranking: Ranking) -> pb.RerankResponse:
    """What watchers want to know of an answer."""
    usage, timing = ranking.usage, ranking.timing
    return pb.RerankResponse(
        model=ranking.model,
        usage=pb.Usage(contexts=usage.contexts, tokens=usage.tokens, truncated=usage.truncated),
        timing=pb.Timing(
            queue_us=timing.queue_us,
            tokenize_us=timing.tokenize_us,
            compute_us=timing.compute_us,
            total_us=timing.total_us,
        ),
    )
