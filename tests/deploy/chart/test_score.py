"""kube-score: every scenario against its rules, but for those that are left out here, each for a reason."""

from __future__ import annotations

import copy
import json
from typing import Any, Final

import pytest
import yaml

from deploy.scenarios import SCENARIOS, documents, run

LEFT_OUT: Final = {
    "container-image-pull-policy": "it wants Always; tags of releases don't move, and it is a value",
    "container-ephemeral-storage-request-and-limit": "all that is written is in volumes with a sizeLimit",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread the pods, over zones too",
}
# What a scenario is there to leave out, and what it is not to be blamed for.
ASKED_FOR: Final = {
    "bare": {
        "container-resources",
        "container-security-context-user-group-id",
        "deployment-replicas",
        "pod-networkpolicy",
    },
    # It knows HPAs, and no ScaledObject: it takes the number that is left out for one.
    "keda": {"deployment-replicas"},
}


def findings(kept: list[Any]) -> dict[str, list[str]]:
    """What it finds wrong: the rules, and for each what it says of which object."""
    ignored = [part for name in LEFT_OUT for part in ("--ignore-test", name)]
    text = yaml.safe_dump_all(kept)
    # It judges what is deprecated by a version, and the chart asks for this one.
    options = ("--output-format", "json", "--kubernetes-version", "v1.30")
    done = run("kube-score", "score", "-", *options, *ignored, given=text)
    scored: list[dict[str, Any]] = json.loads(done.stdout)
    assert {each["type_meta"]["kind"] for each in scored} >= {"Deployment", "Service"}
    found: dict[str, list[str]] = {}
    for each in scored:
        for check in each["checks"]:
            # 10 is all well; below it are warnings, and worse.
            if not check["skipped"] and check["grade"] < 10:
                said = [f"{comment['path']}: {comment['summary']}" for comment in check["comments"] or ()]
                found.setdefault(check["check"]["id"], []).append(f"{each['object_name']}: {said}")
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_found_but_what_was_asked_for(scenario: str) -> None:
    # The pod of `helm test` comes, asks and goes: it needs no probes and no policy.
    found = findings([each for each in documents(scenario) if each["kind"] != "Pod"])
    assert set(found) == ASKED_FOR.get(scenario, set()), found


def test_it_finds_what_is_wrong() -> None:
    kept = copy.deepcopy(documents("default"))
    (deployment,) = (each for each in kept if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["readOnlyRootFilesystem"] = False
    assert "container-security-context-readonlyrootfilesystem" in findings(kept)
