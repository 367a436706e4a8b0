"""schemathesis: requests made from /openapi.json, good ones and bad ones, and answers held against it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clients.live import PATIENCE, Live

# Seconds for all phases: a bound on what the seed below takes, which is a third of it.
BOUND = 2 * PATIENCE
EXAMPLES = "25"
"""Requests made up for each route, in each phase."""


def test_answers_are_as_described(live: Live, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{live.url}/openapi.json"]
    command += ["--seed", "1", "--generation-deterministic", "--max-examples", EXAMPLES, "--no-color"]
    command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
