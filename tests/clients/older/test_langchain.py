"""LangChain's CohereRerank, of langchain-cohere."""

from __future__ import annotations

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from clients.live import CONTEXTS, QUERY, Live

DOCUMENTS = [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(CONTEXTS)]


@pytest.fixture
def compressor(live: Live) -> CohereRerank:
    return CohereRerank(base_url=live.url, cohere_api_key="no-key", model="mini-en", top_n=len(CONTEXTS))


def test_compresses(live: Live, compressor: CohereRerank) -> None:
    best = compressor.compress_documents(DOCUMENTS, QUERY)
    assert [(each.metadata["at"], each.metadata["relevance_score"]) for each in best] == live.ranking


def test_top_n(live: Live, compressor: CohereRerank) -> None:
    best = compressor.rerank(DOCUMENTS, QUERY, top_n=2)
    assert [(each["index"], each["relevance_score"]) for each in best] == live.ranking[:2]


def test_an_empty_query_is_a_bad_request(live: Live, compressor: CohereRerank) -> None:
    with live.one_call(), pytest.raises(cohere.BadRequestError):
        compressor.compress_documents(DOCUMENTS, "")
