"""kubeconform: every document of every scenario against the schema of its kind, unknown keys refused."""

from __future__ import annotations

import json
import re

import pytest

from deploy.make_kinds import KINDS, KUBERNETES
from deploy.scenarios import ROOT, SCENARIOS, documents, manifest, run

SCHEMAS = str(KINDS / "{{.ResourceKind}}{{.KindSuffix}}.json")


def judged(text: str) -> list[dict[str, str]]:
    done = run(
        "kubeconform", "-strict", "-output", "json", "-verbose", "-schema-location", SCHEMAS, "-", given=text
    )
    found: list[dict[str, str]] = json.loads(done.stdout)["resources"]
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_document_is_of_its_kind(scenario: str) -> None:
    results = judged(manifest(scenario))
    assert [each for each in results if each["status"] != "statusValid"] == []
    assert len(results) == len(documents(scenario))


def test_an_unknown_key_is_refused() -> None:
    text = manifest("default").replace("terminationGracePeriodSeconds:", "terminationGraceSeconds:")
    (refused,) = (each for each in judged(text) if each["status"] != "statusValid")
    assert refused["kind"] == "Deployment"
    assert "terminationGraceSeconds" in refused["msg"]


def test_the_schemas_are_of_the_version_that_the_cluster_runs() -> None:
    required = (ROOT / "tests/deploy/go/cluster/go.mod").read_text("utf-8")
    assert "@".join(re.findall(r"(k8s\.io/kubernetes) (\S+)", required)[0]) == KUBERNETES
