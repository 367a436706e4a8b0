"""Bodies in: from a request's bytes to what is to be ranked. Errors name fields as their caller does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from rerankd.errors import InputError
from rerankd.http_shapes import BODIES, Body, ContextsBody, Dialect, Document, DocumentsBody, TextsBody
from rerankd.ranking import Options, Passages

SPARE_PARTS: Final = 1000
PARTS_PER_TEXT: Final = 10
"""Objects and lists that a body may have: so many, and so many for each text. One takes a hundred times the
bytes in memory that it takes in JSON."""

_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_CONTEXT: Final = re.compile(r"contexts\[(\d+)\](?:\.text)?")

# pydantic's names for what is wrong with a value, in our words.
_SENTENCES: Final = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
}
# Of a string or an object only what says that a value is neither: the least that can be said of it.
_KINDS: Final = ("string_type", "model_type")


@dataclass(frozen=True)
class Asked:
    """What a body asks for."""

    dialect: Dialect
    model: str
    """As the caller has it; "" where there is none."""
    query: str
    passages: Passages
    options: Options

    def blame(self, error: InputError) -> InputError:
        """An error of the engine's, its field spelled as this caller spells it."""
        context = _CONTEXT.fullmatch(error.field)
        if context is not None and self.dialect in (Dialect.DOCUMENTS, Dialect.TEXTS):
            return InputError(f"{self.dialect.value}[{context[1]}]", error.message)
        return error


def parse(raw: bytes, max_contexts: int) -> dict[str, Any]:
    """A body's bytes as the JSON object that they must be. Raises InputError."""
    if not raw.strip():
        raise InputError("", "the body is empty; it must be a JSON object")
    _check_plain(raw, most_parts(max_contexts))
    try:
        data = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise InputError("", f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError("", "the body must be a JSON object")
    return data


def dialect_of(data: Mapping[str, Any]) -> Dialect:
    """Whose body this is, by the list that it has. Raises InputError where it has none, or more than one."""
    present = [name for name in ("documents", "texts", "contexts") if data.get(name) is not None]
    if len(present) != 1:
        raise InputError(
            "",
            "the body needs one list of texts to rank: documents, as Cohere, Jina and vLLM have it; texts, "
            "as text-embeddings-inference; or contexts, as Cloudflare",
        )
    return Dialect(present[0])


def read(data: Mapping[str, Any], dialect: Dialect, max_contexts: int) -> Asked:
    """Reads a body of that dialect. Raises InputError."""
    name = "contexts" if dialect is Dialect.CLOUDFLARE else dialect.value
    texts = data.get(name)
    if isinstance(texts, list) and len(texts) > max_contexts:
        limit = f"at most {max_contexts} are ranked per request"
        raise InputError(name, f"{limit}, and this one has {len(texts)}")
    if name == "contexts" and not {"query", "contexts"} <= data.keys():
        # Cloudflare's own words, which its users look for.
        raise InputError("", "required properties at '/' are 'query,contexts'")
    try:
        body = BODIES[dialect].model_validate(data)
    except ValidationError as error:
        raise _blamed(error.errors(include_url=False, include_input=False)) from None
    if isinstance(body, DocumentsBody):
        return _documents(body)
    if isinstance(body, TextsBody):
        return _texts(body)
    return _contexts(body, dialect)


def _documents(body: DocumentsBody) -> Asked:
    options = Options(
        top_k=body.top_n or None,
        return_text=bool(body.return_documents),
        priority=body.priority if isinstance(body.priority, str) else "interactive",
        **_common(body),
    )
    passages = _passages(body.documents)
    return Asked(Dialect.DOCUMENTS, body.model or "", _text(body.query), passages, options)


def _texts(body: TextsBody) -> Asked:
    common = _common(body)
    if body.truncate is False and body.overflow is None:
        common["overflow"] = "reject"
    options = Options(top_k=body.top_n or None, return_text=bool(body.return_text), **common)
    passages = _passages(body.texts)
    return Asked(Dialect.TEXTS, body.model or "", body.query, passages, options)


def _contexts(body: ContextsBody, dialect: Dialect) -> Asked:
    options = Options(top_k=body.top_k or None, **_common(body))
    passages = _passages(body.contexts)
    return Asked(dialect, body.model or "", body.query, passages, options)


def _common(body: Body) -> dict[str, Any]:
    return {
        "score": "logit" if body.raw_scores else "sigmoid",
        "overflow": body.overflow or "truncate",
        "min_score": body.min_score,
        "budget_ms": body.budget_ms,
        "max_tokens": body.max_tokens,
    }


def _passages(texts: Sequence[str | Document]) -> Passages:
    return Passages([_text(text) for text in texts], [""] * len(texts))


def _text(text: str | Document) -> str:
    return text if isinstance(text, str) else text.text


def most_parts(max_contexts: int) -> int:
    """Objects and lists that one body may have."""
    return SPARE_PARTS + PARTS_PER_TEXT * max_contexts


def _check_plain(raw: bytes, most: int) -> None:
    """Refuses what would take far more memory, and time of the event loop, than its bytes say."""
    if _parts(raw) > most and _parts(_STRINGS.sub(b"", raw)) > most:
        raise InputError("", f"the body has more than {most} objects and lists")


def _parts(raw: bytes) -> int:
    return raw.count(b"{") + raw.count(b"[")


def _blamed(details: Sequence[ErrorDetails]) -> InputError:
    """The first field that is bad, and what is wrong with it."""
    first = details[0]
    # A value that may be a string or an object has an error for either; who looked inside knows more.
    place = _place(first)
    same = [each for each in details if _place(each) == place]
    kinds = [each for each in same if each["type"] not in _KINDS]
    if len(same) > 1 and not kinds:
        return InputError(place, "must be a string, or an object with text")
    chosen = (kinds or same)[0]
    inside = chosen["loc"][-1] == "text" and chosen["loc"][0] != "text"
    name = f"{place}.text" if inside else place
    sentence = _SENTENCES.get(chosen["type"], chosen["msg"][:1].lower() + chosen["msg"][1:])
    return InputError(name, sentence.format(**chosen.get("ctx", {})))


def _place(detail: ErrorDetails) -> str:
    """The field, with its index in a list: `documents[3]`."""
    name, *rest = detail["loc"]
    return f"{name}[{rest[0]}]" if rest and isinstance(rest[0], int) else str(name)
