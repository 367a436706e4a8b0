"""Client and AsyncClient against a real server: the surface of Reranker, the same bits, the same errors."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from rerankd import AsyncClient, Client, Ranking, Reranker, wire
from rerankd.errors import DeadlineError, InputError, RerankdError, UnknownModelError
from rerankd.ranking import Passages
from support import CONTEXTS, LONG, PATIENCE, QUERY, RunningServer, Serve, until

KEYED = [{"text": text, "key": f"k{at}"} for at, text in enumerate(CONTEXTS)]


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def async_client(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target, timeout=PATIENCE) as client:
        yield client


def told(ranking: Ranking) -> tuple[Any, ...]:
    """All of a ranking but the time it took."""
    return ranking.results, ranking.usage, ranking.model, ranking.unscored


def idle(reranker: Reranker) -> bool:
    return reranker.engine.stats()["tickets"] == 0


# ---- answers ----------------------------------------------------------------------------------------------

ASKED: list[dict[str, Any]] = [
    {},
    {"top_k": 2, "return_text": True},
    {"top_k": 10**12},
    {"score": "logit", "min_score": 0.0},
    {"overflow": "reject", "max_tokens": 512, "priority": "batch"},
    {"overflow": "truncate_context", "max_tokens": 12},
    {"model": "mini-en"},
]


@pytest.mark.parametrize("options", ASKED, ids=str)
async def test_every_way_gives_what_a_reranker_in_process_gives(
    reranker: Reranker, client: Client, async_client: AsyncClient, options: dict[str, Any]
) -> None:
    here = {name: value for name, value in options.items() if name != "model"}
    wanted = told(reranker.rank(QUERY, KEYED, **here))
    assert told(client.rank(QUERY, KEYED, **options)) == wanted
    assert told(client.rank_stream(QUERY, KEYED, **options).finish()) == wanted
    assert told(client.rank_stream(QUERY, iter(KEYED), **options).finish()) == wanted
    assert told(await async_client.rank(QUERY, KEYED, **options)) == wanted
    assert told(await async_client.rank_stream(QUERY, KEYED, **options).finish()) == wanted
    request: wire.RankRequest = {"query": QUERY, "contexts": KEYED, **options}  # type: ignore[typeddict-item]
    for ((request_id, ranking),) in (
        list(client.rank_batch([request])),
        [answer async for answer in async_client.rank_batch([request])],
    ):
        assert request_id == "0"
        assert isinstance(ranking, Ranking)
        assert told(ranking) == wanted


def test_positions_are_those_of_reranker(reranker: Reranker, client: Client) -> None:
    arguments = (QUERY, CONTEXTS, 3, "logit", "truncate", True, -9.0)
    assert told(client.rank(*arguments)) == told(reranker.rank(*arguments))


def test_a_model_for_all_calls(server: RunningServer) -> None:
    with Client(server.target, model="nobody") as client:
        with pytest.raises(UnknownModelError, match="'nobody' is served here; served: mini-en"):
            client.rank(QUERY, CONTEXTS)
        assert client.rank(QUERY, CONTEXTS, model="mini-en").model == "mini-en"
        assert client.rank(QUERY, CONTEXTS, model="").model == "mini-en"


async def test_what_is_served(reranker: Reranker, client: Client, async_client: AsyncClient) -> None:
    (model,) = client.list_models()
    assert [model] == await async_client.list_models()
    assert (model.name, model.aliases, model.is_default) == ("mini-en", (), True)
    assert (model.architecture, model.device, model.dtype) == ("bert", "cpu", reranker.engine.dtype)
    assert (model.max_tokens, model.max_contexts) == (512, 1000)
    assert model.revision == reranker.revision


def test_one_client_for_many_threads(reranker: Reranker, client: Client) -> None:
    wanted = told(reranker.rank(QUERY, CONTEXTS))
    answers: queue.Queue[Any] = queue.Queue()
    threads = [
        threading.Thread(target=lambda: answers.put(told(client.rank(QUERY, CONTEXTS)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert all(answers.get(timeout=PATIENCE) == wanted for _ in threads)


# ---- streams ----------------------------------------------------------------------------------------------


def test_scores_arrive_while_contexts_still_come(client: Client) -> None:
    arrived = threading.Event()

    def contexts() -> Iterator[str]:
        yield CONTEXTS[0]
        assert arrived.wait(PATIENCE)
        yield from CONTEXTS[1:]

    with client.rank_stream(QUERY, contexts(), top_k=1) as stream:
        first = next(stream)
        assert [result.id for result in first] == [0]
        with pytest.raises(RuntimeError, match="when the iteration has ended"):
            _ = stream.ranking
        arrived.set()
        rest = [result for results in stream for result in results]
    assert sorted(result.id for result in rest) == [1, 2, 3]
    assert len(stream.ranking) == 1


async def test_scores_arrive_while_contexts_still_come_on_a_loop(async_client: AsyncClient) -> None:
    arrived = asyncio.Event()

    async def contexts() -> AsyncIterator[str]:
        yield CONTEXTS[0]
        await asyncio.wait_for(arrived.wait(), PATIENCE)
        for context in CONTEXTS[1:]:
            yield context

    ids = []
    async with async_client.rank_stream(QUERY, contexts(), top_k=1) as stream:
        async for results in stream:
            ids += [result.id for result in results]
            if not arrived.is_set():
                assert ids == [0]
                with pytest.raises(RuntimeError, match="when the iteration has ended"):
                    _ = stream.ranking
                arrived.set()
    assert sorted(ids) == [0, 1, 2, 3]
    assert len(stream.ranking) == 1


def test_no_contexts(client: Client) -> None:
    nothing: list[str] = []
    assert len(client.rank(QUERY, nothing)) == 0
    for contexts in (nothing, iter(nothing)):
        stream = client.rank_stream(QUERY, contexts)
        assert list(stream) == []
        assert len(stream.ranking) == 0


def test_long_lists_go_in_several_messages(server: RunningServer) -> None:
    text = "word " * 60_000
    contexts = ["first", text, "middle", text, text, text, text, "last"]
    # As one message this is more than the server takes, and more than this client sends.
    with Client(server.target, max_message_bytes=1 << 20) as client:
        with pytest.raises(InputError, match="larger than max"):
            client.rank(QUERY, contexts)
        ranking = client.rank_stream(QUERY, contexts, max_tokens=16).finish()
    assert sorted(result.id for result in ranking) == list(range(8))
    assert ranking.usage.truncated == 5


@pytest.mark.parametrize("size", [0, 1, wire.CHUNK_CHARACTERS])
def test_chunks_hold_everything_in_order(size: int) -> None:
    texts = [f"{at}" + "x" * size for at in range(3)]
    parts = list(wire.chunks(Passages(texts, texts)))
    assert [text for part in parts for text in part.texts] == texts
    assert [key for part in parts for key in part.keys] == texts
    assert len(parts) == (3 if size == wire.CHUNK_CHARACTERS else 1)
    assert [part.texts for part in wire.chunks(Passages())] == [[]]


class OwnError(Exception):
    pass


def failing() -> Iterator[str]:
    yield CONTEXTS[0]
    raise OwnError("the search broke")


def wrong() -> Iterator[Any]:
    yield CONTEXTS[0]
    yield {"txt": "a slip"}


async def test_what_the_callers_own_contexts_raise_is_theirs_to_see(
    client: Client, async_client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OwnError, match="the search broke"):
        client.rank_stream(QUERY, failing()).finish()
    with pytest.raises(OwnError, match="the search broke"):
        await async_client.rank_stream(QUERY, failing()).finish()
    with pytest.raises(InputError) as error:
        client.rank_stream(QUERY, wrong()).finish()
    assert error.value.field == "contexts[1].text"
    with pytest.raises(InputError) as error:
        await async_client.rank_stream(QUERY, wrong()).finish()
    assert error.value.field == "contexts[1].text"
    assert not [record for record in caplog.records if record.name.startswith("grpc")]


async def test_leaving_early_frees_the_work(server: RunningServer, client: Client) -> None:
    held = threading.Event()

    def contexts() -> Iterator[str]:
        yield CONTEXTS[0]
        held.wait(PATIENCE)

    with client.rank_stream(QUERY, contexts()) as stream:
        next(stream)
        assert not idle(server.reranker)
    await until(lambda: idle(server.reranker))
    held.set()


async def test_leaving_early_frees_the_work_on_a_loop(
    server: RunningServer, async_client: AsyncClient
) -> None:
    ended = asyncio.Event()

    async def contexts() -> AsyncIterator[str]:
        try:
            yield CONTEXTS[0]
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with async_client.rank_stream(QUERY, contexts()) as stream:
        await anext(stream)
    await until(lambda: idle(server.reranker))
    await asyncio.wait_for(ended.wait(), PATIENCE)  # the caller's iterator is let go of too


async def test_a_cancelled_task_cancels_its_call(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client.rank(QUERY, LONG))
        await until(lambda: not idle(server.reranker))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: idle(server.reranker))


# ---- batches ----------------------------------------------------------------------------------------------

BATCH: list[Any] = [
    {"request_id": "good", "query": QUERY, "contexts": CONTEXTS, "top_k": 1},
    {"request_id": "empty", "query": "", "contexts": CONTEXTS},
    {"request_id": "unknown", "query": QUERY, "contexts": CONTEXTS, "model": "nobody"},
    {"request_id": "text", "query": QUERY, "contexts": ["a", ""]},
    {"request_id": "far", "query": QUERY, "contexts": ["a"], "max_tokens": 100_000},
    {"query": QUERY, "contexts": iter(CONTEXTS)},
    {"query": QUERY, "contexts": [], "topk": 3},
    "not a mapping",
    {"request_id": "contexts", "query": QUERY},
    {"request_id": "", "query": QUERY, "contexts": []},
]


def check_batch(answers: list[tuple[str, Ranking | RerankdError]]) -> None:
    by_id = dict(answers)
    assert len(by_id) == len(answers) == len(BATCH)
    fields = {name: answer.field for name, answer in by_id.items() if isinstance(answer, InputError)}
    assert fields == {
        "empty": "query",
        "text": "contexts[1].text",
        "far": "max_tokens",
        "6": "topk",
        "7": "requests",
        "contexts": "contexts",
    }
    assert str(by_id["empty"]) == "query: must not be empty"
    assert isinstance(by_id["unknown"], UnknownModelError)
    lengths = {name: len(answer) for name, answer in by_id.items() if isinstance(answer, Ranking)}
    assert lengths == {"good": 1, "5": 4, "9": 0}


async def test_a_batch_answers_everything_once(client: Client, async_client: AsyncClient) -> None:
    BATCH[5]["contexts"] = iter(CONTEXTS)
    check_batch(list(client.rank_batch(BATCH)))
    BATCH[5]["contexts"] = iter(CONTEXTS)
    check_batch([answer async for answer in async_client.rank_batch(BATCH)])


async def test_a_batch_answers_while_requests_still_come(client: Client, async_client: AsyncClient) -> None:
    answered: queue.Queue[None] = queue.Queue()

    def requests() -> Iterator[wire.RankRequest]:
        for _ in range(3):
            yield {"query": QUERY, "contexts": CONTEXTS}
            answered.get(timeout=PATIENCE)

    ids = []
    for request_id, _ in client.rank_batch(requests()):
        ids.append(request_id)
        answered.put(None)
    assert ids == ["0", "1", "2"]

    heard: asyncio.Queue[None] = asyncio.Queue()

    async def later() -> AsyncIterator[wire.RankRequest]:
        for _ in range(3):
            yield {"query": QUERY, "contexts": CONTEXTS}
            await asyncio.wait_for(heard.get(), PATIENCE)

    ids = []
    async for request_id, _ in async_client.rank_batch(later()):
        ids.append(request_id)
        heard.put_nowait(None)
    assert ids == ["0", "1", "2"]


def test_what_a_batchs_own_iterable_raises(client: Client) -> None:
    def requests() -> Iterator[wire.RankRequest]:
        yield {"query": QUERY, "contexts": CONTEXTS}
        raise OwnError("no more")

    with pytest.raises(OwnError, match="no more"):
        list(client.rank_batch(requests()))


# ---- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("query", {"query": ""}),
        ("query", {"query": None}),
        ("query", {"query": "\ud800"}),
        ("contexts", {"contexts": "one string"}),
        ("contexts", {"contexts": 7}),
        ("contexts[1].text", {"contexts": ["a", None]}),
        ("contexts[1].text", {"contexts": ["a", ""]}),
        ("contexts[1].text", {"contexts": ["a", "\udfff"]}),
        ("top_k", {"top_k": 0}),
        ("top_k", {"top_k": "3"}),
        ("score", {"score": "softmax"}),
        ("min_score", {"min_score": float("nan")}),
        ("max_tokens", {"max_tokens": 513}),
        ("budget_ms", {"budget_ms": -1}),
        ("priority", {"priority": "now"}),
        ("timeout", {"timeout": "soon"}),
        ("model", {"model": 3}),
    ],
    ids=str,
)
async def test_a_bad_argument_is_named(
    client: Client, async_client: AsyncClient, field: str, arguments: dict[str, Any]
) -> None:
    asked = {"query": QUERY, "contexts": CONTEXTS, **arguments}
    with pytest.raises(InputError) as error:
        client.rank(**asked)
    assert error.value.field == field
    with pytest.raises(InputError) as error:
        client.rank_stream(**asked).finish()
    assert error.value.field == field
    with pytest.raises(InputError) as error:
        await async_client.rank(**asked)
    assert error.value.field == field
    with pytest.raises(InputError) as error:
        await async_client.rank_stream(**asked).finish()
    assert error.value.field == field


def test_a_server_error_keeps_grpcs_own_as_its_cause(client: Client) -> None:
    with pytest.raises(UnknownModelError) as error:
        client.rank(QUERY, CONTEXTS, model="nobody")
    cause = error.value.__cause__
    assert isinstance(cause, grpc.RpcError)
    assert isinstance(cause, grpc.Call)
    assert cause.code() is grpc.StatusCode.NOT_FOUND


async def test_the_deadline(client: Client, async_client: AsyncClient) -> None:
    with pytest.raises(DeadlineError):
        client.rank(QUERY, LONG, timeout=0.001)
    with pytest.raises(DeadlineError):
        client.rank_stream(QUERY, LONG, timeout=0.001).finish()
    with pytest.raises(TimeoutError):
        await async_client.rank(QUERY, LONG, timeout=0.001)
    with pytest.raises(DeadlineError):
        await async_client.rank_stream(QUERY, LONG, timeout=0.001).finish()
