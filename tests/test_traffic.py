"""The account that the long benches keep: what it calls answered, failed, doubled, wrong, and back."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from rerankd import AsyncClient
from support import RunningServer

from benches import chaos, faults, soak
from benches.traffic import Account, Draw, Question, ask, batch, known, stream


def settled(answers: list[tuple[str, int]]) -> Account:
    account = Account()
    account.settle(time.monotonic(), {"a": 1, "b": 2}, answers, "" if len(answers) > 1 else "Why")
    return account


@pytest.mark.parametrize(
    ("answers", "once", "failed", "twice", "wrong"),
    [
        ([("a", 1), ("b", 2)], 2, 0, 0, 0),
        ([("a", 1)], 1, 1, 0, 0),
        ([("a", 1), ("a", 1), ("b", 2)], 1, 0, 1, 0),
        ([("a", 1), ("b", 3)], 2, 0, 0, 1),
        ([("a", 1), ("b", 2), ("c", 3)], 2, 0, 0, 1),
    ],
    ids=["all", "one failed", "one twice", "one wrong", "one that nobody asked for"],
)
def test_an_account_tells_what_became_of_every_id(
    answers: list[tuple[str, int]], once: int, failed: int, twice: int, wrong: int
) -> None:
    account = settled(answers)
    assert (account.ids, account.once, account.failed) == (2, once, failed)
    assert (account.twice, account.wrong) == (twice, wrong)
    assert account.failures() == ("1 Why" if failed else "none" if not twice else account.failures())


def test_back_is_when_later_calls_are_answered_and_no_call_fails_any_more() -> None:
    account = Account(calls=[(0, 1, True), (1, 6, False), (2, 9, True), (6, 8, True)])
    assert account.back(5) == 3
    account.calls.append((7, 12, False))
    assert account.back(5) == 7
    assert account.back(5, before=7) == 3
    assert account.back(10) == math.inf
    assert chaos.back(account, [faults.Blow(0), faults.Blow(5)]) == [1, 7]


def test_growth_is_the_slope_of_the_second_half() -> None:
    seconds = np.arange(600.0)
    memory = np.where(seconds < 300, seconds, 300 + (seconds - 300) / 3600)
    growth, error = soak.slope(list(zip(seconds.tolist(), memory.tolist(), strict=True)))
    assert growth == pytest.approx(1)
    assert error == pytest.approx(0, abs=1e-6)


async def test_every_kind_of_call_is_answered_as_is_known(server: RunningServer) -> None:
    questions, account = known(3), Account()
    draw = Draw(questions, seed=1)
    async with AsyncClient(server.target) as client:
        for call in (ask, batch, stream):
            await call(client, draw, account)
            assert (account.once, account.failures()) == (account.ids, "none")
        liars = [
            Question(q.query, q.contexts, [(at, score + 1e-6) for at, score in q.expected]) for q in questions
        ]
        await ask(client, Draw(liars, seed=1), account)
    assert (account.twice, account.wrong) == (0, 1)
