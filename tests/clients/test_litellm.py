"""LiteLLM's rerank, through four of its providers; each has a wire of its own."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from clients.live import CONTEXTS, QUERY, Live

PROVIDERS = ["cohere", "jina_ai", "hosted_vllm", "huggingface"]


def rerank(live: Live, provider: str, query: str = QUERY, **options: Any) -> Any:
    # Retries are as they come, for test_an_empty_query.
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


def test_infinity_takes_documents_for_strings(live: Live) -> None:
    """What the README says of it: with the documents, which it asks for by itself, it fails on our answer."""
    assert found(rerank(live, "infinity", return_documents=False)) == live.ranking
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever its parsing makes of an object
        rerank(live, "infinity")
