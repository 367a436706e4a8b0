"""What a caller asks and what it is told: options, contexts, results. Values only; no engine, no network."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from rerankd.deferred import Deferred
from rerankd.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rerankd._core import Completion
else:
    np = Deferred("numpy")

SCORES = ("sigmoid", "logit")
OVERFLOWS = ("truncate", "truncate_context", "chunk", "reject")
PRIORITIES = ("interactive", "batch")

_UINT32_MAX = 2**32 - 1
_CONTEXT = re.compile(r"contexts\[(\d+)\]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Result:
    """One context's place in a ranking."""

    id: int
    """The context's index in the request, from 0."""
    score: float
    """On the scale asked for."""
    key: str
    """The caller's own key; "" where there was none."""
    text: str | None
    """The context's text, where return_text asked for it."""
    truncated: bool
    """Whether the pair was cut to fit max_tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the work came to."""

    contexts: int
    """Contexts scored."""
    tokens: int
    """Tokens the model read, special tokens included."""
    truncated: int
    """Contexts whose pair was truncated."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in microseconds of wall clock; see Timing in rerank.proto."""

    queue_us: int
    tokenize_us: int
    compute_us: int
    total_us: int


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Result]):
    """Results, best first; equal scores by ascending id."""

    results: tuple[Result, ...]
    usage: Usage
    timing: Timing
    model: str
    """The name of the model that answered."""
    unscored: tuple[int, ...] = ()
    """Ids of contexts that budget_ms did not reach, ascending."""

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.results[index]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The results as dicts of plain values, ready for json.dumps: id, score, key, text, truncated."""
        return [dataclasses.asdict(result) for result in self.results]


@dataclass(frozen=True, slots=True)
class Options:
    """How to rank: every option of every caller, checked here and nowhere else.

    Raises InputError that names the option.
    """

    top_k: int | None = None
    score: str = "sigmoid"
    overflow: str = "truncate"
    return_text: bool = False
    min_score: float | None = None
    budget_ms: int | None = None
    max_tokens: int | None = None
    priority: str = "interactive"

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen for everybody else
        put(self, "top_k", _count("top_k", self.top_k))
        put(self, "budget_ms", _count("budget_ms", self.budget_ms, _UINT32_MAX))
        put(self, "max_tokens", _count("max_tokens", self.max_tokens, _UINT32_MAX))
        put(self, "min_score", _float32("min_score", self.min_score))
        _one_of("score", self.score, SCORES)
        _one_of("overflow", self.overflow, OVERFLOWS)
        _one_of("priority", self.priority, PRIORITIES)
        if not isinstance(self.return_text, bool):
            raise InputError("return_text", f"must be True or False, not {_kind(self.return_text)}")

    def scores(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits on the scale asked for."""
        return logits if self.score == "logit" else sigmoid(logits)


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + exp(-x)) to the last bit of float32, with no overflow at either end."""
    shrunk = np.exp(-np.abs(logits.astype(np.float64)))
    return (np.where(logits >= 0, 1.0, shrunk) / (1.0 + shrunk)).astype(np.float32)


def _kind(value: object) -> str:
    return type(value).__name__


def _count(name: str, value: Any, most: int | None = None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(name, f"must be an integer, not {_kind(value)}")
    count = operator.index(value)
    if count < 1:
        raise InputError(name, "must be at least 1")
    if most is not None and count > most:
        raise InputError(name, f"must be at most {most}")
    return count


def _float32(name: str, value: Any) -> float | None:
    """Rounded as the wire rounds it, so that a score given back as a threshold keeps what had that score."""
    if value is None:
        return None
    with np.errstate(over="ignore"):
        return float(np.float32(_number(name, value)))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(name, f"must be a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise InputError(name, "is too large") from None
    if math.isnan(number):
        raise InputError(name, "must not be NaN")
    return number


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        given = ascii(value[:40]) if isinstance(value, str) else _kind(value)
        raise InputError(name, f"must be one of {', '.join(choices)}; not {given}")


def check_query(query: object) -> str:
    """The query, if it is one: a string that is not empty."""
    if not isinstance(query, str):
        raise InputError("query", f"must be a string, not {_kind(query)}")
    if not query:
        raise InputError("query", "must not be empty")
    return query


def deadline_after(timeout: Any) -> float | None:
    """A timeout in seconds as a moment of time.monotonic(); None never comes. A past one is legal."""
    if timeout is None:
        return None
    return time.monotonic() + min(_number("timeout", timeout), 1e9)  # a generation fits every clock


@dataclass(slots=True)
class Passages:
    """Contexts read from a caller: texts and keys, by id."""

    texts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, contexts: object, first: int = 0) -> Passages:
        """Reads strings, or mappings with "text" and optionally "key"; ids start at `first`.

        Raises InputError that names the context at fault, as `contexts[3].text`.
        """
        if isinstance(contexts, (str, bytes, bytearray, Mapping)) or not isinstance(contexts, Iterable):
            raise InputError("contexts", f"must be an iterable of texts, not one {_kind(contexts)}")
        texts: list[str] = []
        keys: list[str] = []
        for at, context in enumerate(contexts, first):
            text, key = context, ""
            if isinstance(context, Mapping):
                text, key = context.get("text"), context.get("key", "")
            if not isinstance(text, str):
                missing = isinstance(context, Mapping) and "text" not in context
                what = "is missing" if missing else f"must be a string, not {_kind(text)}"
                raise InputError(f"contexts[{at}].text", what)
            if not isinstance(key, str):
                raise InputError(f"contexts[{at}].key", f"must be a string, not {_kind(key)}")
            texts.append(text)
            keys.append(key)
        return cls.of(texts, keys, first)

    @classmethod
    def of(cls, texts: list[str], keys: list[str], first: int = 0) -> Passages:
        """Takes strings that are known to be such; only the empty text is refused."""
        if not all(texts):
            raise InputError(f"contexts[{first + texts.index('')}].text", "must not be empty")
        return cls(texts, keys)

    def key_bytes(self) -> int:
        """What the keys take, at most, in UTF-8."""
        return sum(len(key) if key.isascii() else 4 * len(key) for key in self.keys if key)

    def portions(self, size: int) -> Iterator[Passages]:
        """The same in order, cut into parts of about `size` characters of text, one context at least."""
        begin = held = 0
        for at, text in enumerate(self.texts, 1):
            held += len(text)
            if held >= size or at == len(self.texts):
                yield Passages(self.texts[begin:at], self.keys[begin:at])
                begin, held = at, 0


@dataclass(slots=True)
class Pairs:
    """(query, context) pairs read from a caller, by query, so that each query is tokenized once."""

    places: dict[str, list[int]] = field(default_factory=dict)
    """Where among the pairs each query's contexts stand."""
    passages: dict[str, Passages] = field(default_factory=dict)

    @classmethod
    def read(cls, pairs: object) -> Pairs:
        """Raises InputError that names the pair at fault, as `pairs[3]`."""
        if isinstance(pairs, (str, bytes, bytearray, Mapping)) or not isinstance(pairs, Iterable):
            raise InputError("pairs", f"must be an iterable of pairs, not one {_kind(pairs)}")
        read = cls()
        for at, pair in enumerate(pairs):
            whole = isinstance(pair, Sequence) and not isinstance(pair, (str, bytes)) and len(pair) == 2
            if not whole or not all(isinstance(text, str) for text in pair):
                raise InputError(f"pairs[{at}]", "must be a (query, context) pair of strings")
            query, text = pair
            if not query or not text:
                raise InputError(f"pairs[{at}]", f"its {'context' if query else 'query'} must not be empty")
            passages = read.passages.setdefault(query, Passages())
            passages.texts.append(text)
            passages.keys.append("")
            read.places.setdefault(query, []).append(at)
        return read

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))

    def blame(self, query: str, error: InputError) -> InputError:
        """An error of one query's contexts as one of its pairs; other errors as they are."""
        context = _CONTEXT.match(error.field)
        if context is None and error.field != "query":
            return error
        at = self.places[query][int(context[1]) if context else 0]
        return InputError(f"pairs[{at}]", error.message)


