"""The server's way up and down: health, reflection, ports, signals. The process is a real `rerankd serve`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rerankd import InputError, ModelError, pulse
from rerankd.server import Server
from rerankd.service import SERVICE
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2 as pb
from support import (
    CONTEXTS,
    EMBEDDED,
    LOCAL,
    LONG,
    PATIENCE,
    Channel,
    RunningServer,
    Serve,
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


async def test_a_lost_gpu_turns_health_and_it_stays_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(threads=1)
    probe = Channel(server.server.health_port)
    # Its own pool alone: other tests' servers live in this process too.
    pool = server.server._pool
    monkeypatch.setattr(pulse, "lost", lambda asked: asked is pool)

    async def told(status: int, *names: str) -> None:
        while [await probe.check(name) for name in names] != [status] * len(names):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # they are asked, as a probe does

    await asyncio.wait_for(told(NOT_SERVING, *READY, "live"), PATIENCE)
    assert await probe.check("startup") == SERVING
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
