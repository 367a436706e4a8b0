"""Haystack's rankers for Jina's API and for text-embeddings-inference."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker

from clients.live import CONTEXTS, QUERY, Live

DOCUMENTS = [Document(id=str(at), content=text) for at, text in enumerate(CONTEXTS)]


def found(answer: Any) -> list[tuple[int, float]]:
    return [(int(document.id), document.score) for document in answer["documents"]]


def float32(number: float) -> float:
    """The number as the nearest float32 has it."""
    (nearest,) = struct.unpack("f", struct.pack("f", number))
    return float(nearest)


@pytest.fixture
def jina(live: Live) -> JinaRanker:
    return JinaRanker(api_key=Secret.from_token("no-key"), base_url=f"{live.url}/v1/rerank")


@pytest.fixture
def tei(live: Live) -> HuggingFaceTEIRanker:
    return HuggingFaceTEIRanker(url=live.url, token=None)


def test_jina_ranks(live: Live, jina: JinaRanker) -> None:
    answer = jina.run(query=QUERY, documents=DOCUMENTS)
    assert found(answer) == live.ranking
    assert answer["meta"]["model"] == "mini-en"
    assert answer["meta"]["usage"]["total_tokens"] > 0


def test_jina_top_k(live: Live, jina: JinaRanker) -> None:
    assert found(jina.run(query=QUERY, documents=DOCUMENTS, top_k=2)) == live.ranking[:2]


def test_jina_tells_of_an_empty_query(live: Live, jina: JinaRanker) -> None:
    with live.one_call(), pytest.raises(RuntimeError, match="query"):
        jina.run(query="", documents=DOCUMENTS)


def test_tei_ranks(live: Live, tei: HuggingFaceTEIRanker) -> None:
    assert found(tei.run(query=QUERY, documents=DOCUMENTS)) == live.ranking


def test_tei_top_k(live: Live, tei: HuggingFaceTEIRanker) -> None:
    assert found(tei.run(query=QUERY, documents=DOCUMENTS, top_k=2)) == live.ranking[:2]


def test_tei_ranks_over_grpc(live: Live) -> None:
    ranker = HuggingFaceTEIRanker(url=live.addresses.grpc, token=None, use_grpc=True)
    try:
        answer = found(ranker.run(query=QUERY, documents=DOCUMENTS))
    finally:
        ranker.close()
    # It reads messages as JSON, where a float32 has the fewest digits that tell it from others.
    assert [(at, float32(score)) for at, score in answer] == live.ranking


def test_tei_tells_of_an_empty_query(live: Live, tei: HuggingFaceTEIRanker) -> None:
    with live.one_call(), pytest.raises(RuntimeError, match="query"):
        tei.run(query="", documents=DOCUMENTS)
