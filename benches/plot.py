"""A bar chart as SVG, the same bytes for the same figures: `python -m benches.plot FILE`, under the peers'
interpreter, which has matplotlib. The figures come as JSON on the standard input.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]
from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

# Ours and a peer's, by precision.
COLOURS = {"f32": ("#1f4e9c", "#a9c1e8"), "bf16": ("#1c7a4c", "#a5d6bb"), "int8": ("#b5470f", "#f2bf9f")}


def draw(title: str, bars: list[dict[str, Any]], path: Path) -> None:
    # Text stays text, in the reader's fonts; ids are hashed from a constant, not at random.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rerankd", "font.family": "sans-serif"})
    figure = Figure(figsize=(9, 0.9 + 0.36 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    values = [bar["value"] for bar in bars]
    colours = [COLOURS[bar["precision"]][0 if bar["ours"] else 1] for bar in bars]
    drawn = axes.barh(range(len(bars)), values, color=colours)
    axes.bar_label(drawn, labels=[f"{value:,.0f}" for value in values], padding=3)
    axes.set_yticks(range(len(bars)), [bar["name"] for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    # On a page with a dark background the labels have to be readable too.
    figure.set_facecolor("white")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a bar chart as SVG.")
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args().file
    what = json.load(sys.stdin)
    draw(what["title"], what["bars"], path)
    # matplotlib ends lines of a path with blanks.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
