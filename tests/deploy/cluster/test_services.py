"""Both Services find the pods, and no others: what a resolver or a proxy would be told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from deploy.cluster.api import Api, until
from deploy.cluster.deployed import complete, install, pods, rendered


@pytest.fixture
def namespace(cluster: Api, restricted: Callable[[str], str]) -> str:
    name = restricted("services")
    install(cluster, "default", name)
    until("two pods", lambda: complete(cluster, name))
    return name


def test_the_services_have_the_servers_pods_and_not_that_of_helm_test(cluster: Api, namespace: str) -> None:
    (test,) = (each for each in rendered("default", namespace) if each["kind"] == "Pod")
    cluster.apply(test)
    at = f"/api/v1/namespaces/{namespace}/pods/{test['metadata']['name']}"
    until("the pod of helm test", lambda: cluster.get(at)["status"].get("phase") == "Running")
    wanted = {each["metadata"]["name"] for each in pods(cluster, namespace)}
    for service in ("rerankd", "rerankd-clusterip"):
        until(f"the pods of {service}", partial(same, cluster, namespace, service, wanted))
        (ports,) = {ports_of(each) for each in slices(cluster, namespace, service)}
        assert ports == (("grpc", 50051), ("http", 8080))


def same(api: Api, namespace: str, service: str, wanted: set[str]) -> bool:
    return found(api, namespace, service) == wanted


def slices(api: Api, namespace: str, service: str) -> list[dict[str, Any]]:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    return api.items(path, f"kubernetes.io/service-name={service}")


def found(api: Api, namespace: str, service: str) -> set[str]:
    """The names of the pods that a Service leads to."""
    return {
        endpoint["targetRef"]["name"]
        for each in slices(api, namespace, service)
        for endpoint in each["endpoints"] or ()
        if endpoint["conditions"].get("ready")
    }


def ports_of(each: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((port["name"], port["port"]) for port in each["ports"]))
