"""helm lint: the chart and every scenario, by Helm's own rules and by the chart's schema."""

from __future__ import annotations

import pytest

from deploy.scenarios import CHART, SCENARIOS, run


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_finds_no_fault(scenario: str) -> None:
    done = run("helm", "lint", "--strict", str(CHART), "--values", str(SCENARIOS[scenario]))
    assert done.returncode == 0, done.stdout
    assert "0 chart(s) failed" in done.stdout
