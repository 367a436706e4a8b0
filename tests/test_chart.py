"""The Helm chart against the package, without Helm: its settings, its values and what is said of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rerankd import settings

from deploy import make_schema

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/rerankd"
VALUES_TEXT = (CHART / "values.yaml").read_text("utf-8")
VALUES = yaml.safe_load(VALUES_TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))

# What Helm hands to a chart within a chart, and shapes of Kubernetes' own that its API server checks.
OPEN = {"global", "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity"}


def scenario(name: str) -> Any:
    return yaml.safe_load((CHART / f"ci/{name}-values.yaml").read_text("utf-8"))


def objects(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object in the chart's, and the value that it is for."""
    if not isinstance(node, dict):
        return
    if node.get("type") == "object":
        yield path, node
    for key, child in node.get("properties", {}).items():
        yield from objects(child, f"{path}.{key}".lstrip("."))
    for key in ("oneOf", "anyOf", "allOf"):
        for child in node.get(key, ()):
            yield from objects(child, path)
    yield from objects(node.get("items"), path + "[]")


def test_the_schema_has_the_servers_settings() -> None:
    text = make_schema.SCHEMA.read_text("utf-8")
    assert make_schema.filled(text) == text, "run make docs"


def test_the_charts_settings_are_a_part_of_the_servers() -> None:
    assert set(SCHEMA["properties"]["settings"]["properties"]) < set(settings.of_server())
    assert set(settings.of_server()) >= make_schema.OWNED


def test_a_scenario_sets_every_setting_to_what_the_server_takes() -> None:
    said = {**VALUES["settings"], **scenario("settings")["settings"]}
    assert set(said) == set(SCHEMA["properties"]["settings"]["properties"])
    environment = {settings.variable(name): str(value).lower() for name, value in said.items()}
    environment |= {settings.variable(name): said[name] for name in said if isinstance(said[name], str)}
    settings.resolve({}, environment)


def test_the_charts_default_times_are_the_servers() -> None:
    for name in ("drain_seconds", "grace_seconds"):
        assert VALUES["settings"][name] == getattr(settings.Settings, name)


def test_every_variable_in_the_templates_is_a_setting() -> None:
    text = "".join(path.read_text("utf-8") for path in CHART.glob("templates/**/*") if path.is_file())
    names = {settings.variable(name) for name in settings.declared()}
    assert set(re.findall(r"RERANKD_[A-Z_]*[A-Z]", text)) - {"RERANKD_PORT"} <= names
    given = re.findall(r'set \$all "(\w+)"', text)
    assert set(given) <= set(settings.of_server())
    assert make_schema.OWNED - set(given) == {"grpc", "health", "metrics"}


def test_every_object_of_the_schema_refuses_keys_that_it_does_not_know() -> None:
    found = dict(objects(SCHEMA))
    for name, definition in SCHEMA["$defs"].items():
        found.update({f"{name}:{path}": each for path, each in objects(definition)})
    assert {path for path, each in found.items() if "additionalProperties" not in each} == OPEN
    assert not [path for path, each in found.items() if each.get("additionalProperties") is True]
    assert len(found) > 40


def test_the_schema_knows_every_value_and_no_other() -> None:
    def keys(values: Any, schema: Any, path: str) -> None:
        known = schema.get("properties")
        if not isinstance(values, dict) or not known:
            return
        # Of settings, values.yaml has those that the chart does not leave to the server.
        if path != ".settings":
            assert set(values) == set(known) - ({"global"} if not path else set()), path
        for key, value in values.items():
            keys(value, known[key], f"{path}.{key}")

    keys({**VALUES, "affinity": None}, SCHEMA, "")


def test_every_value_says_what_it_is_for() -> None:
    lines = VALUES_TEXT.splitlines()
    said = 0
    for number, line in enumerate(lines):
        if not re.match(r" *\w+: \S", line):
            continue
        first = number - 1
        while lines[first].lstrip().startswith("# ") and "# -- " not in lines[first]:
            first -= 1
        assert "# -- " in lines[first], f"values.yaml:{number + 1}: {line}"
        said += 1
    assert said > 60


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_a_scenario_says_what_it_is_of(path: Path) -> None:
    assert re.match(r"# [A-Z].+\.$", path.read_text("utf-8").splitlines()[0])


def test_the_versions_are_the_packages() -> None:
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text("utf-8"), re.MULTILINE)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == version
