"""A rollout, seen from its first pod to its last: never fewer are ready than were asked for."""

from __future__ import annotations

from collections.abc import Callable

from deploy.cluster.api import Api, until
from deploy.cluster.conftest import condition
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
    ready = []

    def done() -> bool:
        ready.append(sum(condition(each, "Ready") for each in pods(cluster, namespace)))
        return complete(cluster, namespace) is not None

    until("the new pods", done)
    assert min(ready) >= 3, ready
    after = {each["metadata"]["uid"] for each in pods(cluster, namespace)}
    assert len(after) == 3
    assert not after & before
    assert deployment(cluster, namespace)["metadata"]["generation"] > first["metadata"]["generation"]
