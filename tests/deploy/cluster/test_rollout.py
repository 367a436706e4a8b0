"""A rollout, seen from its first pod to its last: never fewer than asked for, never two more."""

from __future__ import annotations

from collections.abc import Callable

from deploy.cluster.api import Api, until
from deploy.cluster.deployed import complete, deployment, install, pods


def test_a_rollout_completes_and_takes_no_pod_away_too_early(
    cluster: Api, restricted: Callable[[str], str]
) -> None:
    namespace = restricted("rollout")
    install(cluster, "default", namespace, "--set", "replicas=3")
    first = until("three pods", lambda: complete(cluster, namespace))
    before = {each["metadata"]["uid"] for each in pods(cluster, namespace)}
    # A zone each, and so a host each.
    assert len({each["spec"]["nodeName"] for each in pods(cluster, namespace)}) == 3

    install(cluster, "default", namespace, "--set", "replicas=3", "--set", "podAnnotations.round=two")
    seen = set()

    def done() -> bool:
        status = deployment(cluster, namespace)["status"]
        seen.add((status.get("replicas", 0), status.get("availableReplicas", 0)))
        return complete(cluster, namespace) is not None

    until("the new pods", done)
    assert all(available >= 3 and replicas <= 4 for replicas, available in seen), seen
    after = {each["metadata"]["uid"] for each in pods(cluster, namespace)}
    assert len(after) == 3
    assert not after & before
    assert deployment(cluster, namespace)["metadata"]["generation"] > first["metadata"]["generation"]
