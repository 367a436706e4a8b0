"""The chart in a namespace of a cluster: put there, and looked at."""

from __future__ import annotations

from typing import Any

import yaml

from deploy.cluster.api import Api
from deploy.scenarios import CHART, RELEASE, SCENARIOS, run

SELECTOR = f"app.kubernetes.io/name=rerankd,app.kubernetes.io/instance={RELEASE}"


def template(scenario: str, namespace: str, *arguments: str) -> str:
    """What `helm template` says: all that `helm install` would put there, and `helm test`'s pod."""
    values = ("--values", str(SCENARIOS[scenario]))
    done = run("helm", "template", RELEASE, str(CHART), "--namespace", namespace, *values, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def rendered(scenario: str, namespace: str, *arguments: str) -> list[dict[str, Any]]:
    """The same, document by document."""
    return [each for each in yaml.safe_load_all(template(scenario, namespace, *arguments)) if each]


def install(api: Api, scenario: str, namespace: str, *arguments: str) -> None:
    """Server-side apply of all but the pod of `helm test`."""
    for document in rendered(scenario, namespace, *arguments):
        if document["kind"] != "Pod":
            api.apply(document, force=True)


def deployment(api: Api, namespace: str) -> dict[str, Any]:
    return api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}")


def pods(api: Api, namespace: str) -> list[dict[str, Any]]:
    """Those that are not on their way out."""
    found = api.items(f"/api/v1/namespaces/{namespace}/pods", SELECTOR)
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def complete(api: Api, namespace: str) -> dict[str, Any] | None:
    """The Deployment, once every pod is of its newest template and available, and there are no others."""
    found = deployment(api, namespace)
    status = found.get("status", {})
    wanted = found["spec"]["replicas"]
    done = (
        status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        and [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
        == [wanted] * 3
    )
    return found if done else None
