"""The server's way up and down: health, reflection, ports, signals. The process is a real `rerankd serve`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rerankd import InputError, ModelError, pulse
from rerankd.server import Server
from rerankd.service import SERVICE
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import (
    CONTEXTS,
    EMBEDDED,
    LOCAL,
    LONG,
    PATIENCE,
    RunningServer,
    Serve,
    Stub,
    ask,
    refused,
    refused_sync,
    until,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
READY = ("", "rerankd.v1.RerankService", "readiness")


def settings(**changes: Any) -> Settings:
    return Settings(**{**LOCAL, "threads": 1, **changes})


class Channel:
    """Everything that a client can ask, on one channel."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.rerank: Stub = rerank_pb2_grpc.RerankServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)  # its stubs know no methods

    async def check(self, name: str) -> int:
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        return int(response.status)

    def watch(self, name: str) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        return aiter(self.health.Watch(health_pb2.HealthCheckRequest(service=name)))


@pytest.fixture
async def own() -> AsyncIterator[Server]:
    """A server on the test's own loop, for the test to stop."""
    server = Server(settings(drain_seconds=3600))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def main(own: Server) -> AsyncIterator[Channel]:
    channel = Channel(own.port)
    yield channel
    await channel.channel.close()


@pytest.fixture
async def probe(own: Server) -> AsyncIterator[Channel]:
    channel = Channel(own.health_port)
    yield channel
    await channel.channel.close()


# ---- health and reflection --------------------------------------------------------------------------------


async def test_every_health_name_is_known_on_both_ports(server: RunningServer) -> None:
    for target in (server.target, server.health_target):
        channel = Channel(int(target.rpartition(":")[2]))
        assert [await channel.check(name) for name in (*READY, "startup", "live")] == [SERVING] * 5
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.check("nobody")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watch = channel.watch("nobody")
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        await channel.channel.close()


@pytest.mark.skipif(not hasattr(health_pb2, "HealthListResponse"), reason="this grpcio-health has no List")
async def test_health_lists_its_names(probe: Channel) -> None:
    response = await probe.health.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
    assert {name: each.status for name, each in response.statuses.items()} == dict.fromkeys(
        (*READY, "startup", "live"), SERVING
    )


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("health_target", "grpc.health.v1.Health/Check"),
        ("health_target", "grpc.health.v1.Health/Watch"),
        ("target", "grpc.health.v1.Health/Check"),
        ("target", "grpc.health.v1.Health/Watch"),
        ("target", "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ],
)
def test_what_is_no_message_is_invalid_everywhere(server: RunningServer, target: str, method: str) -> None:
    with grpc.insecure_channel(getattr(server, target)) as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{method}")
        refusal = refused_sync(lambda: list(call(iter([b"\xff\xff"]))))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_live_tells_of_an_engine_that_does_not_get_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(threads=1)
    probe = Channel(server.server.health_port)
    why = "planted"
    monkeypatch.setattr(pulse, "trouble", lambda pool: why)

    async def live(status: int) -> None:
        while await probe.check("live") != status:  # noqa: ASYNC110 - it is asked for, as a probe does
            await asyncio.sleep(0.01)

    await asyncio.wait_for(live(NOT_SERVING), PATIENCE)
    # Who is still served is served: it is for the probe to end it.
    assert [await probe.check(name) for name in (*READY, "startup")] == [SERVING] * 4
    why = ""
    await asyncio.wait_for(live(SERVING), PATIENCE)
    await probe.channel.close()


