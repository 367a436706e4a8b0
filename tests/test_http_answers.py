"""Answers in each dialect, and a stream's events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rerankd import http_answers
from rerankd.http_shapes import CloudflareAnswer, ContextsAnswer, Dialect, DocumentsAnswer, TextsResult
from rerankd.ranking import Ranking, Result, Timing, Usage


def ranking(*, text: str | None = None, truncated: bool = False, unscored: tuple[int, ...] = ()) -> Ranking:
    results = (Result(1, 0.75, "", text, truncated), Result(0, 0.0, "", text, False))
    return Ranking(results, Usage(2, 31, int(truncated)), Timing(1000, 2000, 3000, 6000), "mini-en", unscored)


def answered(dialect: Dialect, **changes: Any) -> Any:
    return json.loads(http_answers.encode(http_answers.answer(ranking(**changes), dialect)))


def test_documents() -> None:
    answer = answered(Dialect.DOCUMENTS)
    DocumentsAnswer.model_validate(answer)
    assert answer["results"] == [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.0}]
    assert answer["usage"] == {"prompt_tokens": 31, "total_tokens": 31}
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert answer["meta"]["tokens"] == {"input_tokens": 31, "output_tokens": 0}
    assert answer["meta"]["api_version"] == {"version": "2"}
    assert (answer["object"], answer["model"]) == ("rerank", "mini-en")
    assert answer["id"] != answered(Dialect.DOCUMENTS)["id"]
    assert "unscored" not in answer
    assert "warnings" not in answer["meta"]


def test_documents_that_were_asked_for_cut_or_not_reached_are_told() -> None:
    answer = answered(Dialect.DOCUMENTS, text="é", truncated=True, unscored=(2, 3))
    assert answer["results"][0]["document"] == {"text": "é"}
    assert answer["unscored"] == [2, 3]
    assert answer["meta"]["warnings"] == ["1 of 2 documents were truncated"]


def test_texts() -> None:
    answer = answered(Dialect.TEXTS, text="a")
    assert answer == [{"index": 1, "score": 0.75, "text": "a"}, {"index": 0, "score": 0.0, "text": "a"}]
    for each in answer:
        TextsResult.model_validate(each)
    headers = http_answers.headers(ranking())
    assert (headers["x-compute-tokens"], headers["x-queue-time"], headers["x-total-time"]) == ("31", "1", "6")


def test_cloudflares_with_and_without_its_envelope() -> None:
    answer = answered(Dialect.CLOUDFLARE)
    CloudflareAnswer.model_validate(answer)
    bare = {
        "response": [{"id": 1, "score": 0.75}, {"id": 0, "score": 0.0}],
        "usage": {"prompt_tokens": 31, "completion_tokens": 0, "total_tokens": 31},
    }
    assert answer == {"result": bare, "success": True, "errors": [], "messages": []}
    alone = answered(Dialect.CONTEXTS, unscored=(2,))
    ContextsAnswer.model_validate(alone)
    assert alone.items() >= bare.items()
    assert (alone["model"], alone["unscored"], alone["timing"]["total_us"]) == ("mini-en", [2], 6000)


@pytest.mark.parametrize("dialect", Dialect)
def test_what_is_scored_on_a_stream_says_whether_it_was_cut(dialect: Dialect) -> None:
    items = http_answers.items(ranking(truncated=True), dialect, scored=True)
    assert [item["truncated"] for item in items] == [True, False]


def test_events() -> None:
    assert http_answers.event("scored", [1], http_answers.NDJSON) == b'{"scored":[1]}\n'
    assert (
        http_answers.event("scored", ["a\nb"], http_answers.EVENTS) == b'event: scored\ndata: ["a\\nb"]\n\n'
    )
