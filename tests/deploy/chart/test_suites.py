"""helm-unittest: the suites that lie with the chart, in its tests/."""

from __future__ import annotations

import re

from deploy.scenarios import CHART, run


def test_every_suite_passes() -> None:
    done = run("helm-unittest", "--strict", "--color=false", str(CHART))
    assert done.returncode == 0, done.stdout
    suites = re.search(r"Test Suites: *([0-9]+) passed, ([0-9]+) total", done.stdout)
    assert suites, done.stdout
    assert suites[1] == suites[2] == str(len(list(CHART.glob("tests/*_test.yaml"))))