async def test_the_health_port_serves_health_alone(probe: Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await probe.rerank.Rerank(ask())
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_there_need_not_be_a_health_port() -> None:
    server = Server(settings(health=""))
    await server.start()
    assert server.health_port == 0
    channel = Channel(server.port)
    assert await channel.check("") == SERVING
    await channel.channel.close()
    await server.stop()


@pytest.mark.parametrize("reflection", [True, False])
def test_reflection_is_by_flag(serve: Serve, reflection: bool) -> None:
    server = serve(reflection=reflection, threads=1)
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        if reflection:
            names = {service.name for service in next(call).list_services_response.service}
            assert names >= {SERVICE, "grpc.health.v1.Health"}
        else:
            with pytest.raises(grpc.RpcError) as error:
                next(call)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- the way up -------------------------------------------------------------------------------------------


async def test_a_taken_port_is_told(own: Server) -> None:
    for name, port in (("grpc", own.port), ("health", own.health_port)):
        second = Server(settings(**{name: f"127.0.0.1:{port}"}))
        with pytest.raises(InputError) as error:
            await second.start()
        assert error.value.field == name
        assert str(port) in error.value.message
        await second.stop()


async def test_a_broken_checkpoint_is_told(tmp_path: Path, own: Server, main: Channel) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(EMBEDDED, broken)
    (broken / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    server = Server(settings(model=(str(broken),)))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        await server.start()
    await server.stop()
    # One that serves takes no notice.
    assert len((await main.rerank.Rerank(ask())).results) == 4


async def test_two_models_of_one_name_are_told() -> None:
    server = Server(settings(model=("mini-en", "mini-en")))
    with pytest.raises(InputError, match="two models are called"):
        await server.start()
    await server.stop()


# ---- the way down -----------------------------------------------------------------------------------------


async def test_retiring_says_not_serving_and_serves_on(own: Server, main: Channel, probe: Channel) -> None:
    watches = {name: probe.watch(name) for name in (*READY, "startup", "live")}
    for watch in watches.values():
        assert (await anext(watch)).status == SERVING
    retiring = asyncio.create_task(own.retire())  # it would serve on for an hour
    for name in READY:
        assert (await anext(watches[name])).status == NOT_SERVING
        # The watch is over: it would hold the stop.
        assert [response async for response in watches[name]] == []
    assert [await main.check(name) for name in READY] == [NOT_SERVING] * 3
    assert [await main.check(name) for name in ("startup", "live")] == [SERVING] * 2
    assert len((await main.rerank.Rerank(ask())).results) == 4
    retiring.cancel()
    await own.stop(PATIENCE)
    for name in ("startup", "live"):
        assert [response async for response in watches[name]] == []


async def test_stopping_finishes_what_is_begun_and_refuses_the_rest(own: Server, main: Channel) -> None:
    engine = own.rerankers[0].engine
    stream = main.rerank.RerankStream()
    await stream.write(pb.RerankStreamRequest(start=ask(contexts=CONTEXTS[:1])))
    await stream.read()
    begun = main.rerank.Rerank(ask(contexts=LONG[:24]))
    await until(lambda: engine.stats()["tickets"] == 2)
    stopping = asyncio.create_task(own.stop(PATIENCE))
    while await main.check("") == SERVING:
        pass
    refusal = await refused(main.rerank.Rerank(ask()))
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.info.reason == "OVERLOADED"
    assert int(refusal.trailers["grpc-retry-pushback-ms"]) > 0
    # What needs no engine is still answered, and a stream that was open may go on to its end.
    assert len((await main.rerank.ListModels(pb.ListModelsRequest())).models) == 1
    chunk = pb.ContextChunk(contexts=[pb.Context(text=text) for text in CONTEXTS[1:]])
    await stream.write(pb.RerankStreamRequest(more=chunk))
    await stream.done_writing()
    messages = []
    while isinstance(message := await stream.read(), pb.RerankStreamResponse):
        messages.append(message)
    assert len(messages[-1].ranking.results) == 4
    assert len((await begun).results) == 24
    await asyncio.wait_for(stopping, PATIENCE)


async def test_stopping_cuts_off_what_passes_the_grace(own: Server, main: Channel) -> None:
    call = main.rerank.RerankBatch()  # open, and nobody means to close it
    await call.write(pb.RerankBatchRequest(request_id="id", request=ask()))
    assert await call.read() is not grpc.aio.EOF
    await asyncio.wait_for(own.stop(0.05), PATIENCE)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


async def test_stopping_twice_or_before_the_start_is_fine(own: Server) -> None:
    await own.stop()
    await own.stop()
    await Server(settings()).stop()


# ---- the process ------------------------------------------------------------------------------------------


class Process:
    """`rerankd serve`, its log read as it comes."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "rerankd", "serve", "--grpc", "127.0.0.1:0"]
        command += ["--health", "127.0.0.1:0", "--threads", "1", "--drain-seconds", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._news:
            match = self._news.wait_for(found, PATIENCE)
        assert match is not None, "".join(self.lines)
        return match

    def port(self, what: str) -> int:
        return int(self.wait_for(rf"serving {what} on 127\.0\.0\.1:(\d+)")[1])

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process(*getattr(request, "param", ()))
    yield process
    process.process.kill()
    process.process.wait()


async def test_sigterm_finishes_what_is_begun_and_exits_with_0(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    probe = Channel(process.port("health"))
    assert await probe.check("readiness") == SERVING
    process.wait_for("no model was asked for: serving mini-en")
    process.wait_for(r"loaded mini-en \(bert, revision \w+\) in .* s: cpu, f32, \w+ kernels, 1 threads")
    watch = probe.watch("readiness")
    assert (await anext(watch)).status == SERVING
    stream = channel.rerank.RerankStream()
    await stream.write(pb.RerankStreamRequest(start=ask(contexts=LONG[:4])))
    await stream.read()
    process.process.send_signal(signal.SIGTERM)
    assert (await anext(watch)).status == NOT_SERVING
    await stream.done_writing()
    messages = []
    while isinstance(message := await stream.read(), pb.RerankStreamResponse):
        messages.append(message)
    assert len(messages[-1].ranking.results) == 4
    assert await asyncio.to_thread(process.end) == 0
    assert not [line for line in process.lines if LONG[0][:20] in line], "a text in the log"
    assert "Traceback" not in "".join(process.lines)
    await channel.channel.close()
    await probe.channel.close()


@pytest.mark.parametrize("process", [("--drain-seconds", "3600", "--log-format", "json")], indirect=True)
async def test_a_second_signal_stops_at_once(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    assert len((await channel.rerank.Rerank(ask())).results) == 4
    process.process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait_for, "SIGINT: stopping")
    assert len((await channel.rerank.Rerank(ask())).results) == 4
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.end) == 1
    entries = [json.loads(line) for line in process.lines if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= entries[0].keys()
    assert "SIGTERM: stopping at once" in [entry["message"] for entry in entries]
    await channel.channel.close()
