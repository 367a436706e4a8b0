"""/openapi.json: the routes as their bodies describe themselves."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rerankd import http_shapes as shapes
from rerankd.http_answers import EVENTS, NDJSON
from rerankd.http_calls import GRPC_TIMEOUT, TIMEOUT_MS
from rerankd.models import HOSTED_NAMES

_SCHEMAS: Final = "#/components/schemas/"
_BODIES: Final = (shapes.DocumentsBody, shapes.TextsBody, shapes.ContextsBody)
_REFUSED: Final = {
    400: "The body is bad; the message names the field.",
    401: "There is no token, or one that is not accepted.",
    413: "The body is too large.",
    415: "The body is not JSON, or is encoded.",
    429: "The server is full; retry-after says when to come back.",
    500: "A fault of the server's own, with the correlation id that its log has.",
    503: "The server is shutting down; ask another.",
    504: "The deadline passed.",
}
_MAY_BE_REFUSED: Final = {401: _REFUSED[401], 500: _REFUSED[500]}
_ABOUT: Final = (
    "Reranking: a query and texts go in, the texts come out scored by relevance. /rerank takes the bodies of "
    "Cohere, Jina and vLLM (`documents`), of text-embeddings-inference (`texts`) and of Cloudflare "
    "(`contexts`), and answers each as its own clients read it."
)


def rerank(path: str) -> dict[str, Any]:
    """How FastAPI is to describe the route at that path, which is one of several for one thing."""
    answer = shapes.DocumentsAnswer | list[shapes.TextsResult] | shapes.ContextsAnswer
    error = shapes.DocumentsError | shapes.CloudflareError
    whole: dict[int | str, dict[str, Any]] = {
        200: {
            "model": answer,
            "description": "The ranking, as the body's API has it; as a stream where accept asks for one.",
            "content": {NDJSON: {"schema": {"type": "string"}}, EVENTS: {"schema": {"type": "string"}}},
        },
        408: {"model": shapes.CloudflareError, "description": "The deadline passed, for contexts."},
        422: {"model": shapes.TextsError, "description": "The body is bad, for texts."},
    }
    any_error = error | shapes.TextsError
    for status, about in _REFUSED.items():
        late = status in (429, 500, 503, 504)
        whole[status] = {"model": any_error if late else error, "description": about}
    return {
        "responses": whole,
        "openapi_extra": _asks(*_BODIES),
        "operation_id": "rerank" + path.removesuffix("/rerank").replace("/", "_"),
        "tags": ["ranking"],
    }


def ai_run() -> dict[str, Any]:
    responses: dict[int | str, dict[str, Any]] = {200: {"model": shapes.CloudflareAnswer}}
    for status, about in _REFUSED.items():
        responses[408 if status == 504 else status] = {"model": shapes.CloudflareError, "description": about}
    extra = _asks(shapes.ContextsBody)
    return {
        "responses": responses,
        "openapi_extra": extra,
        "operation_id": "ai_run",
        "tags": ["ranking"],
    }


def models() -> dict[str, Any]:
    return _got(shapes.ModelList)


def model() -> dict[str, Any]:
    return _got(shapes.ModelEntry, {404: "There is no such model."})


def info() -> dict[str, Any]:
    return _got(shapes.Info)


def status() -> dict[str, Any]:
    unwell = {"model": shapes.Status, "description": "No."}
    return {"responses": {200: {"model": shapes.Status}, 503: unwell}, "tags": ["server"]}


def metrics() -> dict[str, Any]:
    text = {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return _got(None) | {"responses": {**_got(None)["responses"], 200: text}}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole description."""
    told = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    made, definitions = models_json_schema(
        [(body, "validation") for body in _BODIES], ref_template=_SCHEMAS + "{model}"
    )
    assert made
    components = told.setdefault("components", {})
    known = components.setdefault("schemas", {})
    for name, schema in definitions["$defs"].items():
        known.setdefault(name, schema)
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for item in told["paths"].values():
        for operation in item.values():
            # FastAPI's own, for routes with parameters: paths hold any string, so it never comes to that.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "model":
                    parameter["example"] = next(iter(HOSTED_NAMES))
            if "401" in operation["responses"]:
                operation["security"] = [{}, {"token": []}]
    return told


def _asks(*bodies: type[shapes.Body]) -> dict[str, Any]:
    """The body, and the headers that count."""
    schemas = [{"$ref": _SCHEMAS + body.__name__} for body in bodies]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": [
            _header(TIMEOUT_MS, "^[1-9][0-9]{0,9}$", "milliseconds that the request may take"),
            _header(GRPC_TIMEOUT, "^[0-9]{1,8}[HMSmun]$", "the same as gRPC has it, as 500m"),
        ],
    }


def _header(name: str, pattern: str, about: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


def _got(answer: Any, refused: dict[int, str] | None = None) -> dict[str, Any]:
    """A route that is only read."""
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answer}} if answer is not None else {}
    for status, about in (_MAY_BE_REFUSED | (refused or {})).items():
        responses[status] = {"model": shapes.DocumentsError, "description": about}
    return {"responses": responses, "tags": ["server"]}
