"""docs/interop.md's table: a row for each condition and call, a column for each example, all alike."""

from __future__ import annotations

import re

from clients.live import ROOT
from interop.conditions import CONDITIONS, MODES
from interop.programs import EXAMPLES, PROGRAMS

TEXT = (ROOT / "docs" / "interop.md").read_text("utf-8")
HEAD, *ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in re.findall(r"^\|(?!--).*\|$", TEXT, re.MULTILINE)
]


def test_it_has_every_row() -> None:
    assert [(row[0], row[1]) for row in ROWS] == [(name, mode) for name in CONDITIONS for mode in MODES]


def test_its_columns_are_the_examples() -> None:
    there = [program.name for program in PROGRAMS if (EXAMPLES / program.folder / "Makefile").is_file()]
    assert HEAD[3:] == there


def test_all_saw_the_same() -> None:
    assert [row for row in ROWS if set(row[3:]) != {"yes"}] == []
