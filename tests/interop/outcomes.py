"""What a call comes to, in a form in which what a program printed and what is expected can be compared."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rerankd import Reranker

from interop.programs import Line

SAME = "the ids and scores of `Reranker`, to the bit"
"""What `answers` says in the table."""

Scores = tuple[tuple[int, str], ...]
"""Ids, and scores as their 32 bits in hexadecimal: equal to the bit, or not equal."""


@dataclass(frozen=True)
class Answer:
    """A ranking, of the line `id` of the input."""

    id: str
    results: Scores
    unscored: tuple[int, ...] = ()
    scored: Scores = ()
    """What a stream told before its ranking, by ascending id."""

    def __str__(self) -> str:
        return f"{len(self.results)} results"


@dataclass(frozen=True)
class Failure:
    """A call's end, or a batch's item's."""

    id: str
    code: str
    reason: str = ""
    field: str = ""
    retry: bool = False
    """Whether it says when to come back."""

    def __str__(self) -> str:
        field = f" `{self.field}`" if self.field else ""
        return f"{self.code}{self.reason and ' '}{self.reason}{field}{', RetryInfo' if self.retry else ''}"


def outcome(lines: Iterable[Line]) -> list[Answer | Failure]:
    """What a program printed, in the order of its input; whatever it should not have printed is an error."""
    found: dict[str, Answer | Failure] = {}
    scored: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        at = line.pop("id")
        assert at not in found, f"{at!r} is answered twice"
        if "scored" in line:
            scored.setdefault(at, []).extend(_scores(line.pop("scored")))
        elif "results" in line:
            told = tuple(sorted(scored.pop(at, ())))
            found[at] = Answer(at, _scores(line.pop("results")), tuple(line.pop("unscored")), told)
        else:
            error = line.pop("error")
            assert isinstance(error.pop("message"), str)
            found[at] = Failure(at, retry=error.pop("retry_ms") > 0, **error)
        assert not line, f"it printed {line} besides"
    assert all(isinstance(found.get(at), Failure) for at in scored), "a stream ended without its ranking"
    return [found[at] for at in sorted(found)]


def answers(
    reranker: Reranker, questions: Sequence[Line], mode: str, first: int = 0
) -> list[Answer | Failure]:
    """What is expected where all is well, of the questions in order; `first` is the line of the first."""
    found: list[Answer | Failure] = []
    for at, line in enumerate(questions, first):
        ranking = reranker.rank(line["query"], line["contexts"])
        results = tuple((result.id, _bits(result.score)) for result in ranking)
        told = tuple(sorted(results)) if mode == "stream" else ()
        found.append(Answer(str(at), results[: line.get("top_k")], scored=told))
    return found


def _scores(results: Iterable[Line]) -> Scores:
    return tuple((result.pop("id"), _bits(result.pop("score"))) for result in results)


def _bits(score: float) -> str:
    return struct.pack(">f", score).hex()
