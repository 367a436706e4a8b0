"""The Grafana dashboard against a live server: every metric, label and value that it asks for is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, LOCAL, LONG, RunningServer, ask, refused_sync, scrape

PAGE = Path(__file__).parent.parent / "docs" / "observability.md"
DASHBOARD = json.loads(
    (Path(__file__).parent.parent / "deploy" / "grafana" / "rerankd.json").read_text("utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
Samples: TypeAlias = "list[tuple[str, dict[str, str]]]"
# What Prometheus itself puts on every series.
OF_THE_TARGET = {"job", "instance"}
VARIABLES = re.compile(r"\$\{?(\w+)\}?")


class Selector(NamedTuple):
    """A metric as an expression asks for it."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """(label, operator, value)."""
    ranged: bool


GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(
    r"(?P<name>\b[a-zA-Z_:][\w:]*)\s*(?!\s*\(|\w)(?:\{(?P<matchers>(?:[^\"}]|\"[^\"]*\")*)\})?(?P<range>\[)?"
)
MATCHER = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"")


def parse(expression: str) -> tuple[list[Selector], set[str]]:
    """An expression's selectors, and the labels that it groups by: as much of PromQL as a dashboard needs."""
    grouped = {
        label.strip() for group in GROUPING.findall(expression) for label in group.split(",") if label.strip()
    }
    rest = GROUPING.sub(" ", expression)
    found = []
    for match in SELECTOR.finditer(re.sub(r"\[[^\]]*\]", "[", rest)):
        matchers = tuple(MATCHER.findall(match["matchers"] or ""))
        found.append(Selector(match["name"], matchers, match["range"] is not None))
    return found, grouped


@pytest.fixture(scope="module")
def samples() -> Iterator[Samples]:
    """What a server tells after calls of several kinds: its samples' names and labels."""
    server = RunningServer(Settings(**{**LOCAL, "metrics": "127.0.0.1:0", "threads": 1}))
    make_calls(server)
    status, _, text = scrape(server.server.metrics_port)
    assert status == 200
    yield [
        (sample.name, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    server.stop()


def make_calls(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        stub.Rerank(ask())
        stub.ListModels(pb.ListModelsRequest())
        refused_sync(lambda: stub.Rerank(ask(query="")))
        with pytest.raises(grpc.RpcError):
            stub.Rerank(ask(contexts=LONG), timeout=0.02)
        list(stub.RerankStream(iter([pb.RerankStreamRequest(start=ask(contexts=CONTEXTS[:1]))])))
        list(stub.RerankBatch(iter([pb.RerankBatchRequest(request_id="", request=ask())])))
        server.reranker.drain()
        refused_sync(lambda: stub.Rerank(ask()))


def test_the_parser_reads_what_dashboards_say() -> None:
    selectors, grouped = parse(
        'histogram_quantile(0.9, sum by (le, a) (rate(x_bucket{b="c,}d", e=~"$f"}[$__rate_interval])))'
        " / on (g) h > 1"
    )
    assert selectors == [
        Selector("x_bucket", (("b", "=", "c,}d"), ("e", "=~", "$f")), True),
        Selector("h", (), False),
    ]
    assert grouped == {"le", "a", "g"}
    assert parse("count(up)")[0] == [Selector("up", (), False)]


def faults(expression: str, legend: str, samples: Samples) -> Iterator[str]:
    """What an expression, or its legend, asks for in vain."""
    selectors, grouped = parse(expression)
    if not selectors:
        yield "there is no metric in it"
    for selector in selectors:
        series = [labels for name, labels in samples if name == selector.name]
        if not series:
            yield f"there is no metric {selector.name}"
            continue
        labels = OF_THE_TARGET.union(*series)
        for label, operator, value in selector.matchers:
            told = {each.get(label) for each in series}
            if label not in labels:
                yield f"{selector.name} has no label {label}"
            elif "$" not in value and not told >= set(value.split("|") if operator == "=~" else [value]):
                yield f"{selector.name} has no {label} of {value}"
        if not grouped <= labels:
            yield f"{selector.name} has no label {grouped - labels}"
        if selector.ranged != bool(re.search(r"_(total|bucket|sum|count)$", selector.name)):
            yield f"{selector.name}: a counter wants a rate, and nothing else does"
    if not set(re.findall(r"\{\{(\w+)\}\}", legend)) <= grouped | OF_THE_TARGET:
        yield f"a legend of {legend}, and it is not grouped by that"


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=[panel for panel, _ in TARGETS])
def test_all_that_it_asks_for_is_told(panel: str, target: dict[str, Any], samples: Samples) -> None:
    assert list(faults(target["expr"], target["legendFormat"], samples)) == []


@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        ("1 + 1", ""),
        ("rate(rerankd_token_total[5m])", ""),
        ('rate(rerankd_tokens_total{modell="$model"}[5m])', ""),
        ('sum(rate(grpc_server_handled_total{grpc_code=~"OK|Cancelled"}[5m]))', ""),
        ('rate(grpc_server_handled_total{grpc_method="rerank"}[5m])', ""),
        ("sum by (grpc_code) (rate(grpc_server_started_total[5m]))", ""),
        ("sum(rerankd_tokens_total)", ""),
        ("rate(rerankd_queue_tokens[5m])", ""),
        ("sum(rate(rerankd_tokens_total[5m]))", "{{model}}"),
    ],
)
def test_what_is_asked_for_in_vain_is_found(expression: str, legend: str, samples: Samples) -> None:
    assert len(list(faults(expression, legend, samples))) == 1


def test_the_alerts_of_the_page_ask_for_what_is_told(samples: Samples) -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [list(faults(alert, "", samples)) for alert in block.splitlines()] == [[], [], []]


def test_every_metric_of_ours_is_shown(samples: Samples) -> None:
    ours = {name for name, _ in samples if name.startswith(("grpc_", "rerankd_"))}
    asked = {selector.name for _, target in TARGETS for selector in parse(target["expr"])[0]}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} == {
        name for name in shown if name.startswith(("grpc_", "rerankd_"))
    }


def test_variables_are_declared_and_ask_for_what_is_told(samples: Samples) -> None:
    declared = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    texts = [target["expr"] for _, target in TARGETS] + [str(panel["datasource"]) for panel in PANELS]
    used = {name for text in texts for name in VARIABLES.findall(text)}
    assert used - {"__rate_interval"} == declared.keys()
    for variable in declared.values():
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            ((selector,), _) = parse(match[1])
            labels = OF_THE_TARGET.union(*(labels for name, labels in samples if name == selector.name))
            assert match[2] in labels
            assert {label for label, _, _ in selector.matchers} <= labels


def test_panels_have_a_name_a_word_and_a_place_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] and panel["description"] for panel in PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not place & taken, f"{panel['title']} lies on another"
        taken |= place
