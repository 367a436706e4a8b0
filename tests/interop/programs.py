"""The examples as programs: how each is built, asked, and what it printed. All have one command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from clients.live import ROOT

EXAMPLES = ROOT / "examples"
PATIENCE = 120.0
"""Seconds after which what should have happened has not: a bound, never a measure."""
BUILDING = 1500.0
"""The same for a build, which may begin by fetching what it needs."""
UNHURRIED_MS = 90_000
"""The deadline of calls that are not about deadlines."""

Line: TypeAlias = "dict[str, Any]"
"""A query of the input, or a line of the output."""


@dataclass(frozen=True)
class Program:
    """An example. `make -C examples/FOLDER build` leaves the executable `run` there."""

    name: str
    """As the table of docs/interop.md has it."""
    folder: str
    needs: tuple[str, ...]
    """The commands without which it can't be built."""
    run: str = "run"
    watches_health: bool = True
    """Whether its gRPC leaves out servers that say NOT_SERVING: where it does, it asks none of those."""

    def __str__(self) -> str:
        return self.name.lower().replace(" ", "-")

    @property
    def missing(self) -> list[str]:
        return [command for command in self.needs if shutil.which(command, path=_path()) is None]

    def start(self, mode: str, target: str, lines: Sequence[Line], *flags: str) -> Asked:
        """Has it ask; returns while it does."""
        command = [str(EXAMPLES / self.folder / self.run), "--target", target]
        if "--deadline-ms" not in flags:
            command += ["--deadline-ms", str(UNHURRIED_MS)]
        process = subprocess.Popen(
            [*command, *flags, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment(),
        )
        return Asked(process, "".join(json.dumps(line) + "\n" for line in lines))

    def ask(self, mode: str, target: str, lines: Sequence[Line], *flags: str) -> list[Line]:
        """What it prints."""
        return self.start(mode, target, lines, *flags).printed()


class Asked:
    """A program that is asking. Its input is written at once: it reads all of it before it begins."""

    def __init__(self, process: subprocess.Popen[str], text: str) -> None:
        self._process = process
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(text)
        process.stdin = None

    def printed(self) -> list[Line]:
        """Its lines, when it has ended; the exit status must say whether a call failed."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()
        lines: list[Line] = [json.loads(line) for line in out.splitlines()]
        failed = any("error" in line for line in lines)
        assert self._process.returncode == int(failed), f"exit {self._process.returncode}: {out}\n{err}"
        return lines


PROGRAMS = [
    Program("Go", "go", ("go", "buf")),
    Program("Java", "java", ("java", "mvn")),
    Program("Kotlin", "kotlin", ("java", "mvn")),
    Program("C#", "csharp", ("dotnet",)),
    Program("TypeScript", "node", ("node", "npm"), watches_health=False),
    Program("Python sync", "python", ("python3",), "run-sync"),
    Program("Python asyncio", "python", ("python3",), "run-aio"),
    Program("Rust", "rust", ("cargo",), watches_health=False),
]


@cache
def built(folder: str) -> str:
    """Builds an example; returns what went wrong, or nothing."""
    done = subprocess.run(
        ["make", "-C", str(EXAMPLES / folder), "build"],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILDING,
        env=environment(),
    )
    return done.stdout + done.stderr if done.returncode else ""


def _path() -> str:
    # buf lies beside our interpreter.
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def environment() -> dict[str, str]:
    """What the examples, their builds and other tools see."""
    # Where a proxy is configured, it is not for this machine's own ports.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    return {**kept, "PATH": _path(), "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