def unencodable(query: str, texts: Sequence[str], first: int = 0) -> InputError:
    """Which string is to blame where the engine could not read one: a lone surrogate is not text."""
    fields = [("query", query), *((f"contexts[{at}].text", text) for at, text in enumerate(texts, first))]
    name = next((name for name, text in fields if _SURROGATE.search(text)), "")
    return InputError(name, "is not valid Unicode: it holds a lone surrogate")


class Tally:
    """Gathers one query's scores, however many completions bring them, until its ranking can be told."""

    def __init__(self, model: str, options: Options, passages: Passages) -> None:
        self.model = model
        self.options = options
        self._texts: list[str] = []
        self._keys: list[str] = []
        self.extend(passages)
        self._started = time.perf_counter_ns()
        self._ids: list[int] = []
        self._logits: list[npt.NDArray[np.float32]] = []
        self._truncated: set[int] = set()
        self._tokens = 0
        self._unscored: tuple[int, ...] = ()
        self._timing = (0, 0, 0)

    def __len__(self) -> int:
        return len(self._keys)

    def extend(self, passages: Passages) -> None:
        """Takes what the results will say of these contexts, ids running on."""
        self._keys += passages.keys
        if self.options.return_text:  # else they are the engine's alone, and gone as soon as it has read them
            self._texts += passages.texts

    def add(self, completion: Completion) -> None:
        """Takes one completion's scores."""
        ids = completion.ids
        self._ids += ids
        self._logits.append(np.frombuffer(completion.logits, np.float32))
        self._truncated.update(at for at, cut in zip(ids, completion.truncated, strict=True) if cut)
        self._tokens += completion.tokens
        self._unscored += tuple(completion.unscored)
        self._timing = completion.timing

    def latest(self) -> list[Result]:
        """The results of the completion taken last, in the order computed."""
        logits = self._logits[-1]
        return self._results(self._ids[len(self._ids) - len(logits) :], self.options.scores(logits))

    def logits(self) -> npt.NDArray[np.float32]:
        """All logits by id, where every context was scored."""
        logits = np.empty(len(self), np.float32)
        if self._ids:
            logits[self._ids] = np.concatenate(self._logits)
        return logits

    def ranking(self) -> Ranking:
        """Best first by float32 logit, so that scores which both print as 1.0 rank right; ties by id."""
        logits = np.concatenate(self._logits) if self._logits else np.empty(0, np.float32)
        ids = np.asarray(self._ids, np.int64)
        order = np.lexsort((ids, -logits))[: self.options.top_k]
        scores = self.options.scores(logits[order])
        if self.options.min_score is not None:
            kept = scores >= np.float32(self.options.min_score)
            order, scores = order[kept], scores[kept]
        return Ranking(
            results=tuple(self._results(ids[order].tolist(), scores)),
            usage=Usage(len(self._ids), self._tokens, len(self._truncated)),
            timing=Timing(*self._timing, total_us=(time.perf_counter_ns() - self._started) // 1000),
            model=self.model,
            unscored=self._unscored,
        )

    def _results(self, ids: list[int], scores: npt.NDArray[np.float32]) -> list[Result]:
        shown = self.options.return_text
        return [
            Result(at, score, self._keys[at], self._texts[at] if shown else None, at in self._truncated)
            for at, score in zip(ids, scores.tolist(), strict=True)
        ]
