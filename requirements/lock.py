"""Writes requirements/dev.lock: an exact version of every package that is needed to run or to check.

    python requirements/lock.py [PYTHON...]    resolves anew, under each of these interpreters (`make lock`)
    python requirements/lock.py --check        exits 1 where it and pyproject.toml disagree; needs no network

One file serves every supported Python: a package whose version depends on Python gets an environment marker,
and the newest interpreter resolved speaks for those after it. Plain requirements, so that any pip reads them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "dev.lock"
HEADER = "# Written by `make lock` from pyproject.toml: its dependencies and the group dev. Do not edit.\n"


# `maturin develop` installs dependency groups, which an older pip can't.
PIP = "pip>=25.1"


def direct() -> list[str]:
    """What pyproject.toml asks for, and the pip to install it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [PIP, *project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(python: str, wanted: Iterable[str]) -> tuple[tuple[int, int], dict[str, str]]:
    """The interpreter's version, and what its pip would install into an empty environment."""
    version = subprocess.check_output(
        [python, "-c", "import sys; print(*sys.version_info[:2])"], text=True, encoding="utf-8"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write("\n".join(wanted))
        requirements.flush()
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        report = subprocess.check_output(
            [*command, "--report", "-", "-r", requirements.name], text=True, encoding="utf-8"
        )
    major, minor = map(int, version.split())
    installed = (item["metadata"] for item in json.loads(report)["install"])
    return (major, minor), {normal(package["name"]): package["version"] for package in installed}


def spans(pins: dict[tuple[int, int], str | None]) -> Iterator[tuple[str, str]]:
    """(version, marker) for each run of Pythons that take the same version."""
    pythons = sorted(pins)
    start = 0
    for i, python in enumerate(pythons):
        after = pythons[i + 1] if i + 1 < len(pythons) else None
        if after is not None and pins[after] == pins[python]:
            continue
        bounds = []
        if start:
            bounds.append('python_version >= "{}.{}"'.format(*pythons[start]))
        if after:
            bounds.append('python_version < "{}.{}"'.format(*after))
        if version := pins[python]:
            yield version, " and ".join(bounds)
        start = i + 1


def lock(pythons: list[str]) -> str:
    wanted = direct()
    resolved = dict(resolve(python, wanted) for python in pythons)
    lines = []
    for name in sorted(set().union(*resolved.values())):
        for version, marker in spans({python: pins.get(name) for python, pins in resolved.items()}):
            lines.append(f"{name}=={version}" + (f" ; {marker}" if marker else ""))
    return HEADER + "\n".join(lines) + "\n"


def problems() -> Iterator[str]:
    """Each requirement of pyproject.toml that the lock, read by this Python, does not meet."""
    pins: dict[str, str] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            pins[normal(pin.name)] = next(iter(pin.specifier)).version
    for text in direct():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        pinned = pins.get(normal(wanted.name))
        if pinned is None:
            yield f"{text}: not in {LOCK.name}"
        elif pinned not in wanted.specifier:
            yield f"{text}: {LOCK.name} has {pinned}"


def main() -> int:
    if sys.argv[1:] != ["--check"]:
        LOCK.write_text(lock(sys.argv[1:] or [sys.executable]), encoding="utf-8")
        return 0
    found = list(problems())
    for problem in found:
        print(problem)
    if found:
        print("run `make lock`")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
