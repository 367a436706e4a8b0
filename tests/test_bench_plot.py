"""The plot: that it is drawn, in either format, of what the calls were."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rerankd import bench_plot
from rerankd.bench_figures import OK, UNFINISHED, Call
from rerankd.errors import InputError
from test_bench_figures import call
from test_bench_table import result

CALLS: list[Call] = [
    *[call(0.01 * at, 0.02 + 0.001 * at, group=at % 2) for at in range(300)],
    *[call(1.5, 0.004, "UNAVAILABLE", refused=True)] * 20,
    call(1.5, 1.0, "DEADLINE_EXCEEDED"),
    call(1.5, 1.0, UNFINISHED),
]


def texts(path: Path) -> str:
    """What an SVG says, its texts one after the other."""
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text("utf-8")))


def test_an_svg_says_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    bench_plot.draw(result(CALLS, deadline_ms=500), CALLS, str(path))
    said = texts(path)
    for part in (
        "seconds from the start, when the call was due",
        "latency, ms",
        "percentile of calls",
        "OK: 300",
        "refused: 20",
        "failed: 1",
        "warm-up, not counted",
        "OK, 1 context\n",
        "OK, 5 contexts",
        "deadline",
        "mini-en, f32 on cpu; open loop, 70 calls/s (0.7x of 100)",
    ):
        assert part in said


def test_a_png_is_one(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    bench_plot.draw(result(CALLS), CALLS, str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("calls", [[], [call(1.5, 0.1)], [call(1.5, 0.0)], [call(1.5, 1.0, UNFINISHED)]])
def test_few_calls_and_none_are_drawn_too(calls: list[Call], tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    bench_plot.draw(result(calls), calls, str(path))
    assert ("OK: 1" in texts(path)) == any(each.code == OK for each in calls)


def test_dots_are_thinned_out_and_it_says_so(tmp_path: Path) -> None:
    many = [call(0.0001 * at, 0.01) for at in range(50_001)]
    path = tmp_path / "plot.svg"
    bench_plot.draw(result(many), many, str(path))
    assert "OK: 50,001, 16,667 shown" in texts(path)
    assert path.stat().st_size < 2_000_000


def test_what_can_not_be_drawn_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_plot.check("x.svg")
    with pytest.raises(InputError, match=r"^plot: 'x.pdf' ends in neither .png nor .svg"):
        bench_plot.check("x.pdf")
    modules: dict[str, Any] = {"matplotlib": None}
    monkeypatch.setattr(sys, "modules", sys.modules | modules)
    with pytest.raises(InputError, match=r"^plot: is drawn by matplotlib.*pip install 'rerankd\[plot\]'$"):
        bench_plot.check("x.svg")
