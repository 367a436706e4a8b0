"""What grpc.aio does that the service is built around, seen on a server with nothing of ours in it; and then,
where no other test says so, that ours lives with it.

Where one of the first kind fails, grpcio has changed, and what was built around it may go. Tested elsewhere:
that a Watch ends by itself on the way down, and that every health name is known (test_server.py); that
certificates swap live (test_tls.py, fact 10); that an error's text stays in the log (test_guard.py).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from rerankd import server
from rerankd.catalogue import Catalogue
from rerankd.guard import Guard
from rerankd.reranker import Reranker
from rerankd.service import SERVICE, RerankService
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import CONTEXTS, LOCAL, LONG, PATIENCE, Channel, Serve, ask, limits, refused, until

Handler = Callable[[bytes, Any], Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
# Seconds for what must not happen to happen in.
MOMENT = 0.3


class Plain:
    """A server of grpc.aio alone: its one method takes and gives bytes, and does as the test says."""

    def __init__(self, handler: Handler, *, streaming: bool = False, **options: Any) -> None:
        make: Any = (
            grpc.stream_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
        )
        self.server = grpc.aio.server(**options)
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("plain", {"Call": make(handler)}),)
        )
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to it."""
        await self.server.start()
        try:
            async with grpc.aio.insecure_channel(self.target) as channel:
                yield channel
        finally:
            await self.server.stop(0)


