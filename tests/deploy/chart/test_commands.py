"""The commands in the chart's containers, run here: what `helm test` asks, what verifies files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients.live import environment, serving

from deploy.scenarios import documents, template


def container(found: list[Any], kind: str, group: str, name: str) -> Any:
    (document,) = (each for each in found if each["kind"] == kind)
    spec = document["spec"] if kind == "Pod" else document["spec"]["template"]["spec"]
    (wanted,) = (each for each in spec[group] if each["name"] == name)
    return wanted


def run(of: Any, **changed: str) -> subprocess.CompletedProcess[str]:
    """A container's command with its variables, some of them changed; what it says is in `stdout`."""
    said = {each["name"]: each["value"] for each in of.get("env", ())}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        of["command"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**environment(), "PATH": path, **said, **changed},
    )


def test_helm_test_passes_where_the_server_answers() -> None:
    asking = container(documents("default"), "Pod", "containers", "rank")
    with serving(sys.executable) as addresses:
        done = run(asking, TARGET=addresses.grpc)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[0].endswith("Lima is the capital of Peru.")


def test_helm_test_fails_where_no_server_answers() -> None:
    asking = container(documents("default"), "Pod", "containers", "rank")
    done = run(asking, TARGET="127.0.0.1:1")
    assert done.returncode != 0
    assert "no answer from 127.0.0.1:1" in done.stdout


@pytest.fixture
def verifying() -> Any:
    digest = hashlib.sha256(b"weights").hexdigest()
    done = template(
        "--set",
        rf"models[0].path=a/b,models[0].sha256.model\.safetensors={digest},modelVolume.existingClaim=c",
    )
    return container(list(yaml.safe_load_all(done.stdout)), "Deployment", "initContainers", "verify")


def sums(of: Any, models: Path) -> str:
    """The list that the container has, for a directory that can be written here."""
    (said,) = (each["value"] for each in of["env"] if each["name"] == "SUMS")
    assert " /models/" in said
    return str(said).replace(" /models/", f" {models}/")


def test_files_that_are_as_they_should_be_are_let_pass(tmp_path: Path, verifying: Any) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/model.safetensors").write_bytes(b"weights")
    done = run(verifying, SUMS=sums(verifying, tmp_path))
    assert done.returncode == 0, done.stdout


def test_files_that_differ_or_are_not_there_stop_the_pod(tmp_path: Path, verifying: Any) -> None:
    assert run(verifying, SUMS=sums(verifying, tmp_path)).returncode != 0
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/model.safetensors").write_bytes(b"other weights")
    done = run(verifying, SUMS=sums(verifying, tmp_path))
    assert done.returncode != 0
    assert "model.safetensors: FAILED" in done.stdout
