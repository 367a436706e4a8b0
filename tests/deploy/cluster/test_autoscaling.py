"""The HPA of the chart, on a load that its pods share: there come as many as bring it to its target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.cluster import metrics
from deploy.cluster.api import Api, until
from deploy.cluster.deployed import complete, deployment, install, pods

# Millicores: 100 % of the 2 CPUs of three pods, 60 % of those of five, and 60 % is the target.
LOAD = 6000


def test_pods_come_until_the_load_is_as_it_should_be(
    cluster: Api, restricted: Callable[[str], str], folder: Path
) -> None:
    namespace = restricted("autoscaling")

    def usage(of: str) -> dict[str, int]:
        names = [each["metadata"]["name"] for each in pods(cluster, of)]
        return {name: LOAD // len(names) for name in names}

    # Before there is a load to see, the least number of pods that the scenario allows.
    install(cluster, "hpa", namespace)
    with metrics.served(cluster, folder, usage):
        until("five pods", lambda: deployment(cluster, namespace)["spec"].get("replicas") == 5)
        until("all of them up", lambda: complete(cluster, namespace))

        def steady() -> bool:
            path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/rerankd"
            status = cluster.get(path).get("status", {})
            (current,) = status.get("currentMetrics") or [{}]
            found = current.get("resource", {}).get("current", {}).get("averageUtilization")
            return bool(found == 60 and status["desiredReplicas"] == 5)

        until("60 % of each pod's CPUs", steady)
