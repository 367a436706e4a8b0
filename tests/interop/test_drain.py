"""A server on its way down: what was begun is finished, and what is new is sent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from rerankd import Reranker

from interop.conftest import Cell
from interop.outcomes import SAME, Answer, Failure, answers
from interop.programs import Program
from interop.questions import BRIEF, WORK
from interop.servers import SLOW, Server, held, serving, until
from interop.test_refused import whole


@pytest.fixture(scope="module")
def finished(reranker: Reranker) -> Callable[[str], list[Answer | Failure]]:
    """What the work comes to, which is computed once."""
    return cache(lambda mode: answers(reranker, [WORK], mode))


def test_drain(
    cell: Cell, program: Program, mode: str, finished: Callable[[str], list[Answer | Failure]]
) -> None:
    with serving(*SLOW, "--grace-seconds", "60") as server:
        asked = program.start(mode, server.target, [WORK])
        until(server.works)
        server.terminate()
        cell("drain", finished(mode), asked.printed(), SAME)
        assert server.exit_code() == 0


@pytest.fixture(scope="module")
def leaving() -> Iterator[Server]:
    """Refuses, and waits for the last call in flight."""
    with serving("--grace-seconds", "600") as server, held(server.target):
        server.terminate()
        server.wait_until_it_says("not serving any more")
        yield server


def test_drain_a_new_call(cell: Cell, leaving: Server, program: Program, mode: str) -> None:
    """Where gRPC watches health it is not sent there at all; where it does not, the server refuses it."""
    if program.watches_health:
        expected = Failure(whole(mode), "UNAVAILABLE")
    else:
        expected = Failure("0", "UNAVAILABLE", "OVERLOADED", retry=mode != "batch")
    says = "UNAVAILABLE; from the server itself, OVERLOADED, where gRPC does not watch health"
    cell("drain, a new call", [expected], program.ask(mode, leaving.target, [BRIEF]), says)
