"""schemathesis: requests made from /openapi.json, good ones and bad ones, and answers held against it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from clients.live import PATIENCE, Live

# Seconds: a bound, never a measure. It takes half a minute where it has a core to itself.
BOUND = 5 * PATIENCE
EXAMPLES = "25"
"""Requests made up for each route, in each phase."""


def description(live: Live) -> Any:
    """/openapi.json, but for what no schema can say.

    Which max_tokens are right depends on the model, and on whether there is anything to rank.
    """
    document = requests.get(f"{live.url}/openapi.json", timeout=PATIENCE).json()
    schemas = document["components"]["schemas"]
    for body in ("DocumentsBody", "TextsBody", "ContextsBody"):
        del schemas[body]["properties"]["max_tokens"]
    return document


@pytest.mark.timeout(BOUND)
def test_answers_are_as_described(live: Live, tmp_path: Path) -> None:
    config = str(Path(__file__).with_name("schemathesis.toml"))
    (tmp_path / "openapi.json").write_text(json.dumps(description(live)), "utf-8")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", config]
    command += ["run", "openapi.json", "--url", live.url]
    command += ["--seed", "1", "--generation-deterministic", "--max-examples", EXAMPLES, "--no-color"]
    command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
