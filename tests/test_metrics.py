"""Metrics: names, labels and values after real calls, and the page that lists them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rerankd.metrics import CODES, Metrics
from rerankd.reranker import Reranker
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, RunningServer, Serve, Stub, ask, raw, refused_sync, until

DOCUMENT = Path(__file__).parent.parent / "docs" / "observability.md"


def rendered(server: RunningServer) -> str:
    body, content_type = server.server.metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    return body.decode()


class Scrape:
    """A scrape's samples."""

    def __init__(self, server: RunningServer) -> None:
        self.families = list(text_string_to_metric_families(rendered(server)))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        found = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)


@pytest.fixture
def own(serve: Serve) -> RunningServer:
    return serve(threads=1, queue_tokens=20)


def test_calls_are_counted_by_method_and_code(own: RunningServer) -> None:
    with grpc.insecure_channel(own.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        stub.Rerank(ask(contexts=CONTEXTS[:1]))
        refused_sync(lambda: stub.Rerank(ask(query="")))
        items = [
            pb.RerankBatchRequest(request_id="good", request=ask(contexts=CONTEXTS[:1])),
            pb.RerankBatchRequest(request_id="bad", request=ask(model="none")),
        ]
        assert len(list(stub.RerankBatch(iter(items)))) == 2
    own.run(until(lambda: not own.server.calls))  # a caller may learn of an end before we do
    scrape = Scrape(own)
    labels = {"grpc_service": "rerankd.v1.RerankService", "grpc_method": "Rerank", "grpc_type": "unary"}
    assert scrape.value("grpc_server_started_total", **labels) == 2
    assert scrape.value("grpc_server_msg_received_total", **labels) == 2
    assert scrape.value("grpc_server_msg_sent_total", **labels) == 1
    assert scrape.value("grpc_server_handled_total", **labels) == 2
    assert scrape.value("grpc_server_handled_total", grpc_code="OK", **labels) == 1
    assert scrape.value("grpc_server_handled_total", grpc_code="InvalidArgument", **labels) == 1
    assert scrape.value("grpc_server_handling_seconds_count", **labels) == 2
    assert scrape.value("grpc_server_msg_sent_total", grpc_method="RerankBatch") == 2
    assert scrape.value("rerankd_batch_items_total", grpc_code="OK") == 1
    assert scrape.value("rerankd_batch_items_total", grpc_code="NotFound") == 1
    # A stranger's series does not move, and is there all the same.
    assert scrape.value("grpc_server_handled_total", grpc_method="ListModels", grpc_code="Unavailable") == 0


def test_the_engine_is_read_as_it_is(own: RunningServer) -> None:
    with grpc.insecure_channel(own.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        stub.Rerank(ask(contexts=CONTEXTS[:2]))
        stub.Rerank(ask(contexts=[]))  # an answer that never was in the queue
        own.server.rerankers[0].drain()
        refused_sync(lambda: stub.Rerank(ask()))
    stats = own.reranker.engine.stats()
    scrape = Scrape(own)
    assert stats["refused"] == scrape.value("rerankd_refused_total", model="mini-en") == 1
    assert stats["pairs"] == scrape.value("rerankd_pairs_total") == 2
    assert stats["tokens"] == scrape.value("rerankd_tokens_total") == scrape.value("rerankd_wave_tokens_sum")
    assert stats["waves"] == scrape.value("rerankd_wave_tokens_count") > 0
    assert scrape.value("rerankd_tickets_in_flight") == scrape.value("rerankd_queue_tokens") == 0
    assert scrape.value("rerankd_waiting_tokens", model="mini-en") == 0
    assert scrape.value("rerankd_queue_tokens_limit") == 20
    assert scrape.value("rerankd_queue_seconds_count", model="mini-en") == 1
    engine = own.reranker.engine
    assert scrape.value("rerankd_model_info", model="mini-en", dtype=engine.dtype, threads="1") == 1


async def test_an_open_stream_holds_tokens_and_is_in_flight(own: RunningServer) -> None:
    async with grpc.aio.insecure_channel(own.target) as channel:
        stub: Stub = rerank_pb2_grpc.RerankServiceStub(channel)
        call = stub.RerankStream()
        await call.write(pb.RerankStreamRequest(start=ask(contexts=CONTEXTS[:1])))
        await call.read()
        scrape = Scrape(own)
        assert scrape.value("rerankd_tickets_in_flight", model="mini-en") == 1
        assert scrape.value("rerankd_queue_tokens") > scrape.value("rerankd_waiting_tokens") == 0
        call.cancel()
    await until(lambda: Scrape(own).value("rerankd_queue_tokens") == 0)


def test_what_the_engine_counts_is_told_in_the_units_of_its_names() -> None:
    """And an expired request not as failed too; buckets are those of the engine, and all that is below."""

    class Engine:
        architecture = device = dtype = kernels = ""
        threads = 1

        def stats(self) -> dict[str, int]:
            return dict.fromkeys(("queue_tokens", "tickets", "waves", "pairs", "tokens"), 0) | {
                "cancelled": 5, "refused": 4, "expired": 2, "failed": 3
            }  # fmt: skip

        def histograms(self) -> dict[str, tuple[list[int], list[int], int]]:
            return {"queue_us": ([1000, 2500], [4, 1, 2], 60_000), "wave_tokens": ([32], [3, 0], 7)}

    class Loaded:
        name, revision, max_tokens, engine = "model", "", 1, Engine()

    body = Metrics([Loaded()], 1, int).render()[0].decode()  # type: ignore[list-item]
    assert 'rerankd_expired_total{model="model"} 2.0' in body
    assert 'rerankd_failed_total{model="model"} 1.0' in body
    of_waits = [line for line in body.splitlines() if line.startswith("rerankd_queue_seconds_")]
    assert of_waits == [
        'rerankd_queue_seconds_bucket{le="0.001",model="model"} 4.0',
        'rerankd_queue_seconds_bucket{le="0.0025",model="model"} 5.0',
        'rerankd_queue_seconds_bucket{le="+Inf",model="model"} 7.0',
        'rerankd_queue_seconds_count{model="model"} 7.0',
        'rerankd_queue_seconds_sum{model="model"} 0.06',
    ]
    assert 'rerankd_wave_tokens_bucket{le="32.0",model="model"} 3.0' in body


def test_all_that_the_engine_counts_is_told(own_reranker: Reranker) -> None:
    """A number new in stats() wants a metric, or a word here."""
    told = {
        "queue_tokens",
        "tickets",
        "tokens",
        "pairs",
        "waves",
        "refused",
        "cancelled",
        "expired",
        "failed",
    }
    assert own_reranker.engine.stats().keys() == told
    assert own_reranker.engine.histograms().keys() == {"queue_us", "wave_tokens"}


async def test_the_loops_lag_is_measured() -> None:
    metrics = Metrics([], 1, int)
    watching = asyncio.create_task(metrics.watch_loop())
    await until(lambda: metrics.registry.get_sample_value("rerankd_event_loop_lag_seconds_count") == 2)
    watching.cancel()


def test_codes_are_spelled_as_go_does() -> None:
    assert CODES[0] == "OK"
    assert CODES[1] == "Canceled"
    assert CODES[14] == "Unavailable"
    assert CODES[8] == "ResourceExhausted"
    assert len(CODES) == 17


def test_no_series_of_creation_times_and_none_without_help(own: RunningServer) -> None:
    text = rendered(own)
    assert "_created" not in text
    assert all(family.documentation for family in text_string_to_metric_families(text))


def test_nothing_that_a_caller_writes_is_in_it(own: RunningServer) -> None:
    with grpc.insecure_channel(own.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        stub.Rerank(pb.RerankRequest(query="hush", contexts=[pb.Context(text="hush", key="hush")]))
        refused_sync(lambda: stub.Rerank(ask(model="hush")))
        list(stub.RerankBatch(iter([pb.RerankBatchRequest(request_id="hush", request=ask())])))
        with pytest.raises(grpc.RpcError):
            raw(channel, "hush")(b"")
    assert "hush" not in rendered(own)


# ---- the page ---------------------------------------------------------------------------------------------


def live(families: Iterable[Metric]) -> dict[str, tuple[str, set[str]]]:
    """Every metric of ours by its name as it is queried: its type, and its labels."""
    found = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    return found


def test_the_page_lists_every_metric(own: RunningServer) -> None:
    with grpc.insecure_channel(own.target) as channel:
        rerank_pb2_grpc.RerankServiceStub(channel).Rerank(ask(contexts=CONTEXTS[:1]))
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|(.*?)\| .+ \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    ours = {
        name: facts
        for name, facts in live(Scrape(own).families).items()
        if not name.startswith(("process_", "python_"))
    }
    assert documented == ours
