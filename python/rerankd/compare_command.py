"""`rerankd compare`: its flags, its run, and its table."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rerankd import knobs, models, samples, settings, table
from rerankd.errors import InputError

if TYPE_CHECKING:
    from rerankd.compare import Comparison, Mean, Rate

ABOUT: Final = f"""\
Measures what another precision costs and gains on your own queries: computes all contexts of FILE, or of the
standard input, in --dtype and in --against, and prints how far scores and rankings agree, how good both are
by your labels, where there are any, and how fast both are. Each line of FILE is a JSON object, as one of
  {samples.FORM}
  {samples.FORM_WITH_LABELS}
Labels are numbers from 0, not relevant, up; a list "labels" beside "contexts" says the same. A query has
labels for all of its contexts or for none. Other keys, and blank lines, are left out.
"""
OUTPUT: Final = """\
output:
  a table; with --json, one object:
  {"model", "device", "kernels": {"dtype", "against"}, "threads", "dtype", "against", "top_k",
   "queries", "contexts", "tokens", "truncated",
   "scores": {"mean", "p99", "max"},
   "logits": {"mean", "p99", "max", "spread", "mean_of_spread", "max_of_spread"},
   "top_1_changed": {"queries", "mean"}, "top_k_overlap": {"queries", "mean"}, "tau_b": {"queries", "mean"},
   "ndcg": {"queries", "dtype", "against", "difference"},
   "speed": {"runs", "dtype": RATE, "against": RATE, "ratio", "ratio_min", "ratio_max"}}
  where RATE is {"pairs_per_second", "tokens_per_second"}, and "queries" says over how many a mean was taken:
  those that the figure is defined for; with none, it is null.
