"""The playground in headless Chromium: what a user sees, does, and is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from clients import browser as chromium
from clients.live import CONTEXTS, PATIENCE, QUERY, Live, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    with chromium.page(browser, live.url) as opened:
        yield opened


def ask(page: Page, query: str = QUERY, contexts: str = "\n".join(CONTEXTS)) -> None:
    page.get_by_label("Query").fill(query)
    page.locator("#contexts").fill(contexts)
    chromium.rank(page)


def texts(page: Page, part: str = ".text") -> list[str]:
    found: list[str] = page.locator(f"#results li {part}").all_text_contents()
    return found


def drop(page: Page, name: str, content: str) -> None:
    """Drops a file on the page, as a hand would."""
    page.evaluate(
        """([name, content]) => {
            const data = new DataTransfer();
            data.items.add(new File([content], name));
            document.querySelector("#contexts").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
        }""",
        [name, content],
    )


def test_the_example_is_there_and_can_be_ranked(page: Page) -> None:
    expect(page.locator("#served")).to_contain_text("mini-en · f32 · cpu · 512 tokens a pair")
    before = page.locator("#contexts").input_value().split("\n")
    chromium.rank(page)
    assert sorted(texts(page)) == sorted(before)
    expect(page.locator("#status")).to_contain_text(re.compile(r"^8 contexts, \d+ tokens; .* ms in all"))
    scores = [float(score) for score in texts(page, ".score")]
    assert scores == sorted(scores, reverse=True)


def test_order_and_scores_are_those_in_process(page: Page, live: Live) -> None:
    ask(page)
    assert texts(page) == live.best_texts
    assert texts(page, ".score") == [f"{score:.4f}" for _, score in live.ranking]
    assert texts(page, ".place") == ["1", "2", "3", "4", "5"]
    widths = page.locator("#results .bar").evaluate_all("bars => bars.map((bar) => bar.style.width)")
    expected = [100 * score for _, score in live.ranking]
    assert [float(width.removesuffix("%")) for width in widths] == pytest.approx(expected, abs=0.01)


def test_scores_are_shown_while_they_are_computed(page: Page) -> None:
    """Enough contexts for many waves; the first scores are there while others are not."""
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const shown = [...document.querySelectorAll("#results .score")];
                window.seen.push([shown.length, shown.filter((score) => score.textContent !== "…").length]);
            }).observe(document.querySelector("#results"), { childList: true, subtree: true });
        }"""
    )
    ask(page, contexts="\n".join(f"{at}: {text}" for at in range(40) for text in CONTEXTS))
    seen = page.evaluate("window.seen")
    assert any(0 < scored < shown == 200 for shown, scored in seen)
    assert seen[-1] == [200, 200]


def test_the_keyboard_is_enough(page: Page, live: Live) -> None:
    page.locator("#contexts").fill("\n".join(CONTEXTS))
    page.get_by_label("Query").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(QUERY)
    page.keyboard.press("Control+Enter")
    chromium.settle(page)
    assert texts(page) == live.best_texts


def test_every_control_has_a_name_and_can_be_reached(page: Page) -> None:
    chromium.rank(page)
    reached = []
    page.locator("body").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')")
        )
    wanted = [
        "theme",
        "query",
        "open",
        "contexts",
        "top-k",
        "budget",
        "rank",
        "copy-curl",
        "copy-python",
        "docs",
    ]
    assert [name for name in wanted if name not in reached] == []
    outline = page.locator("#rank").evaluate(
        "rank => { rank.focus(); return getComputedStyle(rank).outlineWidth }"
    )
    assert outline == "3px"
    named = page.evaluate(
        "() => [...document.querySelectorAll('input, textarea, select, button')].filter((each) =>"
        " !each.labels?.length && !each.getAttribute('aria-label') && !each.textContent.trim())"
        ".map((each) => each.id)"
    )
    assert named == []


def test_top_k_and_what_is_left_out(page: Page, live: Live) -> None:
    page.get_by_label("Best").fill("2")
    ask(page)
    assert texts(page) == live.best_texts
    assert texts(page, ".place") == ["1", "2", "", "", ""]
    assert page.locator("li.out").count() == 3
    assert page.locator("li.out .note").first.text_content() == "not among the best asked for"


def test_a_budget_that_ends(page: Page) -> None:
    page.get_by_label("Milliseconds").fill("1")
    ask(page, contexts="\n".join(f"{at}: {' '.join(CONTEXTS)}" for at in range(300)))
    missed = [note for note in texts(page, ".note") if note == "not reached within its milliseconds"]
    assert missed
    expect(page.locator("#status")).to_contain_text(f"{300 - len(missed)} of 300 contexts")
    assert texts(page, ".score").count("—") == len(missed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "\n".join(CONTEXTS)),
        ("strings.json", json.dumps(CONTEXTS)),
        (
            "objects.json",
            json.dumps([{"text": text, "key": f"doc-{at}"} for at, text in enumerate(CONTEXTS)]),
        ),
        ("whole.json", json.dumps({"query": QUERY, "contexts": [{"text": text} for text in CONTEXTS]})),
    ],
)
def test_a_file_dropped_in(page: Page, live: Live, name: str, content: str) -> None:
    page.get_by_label("Query").fill("" if name == "whole.json" else QUERY)
    drop(page, name, content)
    expect(page.locator("#count")).to_have_text("5 contexts")
    chromium.rank(page)
    assert texts(page) == live.best_texts
    if name == "objects.json":
        assert texts(page, ".note") == [f"doc-{at}" for at, _ in live.ranking]


