"""Bodies read: what each dialect may say, and the sentence for what it may not."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from rerankd import http_bodies
from rerankd.errors import InputError
from rerankd.http_bodies import Asked, most_parts
from rerankd.http_shapes import Dialect

MOST = 10
PARTS = most_parts(MOST)


def read(body: Any, dialect: Dialect | None = None, most: int = MOST) -> Asked:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    data = http_bodies.parse(raw, most)
    return http_bodies.read(data, dialect or http_bodies.dialect_of(data), most)


def refusal(body: Any, dialect: Dialect | None = None) -> str:
    with pytest.raises(InputError) as error:
        read(body, dialect)
    return str(error.value)


def test_documents_are_texts_or_objects_with_text() -> None:
    asked = read(
        {
            "model": "rerank-v3.5",
            "query": "q",
            "documents": ["a", {"text": "b", "title": "ignored"}],
            "top_n": 1,
            "return_documents": True,
            "max_chunks_per_doc": 10,
        }
    )
    assert (asked.dialect, asked.model, asked.query) == (Dialect.DOCUMENTS, "rerank-v3.5", "q")
    assert asked.passages.texts == ["a", "b"]
    assert (asked.options.top_k, asked.options.return_text, asked.options.overflow) == (1, True, "truncate")
    assert read({"query": {"text": "q"}, "documents": []}).query == "q"


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    options = read({"query": "q", "documents": [], "top_n": 3.0, "budget_ms": 5.0, "priority": 0.0}).options
    assert (options.top_k, options.budget_ms) == (3, 5)


@pytest.mark.parametrize("none", [{}, {"top_n": None}, {"top_n": 0}])
def test_no_top_n_means_all(none: dict[str, Any]) -> None:
    assert read({"query": "q", "documents": ["a"], **none}).options.top_k is None
    assert read({"query": "q", "texts": ["a"], **none}).options.top_k is None


def test_texts_are_cut_unless_that_is_refused() -> None:
    asked = read({"query": "q", "texts": ["a"], "raw_scores": True, "return_text": True})
    assert (asked.dialect, asked.passages.texts) == (Dialect.TEXTS, ["a"])
    assert (asked.options.score, asked.options.overflow, asked.options.return_text) == (
        "logit",
        "truncate",
        True,
    )
    assert read({"query": "q", "texts": ["a"], "truncate": False}).options.overflow == "reject"
    assert (
        read({"query": "q", "texts": [], "truncate": False, "overflow": "chunk"}).options.overflow == "chunk"
    )


def test_contexts_are_objects_with_text() -> None:
    asked = read({"query": "q", "contexts": [{"text": "a"}, {"text": "b"}], "top_k": 2})
    assert (asked.dialect, asked.passages.texts, asked.options.top_k) == (Dialect.CONTEXTS, ["a", "b"], 2)


@pytest.mark.parametrize("name", ["documents", "texts", "contexts"])
def test_our_own_options_are_in_all_of_them(name: str) -> None:
    texts = [{"text": "a"}] if name == "contexts" else ["a"]
    ours = {"budget_ms": 5, "min_score": 0.5, "overflow": "chunk", "max_tokens": 64, "raw_scores": False}
    options = read({"query": "q", name: texts, **ours}).options
    assert (options.budget_ms, options.min_score, options.overflow) == (5, 0.5, "chunk")
    assert (options.max_tokens, options.score) == (64, "sigmoid")


def test_a_priority_that_is_a_number_is_another_apis() -> None:
    assert read({"query": "q", "documents": [], "priority": 7}).options.priority == "interactive"
    assert read({"query": "q", "documents": [], "priority": "batch"}).options.priority == "batch"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"documents": ["a"]}, "query: is missing"),
        ({"query": "", "documents": ["a"]}, "query: must not be empty"),
        ({"query": 5, "documents": ["a"]}, "query: must be a string, or an object with text"),
        ({"query": "q", "documents": "a"}, "documents: must be a list"),
        ({"query": "q", "documents": ["a", ""]}, "documents[1]: must not be empty"),
        ({"query": "q", "documents": ["a", 3]}, "documents[1]: must be a string, or an object with text"),
        ({"query": "q", "documents": [{}]}, "documents[0].text: is missing"),
        ({"query": "q", "documents": [{"text": ""}]}, "documents[0].text: must not be empty"),
        ({"query": "q", "documents": [], "top_n": -1}, "top_n: must be at least 0"),
        ({"query": "q", "documents": [], "top_n": "1"}, "top_n: must be an integer"),
        ({"query": "q", "documents": [], "top_n": 1.5}, "top_n: must be an integer"),
        ({"query": "q", "documents": [], "top_n": True}, "top_n: must be an integer"),
        (b'{"query": "q", "documents": [], "top_n": 1e999}', "top_n: must be an integer"),
        ({"query": "q", "documents": [], "return_documents": 1}, "return_documents: must be true or false"),
        ({"query": "q", "documents": [], "min_score": "x"}, "min_score: must be a number"),
        (b'{"query": "q", "documents": [], "min_score": 1e999}', "min_score: must be a finite number"),
        ({"query": "q", "documents": [], "budget_ms": 0}, "budget_ms: must be at least 1"),
        ({"query": "q", "documents": [], "budget_ms": 1 << 32}, "budget_ms: must be at most 4294967295"),
        ({"query": "q", "documents": [], "priority": "now"}, "priority: must be one of 'interactive'"),
        ({"query": "q", "documents": [], "rank_fields": ["title"]}, "rank_fields[0]: must be one of 'text'"),
        ({"query": "q", "texts": ["a", None]}, "texts[1]: must be a string"),
        ({"query": "q", "texts": [], "truncation_direction": "Left"}, "truncation_direction: must be one of"),
        ({"query": "q", "contexts": ["a"]}, "contexts[0]: must be an object"),
        ({"query": "q", "contexts": [{"txt": "a"}]}, "contexts[0].text: is missing"),
        ({"query": "q", "contexts": [], "top_k": -1}, "top_k: must be at least 0"),
        ({"query": "q", "documents": [], "overflow": "burst"}, "overflow: must be one of 'truncate', "),
        ({"query": "q", "documents": ["a"] * 11}, "documents: at most 10 are ranked per request"),
        ({"query": "q"}, "the body needs one list of texts to rank"),
        ({"query": "q", "documents": None}, "the body needs one list of texts to rank"),
        ({"query": "q", "documents": [], "texts": []}, "the body needs one list of texts to rank"),
        ([], "the body must be a JSON object"),
        (b"", "the body is empty"),
        (b"{", "the body is not JSON: EOF while parsing an object"),
        (b'{"query": "q", "documents": [], "x": NaN}', "the body is not JSON: "),
        (b'{"query": "q", "documents": [], "x": -Infinity}', "the body is not JSON: "),
        (b'{"query": "\\ud800", "documents": []}', "the body is not JSON: "),
        (b'{"query": "\xff", "documents": []}', "the body is not JSON: invalid unicode"),
        (b"[" * 100_000, "the body has more than"),
        (b"[" * 500, "the body is not JSON: recursion limit exceeded"),
        (b'{"query": "q", "documents": [], "x": [' + b"{}," * PARTS + b"1]}", "the body has more than"),
    ],
)
def test_what_is_bad_is_named_as_its_caller_spelled_it(body: Any, sentence: str) -> None:
    assert refusal(body).startswith(sentence)


def test_braces_in_a_text_are_no_parts() -> None:
    text = '{"[\\' * PARTS
    assert read({"query": "q", "documents": [text]}).passages.texts == [text]


@pytest.mark.parametrize("body", [{"text": "This pizza is great!"}, {"query": "q"}, {"contexts": []}])
def test_cloudflares_words_for_what_is_missing(body: Any) -> None:
    assert refusal(body, Dialect.CLOUDFLARE) == "required properties at '/' are 'query,contexts'"


@pytest.mark.parametrize(
    ("name", "texts", "field"),
    [
        ("documents", ["a"], "documents[7]"),
        ("texts", ["a"], "texts[7]"),
        ("contexts", [], "contexts[7].text"),
    ],
)
def test_an_error_of_the_engines_is_told_in_the_callers_terms(name: str, texts: Any, field: str) -> None:
    asked = read({"query": "q", name: texts})
    assert asked.blame(InputError("contexts[7].text", "is long")).field == field
    assert asked.blame(InputError("query", "is long")).field == "query"


HOSTILE = {
    "objects": b'{"":0},' * (PARTS - 3),
    "strings": '"ā",'.encode() * 50_000,
    "longer strings": b'"ab",' * 50_000,
    "floats": b"1.5," * 60_000,
    "integers": b"300," * 60_000,
    "keys": b"{%s}," % ",".join(f'"{chr(0x800 + at)}":0' for at in range(30_000)).encode(),
    "escapes": b'"%s",' % (b"\\u0800" * 40_000),
    "one wide character": '"{}😀",'.format("a" * 250_000).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_takes_more_memory_than_is_reckoned_with(name: str) -> None:
    raw = b'{"query": "q", "documents": ["a"], "x": [' + HOSTILE[name] + b"0]}"
    tracemalloc.start()
    try:
        read(raw)
        assert tracemalloc.get_traced_memory()[1] <= 24 * len(raw) + 256 * PARTS
    finally:
        tracemalloc.stop()
