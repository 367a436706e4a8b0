"""Asks a rerankd server, with grpcio on an event loop."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from connect import OPTIONS, call, credentials
from lines import Line, Printer, arguments, read
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1.rerank_pb2_grpc import RerankServiceStub


async def main() -> int:
    given = arguments()
    lines, out = read(), Printer()
    secure = credentials(given)
    channel = (
        grpc.aio.insecure_channel(given.target, OPTIONS)
        if secure is None
        else grpc.aio.secure_channel(given.target, secure, OPTIONS)
    )
    async with channel:
        stub: Any = RerankServiceStub(channel)
        if given.mode == "batch":
            await failing("", out, batch(stub, given, lines, out))
        else:
            ask = unary if given.mode == "unary" else stream
            for line in lines:
                await failing(line.id, out, ask(stub, given, line, out))
    return int(out.failed)


async def unary(stub: Any, given: argparse.Namespace, line: Line, out: Printer) -> None:
    answer = stub.Rerank(line.request(given.model), **call(given))
    cancel_later(answer, given)
    out.ranking(line.id, await answer)


async def stream(stub: Any, given: argparse.Namespace, line: Line, out: Printer) -> None:
    """Contexts leave while scores already come."""
    answers = stub.RerankStream(**call(given))
    cancel_later(answers, given)
    async for answer in exchange(answers, line.parts(given.model)):
        if answer.HasField("ranking"):
            out.ranking(line.id, answer.ranking)
        else:
            out.scored(line.id, answer.scored.results)


async def batch(stub: Any, given: argparse.Namespace, lines: list[Line], out: Printer) -> None:
    """All lines in one call; each is answered when it is ready, in any order."""
    items = [pb.RerankBatchRequest(request_id=line.id, request=line.request(given.model)) for line in lines]
    answers = stub.RerankBatch(**call(given))
    cancel_later(answers, given)
    async for answer in exchange(answers, items):
        if answer.HasField("error"):
            out.item_failure(answer.request_id, answer.error)
        else:
            out.ranking(answer.request_id, answer.response)


async def failing(line: str, out: Printer, asking: Any) -> None:
    """Prints how a call failed."""
    try:
        await asking
    except grpc.aio.AioRpcError as error:
        out.failure(line, error)
    except asyncio.CancelledError:
        # What awaiting a call that we cancelled raises; nothing else here is ever cancelled.
        out.cancelled(line)


async def exchange(answers: Any, messages: Iterable[Any]) -> AsyncIterator[Any]:
    """Writes the messages to a call, and yields its answers meanwhile."""
    writing = asyncio.create_task(write(answers, messages))
    try:
        async for answer in answers:
            yield answer
    finally:
        writing.cancel()


async def write(answers: Any, messages: Iterable[Any]) -> None:
    """At the pace that the server takes them. Where it has ended the call, why is for the reader to see."""
    try:
        await answers.wait_for_connection()
        for message in messages:
            # Not answers.write(message): where the server ends the call meanwhile, that puts INTERNAL in the
            # place of its status (grpcio 1.85). What it writes with does not, and has no public name.
            await answers._cython_call.send_serialized_message(message.SerializeToString())
        await answers.done_writing()
    except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        return


def cancel_later(call: Any, given: argparse.Namespace) -> None:
    """Cancels the call after --cancel-after-ms; to cancel one that is over does nothing."""
    if given.cancel_after_ms is not None:
        asyncio.get_running_loop().call_later(given.cancel_after_ms / 1000, call.cancel)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
