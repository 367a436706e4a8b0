"""Both images, built for real on a base of debootstrap's, and run with their root read-only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rerankd import Client, Reranker

from benches.container import CUDA_IMAGE, Store
from benches.process import Process

QUERY = "How do I keep bread fresh for longer?"
CONTEXTS = [
    "Freezing slices preserves them for up to three months.",
    "The bakery on Main Street opens at six.",
]
COMPILERS = (
    "cc",
    "gcc",
    "c++",
    "g++",
    "clang",
    "ld",
    "as",
    "rustc",
    "cargo",
    "nvcc",
    "make",
    "maturin",
    "pip",
    "pip3",
)


def run(confined: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another program of the image, as confined as the server."""
    command = [*confined[:-1], f"--entrypoint={arguments[0]}", confined[-1], *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def configuration(store: Store, image: str) -> Any:
    (inspected,) = json.loads(subprocess.check_output(store.podman("image", "inspect", image)))
    return inspected["Config"]


def test_it_serves_and_answers_as_in_process(confined: list[str]) -> None:
    with (
        Process(1, "--drain-seconds=0", program=confined) as server,
        Client(server.target) as client,
        Reranker("mini-en", threads=1) as reranker,
    ):
        answered = client.rank(QUERY, CONTEXTS)
        assert [each.id for each in answered] == [0, 1]
        expected = reranker.rank(QUERY, CONTEXTS)
        assert [each.score for each in answered] == pytest.approx([each.score for each in expected], abs=1e-4)
        assert server.metric("rerankd_pairs_total") == len(CONTEXTS)


def test_sigterm_ends_it_with_code_0(confined: list[str]) -> None:
    with Process(1, "--drain-seconds=0", program=confined) as server:
        code, _ = server.stop()
        assert code == 0, server.said()


def test_a_bad_setting_ends_it_with_code_2_and_its_sentence(confined: list[str]) -> None:
    done = subprocess.run([*confined, "--threads=none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--threads" in done.stderr


def test_it_is_nobody_in_particular_with_no_capability(confined: list[str]) -> None:
    read = "import os; print(os.getuid(), os.getgid()); print(open('/proc/self/status').read())"
    ids, status = run(confined, "python", "-c", read).stdout.split("\n", 1)
    assert ids == "10001 10001"
    capabilities = {line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd"))}
    assert capabilities == {"0" * 16}


def test_only_tmp_can_be_written(confined: list[str]) -> None:
    write = "import sys; open(sys.argv[1], 'w')"
    assert run(confined, "python", "-c", write, "/tmp/file").returncode == 0
    for place in ("/file", "/opt/rerankd/file", "/var/tmp/file", "/dev/shm/../file"):
        done = run(confined, "python", "-c", write, place)
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr, place


def test_there_is_no_compiler_nor_what_installs(root: Path) -> None:
    places = [root / place for place in ("bin", "usr/bin", "usr/local/bin", "usr/sbin", "opt/rerankd/bin")]
    assert (root / "opt/rerankd/bin/rerankd").is_file()
    found = [place / name for place in places for name in COMPILERS if (place / name).exists()]
    assert found == []
    packages = {each.name for each in root.glob("opt/rerankd/lib/python3*/site-packages/*")}
    assert "rerankd" in packages
    assert not {"pip", "setuptools", "maturin", "pytest", "mypy"} & packages


def test_nothing_of_the_machine_that_built_it_stays(root: Path) -> None:
    """Neither what was mounted, nor caches, nor bytecode of tests."""
    for place in (
        "etc/pip.conf",
        "etc/build-authorities.crt",
        ".cargo",
        "opt/rust",
        "root/.cache",
        "wheels",
        "src",
    ):
        # Where something was mounted, an empty place may be left.
        left = [each for each in (root / place, *(root / place).rglob("*")) if each.is_file()]
        assert not [each for each in left if each.stat().st_size], place
    assert not [each for each in root.glob("var/lib/apt/lists/*") if each.is_file()]
    assert not list((root / "opt").rglob("tests/*.py"))


def test_it_has_what_traces_need(confined: list[str]) -> None:
    assert run(confined, "python", "-c", "import opentelemetry.sdk.trace").returncode == 0


def test_its_python_is_compiled_for_nobody_can_write_there(root: Path) -> None:
    (package,) = root.glob("opt/rerankd/lib/python3*/site-packages/rerankd")
    compiled = {each.name.partition(".")[0] for each in (package / "__pycache__").glob("*.pyc")}
    assert compiled == {each.stem for each in package.glob("*.py")}


def test_it_says_how_it_is_to_be_run(store: Store, image: str) -> None:
    found = configuration(store, image)
    assert found["Entrypoint"] == ["rerankd", "serve"]
    assert found["User"] == "10001:10001"
    assert set(found["ExposedPorts"]) == {f"{port}/tcp" for port in (8080, 50051, 50052, 50053)}
    variables = dict(each.split("=", 1) for each in found["Env"])
    assert variables.pop("PATH").startswith("/opt/rerankd/bin:/")
    # By these NVIDIA's container runtime knows that a GPU's driver is wanted.
    gpus = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    ours = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    assert variables == ours | (gpus if image == CUDA_IMAGE else {})


def test_composes_health_check_tells_a_server_from_none(confined: list[str]) -> None:
    import yaml  # noqa: PLC0415

    services = yaml.safe_load((Path(__file__).parents[2] / "deploy/compose.yaml").read_text("utf-8"))[
        "services"
    ]
    _, *check = services["rerankd"]["healthcheck"]["test"]
    with Process(1, "--drain-seconds=0", program=confined) as server:
        asked = [each.replace(":8080", f":{server.http}") for each in check]
        # In the network of the host, and so of the server too.
        other = [each.replace("--name=", "--name=check-") for each in confined]
        assert run(other, *asked).returncode == 0
        server.stop()
        assert run(other, *asked).returncode != 0
