"""deploy/compose.yaml by Compose's own loader and schema, its Prometheus' configuration by promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKER = ROOT / ".image/compose"
FILE = ROOT / "deploy/compose.yaml"

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="this machine lacks go")
Load = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def load() -> Load:
    CHECKER.parent.mkdir(exist_ok=True)
    source = ROOT / "tests/image/compose"
    subprocess.run(["go", "build", "-mod=readonly", "-o", str(CHECKER), "."], cwd=source, check=True)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_IMAGE")}

    def load(file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([CHECKER, file], env=environment, capture_output=True, text=True, check=False)

    return load


@pytest.fixture(scope="module")
def services(load: Load) -> Any:
    done = load(FILE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def test_it_is_accepted(services: Any) -> None:
    assert set(services) == {"rerankd", "prometheus", "grafana"}
    assert services["rerankd"]["image"] == "rerankd:dev"


def test_every_service_is_confined(services: Any) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_what_is_mounted_is_there(services: Any) -> None:
    sources = [
        Path(volume["source"])
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    ]
    assert len(sources) == 4
    assert all(source.exists() for source in sources)
    build = services["rerankd"]["build"]
    assert (Path(build["context"]) / build["dockerfile"]).is_file()


def test_a_mistake_is_found(load: Load, tmp_path: Path) -> None:
    text = FILE.read_text("utf-8")
    for right, wrong in (
        ("healthcheck:", "healthchek:"),
        ("read_only: true", "read_only: 3"),
        ("rerankd: {cond", "reran: {cond"),
    ):
        assert text.count(right) == 1
        file = tmp_path / "compose.yaml"
        file.write_text(text.replace(right, wrong), "utf-8")
        assert load(file).returncode != 0, wrong


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="this machine lacks promtool (Debian: prometheus)"
)
def test_prometheus_reads_its_configuration() -> None:
    command = ["promtool", "check", "config", str(ROOT / "deploy/compose/prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
