"""One API server for all tests of a run, each test with a namespace of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.cluster import processes
from deploy.cluster.api import Api, RefusedError, until
from deploy.make_kinds import CRDS

ZONES = ("north", "south", "west")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="session")
def api(folder: Path) -> Iterator[Api]:
    """An API server that knows the kinds of KEDA, prometheus-operator and the Gateway API."""
    started = time.monotonic()
    with processes.api_server(folder) as api:
        for path in CRDS.glob("*.json"):
            document = json.loads(path.read_text("utf-8"))
            api.apply(document)
            name = document["metadata"]["name"]
            until(f"{name} established", lambda name=name: _established(api, name))  # type: ignore[misc]
        print(f"\nthe API server answered after {time.monotonic() - started:.1f} s")
        yield api


@pytest.fixture(scope="session")
def cluster(api: Api, folder: Path) -> Iterator[Api]:
    """The API server, with controllers, a scheduler, and three nodes in three zones that run no container."""
    with processes.acting(folder):
        for zone in ZONES:
            api.apply(node(f"node-{zone}", zone))
        for zone in ZONES:
            path = f"/api/v1/nodes/node-{zone}"
            until(f"node-{zone} ready", lambda path=path: condition(api.get(path), "Ready"))  # type: ignore[misc]
        yield api


@pytest.fixture
def restricted(api: Api) -> Callable[[str], str]:
    """Makes a namespace in which Pod Security `restricted` is enforced, and warned of for what makes pods."""

    def make(name: str) -> str:
        levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        metadata = {"name": name, "labels": levels}
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return name

    return make


def node(name: str, zone: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": zone,
            },
        },
    }


def condition(document: dict[str, Any], name: str) -> bool:
    found = document.get("status", {}).get("conditions", ())
    return any(each["type"] == name and each["status"] == "True" for each in found)


def _established(api: Api, name: str) -> bool:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    definition = api.get(path)
    spec = definition["spec"]
    try:
        api.get(f"/apis/{spec['group']}/{spec['versions'][0]['name']}")
    except RefusedError:
        return False
    return condition(definition, "Established")
