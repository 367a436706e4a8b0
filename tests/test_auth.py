"""Tokens: which a file lists, which are accepted, and what a server does with a call that has none."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from rerankd import AsyncClient, Client, watch
from rerankd.auth import Tokens, read_tokens
from rerankd.errors import AuthError, InputError
from rerankd.service import SERVICE
from support import CONTEXTS, PATIENCE, QUERY, Refusal, RunningServer, Serve, until

FILE = """\
# of the search team
first-token-0123456789

   second.token/+~_==   # of the shop, until March
"""
FIRST, SECOND = "first-token-0123456789", "second.token/+~_=="


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(FILE)
    return file


@pytest.fixture
def server(serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    return serve(token_file=str(file), threads=1)


# ---- the file ---------------------------------------------------------------------------------------------


def test_one_per_line_with_comments(file: Path) -> None:
    assert read_tokens(str(file), "token_file") == [FIRST, SECOND]
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_tokens(str(file), "token_file") == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "lists no token"),
        (b"# none yet\n\n", "lists no token"),
        (b"fine\nsecret of mine\n", "line 2 of .* is no token"),
        ("geheimnisträger".encode(), "line 1 of .* is no token"),
        (b"se=cret", "line 1 of .* is no token"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_is_not_fit_is_told_without_what_it_holds(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^token_file: .*{says}") as error:
        Tokens(str(file))
    assert not [secret for secret in ("secret", "cret", "geheim", "fine") if secret in str(error.value)]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^token_file: can't read '.*missing': No such file"):
        Tokens(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"^token_file: can't read .*directory"):
        Tokens(str(tmp_path))


# ---- the check --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {FIRST}",
        f"bearer {SECOND}",
        f"BEARER   {FIRST} ",
        FIRST,
        f" {SECOND}",
        f"Bearer {FIRST}".encode(),
    ],
)
def test_what_is_accepted(file: Path, header: str | bytes) -> None:
    Tokens(str(file)).check(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        FIRST[:-1],
        FIRST + "0",
        FIRST.upper(),
        f"Basic {FIRST}",
        f"Bearer {FIRST} {SECOND}",
        f"Bearer Bearer {FIRST}",
        f"{FIRST},{SECOND}",
        "# of the search team",
        "é",
        "\udcff",
        b"\xff",
    ],
)
def test_what_is_refused_and_never_told_again(file: Path, header: str | bytes | None) -> None:
    with pytest.raises(AuthError) as error:
        Tokens(str(file)).check(header)
    for secret in ("wrong", FIRST, SECOND, FIRST[:-1]):
        assert secret not in str(error.value)


@given(st.text() | st.binary())
def test_any_header_is_accepted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: str | bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "tokens"
    file.write_text(FILE)
    with pytest.raises(AuthError):
        Tokens(str(file)).check(header)


def test_health_alone_needs_none(file: Path) -> None:
    tokens = Tokens(str(file))
    tokens.authorize("/grpc.health.v1.Health/Check", [])
    tokens.authorize(f"/{SERVICE}/Rerank", [("user-agent", "x"), ("authorization", FIRST)])
    for method in (
        f"/{SERVICE}/Rerank",
        "/grpc.reflection.v1alpha.ServerReflection/X",
        "/grpc.health.v1.HealthX/C",
    ):
        with pytest.raises(AuthError):
            tokens.authorize(method, [("user-agent", "x")])
    with pytest.raises(AuthError, match="more than one"):
        tokens.authorize(f"/{SERVICE}/Rerank", [("authorization", FIRST), ("authorization", "x")])


def test_a_changed_file_is_read_and_an_unfit_one_is_not(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens(str(file))
    file.write_text("third-token\n")
    tokens.refresh()
    tokens.check(FIRST)  # it might be half written
    tokens.refresh()
    tokens.check("third-token")
    with pytest.raises(AuthError):
        tokens.check(FIRST)
    for change in (lambda: file.write_text("not a token"), file.unlink):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            change()
            for _ in range(4):
                tokens.refresh()
        tokens.check("third-token")
        (record,) = caplog.records  # once, not at every look
        assert record.getMessage().startswith("the tokens stay as they were: token_file: ")
        assert "not a token" not in record.getMessage()


# ---- a server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Rerank", "RerankStream", "RerankBatch", "ListModels"])
@pytest.mark.parametrize("metadata", [[], [("authorization", "Bearer wrong")]])
def test_no_method_answers_without_a_token(server: RunningServer, method: str, metadata: Any) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call: Any
        if method in ("Rerank", "ListModels"):
            call = channel.unary_unary(f"/{SERVICE}/{method}")
        else:
            many: Any = channel.stream_stream(f"/{SERVICE}/{method}")
            call = lambda message, metadata: list(many(iter([message]), metadata=metadata))  # noqa: E731
        for message in (b"", b"\xff\xff"):  # it is not even parsed
            with pytest.raises(grpc.RpcError) as error:
                call(message, metadata=metadata)
            refusal = Refusal(error.value)
            assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
            assert refusal.info.reason == "UNAUTHENTICATED"


def test_reflection_needs_one_and_health_does_not(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        watching = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.RpcError) as error:
            next(stub.ServerReflectionInfo(iter(requests)))
        assert Refusal(error.value).code is grpc.StatusCode.UNAUTHENTICATED
        allowed = stub.ServerReflectionInfo(iter(requests), metadata=[("authorization", FIRST)])
        assert next(allowed).list_services_response.service


async def test_clients_send_theirs_with_every_call(server: RunningServer) -> None:
    for token in (FIRST, SECOND):
        with Client(server.target, token=token, timeout=PATIENCE) as client:
            assert len(client.rank(QUERY, CONTEXTS)) == len(CONTEXTS)
            assert len(client.rank_stream(QUERY, CONTEXTS).finish()) == len(CONTEXTS)
            assert len(list(client.rank_batch([{"query": QUERY, "contexts": CONTEXTS}]))) == 1
            assert len(client.list_models()) == 1
        async with AsyncClient(server.target, token=lambda token=token: token, timeout=PATIENCE) as other:
            assert len(await other.rank(QUERY, CONTEXTS)) == len(CONTEXTS)
            assert len(await other.rank_stream(QUERY, CONTEXTS).finish()) == len(CONTEXTS)
            requests: Any = [{"query": QUERY, "contexts": CONTEXTS}]
            assert len([answer async for answer in other.rank_batch(requests)]) == 1
            assert len(await other.list_models()) == 1
    with Client(server.target, token="wrong", timeout=PATIENCE) as client:
        for call in (client.list_models, client.rank_stream(QUERY, CONTEXTS).finish):
            with pytest.raises(AuthError):
                call()


def accepted(server: RunningServer, token: str) -> bool:
    with Client(server.target, token=token, timeout=PATIENCE) as client:
        try:
            client.list_models()
        except AuthError:
            return False
        return True


def test_a_running_server_takes_a_new_list(server: RunningServer, file: Path) -> None:
    assert (accepted(server, FIRST), accepted(server, "third-token")) == (True, False)
    file.write_text(f"{SECOND}\nthird-token\n")
    asyncio.run(until(lambda: accepted(server, "third-token")))
    assert (accepted(server, FIRST), accepted(server, SECOND)) == (False, True)
