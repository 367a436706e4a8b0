"""Metrics: what Prometheus is told. Calls as go-grpc-middleware names them, and the engine under rerankd_.

docs/observability.md lists them; a test compares it with what is here. No label holds what a caller wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from google.rpc import code_pb2
from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from rerankd._core import __version__
from rerankd.observe import ALL_METHODS, Metadata, Method, Outcome
from rerankd.v1 import rerank_pb2 as pb

if TYPE_CHECKING:
    from rerankd.reranker import Reranker

CODES: Final = {
    number: "OK" if name == "OK" else "Canceled" if name == "CANCELLED" else name.title().replace("_", "")
    for name, number in code_pb2.Code.items()
}
"""google.rpc.Code as Go spells it, and with it every dashboard for go-grpc-middleware."""

LAG_PERIOD: Final = 0.25
"""Seconds between two looks at the event loop's lag."""

_LABELS: Final = ("grpc_service", "grpc_method", "grpc_type")
_CALL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

# Engine.stats(): its key, the metric, its help. failed is told without expired, which stats counts in it.
_GAUGES: Final = (
    ("queue_tokens", "rerankd_waiting_tokens", "Tokens that wait to be computed."),
    (
        "tickets",
        "rerankd_tickets_in_flight",
        "Requests admitted and not yet answered; an open stream is one.",
    ),
)
_COUNTERS: Final = (
    ("tokens", "rerankd_tokens", "Tokens computed."),
    ("pairs", "rerankd_pairs", "Pairs of a query and a context, or a window of one, computed."),
    ("refused", "rerankd_refused", "Requests refused: the queue was full, or the server draining."),
    ("cancelled", "rerankd_cancelled", "Requests whose caller left before their answer."),
    ("expired", "rerankd_expired", "Requests whose deadline passed in the queue."),
    ("failed", "rerankd_failed", "Requests that failed once admitted, but for those expired."),
)
# Engine.histograms(): its key, the metric, its help, and how many of its units make one of the metric's.
_HISTOGRAMS: Final = (
    (
        "queue_us",
        "rerankd_queue_seconds",
        "Seconds that a request waited for its first wave, less its tokenizing.",
        1_000_000,
    ),
    ("wave_tokens", "rerankd_wave_tokens", "Tokens in a wave.", 1),
)


class Metrics:
    """All metrics of one server, in a registry of their own.

    It watches calls for an Observer; the engines' numbers are read when somebody asks, never in a call's way.
    rerankers: those loaded, which may become more. queue_tokens: the limit on the tokens that requests hold;
    held: how many they hold now.
    """

    def __init__(self, rerankers: Sequence[Reranker], queue_tokens: int, held: Callable[[], int]) -> None:
        self.registry: CollectorRegistry = _Registry()
        self._methods = _methods(self.registry)
        self._lag = Histogram(
            "rerankd_event_loop_lag_seconds",
            f"Seconds that the event loop came late to what was due, looked at every {LAG_PERIOD} s.",
            buckets=_LAG_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Engines(rerankers, queue_tokens, held))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def begin(self, method: Method, metadata: Metadata) -> _Call:
        """As a Watcher of observe.py."""
        counts = self._methods[method]
        counts.started.inc()
        return _Call(counts)

    def render(self) -> tuple[bytes, str]:
        """The answer to GET /metrics: its body, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    async def watch_loop(self) -> None:
        """Measures the running loop's lag until cancelled."""
        while True:
            due = time.perf_counter() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self._lag.observe(max(0.0, time.perf_counter() - due))


class _Counts:
    """One method's metrics, its labels looked up once."""

    __slots__ = ("handled", "items", "received", "seconds", "sent", "started")

    def __init__(
        self,
        method: Method,
        counters: tuple[Counter, Counter, Counter, Counter],
        seconds: Histogram,
        items: Counter,
    ) -> None:
        labels = (method.service, method.name, method.kind)
        self.started, self.received, self.sent = (each.labels(*labels) for each in counters[:3])
        # All codes are there from the start: a rate over a series that begins with its first error misses it.
        self.handled = {code: counters[3].labels(*labels, name) for code, name in CODES.items()}
        self.seconds = seconds.labels(*labels)
        batch = method.name == "RerankBatch"
        self.items = {code: items.labels(name) for code, name in CODES.items()} if batch else None


