"""helm-docs: the chart's README has every value, its default and what values.yaml says of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.scenarios import CHART, run


def test_the_readme_is_made_from_the_values(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "rerankd")
    done = run("helm-docs", "--chart-search-root", str(tmp_path), "--log-level", "warning")
    assert done.returncode == 0, done.stdout
    made, kept = ((folder / "README.md").read_text("utf-8") for folder in (copy, CHART))
    assert made == kept, "run make chart"


def test_every_value_is_told_of() -> None:
    for line in (CHART / "README.md").read_text("utf-8").splitlines():
        if line.startswith("| "):
            assert line.split("|")[4].strip(), line
