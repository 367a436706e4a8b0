"""/openapi.json: what it says of the routes is what they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rerankd.http_guard import RERANK_PATHS
from support import CONTEXTS, PATIENCE, QUERY, RunningServer

AI_RUN = "/client/v4/accounts/{account}/ai/run/{model}"


@pytest.fixture(scope="module")
def web(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.web, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def told(web: httpx.Client) -> Any:
    return web.get("/openapi.json").json()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_reference_leads_somewhere(told: Any) -> None:
    found = set(references(told))
    assert found
    for reference in found:
        place = told
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_the_routes_are_those_that_there_are(told: Any, web: httpx.Client) -> None:
    assert {path for path, item in told["paths"].items() if "post" in item} == {*RERANK_PATHS, AI_RUN}
    identifiers = [its["operationId"] for item in told["paths"].values() for its in item.values()]
    assert len(set(identifiers)) == len(identifiers)
    for path, item in told["paths"].items():
        if "get" in item:
            answer = web.get(path.replace("{name}", "mini-en"))
            assert str(answer.status_code) in item["get"]["responses"]
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in item["get"]["responses"]["200"]["content"]


def test_every_body_that_is_taken_is_described(told: Any) -> None:
    bodies = told["paths"]["/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    names = [each["$ref"].rpartition("/")[2] for each in bodies]
    required = [told["components"]["schemas"][name]["required"] for name in names]
    assert required == [["query", "documents"], ["query", "texts"], ["query", "contexts"]]


@pytest.mark.parametrize(
    ("name", "limits"), [("max_tokens", {"minimum": 1, "maximum": (1 << 32) - 1}), ("top_n", {"minimum": 0})]
)
def test_limits_are_described_as_json_schema_has_them(told: Any, name: str, limits: dict[str, int]) -> None:
    described = told["components"]["schemas"]["DocumentsBody"]["properties"][name]
    assert {"type": "integer", **limits} in described["anyOf"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"query": QUERY, "documents": CONTEXTS}, {}),
        ({"query": QUERY, "texts": CONTEXTS}, {}),
        ({"query": QUERY, "contexts": []}, {}),
        ({"query": "", "documents": CONTEXTS}, {}),
        ({"query": "", "texts": CONTEXTS}, {}),
        ({"query": ""}, {}),
        ({}, {"content-type": "text/html"}),
        ({"query": QUERY, "documents": CONTEXTS}, {"x-request-timeout-ms": "0"}),
    ],
)
def test_no_answer_is_a_surprise(told: Any, web: httpx.Client, body: Any, headers: dict[str, str]) -> None:
    for path in ("/rerank", AI_RUN):
        answer = web.post(path.format(account="a", model="mini-en"), json=body, headers=headers)
        assert str(answer.status_code) in told["paths"][path]["post"]["responses"]


def test_who_needs_a_token_is_told(told: Any) -> None:
    assert told["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert "security" in told["paths"]["/rerank"]["post"]
    assert "security" not in told["paths"]["/health"]["get"]
