"""A ranking over HTTP: streams, callers who leave, deadlines, a server that is full or leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from rerankd.http_answers import EVENTS, NDJSON
from rerankd.http_ranking import preferred
from rerankd.reranker import Reranker
from rerankd.server import Server
from support import CONTEXTS, LONG, PATIENCE, QUERY, RunningServer, Serve, until

BODY = {"query": QUERY, "documents": CONTEXTS}
SLOW = {"query": QUERY, "documents": LONG}


@pytest.fixture
async def own(serve: Serve) -> RunningServer:
    return serve(threads=1, drain_seconds=3600)


@pytest.fixture
async def web(own: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=own.web, timeout=PATIENCE) as client:
        yield client


def tickets(own: RunningServer) -> int:
    return own.reranker.engine.stats()["tickets"]


def quiet(own: RunningServer) -> bool:
    """Whether nothing of any request is left."""
    held: Any = own.server.room
    return tickets(own) == 0 and own.server.calls == 0 and held.free == held._size


# ---- streams ----------------------------------------------------------------------------------------------


def lines(text: str) -> list[tuple[str, Any]]:
    return [next(iter(json.loads(line).items())) for line in text.splitlines()]


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize(("accept", "read"), [(NDJSON, lines), (EVENTS, events)])
async def test_scores_then_the_ranking(
    web: httpx.AsyncClient, own: RunningServer, reranker: Reranker, accept: str, read: Any
) -> None:
    many = [f"{text} {at}" for at in range(40) for text in CONTEXTS]
    expected = reranker.rank(QUERY, many)
    answer = await web.post(
        "/rerank", json={"query": QUERY, "documents": many, "top_n": 3}, headers={"accept": accept}
    )
    assert answer.headers["content-type"] == accept
    *parts, (last, ranking) = read(answer.text)
    assert len(parts) > 1
    assert {name for name, _ in parts} == {"scored"}
    scored = {each["index"]: each["relevance_score"] for _, items in parts for each in items}
    assert scored == {each.id: each.score for each in expected}
    assert last == "ranking"
    assert [each["index"] for each in ranking["results"]] == [each.id for each in expected][:3]
    await until(lambda: quiet(own))


@pytest.mark.parametrize(
    ("body", "name", "index"),
    [
        ({"query": QUERY, "texts": CONTEXTS}, "score", "index"),
        ({"query": QUERY, "contexts": [{"text": text} for text in CONTEXTS]}, "score", "id"),
    ],
)
async def test_streams_speak_each_dialect(web: httpx.AsyncClient, body: Any, name: str, index: str) -> None:
    answer = await web.post("/rerank", json=body, headers={"accept": NDJSON})
    (_, first), *_, (_, ranking) = lines(answer.text)
    assert {name, index, "truncated"} == first[0].keys()
    assert ranking == (await web.post("/rerank", json=body)).json() or isinstance(ranking, dict)


async def test_a_stream_with_no_texts_and_one_that_is_bad(web: httpx.AsyncClient) -> None:
    answer = await web.post("/rerank", json={"query": QUERY, "documents": []}, headers={"accept": NDJSON})
    ((name, ranking),) = lines(answer.text)
    assert (name, ranking["results"]) == ("ranking", [])
    bad = {**BODY, "max_tokens": 4096}
    answer = await web.post("/rerank", json=bad, headers={"accept": NDJSON})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")


async def test_what_fails_once_a_stream_has_begun_is_its_last_event(web: httpx.AsyncClient) -> None:
    texts = [*CONTEXTS * 100, "river " * 600]
    body = {"query": QUERY, "documents": texts, "overflow": "reject"}
    answer = await web.post("/rerank", json=body, headers={"accept": NDJSON})
    assert answer.status_code == 200
    name, told = lines(answer.text)[-1]
    assert (name, told["error"]["param"]) == ("error", f"documents[{len(texts) - 1}]")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/json", "application/json"),
        (EVENTS, EVENTS),
        ("application/x-ndjson; charset=utf-8", NDJSON),
        ("application/json, text/event-stream", "application/json"),
        ("application/json;q=0.5, text/event-stream", EVENTS),
        ("text/event-stream;q=0, */*", "application/json"),
        ("text/event-stream;q=x", "application/json"),
    ],
)
def test_what_an_accept_header_wants(accept: str, kind: str) -> None:
    assert preferred(accept) == kind


async def test_a_budget_buys_what_it_can(web: httpx.AsyncClient) -> None:
    body = (await web.post("/rerank", json={**SLOW, "budget_ms": 20})).json()
    assert len(body["results"]) + len(body["unscored"]) == len(LONG)
    assert body["unscored"]


# ---- callers who leave, and deadlines ---------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_a_caller_who_leaves_frees_the_work(own: RunningServer, accept: str) -> None:
    body = json.dumps(SLOW).encode()
    head = (
        f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: {accept}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", own.server.http_port)
    writer.write(head.encode() + body)
    await until(lambda: tickets(own) == 1)
    writer.close()
    await until(lambda: quiet(own))
    assert own.reranker.engine.stats()["cancelled"] == 1


async def test_a_caller_who_leaves_before_its_body_is_whole(own: RunningServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", own.server.http_port)
    writer.write(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await until(lambda: own.server.calls == 1)
    writer.close()
    await until(lambda: quiet(own))


@pytest.mark.parametrize("headers", [{"x-request-timeout-ms": "30"}, {"grpc-timeout": "30m"}])
async def test_a_deadline_in_a_header(
    web: httpx.AsyncClient, own: RunningServer, headers: dict[str, str]
) -> None:
    answer = await web.post("/rerank", json=SLOW, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) in (
        (504, "timeout_error"),
        (429, "overloaded_error"),  # there was no time for it from the start
    )
    await until(lambda: quiet(own))


async def test_the_servers_own_deadline_counts_for_a_body_that_never_comes(serve: Serve) -> None:
    own = serve(threads=1, max_deadline_seconds=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", own.server.http_port)
    writer.write(b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 504 ")
    writer.close()
    await until(lambda: quiet(own))


# ---- a server that is full, or leaves ---------------------------------------------------------------------


async def test_a_full_server_says_when_to_come_back(serve: Serve) -> None:
    own = serve(threads=1, queue_tokens=1)
    async with httpx.AsyncClient(base_url=own.web, timeout=PATIENCE) as web:
        first = asyncio.create_task(web.post("/rerank", json=SLOW))
        await until(lambda: tickets(own) == 1)
        answer = await web.post("/rerank", json=BODY)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        first.cancel()
        await asyncio.wait([first])
    await until(lambda: quiet(own))


async def test_a_server_that_leaves_says_so_and_finishes_what_is_begun() -> None:
    from test_server import settings  # noqa: PLC0415

    server = Server(settings(drain_seconds=3600))
    await server.start()
    url = f"http://127.0.0.1:{server.http_port}"
    engine = server.rerankers[0].engine
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as web:
        retiring = asyncio.create_task(server.retire())
        while (await web.get("/ready")).status_code == 200:
            pass
        assert (await web.get("/health")).status_code == 503
        # Clients need time to notice: they are served meanwhile.
        answer = await web.post("/rerank", json=BODY)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        retiring.cancel()
        begun = asyncio.create_task(web.post("/rerank", json={**SLOW, "documents": LONG[:24]}))
        await until(lambda: engine.stats()["tickets"] == 1)
        stopping = asyncio.create_task(server.stop(PATIENCE))
        await asyncio.sleep(0)
        refused = await web.post("/rerank", json=BODY)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert len((await begun).json()["results"]) == 24
        await asyncio.wait_for(stopping, PATIENCE)
        with pytest.raises(httpx.TransportError):
            await web.get("/health")
    assert not server.cut_short
