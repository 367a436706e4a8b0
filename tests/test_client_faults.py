"""A client whose server refuses, fails, goes away or is not there; and what an error is on the wire."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import AsyncClient, Client, errors, service, wire
from rerankd.client import SERVICE_CONFIG
from rerankd.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    RerankdError,
    UnknownModelError,
    UnreachableError,
)
from rerankd.ranking import OVERFLOWS, PRIORITIES, SCORES, Options, Passages
from rerankd.status import Failure
from support import CONTEXTS, PATIENCE, QUERY, RunningServer, Serve

# ---- one server, or none ----------------------------------------------------------------------------------


@contextmanager
def refusing_port() -> Iterator[str]:
    """An address that is nobody's for as long as this lasts: bound, and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


async def test_nobody_there() -> None:
    with refusing_port() as target, Client(target) as client:
        with pytest.raises(UnreachableError, match=f"no answer from {target}: ") as error:
            client.rank(QUERY, CONTEXTS)
        assert isinstance(error.value, ConnectionError)
        with pytest.raises(UnreachableError):
            client.rank_stream(QUERY, CONTEXTS).finish()
        async with AsyncClient(target) as async_client:
            with pytest.raises(UnreachableError):
                await async_client.list_models()
            with pytest.raises(UnreachableError):
                await async_client.rank_stream(QUERY, CONTEXTS).finish()


def test_a_server_that_refuses(serve: Serve) -> None:
    server = serve()
    server.reranker.drain()
    with Client(server.target) as client:
        with pytest.raises(OverloadedError) as error:
            client.rank(QUERY, CONTEXTS)
        assert error.value.retry_after_ms > 0
        ((_, answer),) = client.rank_batch([{"query": QUERY, "contexts": CONTEXTS}])
        assert isinstance(answer, OverloadedError)


async def test_the_servers_reason_survives_a_client_that_is_still_writing(serve: Serve) -> None:
    """grpc.aio's own writes put INTERNAL in its place, more often than not."""
    server = serve(max_contexts=3)

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "a context"

    async with AsyncClient(server.target) as client:
        for _ in range(50):
            with pytest.raises(InputError, match="at most 3 contexts") as error:
                await client.rank_stream(QUERY, endless()).finish()
            assert error.value.field == "contexts"


# ---- on the wire ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        InputError("contexts[3].text", "must not be empty"),
        UnknownModelError("no model 'x' is served here; served: mini-en"),
        OverloadedError("the queue is full", retry_after_ms=250),
        DeadlineError("the deadline passed"),
        errors.AuthError("a token is needed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_the_wire_as_itself(error: RerankdError) -> None:
    failure = Failure.of(error, "a test")
    status = failure.to_status()
    arrived = wire.error(status.code, status.message, status.SerializeToString(), "here")
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_an_internal_error_tells_only_its_correlation_id() -> None:
    failure = Failure.of(ZeroDivisionError("a secret"), "a test")
    status = failure.to_status()
    arrived = wire.error(status.code, status.message, status.SerializeToString(), "here")
    assert isinstance(arrived, errors.InternalError)
    assert failure.correlation_id in str(arrived)
    assert "secret" not in str(arrived)


@given(
    st.builds(
        Options,
        top_k=st.none() | st.integers(1, 2**32 - 1),
        score=st.sampled_from(SCORES),
        overflow=st.sampled_from(OVERFLOWS),
        return_text=st.booleans(),
        min_score=st.none() | st.floats(allow_nan=False, width=32),
        budget_ms=st.none() | st.integers(1, 2**32 - 1),
        max_tokens=st.none() | st.integers(1, 2**32 - 1),
        priority=st.sampled_from(PRIORITIES),
    )
)
def test_every_option_crosses_the_wire_as_itself(options: Options) -> None:
    message = wire.request(QUERY, Passages(["a"], ["k"]), options, "m")
    assert service._options(type(message).FromString(message.SerializeToString())) == options


# ---- more than one server ---------------------------------------------------------------------------------


def both(*servers: RunningServer) -> str:
    return "ipv4:" + ",".join(server.target for server in servers)


def pairs(server: RunningServer) -> int:
    return server.reranker.engine.stats()["pairs"]


def test_the_service_config_is_what_clients_of_other_languages_can_use() -> None:
    config = json.loads(SERVICE_CONFIG)
    assert config["healthCheckConfig"] == {"serviceName": service.SERVICE}
    (method,) = config["methodConfig"]
    assert method["name"] == [{"service": service.SERVICE}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert method["retryPolicy"]["maxAttempts"] == 3


def called_until(client: Client, condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        client.rank(QUERY, CONTEXTS[:1])
    pytest.fail("it never came to that")


@pytest.mark.parametrize("size", [1, 500_000], ids=["small", "past gRPC's own retry buffer"])
def test_what_one_server_refuses_another_answers(serve: Serve, size: int) -> None:
    full, free = serve(), serve()
    with Client(both(full, free), timeout=PATIENCE) as client:
        called_until(client, lambda: pairs(full) > 0 and pairs(free) > 0)
        full.reranker.drain()
        # They take turns, so that one of two calls goes to the one that refuses, and is tried again.
        for _ in range(2):
            assert len(client.rank(QUERY, ["w " * size], max_tokens=16)) == 1
        assert full.reranker.engine.stats()["refused"] > 0


def test_a_server_goes_away_and_nobody_notices(serve: Serve) -> None:
    leaving, staying = serve(drain_seconds=1), serve()
    failures: list[BaseException] = []
    done = threading.Event()

    def call(client: Client) -> None:
        try:
            while not done.is_set():
                client.rank(QUERY, CONTEXTS)
        except RerankdError as error:
            failures.append(error)

    with Client(both(leaving, staying), timeout=PATIENCE) as client:
        called_until(client, lambda: pairs(leaving) > 0 and pairs(staying) > 0)
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        leaving.run(leaving.server.retire())
        before = pairs(staying)
        called_until(client, lambda: pairs(staying) > before)
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert failures == []
