"""Answers out: a ranking as the clients of each API read it, and a stream's events."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Final

from pydantic_core import to_json

from rerankd.http_shapes import Dialect
from rerankd.ranking import Ranking, Result

SEARCH_UNIT: Final = 100
"""Documents that Cohere bills as one search; its clients read the number, and add it up."""

NDJSON: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
STREAMS: Final = (EVENTS, NDJSON)
"""The media types of an answer that leaves bit by bit."""


def answer(ranking: Ranking, dialect: Dialect, version: str = "2") -> Any:
    """The whole answer, as plain values. version: of Cohere's API, by the route that was asked."""
    if dialect is Dialect.DOCUMENTS:
        return _documents(ranking, version)
    if dialect is Dialect.TEXTS:
        return items(ranking, dialect)
    bare = {"response": items(ranking, dialect), "usage": _tokens(ranking) | {"completion_tokens": 0}}
    if dialect is Dialect.CLOUDFLARE:
        return {"result": bare, "success": True, "errors": [], "messages": []}
    return bare | {"model": ranking.model, "unscored": ranking.unscored, "timing": _timing(ranking)}


def items(results: Iterable[Result], dialect: Dialect, *, scored: bool = False) -> list[dict[str, Any]]:
    """Results as the dialect names their parts; those that are `scored` on a stream say if they were cut."""
    found = [_ITEMS[dialect](result) for result in results]
    if scored:
        for item, result in zip(found, results, strict=True):
            item["truncated"] = result.truncated
    return found


def headers(ranking: Ranking) -> dict[str, str]:
    """What text-embeddings-inference tells beside its answers; times in milliseconds."""
    timing = ranking.timing
    return {
        "x-compute-type": "cpu",
        "x-compute-tokens": str(ranking.usage.tokens),
        "x-compute-time": str(timing.total_us // 1000),
        "x-total-time": str(timing.total_us // 1000),
        "x-tokenization-time": str(timing.tokenize_us // 1000),
        "x-queue-time": str(timing.queue_us // 1000),
        "x-inference-time": str(timing.compute_us // 1000),
    }


def encode(value: object) -> bytes:
    """JSON, in UTF-8 and without blanks."""
    return to_json(value)


def event(name: str, value: object, media_type: str) -> bytes:
    """One event of a stream: a line of JSON with the name as its only key, or a server-sent event."""
    if media_type == NDJSON:
        return to_json({name: value}) + b"\n"
    return b"event: " + name.encode() + b"\ndata: " + to_json(value) + b"\n\n"


def _documents(ranking: Ranking, version: str) -> dict[str, Any]:
    usage, tokens = ranking.usage, ranking.usage.tokens
    searches = max(1, -(-(usage.contexts + len(ranking.unscored)) // SEARCH_UNIT))
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"search_units": searches},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    if usage.truncated:
        meta["warnings"] = [f"{usage.truncated} of {usage.contexts} documents were truncated"]
    answer: dict[str, Any] = {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "rerank",
        "model": ranking.model,
        "results": items(ranking, Dialect.DOCUMENTS),
        "usage": _tokens(ranking),
        "meta": meta,
        "timing": _timing(ranking),
    }
    if ranking.unscored:
        answer["unscored"] = ranking.unscored
    return answer


def _document(result: Result) -> dict[str, Any]:
    item: dict[str, Any] = {"index": result.id, "relevance_score": result.score}
    if result.text is not None:
        item["document"] = {"text": result.text}
    return item


def _text(result: Result) -> dict[str, Any]:
    item: dict[str, Any] = {"index": result.id, "score": result.score}
    if result.text is not None:
        item["text"] = result.text
    return item


def _context(result: Result) -> dict[str, Any]:
    return {"id": result.id, "score": result.score}


_ITEMS: Final = {
    Dialect.DOCUMENTS: _document,
    Dialect.TEXTS: _text,
    Dialect.CONTEXTS: _context,
    Dialect.CLOUDFLARE: _context,
}


def _tokens(ranking: Ranking) -> dict[str, int]:
    return {"prompt_tokens": ranking.usage.tokens, "total_tokens": ranking.usage.tokens}


def _timing(ranking: Ranking) -> dict[str, int]:
    timing = ranking.timing
    return {
        "queue_us": timing.queue_us,
        "tokenize_us": timing.tokenize_us,
        "compute_us": timing.compute_us,
        "total_us": timing.total_us,
    }
