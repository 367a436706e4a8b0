"""Chromium with the playground, and the picture of it that the documentation shows.

python -m clients.browser --server-python PYTHON FILE    (in tests/; `make screenshot`)
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from clients.live import serving

WAIT_MS = 20_000
"""Milliseconds after which what the page should have done it has not: a bound, never a measure."""
SIZE = {"width": 1280, "height": 930}


def executable() -> str:
    """Debian's chromium, or another one that is installed: none is downloaded."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise SystemExit("there is no chromium; install it (Debian: apt-get install chromium)")


@contextmanager
def browser() -> Iterator[Browser]:
    # Its sandbox wants rights that containers and root do not have; it opens nothing but our own page.
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox", "--disable-gpu"])


@contextmanager
def page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The playground, opened; fails where the page has an error, or asks anybody but its server."""
    context = browser.new_context(viewport=SIZE, reduced_motion="reduce", **options)
    context.set_default_timeout(WAIT_MS)
    opened = context.new_page()
    wrong: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith((url, "data:")):
            wrong.append(request.url)

    def told(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            wrong.append(message.text)

    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", asked)
    opened.on("console", told)
    opened.goto(f"{url}/")
    yield opened
    context.close()
    assert wrong == []


def rank(opened: Page) -> None:
    """Presses Rank, and waits for what comes of it."""
    opened.get_by_role("button", name="Rank").click()
    settle(opened)


def settle(opened: Page) -> None:
    expect(opened.locator("#status")).not_to_have_text(re.compile("^(Press|Ranking)"), timeout=WAIT_MS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server-python", required=True)
    parser.add_argument("file", type=Path)
    told = parser.parse_args()
    with (
        serving(told.server_python) as addresses,
        browser() as chromium,
        page(chromium, f"http://{addresses.http}", color_scheme="light") as opened,
    ):
        # A server's first answers are not its fastest.
        for _ in range(5):
            rank(opened)
        # The curl and the Python name the default port in the picture, not the one of this run.
        opened.evaluate(
            "address => { for (const code of document.querySelectorAll('pre'))"
            " code.textContent = code.textContent.replaceAll(address, 'localhost:8080') }",
            addresses.http,
        )
        opened.screenshot(path=told.file)


if __name__ == "__main__":
    main()
