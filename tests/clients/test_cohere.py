"""The cohere SDK: `Client`, which asks /v1/rerank, and `ClientV2`, which asks /v2/rerank."""

from __future__ import annotations

import asyncio
from typing import Any

import cohere
import pytest

from clients.live import CONTEXTS, QUERY, Live

CLIENTS = [cohere.Client, cohere.ClientV2]
ASYNC_CLIENTS = [cohere.AsyncClient, cohere.AsyncClientV2]
# Cohere's own name for a model: who changes nothing but the base URL sends it.
MODEL = "rerank-v3.5"


def found(answer: Any) -> list[tuple[int, float]]:
    return [(result.index, result.relevance_score) for result in answer.results]


@pytest.mark.parametrize("client", CLIENTS)
def test_ranks(live: Live, client: Any) -> None:
    answer = client("no-key", base_url=live.url).rerank(model=MODEL, query=QUERY, documents=CONTEXTS)
    assert found(answer) == live.ranking
    assert answer.meta.billed_units.search_units == 1


@pytest.mark.parametrize("client", ASYNC_CLIENTS)
def test_ranks_on_an_event_loop(live: Live, client: Any) -> None:
    async def ask() -> Any:
        return await client("no-key", base_url=live.url).rerank(model=MODEL, query=QUERY, documents=CONTEXTS)

    assert found(asyncio.run(ask())) == live.ranking


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_base_url_with_a_version(live: Live, client: Any, version: str) -> None:
    """The SDK adds its own: where the base URL was made for another client, it asks /v1/v2/rerank."""
    asked = client("no-key", base_url=f"{live.url}/{version}")
    assert found(asked.rerank(model=MODEL, query=QUERY, documents=CONTEXTS)) == live.ranking


@pytest.mark.parametrize("client", CLIENTS)
def test_top_n(live: Live, client: Any) -> None:
    answer = client("no-key", base_url=live.url).rerank(model=MODEL, query=QUERY, documents=CONTEXTS, top_n=2)
    assert found(answer) == live.ranking[:2]


def test_documents_that_are_objects_come_back(live: Live) -> None:
    documents = [{"text": text} for text in CONTEXTS]
    client = cohere.Client("no-key", base_url=live.url)
    answer = client.rerank(model=MODEL, query=QUERY, documents=documents, return_documents=True)
    assert found(answer) == live.ranking
    assert [result.document.text for result in answer.results] == live.best_texts


@pytest.mark.parametrize("client", CLIENTS)
def test_an_empty_query_is_a_bad_request(live: Live, client: Any) -> None:
    asked = client("no-key", base_url=live.url)
    with live.one_call(), pytest.raises(cohere.BadRequestError) as refusal:
        asked.rerank(model=MODEL, query="", documents=CONTEXTS)
    assert "query" in refusal.value.body["message"]
