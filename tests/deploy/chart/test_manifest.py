"""deploy/kubernetes.yaml is what the chart makes, less what Helm leaves in it."""

from __future__ import annotations

import yaml

from deploy import make_manifest
from deploy.scenarios import ROOT, documents

MANIFEST = ROOT / "deploy/kubernetes.yaml"


def test_it_is_what_the_chart_makes() -> None:
    assert MANIFEST.read_text("utf-8") == make_manifest.made(), "run make chart"


def test_it_has_every_object_and_says_nothing_of_helm_or_a_namespace() -> None:
    text = MANIFEST.read_text("utf-8")
    plain = list(yaml.safe_load_all(text))
    named = {(each["kind"], each["metadata"]["name"]) for each in plain}
    assert named == {(each["kind"], each["metadata"]["name"]) for each in documents("plain")} - {
        ("Pod", "rerankd-test")
    }
    assert not any("namespace" in each["metadata"] for each in plain)
    assert "helm.sh" not in text
    assert "managed-by" not in text
