"""The examples, as far as no other toolchain is needed: `make interop` builds and asks with all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rerankd import Reranker, client
from rerankd.v1 import rerank_pb2
from support import PATIENCE, RunningServer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/Makefile"))
QUESTION: dict[str, Any] = {
    "query": "How do I keep bread fresh for longer?",
    "contexts": ["Freeze it.", "It opens at six.", *(f"Loaf number {at}." for at in range(30))],
    "top_k": 3,
}
PROGRAMS = ["rerank_sync.py", "rerank_aio.py"]
MODES = ["unary", "stream", "batch"]


def ask(program: str, *arguments: str, lines: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and what it prints, on this interpreter, whose stubs are the package's own."""
    package = str(Path(rerank_pb2.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "python" / program), *arguments],
        input="".join(json.dumps(line) + "\n" for line in lines),
        env=os.environ | {"PYTHONPATH": package, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", MODES)
def test_python_ranks(program: str, mode: str, server: RunningServer, reranker: Reranker) -> None:
    status, lines = ask(program, "--target", server.target, mode, lines=[QUESTION])
    ranking = reranker.rank(QUESTION["query"], QUESTION["contexts"], 3)
    results = [{"id": result.id, "score": result.score} for result in ranking]
    assert (status, lines[-1]) == (0, {"id": "0", "results": results, "unscored": []})
    scored = sorted(result["id"] for line in lines[:-1] for result in line["scored"])
    assert scored == (list(range(32)) if mode == "stream" else [])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", MODES)
def test_python_tells_what_failed(program: str, mode: str, server: RunningServer) -> None:
    bad = {"query": "a query", "contexts": ["a text", ""]}
    status, lines = ask(program, "--target", server.target, mode, lines=[bad])
    (line,) = lines
    message = line["error"].pop("message")
    assert message.endswith("must not be empty")
    error = {
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_FIELD",
        "field": "contexts[1].text",
        "retry_ms": 0,
    }
    assert (status, line) == (1, {"id": "0", "error": error})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_is_whole(folder: Path) -> None:
    assert (folder / "README.md").is_file()
    rules = (folder / "Makefile").read_text("utf-8")
    assert re.search(r"^build:", rules, re.MULTILINE)
    assert re.search(r"^clean:", rules, re.MULTILINE)
    assert f"]({folder.name}/README.md)" in (EXAMPLES / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/service_config.json")), ids=lambda path: path.parent.name
)
def test_the_service_config_is_the_shipped_one(path: Path) -> None:
    assert json.loads(path.read_text("utf-8")) == json.loads(client.SERVICE_CONFIG)


@pytest.mark.parametrize(
    ("folder", "kind", "source"), [("go", "go", "minimal/main.go"), ("rust", "rust", "examples/minimal.rs")]
)
def test_lines_to_copy_are_of_a_program_that_is_built(folder: str, kind: str, source: str) -> None:
    text = (EXAMPLES / folder / "README.md").read_text("utf-8")
    (lines,) = re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert lines in (EXAMPLES / folder / source).read_text("utf-8")
