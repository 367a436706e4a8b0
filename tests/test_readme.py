"""The documentation is run: examples against a live server, commands against the Makefile and the .proto.

An example is a fenced block of `sh` or `python`; `text` right after one is what it prints. What can't be run
is preceded by `<!-- not run: why -->`. The examples' server, localhost:50051 and localhost:8080, is the
tests' own; curl fails where it is refused.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from rerankd import client
from rerankd.v1 import rerank_pb2 as pb
from support import PATIENCE, RunningServer

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (".", "docs", "benches", "examples", "examples/go", "examples/python", "examples/rust")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
BLOCK = re.compile(
    r"(?P<skip><!-- not run: .+ -->\n)?^```(?P<kind>sh|python)\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    document: str
    line: int
    kind: str
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def examples(path: Path) -> Iterator[Example]:
    text = path.read_text("utf-8")
    for block in BLOCK.finditer(text):
        if not block["skip"]:
            line = text.count("\n", 0, block.start("code")) + 1
            yield Example(str(path.relative_to(ROOT)), line, block["kind"], block["code"], block["output"])


EXAMPLES = [example for path in DOCUMENTS for example in examples(path)]
PYTHON = [example for example in EXAMPLES if example.kind == "python"]


def shell(document: str) -> list[Example]:
    return [example for example in EXAMPLES if example.kind == "sh" and example.document == document]


def commands(program: str) -> list[str]:
    """Every command of that program in the examples, on one line."""
    found = []
    for example in EXAMPLES:
        if example.kind == "sh":
            lines = example.code.replace("\\\n", "")
            found += re.findall(rf"^((?:[A-Z_]+=\S+ )*{program} (?:'[^']*'|[^'\n])*)", lines, re.MULTILINE)
    return found


def run(example: Example, command: list[str], cwd: Path, target: str, web: str = "") -> None:
    code = example.code.replace("localhost:50051", target).replace("localhost:8080", web)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANKD_")}
    code = re.sub(r"^curl ", "curl --fail-with-body ", code, flags=re.MULTILINE)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{example}: {done.stderr}"
    if example.output is not None:
        assert alike(done.stdout, example.output), f"{example} prints\n{done.stdout}"


def alike(printed: str, documented: str) -> bool:
    """The same but for the last digits of scores, in which instruction sets and precisions differ."""
    figure = re.compile(r"\d+\.\d+")
    if figure.sub("#", printed) != figure.sub("#", documented):
        return False
    pairs = zip(figure.findall(printed), figure.findall(documented), strict=True)
    return all(abs(float(a) - float(b)) < 5e-3 for a, b in pairs)


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 5
    assert len(shell("README.md")) >= 3


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python(example: Example, server: RunningServer, tmp_path: Path) -> None:
    run(example, [sys.executable, "-c"], tmp_path, server.target, server.web)


@pytest.mark.parametrize("document", [str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_shell(document: str, server: RunningServer, tmp_path: Path) -> None:
    """A document's examples, one after the other in one directory, as a reader would."""
    for example in shell(document):
        if not re.match(r"(make|grpcurl|rerankd serve|RERANKD_\w+=)", example.code):
            lines = example.code.replace(". .venv/bin/activate\n", "")
            plain = Example(example.document, example.line, "sh", lines, example.output)
            run(plain, ["bash", "-euo", "pipefail", "-c"], tmp_path, server.target, server.web)


@pytest.mark.parametrize("command", commands("rerankd serve"))
def test_serve_is_told_of_real_settings(command: str, tmp_path: Path) -> None:
    example = Example("", 0, "sh", f"{command} --print-config", None)
    run(example, ["bash", "-c"], tmp_path, "")


@pytest.mark.parametrize("command", commands("make"))
def test_make_has_the_targets(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", command.replace("make", "make -n", 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands("grpcurl"))
def test_grpcurl_sends_such_messages(command: str) -> None:
    arguments = shlex.split(command)
    service, _, method = arguments[-1].partition("/")
    descriptor = pb.DESCRIPTOR.services_by_name["RerankService"]
    assert service == descriptor.full_name
    request = GetMessageClass(descriptor.methods_by_name[method].input_type)
    assert (ROOT / "proto" / arguments[arguments.index("-proto") + 1]).is_file()
    rest = arguments[arguments.index("-d") + 1].strip() if "-d" in arguments else ""
    decoder = json.JSONDecoder()
    while rest:
        message, end = decoder.raw_decode(rest)
        json_format.ParseDict(message, request())
        rest = rest[end:].strip()


def test_the_service_config_is_the_clients() -> None:
    (documented,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/grpc.md").read_text("utf-8"), re.DOTALL)
    assert json.loads(documented) == json.loads(client.SERVICE_CONFIG)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
        linked = path.parent / target if target else path
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
            }
            assert anchor[1:] in slugs, f"{path.name} links to {target}{anchor}"
