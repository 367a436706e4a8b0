"""Asks a rerankd server, with grpcio and threads."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from connect import OPTIONS, call, credentials
from lines import Line, Printer, arguments, read
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1.rerank_pb2_grpc import RerankServiceStub


def main() -> int:
    given = arguments()
    lines, out = read(), Printer()
    secure = credentials(given)
    channel = (
        grpc.insecure_channel(given.target, OPTIONS)
        if secure is None
        else grpc.secure_channel(given.target, secure, OPTIONS)
    )
    with channel:
        stub = RerankServiceStub(channel)
        if given.mode == "batch":
            with failing("", out):
                batch(stub, given, lines, out)
        else:
            ask = unary if given.mode == "unary" else stream
            for line in lines:
                with failing(line.id, out):
                    ask(stub, given, line, out)
    return int(out.failed)


def unary(stub: RerankServiceStub, given: argparse.Namespace, line: Line, out: Printer) -> None:
    # `future` begins a call that can be cancelled; without that, stub.Rerank(request, timeout=10) is all.
    answer: Any = stub.Rerank.future(line.request(given.model), **call(given))
    with cancelling(answer, given):
        out.ranking(line.id, answer.result())


def stream(stub: RerankServiceStub, given: argparse.Namespace, line: Line, out: Printer) -> None:
    """Contexts leave, on a thread of gRPC's, while scores already come."""
    answers: Any = stub.RerankStream(line.parts(given.model), **call(given))
    with cancelling(answers, given):
        for answer in answers:
            if answer.HasField("ranking"):
                out.ranking(line.id, answer.ranking)
            else:
                out.scored(line.id, answer.scored.results)


def batch(stub: RerankServiceStub, given: argparse.Namespace, lines: list[Line], out: Printer) -> None:
    """All lines in one call; each is answered when it is ready, in any order."""
    items = (pb.RerankBatchRequest(request_id=line.id, request=line.request(given.model)) for line in lines)
    answers: Any = stub.RerankBatch(items, **call(given))
    with cancelling(answers, given):
        for answer in answers:
            if answer.HasField("error"):
                out.item_failure(answer.request_id, answer.error)
            else:
                out.ranking(answer.request_id, answer.response)


@contextmanager
def failing(line: str, out: Printer) -> Iterator[None]:
    """Prints how a call failed."""
    try:
        yield
    except grpc.RpcError as error:
        out.failure(line, error)
    except grpc.FutureCancelledError:
        out.cancelled(line)


@contextmanager
def cancelling(call: Any, given: argparse.Namespace) -> Iterator[None]:
    """Cancels the call after --cancel-after-ms, unless it is over by then."""
    if given.cancel_after_ms is None:
        yield
        return
    timer = threading.Timer(given.cancel_after_ms / 1000, call.cancel)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    sys.exit(main())
