"""TLS, mutual TLS, and what is seen where either side does not trust the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from authority import Authority
from rerankd import Reranker

from interop.conftest import Cell
from interop.outcomes import SAME, Failure, answers
from interop.programs import Program
from interop.questions import BRIEF, QUESTIONS
from interop.servers import Server, serving
from interop.test_refused import whole


class Secure(NamedTuple):
    server: Server
    flags: list[str]
    """What a client is told that is to be let in."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    own = authority.issue("server")
    token = tmp_path_factory.mktemp("tokens") / "token"
    token.write_text("the-right-one\n")
    flags = ["--tls-cert", own.cert, "--tls-key", own.key, "--token-file", str(token)]
    with serving(*flags) as server:
        yield Secure(server, ["--ca", authority.ca, "--token-file", str(token)])


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[Secure]:
    own, client = authority.issue("mutual"), authority.issue("client")
    flags = ["--tls-cert", own.cert, "--tls-key", own.key, "--tls-client-ca", authority.ca]
    with serving(*flags) as server:
        yield Secure(server, ["--ca", authority.ca, "--cert", client.cert, "--key", client.key])


def test_tls(cell: Cell, tls: Secure, program: Program, mode: str, reranker: Reranker) -> None:
    printed = program.ask(mode, tls.server.target, QUESTIONS, *tls.flags)
    cell("TLS", answers(reranker, QUESTIONS, mode), printed, SAME)


def test_not_trusted(cell: Cell, tls: Secure, program: Program, mode: str, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    printed = program.ask(mode, tls.server.target, [BRIEF], "--ca", stranger.ca)
    cell("TLS, not trusted", [Failure(whole(mode), "UNAVAILABLE")], printed)


def test_mutual_tls(cell: Cell, mutual: Secure, program: Program, mode: str, reranker: Reranker) -> None:
    printed = program.ask(mode, mutual.server.target, QUESTIONS, *mutual.flags)
    cell("mTLS", answers(reranker, QUESTIONS, mode), printed, SAME)


def test_no_certificate(cell: Cell, mutual: Secure, program: Program, mode: str) -> None:
    printed = program.ask(mode, mutual.server.target, [BRIEF], *mutual.flags[:2])
    cell("mTLS, no certificate", [Failure(whole(mode), "UNAVAILABLE")], printed)
