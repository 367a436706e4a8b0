"""LlamaIndex's rerankers for text-embeddings-inference and for Cohere."""

from __future__ import annotations

from typing import Any

import cohere
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from clients.live import CONTEXTS, QUERY, Live


def rank(reranker: Any, query: str) -> list[tuple[int, float]]:
    nodes = [NodeWithScore(node=TextNode(id_=str(at), text=text)) for at, text in enumerate(CONTEXTS)]
    best = reranker.postprocess_nodes(nodes, query_bundle=QueryBundle(query))
    return [(int(each.node.node_id), each.score) for each in best]


@pytest.mark.parametrize("top_n", [2, len(CONTEXTS)])
def test_tei_ranks(live: Live, top_n: int) -> None:
    reranker = TextEmbeddingInference(base_url=live.url, top_n=top_n)
    assert rank(reranker, QUERY) == live.ranking[:top_n]


@pytest.mark.parametrize("top_n", [2, len(CONTEXTS)])
def test_cohere_ranks(live: Live, top_n: int) -> None:
    reranker = CohereRerank(base_url=live.url, api_key="no-key", model="mini-en", top_n=top_n)
    assert rank(reranker, QUERY) == live.ranking[:top_n]


def test_tei_has_no_ranking_for_an_empty_query(live: Live) -> None:
    """It does not look at the status: what it raises is that there are not as many scores as nodes."""
    with live.one_call(), pytest.raises(AssertionError):
        rank(TextEmbeddingInference(base_url=live.url), "")


def test_cohere_tells_of_an_empty_query(live: Live) -> None:
    reranker = CohereRerank(base_url=live.url, api_key="no-key", model="mini-en")
    with live.one_call(), pytest.raises(cohere.BadRequestError):
        rank(reranker, "")