def test_a_file_that_is_opened(page: Page, live: Live, tmp_path: Path) -> None:
    (tmp_path / "two\nlines.json").write_text(json.dumps(["one\nline and another", "[1] a footnote"]))
    page.locator("#file").set_input_files(tmp_path / "two\nlines.json")
    chromium.rank(page)
    assert sorted(texts(page)) == ["[1] a footnote", "one\nline and another"]


@pytest.mark.parametrize(
    ("fill", "told", "focused"),
    [
        ({"query": ""}, "The query is empty", "query"),
        ({"contexts": " \n"}, "There are no contexts", "contexts"),
        ({"contexts": '["a", '}, "The contexts look like JSON, but are not", "contexts"),
        (
            {"contexts": '["a", {"txt": "b"}]'},
            'Context 2 is neither a string nor an object with a "text"',
            "contexts",
        ),
        ({"top-k": "0"}, 'Best must be a whole number, 1 or more, or empty; it is "0"', "top-k"),
    ],
)
def test_what_the_page_itself_refuses(
    page: Page, live: Live, fill: dict[str, str], told: str, focused: str
) -> None:
    calls = live.calls()
    for name, value in fill.items():
        page.locator(f"#{name}").fill(value)
    chromium.rank(page)
    expect(page.get_by_role("alert")).to_contain_text(told)
    assert page.evaluate("document.activeElement.id") == focused
    assert live.calls() == calls


def test_what_the_server_refuses_is_told_in_its_words(page: Page) -> None:
    ask(page, contexts="\n".join(f"context {at}" for at in range(1001)))
    expect(page.get_by_role("alert")).to_contain_text("The server can't do that.")
    expect(page.get_by_role("alert")).to_contain_text("at most 1000 are ranked per request")
    expect(page.locator("#status")).to_have_text("Not ranked.")
    ask(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_server_that_is_gone(browser: Browser, server_python: str) -> None:
    with serving(server_python) as addresses:
        opened = chromium.page(browser, f"http://{addresses.http}")
        page = opened.__enter__()
    chromium.rank(page)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    opened.__exit__(None, None, None)


def test_a_server_that_wants_a_token(browser: Browser, server_python: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("the-key\n")
    with (
        serving(server_python, "--token-file", str(tmp_path / "tokens")) as addresses,
        chromium.page(browser, f"http://{addresses.http}") as page,
    ):
        page.get_by_label("Bearer token").wait_for()
        chromium.rank(page)
        expect(page.get_by_role("alert")).to_contain_text("asks for a bearer token")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("the-key")
        chromium.rank(page)
        assert texts(page, ".place")[0] == "1"
        expect(page.locator("#served")).to_contain_text("mini-en")
        # What is to be copied, and may be shown around, does not have it.
        assert "the-key" not in str(page.locator("#code").text_content())
        assert "Bearer $TOKEN" in str(page.locator("#curl").text_content())


@pytest.mark.parametrize("program", ["curl", "python"])
def test_what_is_copied_does_the_same(browser: Browser, live: Live, program: str) -> None:
    awkward = ['It\'s "quoted" \\ $HOME `id` $(id)', "JSON", "naïve ☃ \u2028", *CONTEXTS]
    with chromium.page(browser, live.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_label("Best").fill("3")
        ask(page, query='What\'s "cool"?', contexts=json.dumps(awkward))
        page.locator(f"#copy-{program}").click()
        expect(page.locator(f"#copy-{program}")).to_have_text("Copied")
        code = page.evaluate("navigator.clipboard.readText()")
        shown = list(zip(texts(page, ".score"), texts(page), strict=True))[:3]
    command = ["bash", "-euc"] if program == "curl" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, code], capture_output=True, text=True, check=True, timeout=PATIENCE, env=os.environ
    )
    if program == "python":
        assert done.stdout == "".join(f"{score} {text}\n" for score, text in shown)
    else:
        answer = json.loads(done.stdout)["response"]
        assert [(f"{each['score']:.4f}", awkward[each["id"]]) for each in answer] == shown


def test_dark_and_light(browser: Browser, live: Live) -> None:
    def ground(page: Page) -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    with chromium.page(browser, live.url, color_scheme="dark") as page:
        dark = ground(page)
        page.get_by_role("button", name="Switch to the light theme").click()
        light = ground(page)
        assert dark != light
        page.reload()
        assert ground(page) == light
    with chromium.page(browser, live.url, color_scheme="light") as page:
        assert ground(page) == light


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_can_be_read(browser: Browser, live: Live, scheme: Any) -> None:
    """WCAG's contrast: 4.5 for all text."""
    with chromium.page(browser, live.url, color_scheme=scheme) as page:
        chromium.rank(page)
        faint = page.evaluate(CONTRAST)
    assert faint == []


CONTRAST = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => parse(colour).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (each) => {
        const colour = getComputedStyle(each).backgroundColor;
        return parse(colour)[3] === 0 && each.parentElement ? ground(each.parentElement) : colour;
    };
    return [...document.querySelectorAll("body *")].filter((each) =>
        [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
        && each.checkVisibility()
    ).map((each) => {
        const [a, b] = [light(getComputedStyle(each).color), light(ground(each))];
        return [each.id || each.className || each.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    }).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("width", [360, 768])
def test_a_small_screen_has_it_all(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    ask(page, contexts="an_unbroken_word_" * 20 + "\nanother context")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        "width => [...document.querySelectorAll('main *')].filter((each) => each.closest('pre') === null &&"
        " each.checkVisibility() && each.getBoundingClientRect().right > width + 0.5).map((each) => each.id)",
        width,
    )
    assert beyond == []
