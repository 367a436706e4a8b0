"""Queries with their candidates, as users have them in a file, and labels where somebody has judged them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rerankd.errors import InputError

FORM: Final = '{"query": "...", "contexts": ["...", "..."]}'
FORM_WITH_LABELS: Final = '{"query": "...", "contexts": [{"text": "...", "label": 1}, ...]}'

# The gain of a label is 2^label - 1, which must stay a number; grades are 0 to 4 as a rule.
_LARGEST_LABEL: Final = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One query and its candidates."""

    where: str
    """The line that it comes from, for messages."""
    query: str
    texts: list[str]
    """One or more, none of them empty."""
    labels: list[float] | None
    """How relevant each text is, from 0, not at all, to 100; None where nobody has said."""

    def blame(self, error: InputError) -> InputError:
        """An error of this query's text, in terms of the file; other errors as they are."""
        if not error.field.startswith(("query", "contexts")):
            return error
        return InputError(f"{self.where}, {error.field}", error.message)


def read(file: str, numbers: Sequence[int], lines: Sequence[str]) -> list[Sample]:
    """The queries of a file's lines, which are JSON objects. Keys that mean nothing here are let be.

    file: its name, for messages. numbers: of the lines, from 1. Raises InputError, which names the file, the
    line and the field, where one is not as FORM says, and where there is none.
    """
    samples = []
    for number, line in zip(numbers, lines, strict=True):
        where = f"line {number} of {file!r}"
        try:
            query, texts, labels = _parsed(line)
        except InputError as error:
            field = f"{where}, {error.field}" if error.field else where
            raise InputError(field, error.message) from None
        samples.append(Sample(where, query, texts, labels))
    if not samples:
        raise InputError("FILE", f"{file!r} holds no query; each line of it is to be {FORM}")
    return samples


def _parsed(line: str) -> tuple[str, list[str], list[float] | None]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            "", f"is not JSON at column {error.colno} ({error.msg}); each line is to be {FORM}"
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, a thousand lists in each other
        raise InputError("", f"is JSON past what can be read; each line is to be {FORM}") from None
    if not isinstance(value, dict):
        raise InputError("", f"is {_kind(value)}; each line is to be one object, as {FORM}")
    query = _text("query", value.get("query"), "query" in value)
    contexts = value.get("contexts")
    if not isinstance(contexts, list) or not contexts:
        found = "is missing" if "contexts" not in value else f"is {_kind(contexts)}"
        raise InputError("contexts", f"{found}; give a list of one context or more, as {FORM}")
    texts = []
    for at, context in enumerate(contexts):
        if isinstance(context, dict):
            texts.append(_text(f"contexts[{at}].text", context.get("text"), "text" in context))
        else:
            texts.append(_text(f"contexts[{at}]", context, True))
    return query, texts, _labels(value, contexts)


def _text(field: str, value: object, there: bool) -> str:
    if not there:
        raise InputError(field, f"is missing; each line is to be {FORM}")
    if not isinstance(value, str):
        raise InputError(field, f"is {_kind(value)}; give its text as a string")
    if not value:
        raise InputError(field, "is empty; give its text")
    return value


def _labels(value: dict[str, Any], contexts: list[Any]) -> list[float] | None:
    """The labels of a query's contexts: all of them, or None where there is none."""
    labelled = [isinstance(context, dict) and "label" in context for context in contexts]
    first = labelled.index(True) if any(labelled) else None
    if "labels" in value:
        labels = value["labels"]
        if first is not None:
            raise InputError("labels", f"are given here and as contexts[{first}].label; keep one of the two")
        if not isinstance(labels, list):
            raise InputError("labels", f"is {_kind(labels)}; give a list of numbers, or leave it out")
        if len(labels) != len(contexts):
            raise InputError(
                "labels", f"has length {len(labels)}, contexts {len(contexts)}; give one label per context"
            )
        return [_label(f"labels[{at}]", label) for at, label in enumerate(labels)]
    if first is None:
        return None
    if not all(labelled):
        raise InputError(
            f"contexts[{labelled.index(False)}].label",
            f"is missing, and contexts[{first}] has one; label all contexts of a query, 0 for not relevant, "
            "or none",
        )
    return [_label(f"contexts[{at}].label", context["label"]) for at, context in enumerate(contexts)]


def _label(field: str, value: object) -> float:
    # A comparison with NaN is false.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST_LABEL:
        legal = f"a number from 0, not relevant, to {_LARGEST_LABEL}"
        raise InputError(field, f"is {_kind(value)}; give {legal}, or leave out all labels of the query")
    return float(value)


def _kind(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return "a huge number" if abs(value) > 1e9 else f"the number {value}"
    kind = "string" if isinstance(value, str) else "list" if isinstance(value, list) else "object"
    if not value:
        return f"an empty {kind}"
    return f"an {kind}" if kind == "object" else f"a {kind}"
