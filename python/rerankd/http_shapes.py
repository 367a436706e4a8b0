"""The bodies of the HTTP routes, as data: what callers of each API send, and what they are answered.

They check what comes in, and describe themselves in /openapi.json. What they do not know is ignored, as the
APIs that they follow grow, and their clients send more than a reranker needs.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

_UINT32_MAX: Final = 2**32 - 1


class Dialect(Enum):
    """Whose API a body is of."""

    DOCUMENTS = "documents"
    """Cohere's, Jina's and vLLM's."""
    TEXTS = "texts"
    """text-embeddings-inference's."""
    CONTEXTS = "contexts"
    """Cloudflare's, as its binding gives it: with no envelope."""
    CLOUDFLARE = "cloudflare"
    """Cloudflare's, on its own route: with the envelope."""


# ---- what is sent -----------------------------------------------------------------------------------------


def _whole(value: object) -> object:
    """JSON has one kind of number, and some languages write 3 as 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(_whole)]
# The limits first: pydantic describes them as JSON Schema does only before a validator of ours.
Count = Annotated[int, Field(ge=1, le=_UINT32_MAX), BeforeValidator(_whole)]
Most = Annotated[int, Field(ge=0), BeforeValidator(_whole)]


class Extensions(BaseModel):
    """What no API has and all bodies may: rerankd's own options."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    budget_ms: Annotated[
        Count | None, Field(description="the best ranking that so many milliseconds buy")
    ] = None
    min_score: Annotated[float | None, Field(description="leaves out what scores below it")] = None
    overflow: Annotated[
        Literal["truncate", "truncate_context", "chunk", "reject"] | None,
        Field(description="what happens to a pair that is longer than the model can read"),
    ] = None
    max_tokens: Annotated[
        Count | None, Field(description="tokens per pair of query and text, at most the model's own limit")
    ] = None
    raw_scores: Annotated[bool | None, Field(description="logits instead of scores from 0 to 1")] = None


class Document(BaseModel):
    """A text, as an object; its other keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    text: Text


class DocumentsBody(Extensions):
    """As Cohere, Jina and vLLM have it."""

    model: Annotated[
        str | None, Field(description="a model's name; another one than is served: the default")
    ] = None
    query: Text | Document
    documents: Annotated[list[Text | Document], FailFast()]
    top_n: Annotated[Most | None, Field(description="how many are answered; null or 0: all")] = None
    return_documents: bool | None = None
    rank_fields: Annotated[
        list[Literal["text"]] | None, Field(description="keys of documents to rank by")
    ] = None
    priority: Annotated[
        Literal["interactive", "batch"] | Whole | None,
        Field(description='"batch" waits for others; a number, as Cohere has, is ignored'),
    ] = None


class TextsBody(Extensions):
    """As text-embeddings-inference has it."""

    model: str | None = None
    query: Text
    texts: Annotated[list[Text], FailFast()]
    top_n: Most | None = None
    truncate: Annotated[
        bool | None, Field(description="false: refuse what is longer than the model reads")
    ] = None
    truncation_direction: Annotated[
        Literal["right", "Right"] | None, Field(description="texts are cut at their end")
    ] = None
    return_text: bool | None = None


class ContextsBody(Extensions):
    """As Cloudflare's @cf/baai/bge-reranker-base has it."""

    model: Annotated[str | None, Field(description="on /rerank; on Cloudflare's route it is in the path")] = (
        None
    )
    query: Text
    contexts: Annotated[list[Document], FailFast()]
    top_k: Annotated[Most | None, Field(description="how many are answered; null or 0: all")] = None


Body = DocumentsBody | TextsBody | ContextsBody
BODIES: Final[dict[Dialect, type[Body]]] = {
    Dialect.DOCUMENTS: DocumentsBody,
    Dialect.TEXTS: TextsBody,
    Dialect.CONTEXTS: ContextsBody,
    Dialect.CLOUDFLARE: ContextsBody,
}


# ---- what is answered -------------------------------------------------------------------------------------


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class DocumentsResult(_Answer):
    index: int
    relevance_score: float
    document: Document | None = Field(None, description="where return_documents asked for it")


class DocumentsUsage(_Answer):
    prompt_tokens: int
    total_tokens: int


class DocumentsAnswer(_Answer):
    """What Cohere's, Jina's and vLLM's clients all read."""

    id: str
    object: Literal["rerank"]
    model: str
    results: list[DocumentsResult]
    usage: DocumentsUsage
    meta: dict[str, Any]


class TextsResult(_Answer):
    index: int
    score: float
    text: str | None = Field(None, description="where return_text asked for it")


class ContextsResult(_Answer):
    id: int
    score: float


class ContextsUsage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ContextsAnswer(_Answer):
    response: list[ContextsResult]
    usage: ContextsUsage


class CloudflareMessage(_Answer):
    code: int
    message: str


class CloudflareAnswer(_Answer):
    result: ContextsAnswer
    success: Literal[True]
    errors: list[CloudflareMessage]
    messages: list[CloudflareMessage]


class ErrorDetail(_Answer):
    message: str
    type: str
    code: int
    param: str | None = None


class DocumentsError(_Answer):
    """What Cohere's, Jina's, vLLM's and OpenAI's clients all find a message in."""

    message: str
    detail: str
    error: ErrorDetail


class TextsError(_Answer):
    error: str
    error_type: str


class CloudflareError(_Answer):
    result: dict[str, Any]
    success: Literal[False]
    errors: list[CloudflareMessage]
    messages: list[CloudflareMessage]


class ModelEntry(_Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    object: Literal["list"]
    data: list[ModelEntry]


class Info(_Answer):
    """As text-embeddings-inference tells of itself."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Any]
    max_input_length: int
    max_client_batch_size: int
    version: str


class Status(_Answer):
    status: Literal["ok", "unavailable"]
