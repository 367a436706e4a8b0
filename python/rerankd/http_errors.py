"""The one table from errors to HTTP statuses, and each API's way to say what is wrong. Values; no server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from google.rpc import code_pb2

from rerankd.errors import InputError, LostError
from rerankd.http_shapes import Dialect
from rerankd.status import Failure


class RefusedError(InputError):
    """A request that HTTP itself has a status for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("", message)
        self.status = status


@dataclass(frozen=True)
class _Kind:
    """A google.rpc.Code, as HTTP and the APIs have it."""

    status: int
    type: str
    """As OpenAI's clients know it."""
    tei: str
    """text-embeddings-inference's error_type."""
    cloudflare: int
    """Workers AI's number."""
    cloudflare_status: int


_KINDS: Final = {
    code_pb2.INVALID_ARGUMENT: _Kind(400, "invalid_request_error", "Validation", 5006, 400),
    code_pb2.NOT_FOUND: _Kind(404, "not_found_error", "Validation", 5007, 400),
    code_pb2.UNAUTHENTICATED: _Kind(401, "authentication_error", "Validation", 10000, 401),
    code_pb2.UNAVAILABLE: _Kind(429, "overloaded_error", "Overloaded", 3040, 429),
    code_pb2.DEADLINE_EXCEEDED: _Kind(504, "timeout_error", "Overloaded", 3007, 408),
    code_pb2.INTERNAL: _Kind(500, "internal_error", "Backend", 3043, 500),
}
_TYPES: Final = {413: "request_too_large", 415: "unsupported_media_type"}
# text-embeddings-inference calls what it can't read unprocessable.
_UNPROCESSABLE: Final = 422


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    body: dict[str, Any]
    code: int
    """The google.rpc.Code that it is counted as."""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(error: BaseException, doing: str, dialect: Dialect, *, leaving: bool = False) -> Refusal:
    """What a caller is told of an error; one that nobody foresaw is logged, and its text stays in the log.

    leaving: whether the server is on its way down: then it is not full, but gone (503), as where its GPU is
    lost.
    """
    failure = Failure.of(error, doing)
    kind = _KINDS[failure.code]
    status = kind.cloudflare_status if dialect in _CLOUDFLARES else kind.status
    if isinstance(error, RefusedError):
        status = error.status
    elif dialect is Dialect.TEXTS and failure.code == code_pb2.INVALID_ARGUMENT:
        status = _UNPROCESSABLE
    elif (leaving or isinstance(error, LostError)) and failure.code == code_pb2.UNAVAILABLE:
        status = 503
    headers: dict[str, str] = {}
    if failure.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, math.ceil(failure.retry_after_ms / 1000)))
        headers["retry-after-ms"] = str(failure.retry_after_ms)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    number = 3006 if status == 413 else kind.cloudflare
    told = _Told(failure.message, _TYPES.get(status, kind.type), kind.tei, number, failure.field)
    body = _body(dialect, status, told)
    return Refusal(status, body, failure.code, headers)


def unrouted(status: int, dialect: Dialect) -> dict[str, Any]:
    """The body for a path, or a method, that there is no route for."""
    what = "no such route" if status == 404 else "the route has no such method"
    number = 7001 if status == 405 else 7000
    message = f"{what}; /docs lists those that there are"
    return _body(dialect, status, _Told(message, "not_found_error", "Validation", number))


_CLOUDFLARES: Final = (Dialect.CLOUDFLARE, Dialect.CONTEXTS)


@dataclass(frozen=True)
class _Told:
    """What there is to say, for whoever it is said to."""

    message: str
    type: str
    tei: str
    cloudflare: int
    field: str = ""


def _body(dialect: Dialect, status: int, told: _Told) -> dict[str, Any]:
    message = told.message
    if dialect is Dialect.TEXTS:
        return {"error": message, "error_type": told.tei}
    if dialect in _CLOUDFLARES:
        if told.cloudflare == 5006:
            message = f"AiError: Bad input: Error: {message}"
        return {
            "errors": [{"message": message, "code": told.cloudflare}],
            "success": False,
            "result": {},
            "messages": [],
        }
    error = {"message": message, "type": told.type, "code": status, "param": told.field or None}
    return {"message": message, "detail": message, "error": error}
