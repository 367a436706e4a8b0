"""A real API server takes every scenario, by server-side apply and under Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cluster.api import Api, RefusedError
from deploy.cluster.deployed import rendered, template
from deploy.scenarios import ROOT, SCENARIOS, run


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    """A pod as the Deployment's controllers would make it."""
    template = deployment["spec"]["template"]
    metadata = {**template["metadata"], "name": "rerankd-0", "namespace": deployment["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def the(kind: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == kind)
    return found


@pytest.fixture
def namespace(api: Api, restricted: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    """A namespace of the scenario's, with what a cluster would have for it."""
    by = "kubectl" if "kubectl" in request.node.originalname else "api"
    name = restricted(f"accepted-{by}-{request.node.callspec.params['scenario']}")
    metadata = {"name": "default", "namespace": name}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "nvidia"}
    api.apply({**runtime, "metadata": {"name": "nvidia"}})
    return name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario(api: Api, namespace: str, scenario: str) -> None:
    documents = rendered(scenario, namespace)
    for document in documents:
        # Once more is no change, and no conflict.
        for _ in range(2):
            applied = api.apply(document)
            assert applied.warnings == []
        assert applied.object["metadata"].get("generation", 1) == 1, document["kind"]
    # What is enforced is enforced on pods.
    api.apply(pod_of(the("Deployment", documents)))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_by_kubectl(namespace: str, folder: Path, scenario: str) -> None:
    text = template(scenario, namespace)
    kubectl = ("--kubeconfig", str(folder / "kubeconfig"), "--namespace", namespace)
    for _ in range(2):
        done = run("kubectl", *kubectl, "apply", "--server-side", "--validate=strict", "-f", "-", given=text)
        assert done.returncode == 0, done.stdout
        lines = done.stdout.splitlines()
        assert len(lines) == len(rendered(scenario, namespace)), done.stdout
        assert all(line.endswith(" serverside-applied") for line in lines), done.stdout


def test_the_plain_manifest(api: Api, restricted: Callable[[str], str]) -> None:
    namespace = restricted("plain-manifest")
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8"))
    for document in documents:
        document["metadata"]["namespace"] = namespace
        assert api.apply(document).warnings == []


def test_a_pod_that_is_not_restricted_is_refused(api: Api, restricted: Callable[[str], str]) -> None:
    documents = rendered("default", restricted("negative"))
    api.apply(the("ServiceAccount", documents))
    deployment = the("Deployment", documents)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(RefusedError, match="violates PodSecurity") as refused:
        api.apply(pod_of(deployment))
    assert refused.value.code == 403
    assert "allowPrivilegeEscalation" in refused.value.message
    # The Deployment is taken, for its pods are what is refused; but not without a warning.
    (warning,) = api.apply(deployment, dry_run=True).warnings
    assert "would violate PodSecurity" in warning


def test_a_key_that_no_kind_has_is_refused(api: Api, restricted: Callable[[str], str]) -> None:
    deployment = the("Deployment", rendered("default", restricted("unknown")))
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    with pytest.raises(RefusedError, match="terminationGraceSeconds"):
        api.apply(deployment)
