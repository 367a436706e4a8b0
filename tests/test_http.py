"""The HTTP routes against a live server: every dialect's answer is the engine's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rerankd.http_guard import RERANK_PATHS
from rerankd.http_shapes import CloudflareError, DocumentsError, Info, ModelList, TextsError
from rerankd.models import HOSTED_NAMES
from rerankd.ranking import Ranking
from rerankd.reranker import Reranker
from support import CONTEXTS, PATIENCE, QUERY, RunningServer, Serve, scrape

(HOSTED,) = HOSTED_NAMES
AI_RUN = f"/client/v4/accounts/any/ai/run/{HOSTED}"
NESTED = [{"text": text} for text in CONTEXTS]


@pytest.fixture(scope="module")
def web(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.web, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def expected(reranker: Reranker) -> Ranking:
    return reranker.rank(QUERY, CONTEXTS)


def pairs(results: Any, name: str, score: str) -> list[tuple[int, float]]:
    return [(each[name], each[score]) for each in results]


def scores(ranking: Ranking) -> list[tuple[int, float]]:
    return [(each.id, each.score) for each in ranking]


# ---- rankings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RERANK_PATHS)
def test_documents_on_every_path(web: httpx.Client, expected: Ranking, path: str) -> None:
    answer = web.post(path, json={"query": QUERY, "documents": CONTEXTS, "model": "rerank-v3.5"})
    assert answer.status_code == 200
    body = answer.json()
    assert pairs(body["results"], "index", "relevance_score") == scores(expected)
    assert body["usage"]["total_tokens"] == expected.usage.tokens
    assert body["model"] == "mini-en"
    assert body["meta"]["api_version"]["version"] == ("2" if path.endswith("v2/rerank") else "1")


def test_documents_come_back_where_asked_for(web: httpx.Client) -> None:
    asked = {"query": QUERY, "documents": NESTED, "return_documents": True, "top_n": 1}
    (result,) = web.post("/rerank", json=asked).json()["results"]
    assert result["document"] == {"text": CONTEXTS[result["index"]]}


def test_texts(web: httpx.Client, reranker: Reranker, expected: Ranking) -> None:
    answer = web.post("/rerank", json={"query": QUERY, "texts": CONTEXTS})
    assert pairs(answer.json(), "index", "score") == scores(expected)
    assert answer.headers["x-compute-tokens"] == str(expected.usage.tokens)
    raw = web.post("/rerank", json={"query": QUERY, "texts": CONTEXTS, "raw_scores": True}).json()
    assert pairs(raw, "index", "score") == scores(reranker.rank(QUERY, CONTEXTS, score="logit"))


def test_texts_too_long_are_refused_where_that_is_asked_for(web: httpx.Client) -> None:
    long = {"query": QUERY, "texts": ["a", "river " * 600]}
    assert web.post("/rerank", json=long).status_code == 200
    answer = web.post("/rerank", json={**long, "truncate": False})
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "Validation"
    assert answer.json()["error"].startswith("texts[1]: ")


def test_contexts_without_the_envelope(web: httpx.Client, expected: Ranking) -> None:
    body = web.post("/rerank", json={"query": QUERY, "contexts": NESTED}).json()
    assert pairs(body["response"], "id", "score") == scores(expected)
    assert body["usage"]["total_tokens"] == expected.usage.tokens


@pytest.mark.parametrize("path", [AI_RUN, AI_RUN.replace("@", "%40"), AI_RUN.replace(HOSTED, "mini-en")])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", None])
def test_cloudflares_route(web: httpx.Client, expected: Ranking, path: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = json.dumps({"query": QUERY, "contexts": NESTED, "top_k": 2}).encode()
    answer = web.post(path, content=body, headers=headers)
    assert answer.status_code == 200
    told = answer.json()
    assert told.keys() == {"result", "success", "errors", "messages"}
    assert told["result"].keys() == {"response", "usage"}
    assert pairs(told["result"]["response"], "id", "score") == scores(expected)[:2]
    assert told["result"]["usage"]["prompt_tokens"] == expected.usage.tokens


def test_the_body_that_cloudflares_page_shows_gets_cloudflares_error(web: httpx.Client) -> None:
    answer = web.post(AI_RUN, json={"text": "This pizza is great!"})
    assert answer.status_code == 400
    message = "AiError: Bad input: Error: required properties at '/' are 'query,contexts'"
    assert answer.json() == {
        "errors": [{"message": message, "code": 5006}],
        "success": False,
        "result": {},
        "messages": [],
    }


def test_a_model_that_cloudflare_has_and_we_do_not(web: httpx.Client) -> None:
    answer = web.post(AI_RUN.replace(HOSTED, "@cf/meta/llama"), json={"query": QUERY, "contexts": NESTED})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 5007)


def test_no_texts_are_an_empty_ranking(web: httpx.Client) -> None:
    assert web.post("/rerank", json={"query": QUERY, "documents": []}).json()["results"] == []
    assert web.post("/rerank", json={"query": QUERY, "texts": []}).json() == []
    assert web.post(AI_RUN, json={"query": QUERY, "contexts": []}).json()["result"]["response"] == []


def test_an_alias_names_the_model_that_it_means(serve: Serve) -> None:
    own = serve(threads=1, alias=(f"{HOSTED}=mini-en", "rerank-v3.5=mini-en"))
    assert httpx.post(own.web + AI_RUN, json={"query": QUERY, "contexts": NESTED}).status_code == 200
    (model,) = httpx.get(own.web + "/v1/models").json()["data"]
    assert set(model["aliases"]) == {HOSTED, "rerank-v3.5"}


# ---- refusals ---------------------------------------------------------------------------------------------

BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"query": NaN}',
    b'{"query": "\xff", "documents": []}',
    b'{"query": "\\ud800", "documents": ["a"]}',
    b'{"query": "q", "documents": ["a"], "top_n": 1e400}',
    b'{"query": "q", "documents": [NaN]}',
    b'{"query": "q", "documents": [[[[]]]]}',
    b'{"query": "q", "documents": ["a"], "max_tokens": 4096}',
    b'{"query": "q", "texts": ["a"], "min_score": Infinity}',
    b'{"query": "q", "contexts": [{"text": 5}]}',
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:30]))
def test_bad_input_is_the_callers_fault_in_the_callers_own_words(web: httpx.Client, body: bytes) -> None:
    answer = web.post("/rerank", content=body, headers={"content-type": "application/json"})
    shape: Any = DocumentsError
    if b'"texts"' in body and b"Infinity" not in body:
        shape = TextsError
    if b'"contexts"' in body:
        shape = CloudflareError
    assert answer.status_code in (400, 422)
    shape.model_validate(answer.json())
    answer = web.post(AI_RUN, content=body)
    assert answer.status_code == 400
    assert CloudflareError.model_validate(answer.json()).errors[0].code == 5006


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/html"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "x-request-timeout-ms": "soon"}, 400),
        ({"content-type": "application/json", "grpc-timeout": "soon"}, 400),
    ],
)
def test_bad_headers(web: httpx.Client, headers: dict[str, str], status: int) -> None:
    for path, shape in (("/rerank", DocumentsError), (AI_RUN, CloudflareError)):
        answer = web.post(path, content=b"{}", headers=headers)
        assert answer.status_code == status
        shape.model_validate(answer.json())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(serve: Serve, chunked: bool) -> None:
    own = serve(threads=1, max_message_bytes=1000)
    body = json.dumps({"query": QUERY, "documents": ["x" * 2000]}).encode()
    content: Any = iter([body[:500], body[500:]]) if chunked else body
    answer = httpx.post(own.web + "/rerank", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["message"]


def test_what_is_not_there(web: httpx.Client) -> None:
    assert DocumentsError.model_validate(web.get("/nothing").json()).error.code == 404
    assert CloudflareError.model_validate(web.get("/client/v4/user").json()).errors[0].code == 7000
    answer = web.get("/rerank")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# ---- what is told of the server ---------------------------------------------------------------------------


def test_models(web: httpx.Client, server: RunningServer) -> None:
    (told,) = ModelList.model_validate(web.get("/v1/models").json()).data
    assert (told.id, told.object) == ("mini-en", "model")
    one = web.get("/v1/models/mini-en").json()
    assert one["max_tokens"] == server.reranker.max_tokens
    assert one["dtype"] == server.reranker.engine.dtype
    answer = web.get("/v1/models/org/none")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_info_is_as_teis_clients_read_it(web: httpx.Client, server: RunningServer) -> None:
    told = web.get("/info").json()
    Info.model_validate(told)
    assert "reranker" in told["model_type"]
    assert told["max_input_length"] == server.reranker.max_tokens
    assert told["max_client_batch_size"] == 1000


def test_metrics_are_those_of_the_metrics_port(serve: Serve) -> None:
    own = serve(threads=1, metrics="127.0.0.1:0")
    httpx.post(own.web + "/rerank", json={"query": QUERY, "documents": CONTEXTS[:1]})
    answer = httpx.get(own.web + "/metrics")
    line = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Rerank",grpc_service="http",grpc_type="unary"}'
    )
    for text in (answer.text, scrape(own.server.metrics_port)[2]):
        assert f"{line} 1.0" in text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_health_and_readiness(web: httpx.Client) -> None:
    for path in ("/health", "/ready"):
        assert (web.get(path).status_code, web.get(path).json()) == (200, {"status": "ok"})


def test_pages_ask_nobody_else(web: httpx.Client) -> None:
    answer = web.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text
