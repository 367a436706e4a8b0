"""`rerankers`' APIRanker, with a URL of one's own."""

from __future__ import annotations

import pytest
from rerankers.models.api_rankers import APIRanker

from clients.live import CONTEXTS, QUERY, Live

ROUTES = {"cohere": "/v1/rerank", "jina": "/v1/rerank", "text-embeddings-inference": "/rerank"}


def ranker(live: Live, provider: str) -> APIRanker:
    return APIRanker("mini-en", api_key="no-key", api_provider=provider, url=live.url + ROUTES[provider])


@pytest.mark.parametrize("provider", ROUTES)
def test_ranks(live: Live, provider: str) -> None:
    answer = ranker(live, provider).rank(QUERY, CONTEXTS)
    assert [(result.document.doc_id, result.score) for result in answer.results] == live.ranking


@pytest.mark.parametrize("provider", ROUTES)
def test_an_empty_query_is_no_ranking(live: Live, provider: str) -> None:
    """It does not look at the status: what it raises is that there are no results in the answer."""
    with live.one_call(), pytest.raises((KeyError, TypeError)):
        ranker(live, provider).rank("", CONTEXTS)
