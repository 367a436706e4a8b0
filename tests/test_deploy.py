"""deploy/ against the package: its names, ports, variables and times are those that the server knows."""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rerankd import settings

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text("utf-8")


def manifest(kind: str) -> Any:
    """The object of that kind that has the name that clients dial."""
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text("utf-8"))
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, "rerankd"))
    return found


@pytest.fixture
def pod() -> Any:
    return manifest("Deployment")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


def port(setting: str) -> int:
    return int(settings.default(setting).rpartition(":")[2])


def instruction(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_the_pods_variables_and_flags_are_settings(container: Any) -> None:
    environment = {each["name"]: each["value"] for each in container["env"]}
    parser = argparse.ArgumentParser(exit_on_error=False)
    settings.add_arguments(parser)
    settings.resolve(vars(parser.parse_args(container.get("args", []))), environment)


def test_the_pods_ports_are_the_defaults(container: Any) -> None:
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {name: port(name) for name in ("grpc", "http", "health", "metrics")}
    served = {each["targetPort"]: each["port"] for each in manifest("Service")["spec"]["ports"]}
    assert served == {name: port(name) for name in ("grpc", "http")}


def test_the_probes_ask_what_the_health_service_answers(container: Any) -> None:
    probes = [container[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {port("health")}
    assert sorted(probe["service"] for probe in probes) == sorted(
        ["startup", "live", "rerankd.v1.RerankService"]
    )


def test_the_grace_period_is_longer_than_the_drain(pod: Any, container: Any) -> None:
    drain = settings.Settings.drain_seconds + settings.Settings.grace_seconds
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + drain < pod["terminationGracePeriodSeconds"]


def test_the_service_finds_the_pods() -> None:
    deployment, service = manifest("Deployment")["spec"], manifest("Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    assert service["clusterIP"] == "None"


def test_the_pod_is_restricted(pod: Any, container: Any) -> None:
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_image_runs_the_server_as_a_user_of_its_own() -> None:
    (entry,) = instruction("ENTRYPOINT")
    assert json.loads(entry) == ["rerankd", "serve"]
    (user,) = instruction("USER")
    assert (
        int(user.partition(":")[0])
        == manifest("Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    )
    (exposed,) = instruction("EXPOSE")
    assert [int(each) for each in exposed.split()] == [
        port(name) for name in ("http", "grpc", "health", "metrics")
    ]


def test_what_the_image_copies_is_in_its_context() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        source
        for copy in instruction("COPY")
        if not copy.startswith("--from=")
        for source in copy.split()[:-1]
    ]
    assert sorted(set(copied)) == sorted(allowed)
    assert all((ROOT / source).exists() for source in copied)
    assert not any(fnmatch.fnmatch(source, "*.so") for source in copied)


def test_the_image_builds_with_a_toolchain_that_the_crate_accepts() -> None:
    (rust,) = re.findall(r"^ARG BUILDER=rust:(\d+)\.(\d+)", DOCKERFILE, re.MULTILINE)
    (needed,) = re.findall(
        r'^rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text("utf-8"), re.MULTILINE
    )
    assert tuple(map(int, rust)) >= tuple(map(int, needed))
