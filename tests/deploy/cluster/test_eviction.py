"""A node is drained: the budget lets one pod go, and the next only when another is up in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.cluster.api import Api, RefusedError, until
from deploy.cluster.conftest import ZONES
from deploy.cluster.deployed import complete, install, pods


@pytest.fixture
def cordon(cluster: Api) -> Iterator[Callable[[bool], None]]:
    def change(closed: bool) -> None:
        for zone in ZONES:
            cluster.merge(f"/api/v1/nodes/node-{zone}", {"spec": {"unschedulable": closed}})

    yield change
    change(False)


def evict(api: Api, pod: dict[str, Any]) -> None:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    api.post(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)


def allowed(api: Api, namespace: str) -> int:
    budget = api.get(f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/rerankd")
    return int(budget.get("status", {}).get("disruptionsAllowed", 0))


def test_the_second_eviction_waits_for_a_new_pod(
    cluster: Api, restricted: Callable[[str], str], cordon: Callable[[bool], None]
) -> None:
    namespace = restricted("eviction")
    install(cluster, "default", namespace)
    until("two pods", lambda: complete(cluster, namespace))
    until("a budget of one", lambda: allowed(cluster, namespace) == 1)
    first, second = pods(cluster, namespace)

    # With no node for it, the pod in its place stays pending for as long as it takes to look.
    cordon(True)
    evict(cluster, first)
    with pytest.raises(RefusedError, match="disruption budget") as refused:
        evict(cluster, second)
    assert refused.value.code == 429

    cordon(False)
    until("a budget of one again", lambda: allowed(cluster, namespace) == 1)
    evict(cluster, second)
