"""Tables for a terminal: fitted to its width, in plain ASCII where it knows no more."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_STYLES: Final = {"bold": "1", "dim": "2", "green": "32", "yellow": "33"}
_CONTROLS: Final = {"Cc", "Cs", "Zl", "Zp"}
_TURNS: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# What a bar, a cut and a separator are drawn with; an encoding that lacks one of them gets plain ASCII.
_SIGNS: Final = "█" + _EIGHTHS + "…·"


@dataclass(frozen=True)
class Screen:
    """What can be shown: how many columns, beyond ASCII or not, coloured or not."""

    columns: int
    unicode: bool
    colour: bool

    @classmethod
    def of(cls, columns: int, encoding: str | None, *, colour: bool) -> Screen:
        return cls(max(columns, 20), can_show(_SIGNS, encoding), colour)

    def style(self, name: str, text: str) -> str:
        return f"\033[{_STYLES[name]}m{text}\033[0m" if self.colour else text

    def bar(self, fraction: float, columns: int) -> str:
        """A bar as long as `fraction`, 0 to 1, of so many columns, filled up with blanks."""
        eighths = round(min(max(fraction, 0.0), 1.0) * columns * 8)
        if not self.unicode:
            return ("#" * round(eighths / 8)).ljust(columns)
        full, part = divmod(eighths, 8)
        return ("█" * full + _EIGHTHS[part].strip()).ljust(columns)

    def fit(self, text: str, columns: int) -> str:
        """The text on one line, cut to so many columns."""
        shown = printable(text) if self.unicode else ascii_only(printable(text))
        if width(shown) <= columns:
            return shown
        cut = "…" if self.unicode else "..."
        kept, used = [], len(cut)
        for character in shown:
            used += width(character)
            if used > columns:
                break
            kept.append(character)
        return "".join(kept).rstrip() + cut[:columns]

    def join(self, parts: Iterable[str]) -> str:
        return (" · " if self.unicode else " - ").join(parts)


def bars(screen: Screen, rows: Sequence[tuple[float, str, str]]) -> list[str]:
    """Numbered lines of (fraction, figure, text): the figure, a bar, and as much of the text as fits."""
    number = len(str(len(rows)))
    figure = max((len(row[1]) for row in rows), default=0)
    left = screen.columns - number - figure - 4
    # Narrow terminals are for the text; on wide ones a bar longer than this says no more.
    columns = min(left // 4, 24) if left >= 32 else 0
    lines = []
    for at, (fraction, shown, text) in enumerate(rows, 1):
        line = f"{at:>{number}}  {shown:>{figure}}  "
        if columns:
            style = "green" if fraction >= 0.5 else "yellow"
            line += screen.style(style, screen.bar(fraction, columns)) + "  "
        lines.append(line + screen.fit(text, left - (columns + 2 if columns else 0)))
    return lines


def columns(screen: Screen, rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, aligned; the last cell is cut to what is left of the line."""
    widths = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        head = "".join(
            cell + " " * (space - width(cell) + 2) for cell, space in zip(row[:-1], widths[:-1], strict=True)
        )
        lines.append(head + screen.fit(row[-1], max(screen.columns - width(head), 10)))
    return lines


def printable(text: str) -> str:
    """The text with blanks for what moves the cursor or turns the writing round: a passage must not drive a
    terminal."""
    return "".join(" " if unicodedata.category(c) in _CONTROLS or c in _TURNS else c for c in text)


def ascii_only(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def can_show(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def width(text: str) -> int:
    """The columns that a terminal takes for it: two for a wide character, none for a combining one."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
