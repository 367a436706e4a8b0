"""The README's table of clients against the locks: the versions that the tests run with, and the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| `(?P<package>[\w.-]+)`[^|]* \| (?P<versions>[^|]+) \| [^|]+ \| \[[^]]+\]\((?P<test>[^)]+)\) \|$",
    README,
    re.MULTILINE,
)


def locked() -> set[tuple[str, str]]:
    """Every (package, version) that the clients' environments have, of PyPI and of npm."""
    pins = "\n".join(path.read_text("utf-8") for path in (ROOT / "requirements" / "clients").glob("*.lock"))
    found = set(re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE))
    npm = json.loads((ROOT / "tests" / "clients" / "js" / "package-lock.json").read_text("utf-8"))
    return found | {
        (path.removeprefix("node_modules/"), package["version"])
        for path, package in npm["packages"].items()
        if path
    }


def test_there_are_rows() -> None:
    assert len(ROWS) > 10


@pytest.mark.parametrize(("package", "versions", "test"), ROWS)
def test_row(package: str, versions: str, test: str) -> None:
    assert (ROOT / test).is_file()
    if versions != "any":
        missing = {(package, version) for version in versions.split(", ")} - locked()
        assert missing == set(), "the README's table and the locks differ"


def test_every_client_that_is_tested_has_a_row() -> None:
    clients = ROOT / "tests" / "clients"
    told = {test for _, _, test in ROWS}
    # Not of a client, or the same tests again.
    others = {"test_page.py", "test_schema.py", "test_node.py", "test_cohere_5.py"}
    tests = [*clients.glob("test_*.py"), *clients.glob("older/test_*.py"), *clients.glob("js/*.test.ts")]
    assert [
        path.name for path in tests if path.name not in others and str(path.relative_to(ROOT)) not in told
    ] == []


def test_locks_name_no_host() -> None:
    """A lock is for every registry: an address in it would be of the machine that made it."""
    locks = [*(ROOT / "requirements" / "clients").glob("*"), ROOT / "tests/clients/js/package-lock.json"]
    assert [
        path.name for path in locks if re.search(r'"resolved"|--index|--find-links', path.read_text("utf-8"))
    ] == []
