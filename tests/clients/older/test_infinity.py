"""infinity_client, the one made from infinity's OpenAPI."""

from __future__ import annotations

import pytest
from infinity_client import Client
from infinity_client.api.default import rerank
from infinity_client.errors import UnexpectedStatus
from infinity_client.models import RerankInput, ReRankResult

from clients.live import CONTEXTS, QUERY, Live


@pytest.fixture
def client(live: Live) -> Client:
    return Client(base_url=live.url, raise_on_unexpected_status=True)


@pytest.mark.parametrize("top_n", [2, len(CONTEXTS)])
def test_ranks(live: Live, client: Client, top_n: int) -> None:
    body = RerankInput(query=QUERY, documents=CONTEXTS, top_n=top_n)
    answer = rerank.sync(client=client, body=body)
    assert isinstance(answer, ReRankResult)
    assert [(each.index, each.relevance_score) for each in answer.results] == live.ranking[:top_n]


def test_an_empty_query_is_a_bad_request(live: Live, client: Client) -> None:
    body = RerankInput(query="", documents=CONTEXTS)
    with live.one_call(), pytest.raises(UnexpectedStatus) as refusal:
        rerank.sync(client=client, body=body)
    assert refusal.value.status_code == 400
