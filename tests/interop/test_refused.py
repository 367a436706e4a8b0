"""What a server refuses, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rerankd import Reranker

from interop.conftest import Cell
from interop.outcomes import Answer, Failure, answers
from interop.programs import Line, Program
from interop.questions import BRIEF
from interop.servers import Server, held, serving

INVALID: list[Line] = [
    {"query": "", "contexts": ["a text"]},
    {"query": "a query", "contexts": ["a text", ""]},
    {"query": "a query", "contexts": ["a text"], "top_k": 0},
    BRIEF,
]


def whole(mode: str) -> str:
    """The id of a call that fails as a whole, where there is one line of input."""
    return "" if mode == "batch" else "0"


def test_invalid(cell: Cell, plain: Server, program: Program, mode: str, reranker: Reranker) -> None:
    """Each names its field; what comes after, and in a batch beside, is answered."""
    fields = ("query", "contexts[1].text", "top_k")
    failures: list[Answer | Failure] = [
        Failure(str(at), "INVALID_ARGUMENT", "INVALID_FIELD", field) for at, field in enumerate(fields)
    ]
    expected = [*failures, *answers(reranker, INVALID[3:], mode, first=3)]
    cell("invalid", expected, program.ask(mode, plain.target, INVALID))


def test_unknown_model(cell: Cell, plain: Server, program: Program, mode: str) -> None:
    printed = program.ask(mode, plain.target, [BRIEF], "--model", "no-such-model")
    cell("unknown model", [Failure("0", "NOT_FOUND", "UNKNOWN_MODEL")], printed)


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    with serving("--max-message-bytes", "64KiB") as server:
        yield server


def test_too_large(cell: Cell, narrow: Server, program: Program, mode: str) -> None:
    """gRPC itself says so, with no details, and for a batch of the call."""
    large: Line = {"query": "a query", "contexts": ["a text", "too much of it " * 10_000]}
    printed = program.ask(mode, narrow.target, [large])
    cell("too large", [Failure(whole(mode), "RESOURCE_EXHAUSTED")], printed)


@pytest.fixture(scope="module")
def full() -> Iterator[Server]:
    with serving("--queue-tokens", "1") as server, held(server.target):
        yield server


def test_overloaded(cell: Cell, full: Server, program: Program, mode: str) -> None:
    """A call is tried three times, by the shipped service config; a batch's items are not, being answers."""
    before = full.ended("Unavailable")
    printed = program.ask(mode, full.target, [BRIEF])
    cell("overloaded", [Failure("0", "UNAVAILABLE", "OVERLOADED", retry=mode != "batch")], printed)
    assert full.ended("Unavailable") - before == (0 if mode == "batch" else 3)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("the-right-one\n")
    with serving("--token-file", str(tokens)) as server:
        yield server


def test_wrong_token(cell: Cell, guarded: Server, program: Program, mode: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("another-one\n")
    printed = program.ask(mode, guarded.target, [BRIEF], "--token-file", str(token))
    cell("wrong token", [Failure(whole(mode), "UNAUTHENTICATED", "UNAUTHENTICATED")], printed)