class _Call:
    """One call. A Call of observe.py."""

    __slots__ = ("_began", "_counts")

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts
        self._began = time.perf_counter()

    def received(self) -> None:
        self._counts.received.inc()

    def sent(self, outcome: Outcome) -> None:
        self._counts.sent.inc()
        if outcome is not None and self._counts.items is not None:
            self._counts.items[outcome.code if isinstance(outcome, pb.Error) else code_pb2.OK].inc()

    def ended(self, code: int) -> None:
        self._counts.handled[code].inc()
        self._counts.seconds.observe(time.perf_counter() - self._began)


def _methods(registry: CollectorRegistry) -> dict[Method, _Counts]:
    def counter(name: str, about: str, *more: str) -> Counter:
        return Counter(name, about, (*_LABELS, *more), registry=registry)

    counters = (
        counter("grpc_server_started", "Calls begun."),
        counter("grpc_server_msg_received", "Messages received."),
        counter("grpc_server_msg_sent", "Messages sent."),
        counter("grpc_server_handled", "Calls ended, by their status.", "grpc_code"),
    )
    seconds = Histogram(
        "grpc_server_handling_seconds",
        "Seconds from a call's begin to its end.",
        _LABELS,
        buckets=_CALL_SECONDS,
        registry=registry,
    )
    items = Counter(
        "rerankd_batch_items",
        "Requests of RerankBatch answered, by status.",
        ("grpc_code",),
        registry=registry,
    )
    return {method: _Counts(method, counters, seconds, items) for method in ALL_METHODS}


class _Engines(Collector):
    """What the engines count by themselves, read at each scrape."""

    def __init__(self, rerankers: Sequence[Reranker], queue_tokens: int, held: Callable[[], int]) -> None:
        self._rerankers = rerankers
        self._queue_tokens = queue_tokens
        self._held = held

    def collect(self) -> Iterator[Metric]:
        rerankers = list(self._rerankers)
        stats = [(reranker.name, reranker.engine.stats()) for reranker in rerankers]
        for _, numbers in stats:
            numbers["failed"] -= numbers["expired"]
        for key, name, about in _GAUGES:
            gauge = GaugeMetricFamily(name, about, labels=("model",))
            for model, numbers in stats:
                gauge.add_metric((model,), numbers[key])
            yield gauge
        for key, name, about in _COUNTERS:
            counter = CounterMetricFamily(name, about, labels=("model",))
            for model, numbers in stats:
                counter.add_metric((model,), numbers[key])
            yield counter
        yield from _histograms(rerankers)
        about = "Tokens that the requests in work hold, of all models."
        yield GaugeMetricFamily("rerankd_queue_tokens", about, self._held())
        about = "The queue's limit: where they would hold more, requests are refused."
        yield GaugeMetricFamily("rerankd_queue_tokens_limit", about, self._queue_tokens)
        yield from _info(rerankers)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that a registry does not ask the engines for their names."""
        return ()


def _histograms(rerankers: Sequence[Reranker]) -> Iterator[Metric]:
    counted = [(reranker.name, reranker.engine.histograms()) for reranker in rerankers]
    for key, name, about, units in _HISTOGRAMS:
        histogram = HistogramMetricFamily(name, about, labels=("model",))
        for model, numbers in counted:
            bounds, counts, total = numbers[key]
            names = [str(bound / units) for bound in bounds] + ["+Inf"]
            histogram.add_metric((model,), list(zip(names, accumulate(counts), strict=True)), total / units)
        yield histogram


def _info(rerankers: Iterable[Reranker]) -> Iterator[Metric]:
    models = InfoMetricFamily("rerankd_model", "The models served; the value is 1.", labels=("model",))
    for reranker in rerankers:
        engine = reranker.engine
        facts = {
            "architecture": engine.architecture,
            "device": engine.device,
            "dtype": engine.dtype,
            "kernels": engine.kernels,
            "threads": str(engine.threads),
            "max_tokens": str(reranker.max_tokens),
            "revision": reranker.revision,
        }
        models.add_metric((reranker.name,), facts)
    yield models
    yield InfoMetricFamily("rerankd_build", "The version; the value is 1.", {"version": __version__})


class _Registry(CollectorRegistry):
    """One that leaves out when each series was created: as many series again, which nobody asks for."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric
