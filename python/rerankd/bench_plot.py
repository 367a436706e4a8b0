"""A bench drawn: each call's latency over time, and the latencies by percentile."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from rerankd.bench_figures import OK, UNFINISHED, Call
from rerankd.bench_result import Result
from rerankd.errors import InputError

_KINDS: Final = (".png", ".svg")
_OK, _REFUSED, _FAILED = "#1f4e9c", "#d98a1f", "#b3261e"
# One for each size of request, the total being _OK.
_CLASSES: Final = ("#1c7a4c", "#8a3ea8", "#b5470f", "#0f7f8c", "#6b6b6b", "#a33a6a")
# More dots than this can't be told apart, and make an SVG of many megabytes.
_MOST_DOTS: Final = 20_000
_NINES: Final = (50, 90, 99, 99.9, 99.99)


def check(path: str) -> None:
    """Before the run, not after it: whether such a plot can be drawn. Raises InputError."""
    if not path.endswith(_KINDS):
        raise InputError("plot", f"{path!r} ends in neither .png nor .svg; name it so")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("plot", "is drawn by matplotlib, which is not here: pip install 'rerankd[plot]'")


def draw(result: Result, calls: Sequence[Call], path: str) -> None:
    """Writes the plot of a run; the format is the name's."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.grid": True}
    style |= {"grid.color": "#e4e4e4", "axes.axisbelow": True}
    with mpl.rc_context(style):
        figure: Any = Figure(figsize=(11, 4.6), layout="constrained")
        figure.suptitle(_title(result), x=0.01, ha="left", fontsize=10.5)
        over_time, by_rank = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        _scatter(over_time, result, calls)
        _curves(by_rank, result, calls)
        for axes, columns in ((over_time, 4), (by_rank, 3)):
            axes.spines[["top", "right"]].set_visible(False)
            axes.minorticks_off()
            # Below, where no dot and no curve is.
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=columns, frameon=False)
        figure.savefig(path, dpi=150, facecolor="white")


def _title(result: Result) -> str:
    model = f"{result.model.name}, {result.model.dtype} on {result.model.device}"
    if result.rate is None:
        how = f"closed loop, {result.asked.concurrency} workers"
    else:
        how = f"open loop, {result.rate:,.4g} calls/s"
        if result.calibration is not None:
            how += f" ({result.asked.rate} of {result.calibration.capacity:,.4g})"
    sizes = result.asked.mix or result.asked.file
    return f"rerankd bench: {model}; {how}; contexts {sizes}; goodput {result.total.goodput.requests:,.4g}/s"


def _scatter(axes: Any, result: Result, calls: Sequence[Call]) -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    answered = [call for call in calls if call.code != UNFINISHED]
    axes.set_yscale("log")
    latencies = [_milliseconds(call) for call in answered] or [1.0, 1000.0]
    axes.set_ylim(min(latencies) / 1.5, max(latencies) * 1.5)
    kinds = (
        ("OK", _OK, [call for call in answered if call.code == OK]),
        ("refused", _REFUSED, [call for call in answered if call.refused]),
        ("failed", _FAILED, [call for call in answered if call.code != OK and not call.refused]),
    )
    for name, colour, of in kinds:
        if not of:
            continue
        shown = of[:: -(-len(of) // _MOST_DOTS)]
        label = f"{name}: {len(of):,}" + ("" if len(shown) == len(of) else f", {len(shown):,} shown")
        x, y = [call.due for call in shown], [_milliseconds(call) for call in shown]
        dots = axes.scatter(x, y, s=7, alpha=0.45, linewidths=0, color=colour, label=label)
        # As a picture inside an SVG: thousands of elements are slow to show.
        dots.set_rasterized(True)
    if result.asked.warmup:
        axes.axvspan(0, result.asked.warmup, color="#efefef", zorder=0, label="warm-up, not counted")
    # Latencies within one decade need figures beside them too.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_plain)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds from the start, when the call was due")
    axes.set_ylabel("latency, ms")


def _curves(axes: Any, result: Result, calls: Sequence[Call]) -> None:
    begin = result.asked.warmup
    counted = [call for call in calls if begin <= call.due < begin + result.seconds]
    ok = [call for call in counted if call.code == OK]
    axes.set_xscale("log")
    if len(result.classes) > 1:
        for at, each in enumerate(result.classes):
            colour = _CLASSES[at % len(_CLASSES)]
            _curve(axes, [call for call in ok if call.group == at], f"OK, {each.in_words}", colour, 1.3)
    _curve(axes, ok, "OK", _OK, 2.2)
    _curve(axes, [call for call in counted if call.refused], "refused", _REFUSED, 1.3)
    if result.asked.deadline_ms is not None:
        axes.axhline(result.asked.deadline_ms, color=_FAILED, linestyle=":", label="deadline")
    # The scale is 1 / (1 - share): each step is one nine more.
    ticks = [100 / (100 - share) for share in _NINES]
    high = max(100, len(counted))
    axes.set_xlim(1, high * 2.2)
    axes.set_xticks(
        [1, *(tick for tick in ticks if tick <= high * 1.001)],
        ["0", *(f"{share:g}" for share, tick in zip(_NINES, ticks, strict=True) if tick <= high * 1.001)],
    )
    axes.set_xlabel("percentile of calls")
    axes.tick_params(labelleft=True)


def _curve(axes: Any, calls: Sequence[Call], label: str, colour: str, width: float) -> None:
    if not calls:
        return
    latencies = np.sort([_milliseconds(call) for call in calls])
    # The last call's share is 1, which no such scale can hold: each stands for the middle of its own share.
    shares = (np.arange(len(calls)) + 0.5) / len(calls)
    axes.step(1 / (1 - shares), latencies, where="post", color=colour, linewidth=width, label=label)


def _milliseconds(call: Call) -> float:
    return max((call.ended - call.due) * 1e3, 1e-3)


def _plain(value: float, _: int) -> str:
    return f"{value:,.12g}"
