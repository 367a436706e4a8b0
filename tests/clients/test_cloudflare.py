"""Cloudflare's route with no SDK: the programs that the model's page shows, for requests and for curl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from clients.live import CONTEXTS, PATIENCE, QUERY, Live, serving

MODEL = "@cf/baai/bge-reranker-base"
BODY = {"query": QUERY, "contexts": [{"text": text} for text in CONTEXTS]}
# What the page had as its example for a while: the body of another model.
OTHER_MODELS_BODY = {"text": "This pizza is great!"}


def route(live: Live, model: str = MODEL) -> str:
    return f"{live.url}/client/v4/accounts/0123456789abcdef/ai/run/{model}"


def by_requests(live: Live, body: object) -> Any:
    headers = {"Authorization": "Bearer no-key"}
    return requests.post(route(live), headers=headers, json=body, timeout=PATIENCE).json()


def by_curl(live: Live, body: object) -> Any:
    """As the page has it: with no content type, so that curl says that it is a form."""
    command = ["curl", "-sS", route(live), "-X", "POST", "-H", "Authorization: Bearer no-key"]
    return json.loads(subprocess.check_output([*command, "-d", json.dumps(body)], timeout=PATIENCE))


ASKING = [by_requests, by_curl]


@pytest.mark.parametrize("ask", ASKING)
def test_ranks(live: Live, ask: Any) -> None:
    answer = ask(live, BODY)
    usage = answer["result"].pop("usage")
    assert answer == {
        "result": {"response": [{"id": at, "score": score} for at, score in live.ranking]},
        "success": True,
        "errors": [],
        "messages": [],
    }
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@pytest.mark.parametrize("ask", ASKING)
def test_top_k(live: Live, ask: Any) -> None:
    answer = ask(live, BODY | {"top_k": 2})
    assert [(each["id"], each["score"]) for each in answer["result"]["response"]] == live.ranking[:2]


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (BODY | {"query": ""}, "query"),
        (OTHER_MODELS_BODY, "required properties at '/' are 'query,contexts'"),
    ],
)
def test_a_bad_body_is_5006(live: Live, ask: Any, body: object, told: str) -> None:
    with live.one_call():
        answer = ask(live, body)
    (error,) = answer.pop("errors")
    assert answer == {"result": {}, "success": False, "messages": []}
    assert error["code"] == 5006
    assert error["message"].startswith("AiError: Bad input: ")
    assert told in error["message"]


def test_another_model(live: Live) -> None:
    response = requests.post(route(live, "@cf/baai/bge-m3"), json=BODY, timeout=PATIENCE)
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == 5007


def test_a_token_is_asked_for(server_python: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("the-key\n")
    with serving(server_python, "--token-file", str(tmp_path / "tokens")) as addresses:
        url = f"http://{addresses.http}/client/v4/accounts/any/ai/run/{MODEL}"
        refused = requests.post(url, json=BODY, headers={"Authorization": "Bearer other"}, timeout=PATIENCE)
        assert refused.status_code == 401
        assert refused.json()["errors"][0]["code"] == 10000
        headers = {"Authorization": "Bearer the-key"}
        assert requests.post(url, json=BODY, headers=headers, timeout=PATIENCE).json()["success"] is True
