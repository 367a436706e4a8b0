"""The HTTP port: taken, in TLS with certificates that change, and closed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from authority import Authority, Files
from rerankd import watch
from rerankd.errors import InputError
from rerankd.http_server import HttpPort
from rerankd.server import Server
from support import CONTEXTS, PATIENCE, QUERY, RunningServer, Serve, until
from test_server import settings

BODY = {"query": QUERY, "documents": CONTEXTS}


def trusting(ca: str, *client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if client:
        context.load_cert_chain(*client)
    return context


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is not asked."""


async def test_a_taken_port_is_told() -> None:
    first = HttpPort("127.0.0.1:0")
    address = f"127.0.0.1:{first.number}"
    both = HttpPort(address)
    await first.start(nothing)
    with pytest.raises(InputError, match=f"http: can't listen on {address}: taken"):
        HttpPort(address)
    with pytest.raises(InputError, match=f"http: can't listen on {address}: taken"):
        await both.start(nothing)
    await first.stop()
    await both.stop()


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_an_address_that_is_not_of_this_machine(address: str) -> None:
    with pytest.raises(InputError, match="http: can't listen on"):
        HttpPort(address)


async def test_there_need_not_be_one() -> None:
    server = Server(settings(http=""))
    await server.start()
    assert server.http_port == 0
    await server.stop()


async def test_ipv6() -> None:
    server = Server(settings(http="[::1]:0"))
    await server.start()
    async with httpx.AsyncClient(timeout=PATIENCE) as web:
        assert (await web.get(f"http://[::1]:{server.http_port}/ready")).status_code == 200
    await server.stop()


async def test_an_open_connection_does_not_hold_the_stop() -> None:
    server = Server(settings())
    await server.start()
    _, idle = await asyncio.open_connection("127.0.0.1", server.http_port)
    async with httpx.AsyncClient(timeout=PATIENCE) as web:
        await web.get(f"http://127.0.0.1:{server.http_port}/health")
        await asyncio.wait_for(server.stop(PATIENCE), PATIENCE)
    idle.close()
    assert not server.cut_short


def test_tls_with_clients_certificates(serve: Serve, tmp_path: Path) -> None:
    authority, strangers = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    mine, client, stranger = authority.issue("server"), authority.issue("client"), strangers.issue("client")
    own = serve(threads=1, tls_cert=mine.cert, tls_key=mine.key, tls_client_ca=authority.ca)
    url = f"https://127.0.0.1:{own.server.http_port}/rerank"
    good = trusting(authority.ca, client.cert, client.key)
    assert httpx.post(url, json=BODY, verify=good, timeout=PATIENCE).status_code == 200
    for context in (trusting(authority.ca), trusting(authority.ca, stranger.cert, stranger.key)):
        with pytest.raises(httpx.TransportError):
            httpx.post(url, json=BODY, verify=context, timeout=PATIENCE)
    with pytest.raises(httpx.TransportError):
        httpx.post(url.replace("https", "http"), json=BODY, timeout=PATIENCE)


def test_certificates_and_authorities_are_swapped(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    mine, before, after = old.issue("server"), old.issue("client"), new.issue("client")
    clients = tmp_path / "clients.pem"
    shutil.copy(old.ca, clients)
    own = serve(threads=1, tls_cert=mine.cert, tls_key=mine.key, tls_client_ca=str(clients))
    url = f"https://127.0.0.1:{own.server.http_port}/rerank"

    def answers(ca: str, client: Files) -> bool:
        context = trusting(ca, client.cert, client.key)
        try:
            return httpx.post(url, json=BODY, verify=context, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    assert answers(old.ca, before)
    mine.take(new.issue("server"))
    shutil.copy(new.ca, clients)
    own.run(until(lambda: leaf(own) == ssl.PEM_cert_to_DER_cert(first(mine))))
    assert answers(new.ca, after)
    # An authority that is gone vouches for nobody any more.
    assert not answers(new.ca, before)
    assert not answers(old.ca, before)


def leaf(own: RunningServer) -> bytes:
    """The certificate that a new connection meets."""
    context = own.server._certificates
    assert context is not None
    return _shown(context.context())


def first(files: Files) -> str:
    return files.chain.decode().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"


def _shown(context: ssl.SSLContext) -> bytes:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    for end in (asking, answering, asking):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return asking.getpeercert(binary_form=True) or b""
