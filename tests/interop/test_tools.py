"""grpcurl and ghz, as installed from their Go modules, on a server with reflection and no .proto at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from clients.live import ROOT
from rerankd import Reranker

from interop.programs import BUILDING, PATIENCE, environment
from interop.questions import QUESTIONS
from interop.servers import Server, serving

TOOLS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4",
    "ghz": "github.com/bojand/ghz/cmd/ghz@v0.121.0",
}
RERANK = "rerankd.v1.RerankService/Rerank"
QUESTION = QUESTIONS[0]
REQUEST = json.dumps(
    {"query": QUESTION["query"], "contexts": [{"text": text} for text in QUESTION["contexts"]], "top_k": 2}
)

Tool: TypeAlias = "Callable[..., str]"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--reflection") as server:
        yield server


@cache
def installed(name: str) -> Path:
    there = ROOT / ".interop" / "bin" / name
    if not there.is_file():
        subprocess.run(
            ["go", "install", TOOLS[name]],
            env=environment() | {"GOBIN": str(there.parent)},
            check=True,
            timeout=BUILDING,
        )
    return there


@pytest.fixture
def tool() -> Tool:
    """Runs one of the tools; gives what it prints."""
    if shutil.which("go") is None:
        pytest.skip("there is no go")

    def run(name: str, *arguments: str) -> str:
        command = [str(installed(name)), *arguments]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_grpcurl_lists_what_there_is(tool: Tool, server: Server) -> None:
    services = tool("grpcurl", "-plaintext", server.target, "list").split()
    assert {"rerankd.v1.RerankService", "grpc.health.v1.Health"} < set(services)
    described = tool("grpcurl", "-plaintext", server.target, "describe", "rerankd.v1.RerankRequest")
    assert "repeated .rerankd.v1.Context contexts = 2;" in described


def test_grpcurl_ranks(tool: Tool, server: Server, reranker: Reranker) -> None:
    answer = json.loads(tool("grpcurl", "-plaintext", "-d", REQUEST, server.target, RERANK))
    best = reranker.rank(QUESTION["query"], QUESTION["contexts"], 2)
    # JSON leaves out an id that is 0.
    assert [result.get("id", 0) for result in answer["results"]] == [result.id for result in best]


def test_ghz_loads(tool: Tool, server: Server) -> None:
    """Twenty calls of two workers, and no more."""
    flags = ["--insecure", "--call", RERANK, "-d", REQUEST, "-n", "20", "-c", "2", "-O", "json"]
    report = json.loads(tool("ghz", *flags, server.target))
    assert report["statusCodeDistribution"] == {"OK": 20}


def test_the_documents_name_these_versions() -> None:
    text = (ROOT / "docs" / "interop.md").read_text("utf-8")
    assert [module for module in TOOLS.values() if f"go install {module}" not in text] == []
