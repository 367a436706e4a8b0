"""The chart, its scenarios, and the programs that judge it."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy/helm/rerankd"
TOOLS: Final = ROOT / ".deploy/bin"
RELEASE: Final = "rerankd"
NAMESPACE: Final = "search"

SCENARIOS: Final = {
    path.name.removesuffix("-values.yaml"): path for path in sorted(CHART.glob("ci/*-values.yaml"))
}


def run(name: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """One of the programs that `make deploy-tools` builds; what it says is in `stdout`, errors included."""
    program = TOOLS / name
    assert program.is_file(), f"there is no {program}: run make deploy-tools"
    return subprocess.run(
        [str(program), *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        # Its plugins, caches and settings are not to matter here.
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "HELM_PLUGINS": "/nonexistent"},
    )


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("helm", "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)


@functools.cache
def manifest(scenario: str) -> str:
    """What the chart makes of a scenario, `helm test`'s pod included."""
    done = template("--values", str(SCENARIOS[scenario]))
    assert done.returncode == 0, done.stdout
    return done.stdout


def documents(scenario: str) -> list[Any]:
    return [each for each in yaml.safe_load_all(manifest(scenario)) if each]
