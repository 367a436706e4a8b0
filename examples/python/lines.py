"""The command line, the input and the output, which both programs share. The calls are theirs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from rerankd.v1 import rerank_pb2 as pb

CHUNK = 16
"""Contexts in one message of a stream."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Asks a rerankd server: JSON lines in, JSON lines out.")
    parser.add_argument(
        "--target", default="localhost:50051", help="host:port, or any name that gRPC resolves"
    )
    parser.add_argument("--ca", metavar="FILE", help="authorities to trust, in PEM; speaks TLS")
    parser.add_argument("--cert", metavar="FILE", help="our certificate, in PEM, for mutual TLS")
    parser.add_argument("--key", metavar="FILE", help="our certificate's key, in PEM")
    parser.add_argument("--token-file", metavar="FILE", help="a file with the bearer token")
    parser.add_argument("--model", default="", help="a served name; the server's default without")
    parser.add_argument("--deadline-ms", type=int, default=10000, help="milliseconds that a call may take")
    parser.add_argument("--cancel-after-ms", type=int, help="milliseconds after which a call is cancelled")
    parser.add_argument("mode", choices=["unary", "stream", "batch"])
    given = parser.parse_args()
    if bool(given.cert) != bool(given.key) or (given.cert and not given.ca):
        parser.error("--cert and --key go together, and with --ca")
    return given


@dataclass(frozen=True)
class Line:
    """One query, as it stands in the input."""

    id: str
    query: str
    contexts: list[str]
    top_k: int | None = None
    budget_ms: int | None = None

    def request(self, model: str) -> pb.RerankRequest:
        start = self.start(model)
        start.contexts.extend(pb.Context(text=text) for text in self.contexts)
        return start

    def start(self, model: str) -> pb.RerankRequest:
        return pb.RerankRequest(query=self.query, top_k=self.top_k, budget_ms=self.budget_ms, model=model)

    def parts(self, model: str) -> Iterator[pb.RerankStreamRequest]:
        """A stream's messages: the query and its options, then the contexts in chunks."""
        yield pb.RerankStreamRequest(start=self.start(model))
        for at in range(0, len(self.contexts), CHUNK):
            contexts = [pb.Context(text=text) for text in self.contexts[at : at + CHUNK]]
            yield pb.RerankStreamRequest(more=pb.ContextChunk(contexts=contexts))


def read() -> list[Line]:
    try:
        return [Line(str(at), **json.loads(text)) for at, text in enumerate(sys.stdin)]
    except (ValueError, TypeError) as error:
        sys.stderr.write(f"the input must be lines of JSON, each with a query and contexts: {error}\n")
        raise SystemExit(2) from None


class Printer:
    """Writes the output's lines, and remembers whether something failed."""

    def __init__(self) -> None:
        self.failed = False

    def ranking(self, line: str, response: pb.RerankResponse) -> None:
        self._print(line, results=_results(response.results), unscored=list(response.unscored))

    def scored(self, line: str, results: Iterable[pb.RankedContext]) -> None:
        self._print(line, scored=_results(results))

    def failure(self, line: str, error: Any) -> None:
        """Why a call failed: its code, and the google.rpc details that came with it."""
        number: int = error.code().value[0]
        status = rpc_status.from_call(error)
        told: dict[str, str | int] = {"reason": "", "field": "", "retry_ms": 0}
        for detail in status.details if status else ():
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                told["reason"] = info.reason
            elif detail.Unpack(bad):
                told["field"] = bad.field_violations[0].field
            elif detail.Unpack(retry):
                told["retry_ms"] = retry.retry_delay.ToMilliseconds()
        self._fail(line, number, error.details() or "", **told)

    def item_failure(self, line: str, error: pb.Error) -> None:
        self._fail(line, error.code, error.message, reason=error.reason, field=error.field, retry_ms=0)

    def cancelled(self, line: str) -> None:
        """For a call that we cancelled ourselves, where the library raises an error without a status."""
        self._fail(line, code_pb2.CANCELLED, "we cancelled it", reason="", field="", retry_ms=0)

    def _fail(self, line: str, code: int, message: str, **details: str | int) -> None:
        self.failed = True
        self._print(line, error={"code": code_pb2.Code.Name(code), "message": message, **details})

    def _print(self, line: str, **what: Any) -> None:
        print(json.dumps({"id": line, **what}, ensure_ascii=False), flush=True)


def _results(results: Iterable[pb.RankedContext]) -> list[dict[str, int | float]]:
    return [{"id": result.id, "score": result.score} for result in results]
