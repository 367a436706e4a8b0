"""deploy/compose.yaml against the package: its ports, variables, times, and the dashboard that it shows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rerankd import settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


@pytest.fixture
def services() -> Any:
    return load("compose.yaml")["services"]


def port(setting: str) -> int:
    return int(settings.default(setting).rpartition(":")[2])


def mounts(service: Any) -> dict[str, str]:
    """What lies where in the container."""
    pairs = (volume.split(":")[:2] for volume in service["volumes"])
    return {place: source for source, place in pairs}


def test_the_servers_variables_and_flags_are_settings(services: Any) -> None:
    server = services["rerankd"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    settings.add_arguments(parser)
    flags = vars(parser.parse_args(server.get("command", [])))
    settings.resolve(flags, server["environment"])


def test_it_publishes_the_default_ports_to_this_machine_alone(services: Any) -> None:
    published = services["rerankd"]["ports"]
    assert published == [f"127.0.0.1:{port(name)}:{port(name)}" for name in ("http", "grpc")]
    others = [
        each for name, service in services.items() for each in service.get("ports", ()) if name != "rerankd"
    ]
    assert all(each.startswith("127.0.0.1:") for each in others)


def test_it_is_given_time_to_finish(services: Any) -> None:
    needed = settings.Settings.drain_seconds + settings.Settings.grace_seconds
    assert float(services["rerankd"]["stop_grace_period"].removesuffix("s")) > needed


def test_health_is_asked_where_http_tells_it(services: Any) -> None:
    kind, *command = services["rerankd"]["healthcheck"]["test"]
    assert kind == "CMD"
    assert f"http://127.0.0.1:{port('http')}/ready" in command[-1]


def test_only_tmp_and_volumes_can_be_written(services: Any) -> None:
    declared = load("compose.yaml")["volumes"]
    for name, service in services.items():
        writable = [each for each in service.get("volumes", ()) if not each.endswith(":ro")]
        assert all(each.partition(":")[0] in declared for each in writable), name
        assert service.get("tmpfs", ["/tmp"]) == ["/tmp"], name


def test_prometheus_fetches_from_the_metrics_port(services: Any) -> None:
    (job,) = load("compose/prometheus.yaml")["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == ["rerankd"]
    assert discovery["port"] == port("metrics")
    (place,) = [flag.partition("=")[2] for flag in services["prometheus"]["command"] if "config.file" in flag]
    assert mounts(services["prometheus"])[place] == "./compose/prometheus.yaml"


def test_grafana_shows_the_dashboard_on_that_prometheus(services: Any) -> None:
    grafana = services["grafana"]
    places = mounts(grafana)
    (provider,) = load("compose/dashboards.yaml")["providers"]
    assert places[provider["options"]["path"]] == "./grafana"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads((DEPLOY / "grafana" / Path(home).name).read_text("utf-8"))["uid"] == "rerankd"
    assert Path(home).parent == Path(provider["options"]["path"])
    (source,) = load("compose/datasource.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"] is True
    assert source["url"].partition("//")[2].partition(":")[0] in services
    provisioned = {place for place in places if place.startswith("/etc/grafana/provisioning/")}
    assert {Path(place).parent.name for place in provisioned} == {"datasources", "dashboards"}
