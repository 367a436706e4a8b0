"""LiteLLM's rerank, through four of its providers; each has a wire of its own."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from clients.live import CONTEXTS, QUERY, Live

PROVIDERS = ["cohere", "jina_ai", "hosted_vllm", "huggingface"]


def rerank(live: Live, provider: str, query: str = QUERY, **options: Any) -> Any:
    # Retries off would hide what test_an_empty_query is about, so they are as they come.
    return litellm.rerank(
        model=f"{provider}/mini-en",
        query=query,
        documents=CONTEXTS,
        api_base=live.url,
        api_key="no-key",
        **options,
    )


def found(answer: Any) -> list[tuple[int, float]]:
    return [(result["index"], result["relevance_score"]) for result in answer.results]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ranks(live: Live, provider: str) -> None:
    answer = rerank(live, provider)
    assert found(answer) == live.ranking
    # What LiteLLM asks for where nothing is said: the documents.
    assert [result["document"]["text"] for result in answer.results] == live.best_texts


@pytest.mark.parametrize("provider", PROVIDERS)
def test_top_n(live: Live, provider: str) -> None:
    assert found(rerank(live, provider, top_n=2)) == live.ranking[:2]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_empty_query_is_a_bad_request(live: Live, provider: str) -> None:
    with live.one_call(), pytest.raises(Exception) as refusal:  # noqa: PT011 - each provider has its own
        rerank(live, provider, query="")
    assert "query" in str(refusal.value)
