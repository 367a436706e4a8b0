"""kube-score: every scenario against its rules, but for those that are left out here, each for a reason."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from deploy.scenarios import SCENARIOS, manifest, run

LEFT_OUT: Final = {
    "container-image-pull-policy": "IfNotPresent, for tags do not move; image.pullPolicy is a value",
    "container-ephemeral-storage-request-and-limit": "all that is written goes to volumes with a sizeLimit",
    "container-security-context-readonlyrootfilesystem": "",
}


def findings(text: str) -> list[str]:
    """What it finds wrong, as "kind/name: rule: why"."""
    ignored = [part for name in LEFT_OUT for part in ("--ignore-test", name)]
    done = run("kube-score", "score", "-", "--output-format", "json", *ignored, given=text)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert found, "it scored nothing"
    return [
        f"{each['object_name']}: {check['check']['id']}: {comment['summary']} {comment['path']}"
        for each in found
        for check in each["checks"]
        for comment in check["comments"] or ()
        if not check["skipped"] and check["grade"] < 10
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_found(scenario: str) -> None:
    assert findings(manifest(scenario)) == []
