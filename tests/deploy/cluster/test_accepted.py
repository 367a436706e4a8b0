"""A real API server takes every scenario, by server-side apply and under Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from deploy.cluster.api import Api, RefusedError
from deploy.cluster.deployed import rendered
from deploy.scenarios import ROOT, SCENARIOS


def pod_of(deployment: dict[str, Any], account: str) -> dict[str, Any]:
    """A pod as the Deployment's controllers would make it, for an account that is there."""
    template = deployment["spec"]["template"]
    metadata = {**template["metadata"], "name": "rerankd-0", "namespace": deployment["metadata"]["namespace"]}
    spec = {**template["spec"], "serviceAccountName": account}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def default_account(api: Api, namespace: str) -> None:
    """Makes what controllers would."""
    metadata = {"name": "default", "namespace": namespace}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


@pytest.fixture
def namespace(api: Api, restricted: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    name = restricted(f"accepted-{request.node.callspec.params['scenario']}")
    default_account(api, name)
    return name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario(api: Api, namespace: str, scenario: str) -> None:
    documents = rendered(scenario, namespace)
    for document in documents:
        # Once more is no change, and no conflict.
        for _ in range(2):
            applied = api.apply(document)
            assert applied.warnings == []
        assert applied.object["metadata"].get("generation", 1) == 1
    (deployment,) = (each for each in documents if each["kind"] == "Deployment")
    api.apply(pod_of(deployment, "default"))


def test_the_plain_manifest(api: Api, restricted: Callable[[str], str]) -> None:
    namespace = restricted("plain-manifest")
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8"))
    for document in documents:
        document["metadata"]["namespace"] = namespace
        assert api.apply(document).warnings == []


def test_a_pod_that_is_not_restricted_is_refused(api: Api, restricted: Callable[[str], str]) -> None:
    namespace = restricted("negative")
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }
    )
    (deployment,) = (each for each in rendered("default", namespace) if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(RefusedError, match="violates PodSecurity") as refused:
        api.apply(pod_of(deployment, "default"))
    assert refused.value.code == 403
    assert "allowPrivilegeEscalation" in refused.value.message
    # The Deployment is taken, for its pods are what is refused; but not without a warning.
    (warning,) = api.apply(deployment, dry_run=True).warnings
    assert "would violate PodSecurity" in warning


def test_a_key_that_no_kind_has_is_refused(api: Api, restricted: Callable[[str], str]) -> None:
    (deployment,) = (
        each for each in rendered("default", restricted("unknown")) if each["kind"] == "Deployment"
    )
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 60
    with pytest.raises(RefusedError, match="terminationGraceSeconds"):
        api.apply(deployment)
