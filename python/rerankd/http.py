"""The HTTP application: its routes, and what they answer that is no ranking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from rerankd import http_openapi
from rerankd._core import __version__
from rerankd.catalogue import Catalogue
from rerankd.http_answers import encode
from rerankd.http_errors import unrouted
from rerankd.http_guard import CLOUDFLARE_PATH, RERANK_PATHS, Authorize, HttpGuard, dialect_of
from rerankd.http_ranking import HttpRanking
from rerankd.inflight import InFlight
from rerankd.limits import Limits, facts
from rerankd.metrics import Metrics
from rerankd.observe import Watcher
from rerankd.reranker import Reranker
from rerankd.room import Room

# Pages bring all that they need, and ask nobody but this server.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# FastAPI's own, which newer ones have and older ones don't mind: what is told of calls, the watchers tell.
_SILENT: Final[Any] = dict.fromkeys(
    ("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False
)


class State:
    """What the routes ask the server about itself: one for all of its protocols."""

    def __init__(
        self, healthy: Callable[[], bool], ready: Callable[[], bool], leaving: Callable[[], bool]
    ) -> None:
        self.healthy = healthy
        """Whether the process gets on, and is to stay."""
        self.ready = ready
        """Whether new work is welcome."""
        self.leaving = leaving
        """Whether the server is on its way down."""


def application(
    catalogue: Catalogue,
    limits: Limits,
    state: State,
    *,
    room: Room,
    in_flight: InFlight,
    metrics: Metrics,
    watchers: Sequence[Watcher],
    authorize: Authorize,
) -> FastAPI:
    """The ASGI application. Nothing of it runs before it is asked."""
    app = FastAPI(
        title="rerankd",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=_SILENT,
    )
    app.add_middleware(
        HttpGuard, authorize=authorize, in_flight=in_flight, watchers=watchers, leaving=state.leaving
    )
    app.add_exception_handler(HTTPException, _unrouted)
    _ranking_routes(app, HttpRanking(catalogue, limits, room))
    _model_routes(app, catalogue, limits)
    _state_routes(app, state, metrics)
    _page_routes(app)
    return app


class _Ranked(Response):
    """An answer that is made while it is sent, so that its work ends with its reader."""

    def __init__(self, ranking: HttpRanking, model: str | None) -> None:
        super().__init__()
        self._ranking = ranking
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._ranking.run(self._model, scope, receive, send)


def _ranking_routes(app: FastAPI, ranking: HttpRanking) -> None:
    async def rerank() -> Response:
        """Ranks texts by relevance to a query; the body's keys say whose API it is of."""
        return _Ranked(ranking, None)

    async def ai_run(account: str, model: str) -> Response:
        """As Cloudflare's Workers AI; any account, and the model by any name that it has here."""
        return _Ranked(ranking, model)

    for path in RERANK_PATHS:
        app.add_api_route(path, rerank, methods=["POST"], **http_openapi.rerank(path))
    path = CLOUDFLARE_PATH + "accounts/{account}/ai/run/{model:path}"
    app.add_api_route(path, ai_run, methods=["POST"], **http_openapi.ai_run())


def _model_routes(app: FastAPI, catalogue: Catalogue, limits: Limits) -> None:
    since = int(time.time())

    def entry(reranker: Reranker) -> dict[str, Any]:
        engine = reranker.engine
        return {
            "id": reranker.name,
            "object": "model",
            "created": since,
            "owned_by": "rerankd",
            "aliases": catalogue.aliases(reranker),
            "architecture": engine.architecture,
            "device": engine.device,
            "dtype": engine.dtype,
            "max_tokens": reranker.max_tokens,
            "max_contexts": limits.max_contexts,
            "is_default": reranker is catalogue.default,
            "revision": reranker.revision,
        }

    async def models() -> Response:
        """What is served, and its limits."""
        return _json({"object": "list", "data": [entry(reranker) for reranker in catalogue]})

    async def model(name: str) -> Response:
        """One model, by its name or an alias."""
        return _json(entry(catalogue.find(name)))

    async def info() -> Response:
        """As text-embeddings-inference tells of itself: the default model, and the limits."""
        label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        told = facts(catalogue.default, limits) | {
            "served_model_name": catalogue.default.name,
            "model_type": {"reranker": label},
            "max_batch_requests": None,
            "auto_truncate": True,
            "sha": None,
            "docker_label": None,
        }
        return _json(told)

    app.add_api_route("/v1/models", models, methods=["GET"], **http_openapi.models())
    app.add_api_route("/v1/models/{name:path}", model, methods=["GET"], **http_openapi.model())
    app.add_api_route("/info", info, methods=["GET"], **http_openapi.info())


def _state_routes(app: FastAPI, state: State, metrics: Metrics) -> None:
    async def health() -> Response:
        """Whether the process gets on and is to stay."""
        return _status(state.healthy())

    async def ready() -> Response:
        """Whether new work is welcome."""
        return _status(state.ready())

    async def scrape() -> Response:
        """What Prometheus fetches; the same is on the metrics port."""
        # On a thread: it may take a while, and the loop has calls to serve.
        body, media_type = await asyncio.to_thread(metrics.render)
        return Response(body, headers={"content-type": media_type})

    app.add_api_route("/health", health, methods=["GET"], **http_openapi.status())
    app.add_api_route("/ready", ready, methods=["GET"], **http_openapi.status())
    app.add_api_route("/metrics", scrape, methods=["GET"], **http_openapi.metrics())


def _page_routes(app: FastAPI) -> None:
    described: dict[str, bytes] = {}

    async def openapi() -> Response:
        """This description."""
        if not described:
            described["/openapi.json"] = encode(http_openapi.document(app))
        return Response(described["/openapi.json"], media_type="application/json")

    app.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    for path, *place in (("/", "playground", "index.html"), ("/docs", "http_docs.html")):
        file = resources.files("rerankd").joinpath(*place)
        if file.is_file():
            app.add_api_route(path, _page(file.read_bytes()), methods=["GET"], include_in_schema=False)


def _page(content: bytes) -> Callable[[], Any]:
    async def page() -> Response:
        headers = {"content-security-policy": _POLICY, "cache-control": "no-cache"}
        return Response(content, headers=headers, media_type="text/html")

    return page


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = unrouted(error.status_code, dialect_of(request.scope))
    return _json(body, error.status_code, dict(error.headers or {}))


def _status(well: bool) -> Response:
    return _json({"status": "ok"}) if well else _json({"status": "unavailable"}, 503, {"retry-after": "1"})


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, media_type="application/json")
