"""The server's wiring: models, ports, health, reflection, and the way down."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rerankd import heap, logs, models, pulse, watch
from rerankd.auth import Tokens
from rerankd.catalogue import Catalogue
from rerankd.errors import InputError
from rerankd.guard import Guard
from rerankd.health import LIVE, NOT_SERVING, READINESS, SERVING, STARTUP, Health
from rerankd.http_bodies import most_parts
from rerankd.inflight import InFlight
from rerankd.limits import Limits
from rerankd.metrics import Metrics
from rerankd.pool import Pool, cores
from rerankd.reranker import Reranker
from rerankd.room import AHEAD_BYTES, CALL_BYTES, WAITING, Room
from rerankd.service import BATCH_BYTES, SERVICE, RerankService
from rerankd.settings import Settings
from rerankd.symbols import Symbols
from rerankd.tei.v1 import tei_pb2_grpc
from rerankd.tei_service import TEI_SERVICES, TeiInfo, TeiRerank
from rerankd.telemetry import Telemetry
from rerankd.tls import Certificates
from rerankd.v1 import rerank_pb2_grpc

if TYPE_CHECKING:
    from fastapi import FastAPI

    from rerankd.http_server import HttpPort

log = logging.getLogger(__name__)

_HEALTH_GRACE: Final = 1.0
"""Seconds for the last answers of the health port, which end by themselves, to reach who asked."""


class Server:
    """What `rerankd serve` runs: loads the models, then serves until it is stopped.

    Raises InputError for an alias of a model that is not among them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = settings.model or (models.DEFAULT,)
        self._aliases = settings.aliases(self._names)
        self._rerankers: list[Reranker] = []
        self._pool: Pool | None = None
        self._tending: list[asyncio.Task[None]] = []
        self._health = Health()
        self._tokens: Tokens | None = None
        self._certificates: Certificates | None = None
        self._watching: asyncio.Task[None] | None = None
        self._room = Room(settings.message_room_bytes)
        self._in_flight = InFlight()
        self._guard = Guard(
            self._authorize,
            room=self._room,
            max_message_bytes=settings.max_message_bytes,
            max_streams=settings.max_streams,
            in_flight=self._in_flight,
        )
        self._cut_short = False
        self._telemetry = Telemetry(settings, self._rerankers, self._held)
        self._main: grpc.aio.Server | None = None
        self._http: HttpPort | None = None
        self._health_server: grpc.aio.Server | None = None
        self._port = 0
        self._health_port = 0
        self._http_port = 0

    @property
    def port(self) -> int:
        """Where gRPC listens, once started."""
        return self._port

    @property
    def health_port(self) -> int:
        """Where health alone listens, once started; 0 for nowhere."""
        return self._health_port

    @property
    def http_port(self) -> int:
        """Where HTTP is answered, once started; 0 for nowhere."""
        return self._http_port

    @property
    def metrics(self) -> Metrics:
        return self._telemetry.metrics

    @property
    def metrics_port(self) -> int:
        """Where Prometheus fetches metrics, once started; 0 for nowhere."""
        return self._telemetry.port

    @property
    def rerankers(self) -> Sequence[Reranker]:
        return self._rerankers

    @property
    def calls(self) -> int:
        """Calls in progress, of gRPC and HTTP; health, reflection and the like are not counted."""
        return self._in_flight.count

    @property
    def streams(self) -> int:
        """Streaming calls, as `max_streams` counts them."""
        return self._guard.streams

    @property
    def room(self) -> Room:
        """Where the messages of calls are."""
        return self._room

    @property
    def cut_short(self) -> bool:
        """Whether calls were still in progress when `stop` had waited for as long as it was told to."""
        return self._cut_short

    async def start(self) -> None:
        """Returns when it is serving. After an error, call `stop`.

        Raises InputError for a file, an address or a name that can't be had, ModelError, DeviceError.
        """
        settings = self._settings
        self._secure()
        # The ports come first: a taken one is told before a long load, and probes are answered meanwhile.
        self._health.set(SERVING, LIVE)
        if settings.health:
            options = [("grpc.so_reuseport", 0)]
            self._health_server = grpc.aio.server(interceptors=[Guard()], options=options)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            self._health_port = _listen(self._health_server, "health", settings.health)
            await self._health_server.start()
        observer = await self._telemetry.start()
        self._main = grpc.aio.server(interceptors=[observer, self._guard], options=_options(settings))
        credentials = self._certificates.credentials() if self._certificates else None
        self._port = _listen(self._main, "grpc", settings.grpc, credentials)
        if settings.http:
            # Half a second, for those who want it; all at once, so that its memory is told with the rest.
            from rerankd import http  # noqa: F401, PLC0415
            from rerankd.http_server import HttpPort  # noqa: PLC0415

            self._http = HttpPort(settings.http, self._certificates.context() if self._certificates else None)
            self._http_port = self._http.number

        self._pool = Pool(
            settings.threads, wave_tokens=settings.wave_tokens, queue_tokens=settings.queue_tokens
        )
        beat = pulse.watch(self._pool, self._tell)
        self._tending += [asyncio.create_task(each) for each in (beat, heap.keep_small())]
        by_name = await asyncio.to_thread(self._load, self._pool)
        aliases = {alias: by_name[model] for alias, model in self._aliases.items()}
        catalogue = Catalogue(self._rerankers, aliases)
        limits = _limits(settings)
        rerank_pb2_grpc.add_RerankServiceServicer_to_server(RerankService(catalogue, limits), self._main)
        tei_pb2_grpc.add_RerankServicer_to_server(TeiRerank(catalogue, limits), self._main)
        tei_pb2_grpc.add_InfoServicer_to_server(TeiInfo(catalogue, limits), self._main)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._main)
        if settings.reflection:
            names = (SERVICE, *TEI_SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
            pool: Any = Symbols()  # a pool in all that reflection asks of one
            reflection.enable_server_reflection(names, self._main, pool)
        await self._main.start()
        if self._http is not None:
            await self._http.start(self._application(catalogue, limits))
        self._health.set(SERVING, *READINESS, STARTUP)
        log.info("serving gRPC on %s", _address(settings.grpc, self._port))
        if settings.http:
            log.info("serving HTTP on %s", _address(settings.http, self._http_port))
        if settings.health:
            log.info("serving health on %s", _address(settings.health, self._health_port))

    def _tell(self, well: bool) -> None:
        """What `pulse` has found. A lost GPU is lost for good: callers go elsewhere at once."""
        self._health.set(SERVING if well else NOT_SERVING, LIVE)
        if not well and self._pool is not None and pulse.lost(self._pool):
            self._health.set(NOT_SERVING, *READINESS)

    async def retire(self) -> None:
        """The way down: says NOT_SERVING, serves on while clients leave, then stops gracefully."""
        self._health.leave()
        log.info("not serving any more; accepting calls for another %g s", self._settings.drain_seconds)
        await asyncio.sleep(self._settings.drain_seconds)
        await self.stop(self._settings.grace_seconds)

    async def stop(self, grace: float = 0) -> None:
        """Refuses new work, lets calls in progress finish for at most `grace` seconds, and stops."""
        self._health.leave()
        for reranker in self._rerankers:
            reranker.drain()
        if self._main is not None:
            end = time.monotonic() + grace
            # When told to stop, grpcio cancels calls that it has accepted and not yet begun. While others are
            # in progress, they are better off with an UNAVAILABLE from the drained engine.
            try:
                await asyncio.wait_for(self._in_flight.idle(), grace)
            except asyncio.TimeoutError:
                if self.calls:
                    self._cut_short = True
                    log.warning("cancelling %d calls still in progress", self.calls)
            self._health.close()
            left = max(0.0, end - time.monotonic())
            await asyncio.gather(self._main.stop(left), self._stop_http(left))
        self._health.close()
        if self._health_server is not None:
            await self._health_server.stop(_HEALTH_GRACE)
        for task in self._tending:
            task.cancel()
        for reranker in self._rerankers:
            reranker.close()
        if self._pool is not None:
            self._pool.close()
        if self._watching is not None:
            self._watching.cancel()
        await self._telemetry.stop()

    async def _stop_http(self, grace: float) -> None:
        port, self._http = self._http, None
        if port is not None:
            await port.stop(grace)

    def _application(self, catalogue: Catalogue, limits: Limits) -> FastAPI:
        """What HTTP answers: from gRPC's engine, room and limits, and seen by the same watchers."""
        from rerankd import http  # noqa: PLC0415 - as above

        health = self._health
        for name in models.HOSTED_NAMES:
            if catalogue.get(name) is None:
                log.info("over HTTP, %s means %s; --alias can say otherwise", name, catalogue.default.name)
        state = http.State(
            healthy=lambda: health.serving(LIVE) and not health.leaving,
            ready=lambda: health.serving(SERVICE),
            leaving=lambda: health.leaving,
        )
        return http.application(
            catalogue,
            limits,
            state,
            room=self._room,
            in_flight=self._in_flight,
            metrics=self.metrics,
            watchers=self._telemetry.watchers,
            authorize=lambda headers: self._authorize("http", headers),
        )

    def _held(self) -> int:
        """Tokens that the requests in work hold."""
        return self._pool.core.stats()["held_tokens"] if self._pool is not None else 0

    def _secure(self) -> None:
        """Reads what the settings' files hold, and from then on what they come to hold."""
        settings = self._settings
        if settings.tls_cert:
            self._certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        if settings.token_file:
            self._tokens = Tokens(settings.token_file)
            if self._certificates is None:
                log.warning("tokens without TLS: whoever sees the traffic can read them")
        refresh = [each.refresh for each in (self._certificates, self._tokens) if each is not None]
        if refresh:
            self._watching = asyncio.create_task(watch.keep_current(*refresh))

    def _authorize(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        if self._tokens is not None:
            self._tokens.authorize(method, metadata)

    def _load(self, pool: Pool) -> dict[str, Reranker]:
        """The models by what the settings call them."""
        settings, loaded = self._settings, dict[str, Reranker]()
        if not settings.model:
            log.info("no model was asked for: serving %s, the one that comes with rerankd", models.DEFAULT)
        for name in self._names:
            begun = time.monotonic()
            reranker = Reranker(
                name,
                settings.device,
                settings.dtype,
                max_tokens=settings.max_tokens,
                kernels=settings.kernels,
                emulate=settings.emulate,
                gpu_wave_tokens=settings.gpu_wave_tokens,
                pool=pool,
            )
            self._rerankers.append(reranker)
            loaded[name] = reranker
            engine = reranker.engine
            log.info(
                "loaded %s (%s, revision %s) in %.2f s: %s, %s, %s kernels, %d threads, %d tokens per pair",
                reranker.name,
                engine.architecture,
                reranker.revision,
                time.monotonic() - begun,
                engine.device,
                engine.dtype,
                engine.kernels,
                engine.threads,
                engine.max_tokens,
            )
        pulse.log_memory(pool, self._rerankers, message_bytes(settings))
        return loaded


def message_bytes(settings: Settings) -> int:
    """The most memory of messages that no request was admitted for yet, or whose answers nobody has taken."""
    # One that comes in is there as gRPC has it, as bytes, as a message, and as strings.
    calls = 4 * settings.message_room_bytes + WAITING * CALL_BYTES
    if settings.http:
        # A body's JSON while it is parsed, one at a time; the shortest strings take the most.
        calls += 24 * settings.max_message_bytes + 256 * most_parts(settings.max_contexts)
    return calls + settings.max_streams * (2 * settings.max_message_bytes + BATCH_BYTES + AHEAD_BYTES)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_contexts=settings.max_contexts,
        max_message_bytes=settings.max_message_bytes,
        max_stream_bytes=settings.max_stream_bytes,
        max_seconds=settings.max_deadline_seconds,
        max_concurrent=settings.message_room_bytes // settings.max_message_bytes or 1,
        wave_tokens=settings.wave_tokens,
    )


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; a second one stops at once.

    Returns the exit code: 0, or 1 where a second signal, or the end of the grace, cut calls short. Raises as
    Server.start.
    """
    logs.to_stderr(settings)
    heap.share(settings.threads or cores())
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(_serve(settings))
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(which: signal.Signals) -> None:
        log.info("%s: %s", which.name, "stopping at once" if stop.is_set() else "stopping")
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, on_signal, which)
    server = Server(settings)
    try:
        if await _before(stop, server.start()):
            await stop.wait()
            if not await _before(hurry, server.retire()) or server.cut_short:
                return 1
        return 0
    finally:
        await server.stop()
        log.info("stopped")


async def _before(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work, unless the event comes first; then the work is cancelled. Says whether it was done."""
    doing, coming = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait((doing, coming), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        doing.cancel()
        coming.cancel()
        await asyncio.wait((doing, coming))


def _listen(
    server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise InputError(setting, f"can't listen on {address}: taken, or not of this machine?") from None


def _address(asked: str, port: int) -> str:
    return f"{asked.rpartition(':')[0]}:{port}"


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", 256),
        # What a stream may send ahead of what is read. gRPC guesses, by the network's speed: up to 16 MB, for
        # each of 256 streams whose work has to wait. A message that is being read may always be sent.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", AHEAD_BYTES),
        # Connections are renewed now and then, so that new replicas get their share of them.
        ("grpc.max_connection_age_ms", 300_000),
        ("grpc.max_connection_age_grace_ms", 120_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),  # or a second server would quietly take half of the first one's connections
    ]
