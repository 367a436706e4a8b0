"""Node: fetch, Cohere's SDK, the AI SDK, and examples/workers-ai, in Node and in the Workers' own runtime."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from clients.live import CONTEXTS, PATIENCE, QUERY, ROOT, Live

JS = Path(__file__).with_name("js")
BIN = JS / "node_modules" / ".bin"
SUITES = sorted(path.name for path in JS.glob("*.test.ts"))


def run(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=JS,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("suite", SUITES)
def test_suite(live: Live, suite: str) -> None:
    told = {"url": live.url, "query": QUERY, "contexts": CONTEXTS, "ranking": live.ranking}
    command = ["node", "--import", "tsx", "--test", "--test-reporter", "tap", suite]
    report = run(*command, LIVE=json.dumps(told))
    passed = re.search(r"^# pass (\d+)$", report, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) == len(re.findall(r"^(?:    )?# Subtest: ", report, re.MULTILINE)) > 1


def test_types() -> None:
    run(str(BIN / "tsc"), "--project", "tsconfig.json")


@pytest.fixture
def worker(live: Live) -> Iterator[str]:
    """The URL of the example's Worker, in workerd."""
    command = [str(BIN / "workerd"), "serve", "workerd.capnp", "--socket-addr", "http=127.0.0.1:0"]
    command += ["--control-fd", "1"]
    # The command is a wrapper: a signal has to reach what it runs too, so they are a group of their own.
    with subprocess.Popen(
        command,
        cwd=JS,
        env=os.environ | {"ASKED_URL": live.url},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as workerd:
        assert workerd.stdout is not None
        try:
            listening = json.loads(workerd.stdout.readline())
            yield f"http://127.0.0.1:{listening['port']}/"
        finally:
            os.killpg(workerd.pid, signal.SIGTERM)


def test_worker_in_workerd(live: Live, worker: str) -> None:
    body = {"query": QUERY, "contexts": [{"text": text} for text in CONTEXTS]}
    answer = requests.post(worker, json=body, timeout=PATIENCE).json()
    assert [(each["id"], each["score"]) for each in answer["response"]] == live.ranking


def test_the_program_of_the_example(live: Live, tmp_path: Path) -> None:
    example = ROOT / "examples" / "workers-ai"
    program = re.search(r"```js\n(.*?)```", (example / "README.md").read_text("utf-8"), re.DOTALL)
    assert program is not None
    code = program[1].replace("./rerankd-ai.mjs", (example / "rerankd-ai.mjs").as_uri())
    (tmp_path / "program.mjs").write_text(code.replace("http://localhost:8080", live.url), "utf-8")
    printed = run("node", str(tmp_path / "program.mjs"))
    assert re.findall(r"id: (\d)", printed) == ["1", "0"]
