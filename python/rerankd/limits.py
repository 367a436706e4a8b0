"""Limits: what one request may be, for every protocol; and what callers are told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rerankd._core import __version__
from rerankd.reranker import Reranker

_DTYPES: Final = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@dataclass(frozen=True)
class Limits:
    """As the settings have it."""

    max_contexts: int
    max_message_bytes: int
    max_stream_bytes: int
    """Of all that one stream sends."""
    max_seconds: float
    """For a request, whatever its caller allows; a whole stream is one."""
    max_concurrent: int
    """Requests that are read at a time, the others waiting."""
    wave_tokens: int


def facts(reranker: Reranker, limits: Limits) -> dict[str, Any]:
    """What text-embeddings-inference tells of its model and its limits, by its own names."""
    return {
        "version": __version__,
        "model_id": reranker.name,
        "model_sha": reranker.revision or None,
        "model_dtype": _DTYPES.get(reranker.engine.dtype, reranker.engine.dtype),
        "max_concurrent_requests": limits.max_concurrent,
        "max_input_length": reranker.max_tokens,
        "max_batch_tokens": limits.wave_tokens,
        "max_client_batch_size": limits.max_contexts,
        "tokenization_workers": reranker.engine.threads,
    }
