"""Every example, against servers in every condition; and the table of what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import pytest
from clients.live import ROOT
from rerankd import Reranker

from interop import table
from interop.conditions import CONDITIONS, MODES
from interop.outcomes import Answer, Failure, outcome
from interop.programs import EXAMPLES, PROGRAMS, Line, Program, built
from interop.servers import Server, serving

CELLS = pytest.StashKey[dict[tuple[str, str], tuple[str, dict[str, str]]]]()
Cell: TypeAlias = "Callable[..., None]"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write docs/interop.md")
    parser.addoption("--programs", default="", help="some of them, with commas between: go,python-sync")


def _chosen(config: pytest.Config) -> list[Program]:
    there = [program for program in PROGRAMS if (EXAMPLES / program.folder / "Makefile").is_file()]
    names = [name for name in str(config.getoption("--programs")).split(",") if name]
    unknown = set(names) - {str(program) for program in there}
    if unknown:
        raise pytest.UsageError(f"--programs: there is no {', '.join(sorted(unknown))}")
    return [program for program in there if not names or str(program) in names]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CELLS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program" in metafunc.fixturenames:
        metafunc.parametrize("program", _chosen(metafunc.config), ids=str, indirect=True)
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Program:
    """Built; skipped where its language's tools are not there."""
    chosen: Program = request.param
    if chosen.missing:
        pytest.skip(f"{chosen.name}: there is no {', '.join(chosen.missing)}")
    assert not (wrong := built(chosen.folder)), wrong
    return chosen


@pytest.fixture
def cell(request: pytest.FixtureRequest, program: Program, mode: str) -> Cell:
    """Compares what the program printed with what is expected, and puts it into the table; `says` is how the
    table has what is expected.
    """

    def compare(
        condition: str, expected: Sequence[Answer | Failure], printed: Sequence[Line], says: str = ""
    ) -> None:
        assert condition in CONDITIONS
        shown = says or "; ".join(dict.fromkeys(map(str, expected)))
        _, row = request.config.stash[CELLS].setdefault((condition, mode), (shown, {}))
        seen = outcome(printed)
        same = seen == list(expected)
        row[program.name] = "yes" if same else "; ".join(dict.fromkeys(map(str, seen)))
        assert same, f"{seen}\nand not\n{expected}"

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    cells = config.stash[CELLS]
    asked = [program.name for program in PROGRAMS if any(program.name in row for _, row in cells.values())]
    if not asked:
        return
    made = table.markdown(cells, asked)
    terminalreporter.write_sep("-", "interop")
    terminalreporter.write(made)
    if config.getoption("--record"):
        table.record(ROOT / "docs" / "interop.md", made)


@pytest.fixture(scope="session")
def reranker() -> Iterator[Reranker]:
    """What the scores are to be."""
    with Reranker("mini-en") as reranker:
        yield reranker


@pytest.fixture(scope="session")
def plain() -> Iterator[Server]:
    """A server with no settings to speak of."""
    with serving() as server:
        yield server