"""
_HOW_TO_READ: Final = (
    "Judge by nDCG where you have labels, else by top-1 and tau-b: they see what users see. Differences of "
    "scores that change no ranking matter only to a threshold, as min_score is."
)
# Wider lines are no easier to read; narrower ones have no room for notes.
_WIDEST: Final = 100
_NARROWEST: Final = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the settings' own flags. They are checked by `run`."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="JSON lines in UTF-8; -: stdin")
    parser.add_argument(
        "--against", default="f32", metavar="NAME", help="the precision to compare --dtype with; default: f32"
    )
    parser.add_argument(
        "--top-k", default="10", metavar="K", help="how far down rankings are compared; default: 10"
    )
    parser.add_argument(
        "--runs", default="5", metavar="N", help="how often the speed on FILE is measured; default: 5"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace, numbers: Sequence[int], lines: Sequence[str]) -> Comparison:
    """Compares on these lines of the file, `numbers` being theirs. Raises InputError for a flag or a line."""
    resolved = settings.from_flags(arguments)
    against: str = _checked(arguments, "against", settings.declared()["dtype"].kind)
    top_k: int = _checked(arguments, "top_k", knobs.integer(1))
    runs: int = _checked(arguments, "runs", knobs.integer(1, 1000))
    if len(resolved.model) > 1:
        raise InputError("model", f"one model is compared with itself, and here are {len(resolved.model)}")
    read = samples.read(arguments.file, numbers, lines)
    from rerankd.compare import compare  # noqa: PLC0415 - the engine is for those who need it
    from rerankd.reranker import Reranker  # noqa: PLC0415

    name = resolved.model[0] if resolved.model else models.DEFAULT
    how: dict[str, Any] = {
        "threads": resolved.threads,
        "max_tokens": resolved.max_tokens,
        "kernels": resolved.kernels,
        "emulate": resolved.emulate,
    }
    with (
        _Progress() as progress,
        Reranker(name, resolved.device, resolved.dtype, **how) as candidate,
        Reranker(name, resolved.device, against, **how) as baseline,
    ):
        return compare(read, candidate, baseline, top_k=top_k, runs=runs, tell=progress.tell)


def _checked(arguments: argparse.Namespace, name: str, kind: knobs.Kind) -> Any:
    raw = getattr(arguments, name)
    try:
        return kind.parse(raw)
    except ValueError:
        said = f"{raw!r} (from {settings.flag(name)}) is not legal; it must be {kind.legal}"
        raise InputError(name, said) from None


class _Progress:
    """One line on a terminal's standard error, which is gone in the end."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._width = 0

    def tell(self, what: str) -> None:
        if self._shown:
            print(f"\r{what:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(what)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.tell("")  # blanks over what was told
        self.tell("")


def lines(comparison: Comparison, screen: table.Screen) -> list[str]:
    """The comparison as a table, with how to read it."""
    c = comparison
    new, old = _names(c)
    kernels = " against ".join(dict.fromkeys((c.kernels.dtype, c.kernels.against)))
    head = [c.model, f"{new} against {old}", f"{c.device} ({kernels})", _count(c.threads, "thread")]
    data = [_queries(c.queries), _count(c.contexts, "context"), _count(c.tokens, "token")]
    if c.truncated:
        data.append(f"{c.truncated} truncated")
    shown = [screen.style("bold", screen.fit(screen.join(head), screen.columns))]
    shown += [screen.fit(screen.join(data), screen.columns), ""]
    rows = [*_score_rows(c), *_ranking_rows(c), *_quality_rows(c), *_speed_rows(c)]
    kept = [row if screen.columns >= _NARROWEST else row[:2] for row in rows]
    shown += [line.rstrip() for line in table.columns(screen, kept)]
    how_to_read = _HOW_TO_READ
    if c.dtype == c.against:
        how_to_read = f"Both sides are {c.dtype}: what differs is the noise of this machine. " + how_to_read
    wrapped = textwrap.wrap(how_to_read, min(screen.columns, _WIDEST))
    return [*shown, "", *(screen.style("dim", line) for line in wrapped)]


def _names(c: Comparison) -> tuple[str, str]:
    """What the two sides are called in the table."""
    return (c.dtype, c.against) if c.dtype != c.against else (c.dtype, f"{c.against} again")


def _score_rows(c: Comparison) -> list[tuple[str, str, str]]:
    def of_spread(share: float | None) -> str:
        return "the logits are all the same" if share is None else f"{share:.2%} of the logits' spread"

    return [
        ("score difference, mean", f"{c.scores.mean:.6f}", "on the scale from 0 to 1; 0 is best"),
        ("score difference, p99", f"{c.scores.p99:.6f}", "99 of 100 contexts differ by no more"),
        ("score difference, max", f"{c.scores.max:.6f}", ""),
        ("logit difference, mean", f"{c.logits.mean:.6f}", of_spread(c.logits.mean_of_spread)),
        ("logit difference, max", f"{c.logits.max:.6f}", of_spread(c.logits.max_of_spread)),
    ]


def _ranking_rows(c: Comparison) -> list[tuple[str, str, str]]:
    def row(name: str, figure: str, mean: Mean, note: str, where_none: str) -> tuple[str, str, str]:
        if mean.mean is None:
            return (name, "-", where_none)
        return (name, format(mean.mean, figure), f"{note}; {_queries(mean.queries)}")

    alone, past = "no query has two contexts", f"no query has more than {c.top_k} contexts"
    tied = "no query has contexts that both tell apart"
    return [
        row("top-1 changed", ".2%", c.top_1_changed, "another context is first", alone),
        row(f"top-{c.top_k} overlap", ".4f", c.top_k_overlap, f"share of the best {c.top_k} in both", past),
        row("Kendall's tau-b", ".4f", c.tau_b, "1: same order, -1: reversed", tied),
    ]


def _quality_rows(c: Comparison) -> list[tuple[str, str, str]]:
    name, of = f"nDCG@{c.top_k}", c.ndcg
    new, old = _names(c)
    if of.dtype is None or of.against is None or of.difference is None:
        return [(name, "-", "no query has a label above 0")]
    return [
        (f"{name}, {new}", f"{of.dtype:.4f}", f"by your labels, 1 is best; {_queries(of.queries)}"),
        (f"{name}, {old}", f"{of.against:.4f}", ""),
        # Rounded first, and -0.0 made 0.0: nothing is no loss.
        (f"{name}, difference", f"{round(of.difference, 4) + 0.0:+.4f}", f"below 0, {new} ranks worse"),
    ]


def _speed_rows(c: Comparison) -> list[tuple[str, str, str]]:
    def row(name: str, rate: Rate) -> tuple[str, str, str]:
        note = f"pairs/s; {_figure(rate.tokens_per_second)} tokens/s"
        return (f"speed, {name}", _figure(rate.pairs_per_second), note)

    new, old = _names(c)
    of = c.speed
    over = f"{of.ratio_min:.2f} to {of.ratio_max:.2f} in {_count(of.runs, 'run')}"
    ratio = ("speed, ratio", f"{of.ratio:.2f}", f"times as fast as {old}; {over}")
    return [row(new, of.dtype), row(old, of.against), ratio]


def _queries(number: int) -> str:
    return "1 query" if number == 1 else f"{number:,} queries"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