async def code(call: Awaitable[Any]) -> grpc.StatusCode:
    """What a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# ---- 1: a CancelledError of the handler's own -------------------------------------------------------------


async def test_fact_1_a_handler_that_is_cancelled_by_itself_answers_nothing() -> None:
    async def cancelled(request: bytes, context: Any) -> bytes:
        if request == b"abort":
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        raise asyncio.CancelledError

    async with Plain(cancelled).running() as channel:
        call: Any = channel.unary_unary("/plain/Call")
        # The caller has nothing but its deadline.
        assert await code(call(b"", timeout=MOMENT)) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await code(call(b"abort", timeout=PATIENCE)) is grpc.StatusCode.UNAVAILABLE


async def test_fact_1_work_that_the_engine_gives_up_is_answered(serve: Serve) -> None:
    server = serve(threads=1)
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        call = asyncio.ensure_future(refused(stub.Rerank(ask(contexts=LONG), timeout=PATIENCE)))
        await until(lambda: server.reranker.engine.stats()["tickets"] == 1)
        server.reranker.engine.close()
        assert (await call).code is grpc.StatusCode.UNAVAILABLE


# ---- 2: how a handler learns that its caller has left -----------------------------------------------------


async def test_fact_2_a_handler_learns_of_a_cancel_by_its_own_cancellation_alone() -> None:
    seen: dict[str, Any] = {}
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        seen["left"] = context.time_remaining()
        context.add_done_callback(lambda _: seen.update(done=True))
        begun.set()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            seen["cancelled()"] = context.cancelled()
            ended.set()
            raise
        return b""

    async with Plain(wait).running() as channel:
        method: Any = channel.unary_unary("/plain/Call")
        call = method(b"")
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert seen["left"] is None
        assert seen["cancelled()"] is False
        await until(lambda: "done" in seen)


# ---- 3: cancellation that is swallowed --------------------------------------------------------------------


class Ends(grpc.aio.ServerInterceptor):
    """What comes out of handlers, seen from outside of all of ours."""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or (handler.unary_unary is None and handler.stream_stream is None):
            return handler
        if handler.stream_stream is None:

            async def unary(request: Any, context: Any) -> Any:
                with self._seen():
                    return await handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(
                unary, handler.request_deserializer, handler.response_serializer
            )

        async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
            with self._seen():
                async for response in handler.stream_stream(requests, context):
                    yield response

        return grpc.stream_stream_rpc_method_handler(
            stream, handler.request_deserializer, handler.response_serializer
        )

    def _seen(self) -> Any:
        ends = self.ends

        class Seen:
            def __enter__(self) -> None: ...

            def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
                ends.append(error)

        return Seen()


@pytest.mark.parametrize("method", ["Rerank", "RerankStream", "RerankBatch"])
async def test_fact_3_our_handlers_let_their_cancellation_out(reranker: Reranker, method: str) -> None:
    """grpc.aio keeps something of each call whose handler swallows it."""
    ends = Ends()
    server = grpc.aio.server(interceptors=[ends, Guard()])
    service = RerankService(
        Catalogue([reranker]), limits(max_contexts=1000, max_stream_bytes=1 << 20, max_seconds=PATIENCE)
    )
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rerank_pb2_grpc.RerankServiceStub(channel)
            call: Any
            if method == "Rerank":
                call = stub.Rerank(ask(contexts=LONG))
            elif method == "RerankStream":
                call = stub.RerankStream()
                await call.write(pb.RerankStreamRequest(start=ask(contexts=LONG)))
            else:
                call = stub.RerankBatch()
                await call.write(pb.RerankBatchRequest(request_id="id", request=ask(contexts=LONG)))
            await until(lambda: reranker.engine.stats()["tickets"] == 1)
            call.cancel()
            await until(lambda: bool(ends.ends))
            await until(lambda: reranker.engine.stats()["tickets"] == 0)
    finally:
        await server.stop(0)
    assert [type(error) for error in ends.ends] in ([asyncio.CancelledError], [GeneratorExit])


# ---- 4: an exception's text -------------------------------------------------------------------------------


async def test_fact_4_an_exceptions_text_goes_to_the_caller() -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise ValueError("a secret")

    async with Plain(fail).running() as channel:
        method: Any = channel.unary_unary("/plain/Call")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(b"", timeout=PATIENCE)
    assert error.value.code() is grpc.StatusCode.UNKNOWN
    assert "a secret" in (error.value.details() or "")


# ---- 5: a limit on calls ----------------------------------------------------------------------------------


async def test_fact_5_a_limit_on_calls_refuses_probes_too() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await release.wait()
        return b""

    plain = Plain(wait, maximum_concurrent_rpcs=1)
    await plain.health.set("", SERVING)
    async with plain.running() as channel:
        method: Any = channel.unary_unary("/plain/Call")
        probe: Any = health_pb2_grpc.HealthStub(channel)
        call = method(b"")
        await begun.wait()
        check = probe.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert await code(check) is grpc.StatusCode.RESOURCE_EXHAUSTED
        release.set()
        assert await call == b""


async def test_fact_5_a_full_queue_refuses_calls_and_answers_probes(serve: Serve) -> None:
    server = serve(threads=1, queue_tokens=100)
    channel, probe = (
        Channel(int(target.rpartition(":")[2])) for target in (server.target, server.health_target)
    )
    filling = channel.rerank.Rerank(ask(contexts=LONG))
    await until(lambda: server.reranker.engine.stats()["tickets"] == 1)
    assert (await refused(channel.rerank.Rerank(ask()))).code is grpc.StatusCode.UNAVAILABLE
    for each in (channel, probe):
        assert [await each.check(name) for name in ("live", "readiness", SERVICE)] == [SERVING] * 3
    filling.cancel()
    await channel.channel.close()
    await probe.channel.close()


# ---- 6: an open Watch -------------------------------------------------------------------------------------


async def test_fact_6_an_open_watch_holds_the_stop() -> None:
    async def nothing(request: bytes, context: Any) -> bytes:
        return b""

    plain = Plain(nothing)
    await plain.health.set("", SERVING)
    async with plain.running() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.ensure_future(plain.server.stop(PATIENCE))
        await asyncio.wait([stopping], timeout=MOMENT)
        assert not stopping.done()
        watch.cancel()
        await asyncio.wait_for(stopping, PATIENCE)


# ---- 7: calls that the core has, and Python has not -------------------------------------------------------


def asked_meanwhile(target: str, path: str, message: bytes, calls: int) -> list[grpc.StatusCode]:
    """Begins so many calls, and returns once they must have reached the server's core, whose loop is not
    asked. The list comes to have what each ended with."""
    ended: list[grpc.StatusCode] = []
    channel = grpc.insecure_channel(target)
    method: Any = channel.unary_unary(path)
    futures = [method.future(message, timeout=PATIENCE) for _ in range(calls)]
    for future in futures:
        future.add_done_callback(lambda it: ended.append(it.code()))
    threading.Thread(target=lambda: ([future.exception() for future in futures], channel.close())).start()
    time.sleep(MOMENT)
    return ended


async def test_fact_7_a_stop_cancels_calls_that_were_not_begun_whatever_the_grace() -> None:
    handled = 0

    async def count(request: bytes, context: Any) -> bytes:
        nonlocal handled
        handled += 1
        return b""

    plain = Plain(count)
    async with plain.running():
        ended = asked_meanwhile(plain.target, "/plain/Call", b"", 8)
        await plain.server.stop(PATIENCE)
        await until(lambda: len(ended) == 8)
    lost = [each for each in ended if each is not grpc.StatusCode.OK]
    assert lost
    assert set(lost) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    assert handled + len(lost) == 8


async def test_fact_7_a_retreat_serves_the_calls_that_were_not_begun(serve: Serve) -> None:
    server = serve(threads=1, drain_seconds=1)
    message = ask(contexts=CONTEXTS[:1]).SerializeToString()

    async def retire() -> list[grpc.StatusCode]:
        # The loop stands still while the core takes calls, as where the signal comes in the middle of many.
        ended = asked_meanwhile(server.target, f"/{SERVICE}/Rerank", message, 8)
        await server.server.retire()
        await until(lambda: len(ended) == 8)
        return ended

    assert await asyncio.to_thread(server.run, retire()) == [grpc.StatusCode.OK] * 8


# ---- 8: interceptors and streams --------------------------------------------------------------------------


async def test_fact_8_a_watch_and_a_reader_pass_our_interceptors(serve: Serve) -> None:
    """Those of others break both, by taking a handler for a coroutine."""
    server = serve(threads=1)
    channel = Channel(int(server.target.rpartition(":")[2]))
    watch = channel.watch("")
    assert (await anext(watch)).status == SERVING
    stream = channel.rerank.RerankStream()
    await stream.write(pb.RerankStreamRequest(start=ask(contexts=CONTEXTS[:1])))
    first: Any = await stream.read()
    assert len(first.scored.results) == 1
    await stream.done_writing()
    last: Any = await stream.read()
    assert len(last.ranking.results) == 1
    assert await stream.read() is grpc.aio.EOF
    await channel.channel.close()


# ---- 9: the limit on messages, and compression ------------------------------------------------------------


async def test_fact_9_a_message_is_measured_before_and_after_it_is_unpacked(serve: Serve) -> None:
    server = serve(threads=1, max_message_bytes=1 << 20)
    async with grpc.aio.insecure_channel(server.target, compression=grpc.Compression.Gzip) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)
        # 40 MB of blanks are 40 kB on the wire.
        bomb = ask(contexts=[" " * 40_000_000])
        assert await code(stub.Rerank(bomb, timeout=PATIENCE)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len((await stub.Rerank(ask())).results) == len(CONTEXTS)
        large = ask(contexts=[" " * (900 << 10)])  # and what fits is let in, packed
        assert len((await stub.Rerank(large, timeout=PATIENCE)).results) == 1


# ---- 11: health's names -----------------------------------------------------------------------------------


async def test_fact_11_a_health_name_that_nobody_set_is_not_found() -> None:
    async def nothing(request: bytes, context: Any) -> bytes:
        return b""

    plain = Plain(nothing)
    await plain.health.set("", SERVING)
    async with plain.running() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        assert (
            await code(stub.Check(health_pb2.HealthCheckRequest(service=SERVICE)))
            is grpc.StatusCode.NOT_FOUND
        )


# ---- and one more: what is not read -----------------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True], ids=["by itself", "as we set it"])
async def test_fact_12_what_nobody_reads_piles_up_unless_it_is_bounded(ours: bool) -> None:
    async def read_one(requests: Any, context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        await asyncio.sleep(PATIENCE)
        yield b""

    options = server._options(Settings(**LOCAL)) if ours else []
    message, written = bytes(64 << 10), 0
    async with Plain(read_one, streaming=True, options=options).running() as channel:
        method: Any = channel.stream_stream("/plain/Call")
        call = method()
        while True:
            writing = asyncio.ensure_future(call.write(message))
            await asyncio.wait([writing], timeout=MOMENT)
            if not writing.done():
                break
            written += len(message)
        call.cancel()
        await asyncio.wait([writing])
    if ours:
        assert written <= 1 << 20
    else:
        assert written > 2 << 20
