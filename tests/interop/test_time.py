"""Calls that end before their answer is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.conftest import Cell
from interop.outcomes import Failure
from interop.programs import Program
from interop.questions import BRIEF, LONG
from interop.servers import SLOW, Server, serving, until
from interop.test_refused import whole


@pytest.fixture(scope="module")
def frozen() -> Iterator[Server]:
    with serving() as server, server.frozen():
        yield server


def test_deadline(cell: Cell, frozen: Server, program: Program, mode: str) -> None:
    """The client's own: nobody else is there to say why, so there are no details."""
    printed = program.ask(mode, frozen.target, [BRIEF], "--deadline-ms", "500")
    cell("deadline", [Failure(whole(mode), "DEADLINE_EXCEEDED")], printed)


@pytest.fixture(scope="module")
def hurried() -> Iterator[Server]:
    with serving(*SLOW, "--max-deadline-seconds", "0.2") as server:
        yield server


def test_deadline_of_the_server(cell: Cell, hurried: Server, program: Program, mode: str) -> None:
    printed = program.ask(mode, hurried.target, [LONG])
    cell("deadline, the server's", [Failure("0", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")], printed)


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    with serving(*SLOW) as server:
        yield server


def test_cancel(cell: Cell, slow: Server, program: Program, mode: str) -> None:
    """It is in progress when it is cancelled, and is not computed to its end."""
    ended = slow.ended("Canceled")
    printed = program.ask(mode, slow.target, [LONG], "--cancel-after-ms", "2000")
    cell("cancel", [Failure(whole(mode), "CANCELLED")], printed)
    until(lambda: slow.ended("Canceled") == ended + 1)
    assert slow.calls() == 0
    until(lambda: not slow.works())
