"""Calls whose answers are known to the bit, and an account of what became of every one of their ids.

The shipped AsyncClient makes them: what it tries again counts once. An id is a call of Rerank, an item of
RerankBatch, or a context of RerankStream; each is answered once, or failed, and never answered wrong.
"""

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rerankd import AsyncClient, RerankdError, Reranker
from rerankd.ranking import Ranking

from benches import questions

# Seconds for a call, its second tries included.
PATIENCE: Final = 30.0
CONTEXTS: Final = 3
ITEMS: Final = 4

Scores = list[tuple[int, float]]


@dataclass(frozen=True)
class Question:
    """A request, and what every server of the model on this machine answers: ids and logits, best first."""

    query: str
    contexts: list[str]
    expected: Scores


def scores(ranking: Ranking) -> Scores:
    return [(each.id, each.score) for each in ranking]


def known(count: int = 60) -> list[Question]:
    """Questions with their answers, computed in this process."""
    with Reranker("mini-en", threads=1) as reranker:
        return [
            Question(
                query, contexts[:CONTEXTS], scores(reranker.rank(query, contexts[:CONTEXTS], score="logit"))
            )
            for query, contexts in questions.groups(count)
        ]


@dataclass
class Account:
    """What became of the calls, and of their ids."""

    ids: int = 0
    once: int = 0
    failed: int = 0
    twice: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    calls: list[tuple[float, float, bool]] = field(default_factory=list)
    """When each began and ended, by time.monotonic, and whether all of it was answered."""

    def settle(
        self, begun: float, expected: dict[Any, Any], answers: list[tuple[Any, Any]], why: str
    ) -> None:
        """Enters a call: what its ids were to be answered, and what they were."""
        times = Counter(name for name, _ in answers)
        self.ids += len(expected)
        self.once += sum(times[name] == 1 for name in expected)
        self.failed += sum(times[name] == 0 for name in expected)
        self.twice += sum(n > 1 for n in times.values())
        self.wrong += sum(name not in expected or answer != expected[name] for name, answer in answers)
        whole = all(times[name] == 1 for name in expected)
        if not whole:
            self.errors[why or "not answered, and no error told"] += 1
        self.calls.append((begun, time.monotonic(), whole))

    def failures(self) -> str:
        return ", ".join(f"{count} {why}" for why, count in self.errors.most_common()) or "none"

    def back(self, since: float, before: float = math.inf) -> float:
        """Seconds from then to when calls made later were answered, and none that was made failed any more.

        Calls that begin at `before` or later don't count, nor those that fail after it: the next blow met
        them on their way. (They did count once, and one stream that a second SIGKILL cut off made the first
        one look as if it had lasted to there.)"""
        later = [end for begun, end, whole in self.calls if whole and since <= begun < before]
        lost = [end for _, end, whole in self.calls if not whole and since <= end < before]
        return max(min(later, default=math.inf), max(lost, default=since)) - since

    def seconds(self) -> list[float]:
        """What the answered calls took."""
        return [end - begun for begun, end, whole in self.calls if whole]


class Held:
    """How long this process was held up, and with it most likely the servers: what others on the machine did.
    A context manager, to be entered on a running loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """At the most."""

    async def _look(self) -> None:
        while True:
            due = time.monotonic() + 0.1
            await asyncio.sleep(0.1)
            self.seconds = max(self.seconds, time.monotonic() - due)

    def __enter__(self) -> "Held":
        self._looking = asyncio.create_task(self._look())
        return self

    def __exit__(self, *_: object) -> None:
        self._looking.cancel()


Call = Callable[[AsyncClient, "Draw", Account], Coroutine[Any, Any, None]]


class Draw:
    """Questions at random, the same from the same seed, and names that are never the same."""

    def __init__(self, known: Sequence[Question], seed: int) -> None:
        self._known = known
        self._rng = random.Random(seed)
        self._names = itertools.count()

    def question(self) -> Question:
        return self._rng.choice(self._known)

    def name(self) -> str:
        return f"id-{next(self._names)}"

    def kinds(self) -> Iterator[Call]:
        """Without end, kinds of calls: mostly plain ones."""
        while True:
            yield self._rng.choices((ask, batch, stream), (8, 1, 1))[0]


async def ask(client: AsyncClient, draw: Draw, account: Account) -> None:
    """One call of Rerank."""
    question, name, begun = draw.question(), draw.name(), time.monotonic()
    answers: list[tuple[str, Scores]] = []
    why = ""
    try:
        ranking = await client.rank(question.query, question.contexts, score="logit", timeout=PATIENCE)
        answers.append((name, scores(ranking)))
    except RerankdError as error:
        why = f"Rerank: {type(error).__name__}"
    account.settle(begun, {name: question.expected}, answers, why)


async def batch(client: AsyncClient, draw: Draw, account: Account) -> None:
    """A few items on a call of RerankBatch."""
    asked = {draw.name(): draw.question() for _ in range(ITEMS)}
    begun = time.monotonic()
    answers: list[tuple[str, Scores]] = []
    why = ""
    items: Any = [
        {"request_id": name, "query": each.query, "contexts": each.contexts, "score": "logit"}
        for name, each in asked.items()
    ]
    try:
        async for name, outcome in client.rank_batch(items, timeout=PATIENCE):
            if isinstance(outcome, RerankdError):
                why = f"RerankBatch, an item: {type(outcome).__name__}"
            else:
                answers.append((name, scores(outcome)))
    except RerankdError as error:
        why = f"RerankBatch: {type(error).__name__}"
    account.settle(begun, {name: each.expected for name, each in asked.items()}, answers, why)


async def stream(client: AsyncClient, draw: Draw, account: Account) -> None:
    """A query whose contexts come one by one; then its ranking, which counts as an id of its own."""
    question, begun = draw.question(), time.monotonic()
    expected: dict[Any, Any] = {**dict(question.expected), "ranking": question.expected}
    answers: list[tuple[Any, Any]] = []
    why = ""
    call = client.rank_stream(question.query, iter(question.contexts), score="logit", timeout=PATIENCE)
    try:
        async for results in call:
            answers += [(each.id, each.score) for each in results]
        answers.append(("ranking", scores(call.ranking)))
    except RerankdError as error:
        why = f"RerankStream: {type(error).__name__}"
    account.settle(begun, expected, answers, why)


async def closed_loop(
    client: AsyncClient, draw: Draw, account: Account, workers: int, stop: asyncio.Event
) -> None:
    """So many calls at a time, until told to stop; returns when the last has ended."""
    kinds = draw.kinds()

    async def work() -> None:
        while not stop.is_set():
            call = next(kinds)
            before = account.failed
            await call(client, draw, account)
            if account.failed > before:
                await asyncio.sleep(0.05)  # nobody asks a server that fails as fast as it can fail

    await asyncio.gather(*(work() for _ in range(workers)))


async def open_loop(
    client: AsyncClient, draw: Draw, account: Account, rate: float, stop: asyncio.Event
) -> None:
    """So many calls a second, whatever becomes of them, until told to stop; returns when all have ended."""
    kinds, gaps = draw.kinds(), random.Random(1)
    running: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while not stop.is_set():
        due += gaps.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(next(kinds)(client, draw, account))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
