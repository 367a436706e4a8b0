"""The client's side of the messages: requests made, answers and errors read. Values only; no channel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rerankd.errors import (
    AuthError,
    DeadlineError,
    InputError,
    InternalError,
    OverloadedError,
    RerankdError,
    UnknownModelError,
    UnreachableError,
)
from rerankd.ranking import Options, Passages, Ranking, Result, Timing, Usage, check_query, unencodable
from rerankd.v1 import rerank_pb2 as pb

# A message of a stream holds this much text, or one context: well below any server's limit on messages, and
# enough for the engine to be busy with while the next one comes.
CHUNK_CHARACTERS: Final = 1 << 20

_UINT32_MAX: Final = 2**32 - 1
_BAD_REQUEST: Final = (
    code_pb2.INVALID_ARGUMENT,
    code_pb2.OUT_OF_RANGE,
    code_pb2.FAILED_PRECONDITION,
    # A message over the size limit: the caller's to make smaller, wherever it was noticed.
    code_pb2.RESOURCE_EXHAUSTED,
)


class _Asked(TypedDict):
    query: str
    contexts: Any


class RankRequest(_Asked, total=False):
    """One request of a batch: the arguments of `rank`, and an id that its answer carries.

    Where there is no `request_id`, it is the request's index in the batch, as "0".
    """

    request_id: str
    model: str
    top_k: int | None
    score: str
    overflow: str
    return_text: bool
    min_score: float | None
    budget_ms: int | None
    max_tokens: int | None
    priority: str


@dataclass(frozen=True)
class ServedModel:
    """A model of a server, and its limits."""

    name: str
    aliases: tuple[str, ...]
    architecture: str
    """The checkpoint's model_type, as "bert"."""
    device: str
    dtype: str
    max_tokens: int
    """Tokens per pair, special tokens included."""
    max_contexts: int
    """Contexts per request."""
    is_default: bool
    """Whether a request that names no model means this one."""
    revision: str


def request(query: object, passages: Passages, options: Options, model: str) -> pb.RerankRequest:
    """A request. Raises InputError."""
    if not isinstance(model, str):
        raise InputError("model", f"must be a string, not {type(model).__name__}")
    asked = check_query(query)
    try:
        message = pb.RerankRequest(
            query=asked,
            contexts=_contexts(passages),
            model=model,
            score=f"SCORE_{options.score.upper()}",
            overflow=f"OVERFLOW_{options.overflow.upper()}",
            return_text=options.return_text,
            priority=f"PRIORITY_{options.priority.upper()}",
        )
    except UnicodeEncodeError:
        raise unencodable(asked, passages.texts) from None
    if options.top_k is not None:
        message.top_k = min(options.top_k, _UINT32_MAX)  # more than there are contexts means all
    if options.min_score is not None:
        message.min_score = options.min_score
    if options.max_tokens is not None:
        message.max_tokens = options.max_tokens
    if options.budget_ms is not None:
        message.budget_ms = options.budget_ms
    return message


def batch_request(index: int, item: object, model: str) -> pb.RerankBatchRequest:
    """One request of a batch. Raises InputError."""
    if not isinstance(item, Mapping):
        raise InputError("requests", f"must hold mappings, not {type(item).__name__}")
    for name in item:
        if name not in RankRequest.__annotations__:
            raise InputError(str(name), f"is not one of {', '.join(RankRequest.__annotations__)}")
    asked = {"query": None, "contexts": None, "model": model} | dict(item)
    asked.pop("request_id", None)
    query, contexts, named = asked.pop("query"), asked.pop("contexts"), asked.pop("model")
    message = request(query, Passages.read(contexts), Options(**asked), named)
    return pb.RerankBatchRequest(request_id=request_id(index, item), request=message)


def request_id(index: int, item: object) -> str:
    """The id of a batch's request: its own, else its index."""
    given = item.get("request_id") if isinstance(item, Mapping) else None
    return given if isinstance(given, str) and given else str(index)


def chunks(passages: Passages) -> Iterator[Passages]:
    """Cuts contexts for a stream; at least one chunk, if an empty one."""
    texts, keys = passages.texts, passages.keys
    first, size = 0, 0
    for at, text in enumerate(texts):
        if at > first and size + len(text) > CHUNK_CHARACTERS:
            yield Passages(texts[first:at], keys[first:at])
            first, size = at, 0
        size += len(text)
    yield Passages(texts[first:], keys[first:])


def is_lazy(contexts: object, *kinds: type) -> bool:
    """Whether contexts come one by one, as an iterable of `kinds` that does not hold them all already."""
    return isinstance(contexts, kinds) and not isinstance(contexts, Collection)


