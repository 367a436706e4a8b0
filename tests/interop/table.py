"""The matrix as a table: printed at the end of a run, and kept in docs/interop.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from interop.conditions import CONDITIONS, MODES

Cells: TypeAlias = "Mapping[tuple[str, str], tuple[str, Mapping[str, str]]]"
"""(condition, mode): what every client sees, and {program: "yes", or what it saw instead}."""

_MARKED = re.compile(r"(?<=<!-- table: begin -->\n).*(?=<!-- table: end -->)", re.DOTALL)


def markdown(cells: Cells, programs: Sequence[str]) -> str:
    """One row per condition and call; a program that was not asked has a dash."""
    lines = [
        f"| condition | call | what is seen | {' | '.join(programs)} |",
        "|---" * (len(programs) + 3) + "|",
    ]
    for condition in CONDITIONS:
        for mode in MODES:
            if (condition, mode) in cells:
                expected, row = cells[condition, mode]
                seen = " | ".join(row.get(program, "-") for program in programs)
                lines.append(f"| {condition} | {mode} | {expected} | {seen} |")
    return "\n".join(lines) + "\n"


def record(document: Path, table: str) -> None:
    """Puts the table in its place."""
    made = "\n".join(f"- **{name}**: {made}." for name, made in CONDITIONS.items())
    text, places = _MARKED.subn(lambda _: f"\n{table}\n{made}\n\n", document.read_text("utf-8"))
    assert places == 1, f"{document} has no place for the table"
    document.write_text(text, "utf-8")
