"""Reranker in process: what it ranks, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from rerankd import DeadlineError, InputError, OverloadedError, Ranking, Reranker, Result
from rerankd.ranking import sigmoid
from support import CASES, CONTEXTS, LONG, QUERY, until

# ---- what comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_ranks_by_the_reference_logits(reranker: Reranker, case: int) -> None:
    query, contexts, logits = (CASES[case][part] for part in ("query", "contexts", "logits"))
    ranking = reranker.rank(query, contexts, score="logit")
    assert [result.id for result in ranking] == sorted(range(len(logits)), key=lambda i: -logits[i])
    within = 1e-4 if reranker.engine.dtype == "f32" else 0.05 * np.ptp(logits)
    assert [result.score for result in ranking] == pytest.approx(sorted(logits, reverse=True), abs=within)
    assert ranking.usage.tokens == sum(CASES[case]["tokens"])
    assert ranking.usage.contexts == len(contexts)
    assert ranking.model == "mini-en"
    assert ranking.unscored == ()


def test_a_ranking_is_a_sequence_of_plain_frozen_values(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, [{"text": CONTEXTS[0], "key": "zero"}, CONTEXTS[1]], return_text=True)
    assert isinstance(ranking, Ranking)
    assert len(ranking) == 2
    assert list(ranking) == [ranking[0], ranking[-1]] == list(ranking[:])
    assert ranking[0] in ranking
    assert type(ranking[0].score) is float
    by_id = {result.id: result for result in ranking}
    assert by_id[0] == Result(0, by_id[0].score, "zero", CONTEXTS[0], False)
    assert by_id[1].key == ""
    assert json.loads(json.dumps(ranking.to_dicts()))[0] == {
        "id": ranking[0].id,
        "score": ranking[0].score,
        "key": ranking[0].key,
        "text": ranking[0].text,
        "truncated": False,
    }
    with pytest.raises(AttributeError):
        ranking[0].score = 1.0  # type: ignore[misc]
    assert reranker.rank(QUERY, CONTEXTS)[0].text is None
    assert ranking.timing.total_us >= ranking.timing.queue_us


def test_equal_scores_keep_the_order_given(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, [CONTEXTS[2], CONTEXTS[0], CONTEXTS[2], CONTEXTS[0], CONTEXTS[2]])
    assert [result.id for result in ranking] == [1, 3, 0, 2, 4]
    assert ranking[2].score == ranking[3].score == ranking[4].score


def test_top_k_and_min_score_cut_after_sorting(reranker: Reranker) -> None:
    everything = reranker.rank(QUERY, CONTEXTS)
    assert list(reranker.rank(QUERY, CONTEXTS, top_k=2)) == list(everything[:2])
    assert list(reranker.rank(QUERY, CONTEXTS, top_k=100)) == list(everything)
    # What scored exactly the threshold stays.
    assert list(reranker.rank(QUERY, CONTEXTS, min_score=everything[2].score)) == list(everything[:3])
    assert list(reranker.rank(QUERY, CONTEXTS, top_k=1, min_score=everything[2].score)) == [everything[0]]
    assert list(reranker.rank(QUERY, CONTEXTS, min_score=float("inf"))) == []
    assert len(reranker.rank(QUERY, CONTEXTS, min_score=0, score="logit")) == 2
    assert reranker.rank(QUERY, CONTEXTS, top_k=1).usage == everything.usage


def test_score_and_predict_answer_in_the_order_asked(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, CONTEXTS)
    scores = reranker.score(QUERY, CONTEXTS)
    assert scores.dtype == np.float32
    assert scores.tolist() == [result.score for result in sorted(ranking, key=lambda result: result.id)]

    other = CASES[1]
    pairs = [pair for both in zip(CONTEXTS, other["contexts"], strict=True) for pair in both]
    queries = [QUERY, other["query"]] * len(CONTEXTS)
    predicted = reranker.predict(list(zip(queries, pairs, strict=True)), score="logit")
    assert predicted.dtype == np.float32
    assert predicted[0::2].tolist() == reranker.score(QUERY, CONTEXTS, "logit").tolist()
    assert predicted[1::2].tolist() == reranker.score(other["query"], other["contexts"], "logit").tolist()
    assert reranker.predict([]).tolist() == reranker.score(QUERY, []).tolist() == []


def test_sigmoid_is_exact_and_never_overflows() -> None:
    logits = np.array([-1e4, -104, -20, -1, -0.0, 0, 1e-8, 1, 17, 1e4], np.float32)
    with np.errstate(all="raise", under="ignore"):
        scores = sigmoid(logits)
    assert scores.dtype == np.float32
    assert scores.tolist() == sorted(scores.tolist())
    assert (scores[0], scores[4], scores[5], scores[-1]) == (0, 0.5, 0.5, 1)
    assert scores[3] == np.float32(1 / (1 + np.exp(1)))


def test_no_contexts_make_an_empty_answer(own_reranker: Reranker) -> None:
    own_reranker.drain()  # nor is the engine asked
    ranking = own_reranker.rank(QUERY, [])
    assert (len(ranking), ranking.usage.contexts, ranking.model) == (0, 0, "mini-en")
    assert ranking.to_dicts() == []


def test_contexts_come_from_any_iterable(reranker: Reranker) -> None:
    expected = list(reranker.rank(QUERY, CONTEXTS))
    assert list(reranker.rank(QUERY, (text for text in CONTEXTS))) == expected
    assert list(reranker.rank(QUERY, tuple(CONTEXTS))) == expected
    assert list(reranker.rank(QUERY, ({"text": text, "year": 1999} for text in CONTEXTS))) == expected


def test_truncation_is_told_and_overflow_chosen(reranker: Reranker) -> None:
    contexts = [CONTEXTS[0], CONTEXTS[0] + " bamboo" * 30]
    ranking = reranker.rank(QUERY, contexts, max_tokens=24)
    assert {result.id: result.truncated for result in ranking} == {0: False, 1: True}
    assert ranking.usage.truncated == 1
    with pytest.raises(InputError) as error:
        reranker.rank(QUERY, contexts, max_tokens=24, overflow="reject")
    assert error.value.field == "contexts[1].text"
    chunked = reranker.rank(QUERY, contexts, max_tokens=24, overflow="chunk")
    assert len(chunked) == 2
    assert chunked.usage.tokens > ranking.usage.tokens


async def test_a_budget_buys_what_it_can(own_reranker: Reranker) -> None:
    async with own_reranker.stream(QUERY, LONG[:4], budget_ms=1) as stream:
        stream.close()
        scored = [result.id async for chunk in stream for result in chunk]
    for ranking in (own_reranker.rank(QUERY, LONG[:4], budget_ms=1), stream.ranking):
        assert sorted([result.id for result in ranking] + list(ranking.unscored)) == [0, 1, 2, 3]
        assert list(ranking.unscored) == sorted(ranking.unscored)
        assert ranking.usage.contexts == len(ranking)
        assert ranking.unscored, "a millisecond can't be enough"
    assert sorted(scored) == sorted(result.id for result in stream.ranking)
    assert own_reranker.rank(QUERY, CONTEXTS, budget_ms=3_600_000).unscored == ()


# ---- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("query", {"query": ""}),
        ("query", {"query": b"bytes"}),
        ("query", {"query": None}),
        ("query", {"query": "half a pair \ud83d"}),
        ("contexts", {"contexts": "one string"}),
        ("contexts", {"contexts": b"bytes"}),
        ("contexts", {"contexts": {"text": "one mapping"}}),
        ("contexts", {"contexts": 7}),
        ("contexts", {"contexts": None}),
        ("contexts[1].text", {"contexts": ["fine", ""]}),
        ("contexts[0].text", {"contexts": [{"key": "no text"}]}),
        ("contexts[0].text", {"contexts": [{"text": None}]}),
        ("contexts[1].text", {"contexts": ["fine", 3]}),
        ("contexts[1].text", {"contexts": ["fine", "half a pair \udc00"]}),
        ("contexts[0].key", {"contexts": [{"text": "fine", "key": 3}]}),
        ("top_k", {"top_k": 0}),
        ("top_k", {"top_k": -1}),
        ("top_k", {"top_k": True}),
        ("top_k", {"top_k": 2.0}),
        ("top_k", {"top_k": "3"}),
        ("score", {"score": "softmax"}),
        ("score", {"score": None}),
        ("overflow", {"overflow": "wrap"}),
        ("return_text", {"return_text": "yes"}),
        ("min_score", {"min_score": float("nan")}),
        ("min_score", {"min_score": "0.5"}),
        ("min_score", {"min_score": True}),
        ("min_score", {"min_score": 10**400}),
        ("budget_ms", {"budget_ms": 0}),
        ("budget_ms", {"budget_ms": 1 << 32}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 513}),
        ("priority", {"priority": "urgent"}),
        ("timeout", {"timeout": "soon"}),
        ("timeout", {"timeout": float("nan")}),
    ],
)
async def test_a_bad_argument_is_named(reranker: Reranker, field: str, arguments: dict[str, Any]) -> None:
    given: dict[str, Any] = {"query": QUERY, "contexts": CONTEXTS, **arguments}
    with pytest.raises(ValueError, match=field.partition("[")[0]) as error:
        reranker.rank(**given)
    assert isinstance(error.value, InputError)
    assert error.value.field == field
    assert str(error.value) == f"{field}: {error.value.message}"
    with pytest.raises(InputError) as same:
        await reranker.rank_async(**given)
    assert str(same.value) == str(error.value)
    with pytest.raises(InputError) as streamed:
        reranker.stream(**given)
    assert str(streamed.value) == str(error.value)


@pytest.mark.parametrize("pairs", ["ab", 3, None, {"a": "b"}])
def test_pairs_that_are_none_are_refused(reranker: Reranker, pairs: Any) -> None:
    with pytest.raises(InputError, match=r"^pairs: "):
        reranker.predict(pairs)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", "b", "c"), ("a", 1), (None, "b"), ("", "b"), ("a", "")])
def test_a_bad_pair_is_named(reranker: Reranker, pair: Any) -> None:
    with pytest.raises(InputError, match=r"^pairs\[1\]: "):
        reranker.predict([("a", "b"), pair])


def test_what_the_engine_refuses_names_the_pair(reranker: Reranker) -> None:
    pairs = [("a", "b"), ("long", "fine"), ("a", "c"), ("long", "river " * 20)]
    with pytest.raises(InputError, match=r"^pairs\[3\]: has 2\d tokens"):
        reranker.predict(pairs, overflow="reject", max_tokens=16)
    with pytest.raises(InputError, match=r"^pairs\[2\]: is not valid Unicode"):
        reranker.predict([("a", "b"), ("b", "c"), ("a", "\ud800")])
    with pytest.raises(InputError, match=r"^pairs\[1\]: is not valid Unicode"):
        reranker.predict([("a", "b"), ("\ud800", "c")])
    with pytest.raises(InputError, match=r"^max_tokens: "):
        reranker.predict(pairs, max_tokens=2)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("threads", {"threads": 0}),
        ("threads", {"threads": "2"}),
        ("max_tokens", {"max_tokens": 100_000}),
        ("wave_tokens", {"wave_tokens": True}),
        ("queue_tokens", {"queue_tokens": 0}),
        ("model", {"model": None}),
        ("device", {"device": 0}),
        ("dtype", {"dtype": 32}),
    ],
)
def test_a_bad_setting_is_named(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{field}: "):
        Reranker(**arguments)


async def test_a_full_queue_refuses_and_a_drained_engine_too(own_reranker: Reranker) -> None:
    with Reranker("mini-en", threads=1, queue_tokens=100) as small:
        first = asyncio.create_task(small.rank_async(QUERY, LONG))
        await until(lambda: small.engine.stats()["tickets"] == 1)
        with pytest.raises(OverloadedError) as full:
            small.rank(QUERY, LONG)
        assert full.value.retry_after_ms > 0
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    own_reranker.drain()
    with pytest.raises(OverloadedError):
        own_reranker.rank(QUERY, CONTEXTS)


async def test_work_past_its_deadline_never_reaches_the_model(own_reranker: Reranker) -> None:
    with pytest.raises(DeadlineError):
        own_reranker.rank(QUERY, CONTEXTS, timeout=0)
    first = asyncio.create_task(own_reranker.rank_async("a valley", LONG))
    await until(lambda: own_reranker.engine.stats()["waves"] > 0)
    # One thread, and `first` in turn with this: it can't be done in the time.
    with pytest.raises(DeadlineError):
        await own_reranker.rank_async(QUERY, LONG, timeout=0.05)
    assert own_reranker.engine.stats()["expired"] == 1
    assert own_reranker.engine.stats()["tickets"] == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


# ---- the package ------------------------------------------------------------------------------------------


def test_importing_is_light() -> None:
    program = """
import sys, rerankd
assert not {"numpy", "grpc", "rerankd._core"} & set(sys.modules), "import rerankd"
rerankd.Reranker, rerankd.InputError, rerankd.__version__
assert not {"grpc", "torch", "huggingface_hub"} & set(sys.modules), "rerankd.Reranker"
assert set(rerankd.__all__) <= set(dir(rerankd))
for name in rerankd.__all__:
    getattr(rerankd, name)
try:
    rerankd.nothing
except AttributeError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")