def opening(
    query: object, passages: Passages, options: Options, model: str
) -> Iterator[pb.RerankStreamRequest]:
    """A stream's messages for contexts that are there: the start, with a first chunk, and further chunks."""
    parts = chunks(passages)
    first = next(parts)
    yield pb.RerankStreamRequest(start=request(query, first, options, model))
    at = len(first.texts)
    for part in parts:
        yield more(part, at)
        at += len(part.texts)


def more(passages: Passages, first: int) -> pb.RerankStreamRequest:
    """A stream's further message; `first` is the id of its first context, for an error's sake."""
    try:
        return pb.RerankStreamRequest(more=pb.ContextChunk(contexts=_contexts(passages)))
    except UnicodeEncodeError:
        raise unencodable("", passages.texts, first) from None


def later(at: int, context: object) -> pb.RerankStreamRequest:
    """A stream's message for a context that came after the start. Raises InputError."""
    return more(Passages.read([context], first=at), at)


def ranking(message: pb.RerankResponse) -> Ranking:
    usage, timing = message.usage, message.timing
    return Ranking(
        results=tuple(results(message.results)),
        usage=Usage(usage.contexts, usage.tokens, usage.truncated),
        timing=Timing(timing.queue_us, timing.tokenize_us, timing.compute_us, timing.total_us),
        model=message.model,
        unscored=tuple(message.unscored),
    )


def results(messages: Sequence[pb.RankedContext]) -> list[Result]:
    return [
        Result(m.id, m.score, m.key, m.text if m.HasField("text") else None, m.truncated) for m in messages
    ]


def models(message: pb.ListModelsResponse) -> list[ServedModel]:
    return [
        ServedModel(
            m.name,
            tuple(m.aliases),
            m.architecture,
            m.device,
            m.dtype,
            m.max_tokens,
            m.max_contexts,
            m.is_default,
            m.revision,
        )
        for m in message.models
    ]


def outcome(message: pb.RerankBatchResponse) -> Ranking | RerankdError:
    """One item's answer."""
    if message.WhichOneof("outcome") == "response":
        return ranking(message.response)
    error = message.error
    if error.code == code_pb2.UNAVAILABLE:
        return OverloadedError(error.message)
    return _error(error.code, error.message, error.field)


def error(code: int, message: str, details: bytes, target: str) -> RerankdError:
    """The exception for a failed call: a google.rpc.Code, its text, its grpc-status-details-bin or b""."""
    status = status_pb2.Status.FromString(details)
    violation, retry, info = _unpacked(status)
    if code == code_pb2.UNAVAILABLE and (retry is not None or info.reason):
        return OverloadedError(message, *([] if retry is None else [retry.ToMilliseconds()]))
    if code in (code_pb2.UNAVAILABLE, code_pb2.CANCELLED):
        return UnreachableError(f"no answer from {target}: {message}")
    if code == code_pb2.UNIMPLEMENTED:
        return RerankdError(f"{target} has no such method ({message}); is it a rerankd of this version?")
    if violation.field or violation.description:
        return InputError(violation.field, violation.description or message)
    correlation_id = info.metadata.get("correlation_id", "")
    if correlation_id and correlation_id not in message:
        message = f"{message} (correlation id {correlation_id})"
    return _error(code, message, "")


def _error(code: int, message: str, field: str) -> RerankdError:
    if code in _BAD_REQUEST:
        # The field is in the message already where the server wrote both.
        return InputError(field, message.removeprefix(f"{field}: ") if field else message)
    if code == code_pb2.NOT_FOUND:
        return UnknownModelError(message)
    if code == code_pb2.DEADLINE_EXCEEDED:
        return DeadlineError(message)
    if code in (code_pb2.UNAUTHENTICATED, code_pb2.PERMISSION_DENIED):
        return AuthError(message)
    return InternalError(message)


def _unpacked(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.BadRequest.FieldViolation, Duration | None, error_details_pb2.ErrorInfo]:
    violation = error_details_pb2.BadRequest.FieldViolation()
    retry: Duration | None = None
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        bad, pause = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad) and bad.field_violations:
            violation = bad.field_violations[0]
        elif detail.Unpack(pause):
            retry = pause.retry_delay
        else:
            detail.Unpack(info)
    return violation, retry, info


def _contexts(passages: Passages) -> list[pb.Context]:
    return [pb.Context(text=text, key=key) for text, key in zip(passages.texts, passages.keys, strict=True)]
