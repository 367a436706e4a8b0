"""The one table from errors to status codes, and what a caller is told of an error. Values; no channel."""

from __future__ import annotations

import logging
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rerankd.errors import (
    AuthError,
    DeadlineError,
    InputError,
    LostError,
    OverloadedError,
    UnknownModelError,
)
from rerankd.v1 import rerank_pb2 as pb

log = logging.getLogger(__name__)

DOMAIN: Final = "rerankd"
"""ErrorInfo.domain of every error."""

TRACE_ID: Final[ContextVar[str]] = ContextVar("trace_id", default="")
"""The running call's trace, 32 hexadecimal digits, where one is known."""

# What is not here is a fault of ours: INTERNAL.
_TABLE: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (InputError, code_pb2.INVALID_ARGUMENT, "INVALID_FIELD"),
    (DecodeError, code_pb2.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    (UnknownModelError, code_pb2.NOT_FOUND, "UNKNOWN_MODEL"),
    (OverloadedError, code_pb2.UNAVAILABLE, "OVERLOADED"),
    (LostError, code_pb2.UNAVAILABLE, "DEVICE_LOST"),
    (DeadlineError, code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (AuthError, code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"),
)
# A status travels in the trailers, thrice over, and gRPC limits those to 8 KiB.
_MESSAGE_CHARACTERS: Final = 1000


@dataclass(frozen=True)
class Failure:
    """What a caller is told of an error."""

    code: int
    """A google.rpc.Code."""
    reason: str
    """SCREAMING_SNAKE, as ErrorInfo.reason."""
    message: str
    """For people; it names the field where there is one."""
    field: str = ""
    """The field's path, as in `contexts[3].text`."""
    description: str = ""
    """The message without the field."""
    retry_after_ms: int | None = None
    correlation_id: str = ""
    """By which a fault of ours is found in the log."""

    @classmethod
    def of(cls, error: BaseException, doing: str) -> Failure:
        """Looks an error up; one that is not in the table is logged, and its text stays in the log."""
        for kind, code, reason in _TABLE:
            if isinstance(error, kind):
                message = str(error)[:_MESSAGE_CHARACTERS]
                if isinstance(error, InputError):
                    return cls(code, reason, message, error.field, error.message[:_MESSAGE_CHARACTERS])
                if isinstance(error, OverloadedError):
                    return cls(code, reason, message, retry_after_ms=error.retry_after_ms)
                return cls(code, reason, message)
        correlation_id = uuid.uuid4().hex[:16]
        trace = f", trace id {TRACE_ID.get()}" if TRACE_ID.get() else ""
        log.error("%s: internal error, correlation id %s%s", doing, correlation_id, trace, exc_info=error)
        message = f"internal error, correlation id {correlation_id}"
        return cls(code_pb2.INTERNAL, "INTERNAL", message, correlation_id=correlation_id)

    def to_status(self) -> status_pb2.Status:
        """As google.rpc has it: ErrorInfo always; BadRequest and RetryInfo where they say something."""
        status = status_pb2.Status(code=self.code, message=self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)
        if self.correlation_id:
            info.metadata["correlation_id"] = self.correlation_id
        status.details.add().Pack(info)
        if self.field:
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field=self.field, description=self.description)
            status.details.add().Pack(bad)
        if self.retry_after_ms is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(self.retry_after_ms)
            status.details.add().Pack(retry)
        return status

    def to_trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """The trailing metadata that goes with the code."""
        status = ("grpc-status-details-bin", self.to_status().SerializeToString())
        if self.retry_after_ms is None:
            return (status,)
        return (status, ("grpc-retry-pushback-ms", str(self.retry_after_ms)))

    def to_error(self) -> pb.Error:
        """One batch item's failure."""
        message = self.description or self.message
        return pb.Error(code=self.code, reason=self.reason, message=message, field=self.field)
