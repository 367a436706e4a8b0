"""A server behind TLS: whom it answers, whom it refuses, and certificates that change while it serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from authority import Authority, Files
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rerankd import AsyncClient, Client, watch
from rerankd.errors import InputError, UnreachableError
from rerankd.tls import Certificates
from support import CONTEXTS, PATIENCE, QUERY, RunningServer, Serve, until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Files:
    return authority.issue("server")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)


@pytest.fixture
def server(serve: Serve, pair: Files) -> RunningServer:
    return serve(tls_cert=pair.cert, tls_key=pair.key, threads=1)


@pytest.fixture
def mutual(serve: Serve, authority: Authority, pair: Files) -> RunningServer:
    return serve(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.ca, threads=1)


def shown(server: RunningServer) -> str:
    """The certificate that a new connection meets, in PEM."""
    host, _, port = server.target.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=PATIENCE)


def leaf(chain: bytes) -> str:
    """Its first certificate."""
    first, end, _ = chain.decode().partition("-----END CERTIFICATE-----")
    return f"{first}{end}\n"


def is_shown(server: RunningServer, pair: Files) -> bool:
    return ssl.PEM_cert_to_DER_cert(shown(server)) == ssl.PEM_cert_to_DER_cert(leaf(pair.chain))


async def ranks(server: RunningServer, **options: str) -> bool:
    """Whether both clients get their answer."""
    try:
        with Client(server.target, timeout=PATIENCE, **options) as client:  # type: ignore[arg-type]
            assert len(client.rank(QUERY, CONTEXTS)) == len(CONTEXTS)
    except UnreachableError:
        async with AsyncClient(server.target, timeout=PATIENCE, **options) as other:  # type: ignore[arg-type]
            with pytest.raises(UnreachableError):
                await other.rank(QUERY, CONTEXTS)
        return False
    async with AsyncClient(server.target, timeout=PATIENCE, **options) as other:  # type: ignore[arg-type]
        assert len(await other.rank_stream(QUERY, CONTEXTS).finish()) == len(CONTEXTS)
    return True


# ---- who is answered --------------------------------------------------------------------------------------


async def test_tls_is_answered_and_plaintext_is_not(server: RunningServer, authority: Authority) -> None:
    assert await ranks(server, ca=authority.ca)
    assert not await ranks(server)


async def test_a_client_checks_who_answers(server: RunningServer, tmp_path: Path) -> None:
    assert not await ranks(server, ca=Authority(tmp_path / "other").ca)
    with Client(server.target, tls=True, timeout=PATIENCE) as client, pytest.raises(UnreachableError):
        client.list_models()


async def test_mutual_tls_wants_a_certificate_of_the_authority(
    mutual: RunningServer, authority: Authority, tmp_path: Path
) -> None:
    own, strange = authority.issue("client"), Authority(tmp_path / "other").issue("client")
    assert await ranks(mutual, ca=authority.ca, cert=own.cert, key=own.key)
    assert not await ranks(mutual, ca=authority.ca)
    assert not await ranks(mutual, ca=authority.ca, cert=strange.cert, key=strange.key)


def test_health_has_a_port_of_its_own_in_plaintext(mutual: RunningServer) -> None:
    with grpc.insecure_channel(mutual.health_target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=PATIENCE)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


# ---- the swap ---------------------------------------------------------------------------------------------


def test_new_connections_see_the_new_certificate_and_open_ones_go_on(
    server: RunningServer, authority: Authority, pair: Files
) -> None:
    new, swapped = authority.issue("new"), threading.Event()

    def contexts() -> Iterator[str]:
        yield CONTEXTS[0]
        assert swapped.wait(PATIENCE)
        yield from CONTEXTS[1:]

    assert is_shown(server, pair)
    with Client(server.target, ca=authority.ca, timeout=PATIENCE) as client:
        stream = client.rank_stream(QUERY, contexts())
        assert len(next(stream)) == 1
        pair.take(new)
        asyncio.run(until(lambda: is_shown(server, new)))
        swapped.set()
        assert len(stream.finish()) == len(CONTEXTS)
    with Client(server.target, ca=authority.ca, timeout=PATIENCE) as client:
        assert len(client.rank(QUERY, CONTEXTS)) == len(CONTEXTS)


def test_a_bad_swap_keeps_the_old_one(
    server: RunningServer, authority: Authority, pair: Files, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = pair.chain, authority.issue("new")
    with caplog.at_level(logging.ERROR):
        Path(pair.cert).write_bytes(new.chain)  # and the key is not its own
        asyncio.run(until(lambda: bool(caplog.records)))
    assert caplog.records[0].getMessage().startswith("the certificate stays as it was: tls_key: the key in ")
    with Client(server.target, ca=authority.ca, timeout=PATIENCE) as client:
        assert len(client.rank(QUERY, CONTEXTS)) == len(CONTEXTS)
    assert ssl.PEM_cert_to_DER_cert(shown(server)) == ssl.PEM_cert_to_DER_cert(leaf(old))
    pair.take(new)
    asyncio.run(until(lambda: is_shown(server, new)))


def test_who_may_call_is_swapped_too(serve: Serve, authority: Authority, pair: Files, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Path(authority.ca).read_bytes())
    server = serve(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=str(trusted), threads=1)
    other = Authority(tmp_path / "other")
    ours, theirs = authority.issue("client"), other.issue("client")

    def answers(client: Files) -> bool:
        with Client(
            server.target, ca=authority.ca, cert=client.cert, key=client.key, timeout=PATIENCE
        ) as asking:
            try:
                return bool(asking.list_models())
            except UnreachableError:
                return False

    assert (answers(ours), answers(theirs)) == (True, False)
    trusted.write_bytes(Path(other.ca).read_bytes())
    asyncio.run(until(lambda: answers(theirs)))
    assert not answers(ours)


def test_unfit_files_are_refused_at_the_start(pair: Files, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^tls_key: can't read"):
        Certificates(pair.cert, str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"^tls_client_ca: .* has no certificate in PEM"):
        Certificates(pair.cert, pair.key, pair.key)


def test_gone_files_are_told_once(pair: Files, caplog: pytest.LogCaptureFixture) -> None:
    certificates = Certificates(pair.cert, pair.key)
    Path(pair.cert).unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            certificates.refresh()
    (record,) = caplog.records
    assert "tls_cert: can't read" in record.getMessage()
