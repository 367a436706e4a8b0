"""Fills the chart's values.schema.json: its `settings` are the server's that have no value of their own.

Run by `make docs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from rerankd import settings

SCHEMA: Final = Path(__file__).resolve().parents[2] / "deploy/helm/rerankd/values.schema.json"

OWNED: Final = frozenset(
    {"model", "alias", "grpc", "http", "health", "metrics"}
    | {"tls_cert", "tls_key", "tls_client_ca", "token_file"}
)
"""Settings that the templates give themselves, from values of other names or because ports are theirs."""

# The templates reckon with these: how long a pod may take to go.
_RECKONED: Final = ("drain_seconds", "grace_seconds")
_TYPES: Final[dict[str, str | list[str]]] = {
    "": "boolean",
    "N": ["integer", "string"],
    "BYTES": ["integer", "string"],
    "SECONDS": "number",
    "FRACTION": "number",
}


def of_settings() -> dict[str, Any]:
    """The schema of `settings`: keys, types, and what they are for. Ranges are the server's to refuse."""
    properties: dict[str, Any] = {}
    for name in settings.of_server():
        if name in OWNED:
            continue
        knob = settings.declared()[name]
        properties[name] = {
            "type": _TYPES.get(knob.kind.metavar, "string"),
            "description": f"{knob.about}; {knob.kind.legal}",
        }
    for name in _RECKONED:
        properties[name]["minimum"] = 0
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(_RECKONED),
        "properties": properties,
    }


def filled(text: str) -> str:
    """The schema's text with `settings` as it is to be."""
    schema = json.loads(text)
    schema["properties"]["settings"] = of_settings()
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(filled(SCHEMA.read_text("utf-8")), "utf-8")
