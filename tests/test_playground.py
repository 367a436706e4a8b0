"""The playground as a file: that it needs nobody but its server. tests/clients/test_page.py opens it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

PAGE = (resources.files("rerankd") / "playground" / "index.html").read_text("utf-8")
# Bytes: it is loaded whole, and before the first query.
MOST = 32 << 10


class Elements(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements(PAGE).found


def digest(element: str) -> str:
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


@pytest.mark.parametrize(("element", "directive"), [("style", "style-src"), ("script", "script-src")])
def test_the_policy_lets_in_what_is_there_and_no_more(element: str, directive: str) -> None:
    expected = f"{directive} '{digest(element)}'"
    assert expected in PAGE, f"the {element} has changed: put {expected} into the page's policy"
    (policy,) = (attributes["content"] or "" for tag, attributes in ELEMENTS if "http-equiv" in attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules[directive] == f"'{digest(element)}'"
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"


def test_it_loads_nothing() -> None:
    sources = [attributes.get("src") or attributes.get("href") for _, attributes in ELEMENTS]
    assert [source for source in sources if source and not source.startswith("data:")] == [
        "docs",
        "openapi.json",
    ]
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|\burl\(", PAGE) == []


def test_no_attribute_is_code_or_style() -> None:
    """The policy would keep them from being run."""
    names = [name for _, attributes in ELEMENTS for name in attributes]
    assert [name for name in names if name.startswith("on") or name == "style"] == []


def test_labels_are_of_what_is_there() -> None:
    ids = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in ELEMENTS:
        for reference in ("for", "aria-labelledby", "aria-describedby"):
            assert attributes.get(reference, ids[0]) in ids, (tag, attributes)


def test_what_the_script_asks_for_by_id_is_there() -> None:
    ids = {attributes.get("id") for _, attributes in ELEMENTS}
    asked = set(re.findall(r'\$\("([\w-]+)"\)', PAGE))
    assert asked - ids == set()
    assert len(asked) > 10


def test_it_is_small() -> None:
    assert len(PAGE.encode()) <= MOST
