"""What `rerankd bench` shows of a result on a terminal, or into a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rerankd import table

if TYPE_CHECKING:
    from rerankd.bench_figures import Figures, Percentiles
    from rerankd.bench_result import Result

_WIDEST: Final = 100
_MILLISECONDS: Final = ("calls", "p50", "p90", "p95", "p99", "p99.9", "max")
# On a narrow terminal these columns go first.
_FIRST_TO_GO: Final = ("p95", "p90", "p99.9", "calls")


def lines(result: Result, screen: table.Screen) -> list[str]:
    """The result: how it was got, rates, percentiles, what to beware of."""
    model = result.model
    head = [model.name, f"{model.dtype} on {model.device}", _loop(result), *_options(result)]
    shown = [screen.style("bold", screen.fit(screen.join(head), screen.columns)), ""]
    shown += _fitted(screen, _rates(result), keep=("", "calls/s", "contexts/s", "tokens/s"))
    shown += ["", *_fitted(screen, _latencies(result), keep=("latency, ms", *_MILLISECONDS))]
    if len(result.classes) > 1:
        shown += ["", *_fitted(screen, _classes(result), keep=_CLASSES)]
    shown += ["", screen.fit(_ends(result.total), screen.columns)]
    if result.interrupted:
        shown.append(screen.fit(f"Interrupted: {result.seconds:.1f} s counted.", screen.columns))
    for warning in result.warnings:
        wrapped = textwrap.wrap(f"Beware: {warning}.", min(screen.columns, _WIDEST))
        shown += [screen.style("yellow", line) for line in wrapped]
    return shown


def _loop(result: Result) -> str:
    if result.rate is None:
        return f"closed loop, {_count(result.asked.concurrency or 1, 'worker')}"
    if result.calibration is None:
        return f"open loop, {_number(result.rate)} calls/s"
    capacity = _number(result.calibration.capacity)
    return f"open loop, {_number(result.rate)} calls/s, {result.asked.rate} of a capacity of {capacity}"


def _options(result: Result) -> list[str]:
    asked = result.asked
    said = [f"contexts {asked.mix}" if asked.mix is not None else str(asked.file), f"{result.seconds:.4g} s"]
    if asked.stream:
        said.append("streams")
    if asked.deadline_ms is not None:
        said.append(f"deadline {asked.deadline_ms} ms")
    if asked.budget_ms is not None:
        said.append(f"budget {asked.budget_ms} ms")
    if asked.priority != "interactive":
        said.append(asked.priority)
    return said


def _rates(result: Result) -> list[Sequence[str]]:
    total, goodput = result.total, result.total.goodput
    rows = [("", "calls/s", "contexts/s", "tokens/s")]
    if result.rate is not None:
        rows += [("offered", _number(total.offered), "", ""), ("sent", _number(total.sent), "", "")]
    rows.append(("answered", _number(total.answered), "", ""))
    name = "goodput" if result.asked.deadline_ms is None else "goodput, in time"
    figures = (_number(goodput.requests), _number(goodput.contexts), _number(goodput.tokens))
    return [*rows, (name, *figures)]


def _latencies(result: Result) -> list[Sequence[str]]:
    latency = result.total.latency_ms
    rows: list[Sequence[str]] = [("latency, ms", *_MILLISECONDS), _row("OK", latency.ok)]
    if result.asked.stream:
        rows.append(_row("OK, first scores", latency.first_scores))
    if latency.refused is not None:
        rows.append(_row("refused", latency.refused))
    if latency.failed is not None:
        rows.append(_row("failed", latency.failed))
    if len(result.classes) > 1:
        rows += [_row(f"OK, {each.in_words}", each.figures.latency_ms.ok) for each in result.classes]
    if result.rate is not None:
        rows.append(_row("generator's lag", result.generator.lag_ms))
    return rows


_CLASSES: Final = ("contexts a call", "calls", "refused", "failed", "goodput/s", "contexts/s", "tokens/s")


def _classes(result: Result) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [_CLASSES]
    for each in result.classes:
        f = each.figures
        counts = (f"{f.calls:,}", f"{f.refused:,}", f"{f.failed:,}")
        rates = (_number(f.goodput.requests), _number(f.goodput.contexts), _number(f.goodput.tokens))
        rows.append((each.contexts, *counts, *rates))
    return rows


def _ends(total: Figures) -> str:
    """How many calls ended in what way, in a sentence."""
    if not total.calls:
        return "No call was due in the time that counts."
    codes = ", ".join(f"{code} {count:,}" for code, count in total.codes.items())
    said = f"{_count(total.calls, 'call')}: {codes}."
    if total.refused:
        said += f" Refused: {total.refused / total.calls:.1%}."
    if total.late:
        said += f" OK but late: {total.late:,}."
    if total.unscored:
        said += f" Contexts past the budget: {total.unscored:,}."
    return said


def _row(name: str, of: Percentiles | None) -> Sequence[str]:
    if of is None:
        return (name, "0", *["-"] * (len(_MILLISECONDS) - 1))
    times = (of.p50, of.p90, of.p95, of.p99, of.p99_9, of.max)
    return (name, f"{of.count:,}", *(_time(time) for time in times))


def _fitted(screen: table.Screen, rows: Sequence[Sequence[str]], keep: Sequence[str]) -> list[str]:
    """The rows aligned, all but the first column to the right, less the columns that have no room."""
    names = list(keep)
    going = [name for name in _FIRST_TO_GO if name in names] + names[:1:-1]
    while True:
        kept = [[row[at] for at, name in enumerate(keep) if name in names] for row in rows]
        widths = [max(map(table.width, cells)) for cells in zip(*kept, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= screen.columns or len(names) <= 2:
            break
        names.remove(next(name for name in going if name in names))
    return [
        screen.fit(
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
                ]
            ).rstrip(),
            screen.columns,
        )
        for row in kept
    ]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"
