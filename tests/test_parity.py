"""Scores: the reference against what transformers computed, the engine against both, and the engine against
itself.

The goldens' logits are transformers' in float64, each pair alone. The reference agrees with them to rounding,
which makes it an oracle for any other text; the engine, in f32, to 1e-4.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference
from rerankd import Reranker

HERE = Path(__file__).parent
MINI_EN = HERE.parent / "python" / "rerankd" / "models" / "mini-en"
NAMES = ("bert", "bert-sbert-identity", "xlm-roberta", "roberta", "electra", "distilbert", "mini-en")
# One of each family; mini-en's float64 reference is too slow for many pairs.
SMALL = NAMES[:-1]
TOLERANCE = 1e-4


def directory(name: str) -> Path:
    return MINI_EN if name == "mini-en" else HERE / "golden" / name


def cases(name: str) -> list[dict[str, Any]]:
    """A list of {query, contexts, logits, tokens}."""
    file = HERE / "golden" / ("mini-en-cases.json" if name == "mini-en" else f"{name}/cases.json")
    read: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return read


@functools.cache
def reference(name: str) -> Reference:
    return Reference(directory(name))


@functools.cache
def reranker(name: str, threads: int = 2) -> Reranker:
    return Reranker(directory(name), device="cpu", dtype="f32", threads=threads)


# ---- against the goldens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_computes_the_goldens_to_rounding(name: str) -> None:
    oracle = reference(name)
    for case in cases(name):
        for context, logit, tokens in zip(case["contexts"], case["logits"], case["tokens"], strict=True):
            assert len(oracle.encode(case["query"], context)[0]) == tokens
            if name == "mini-en" and tokens > 64:
                continue  # minutes of float64
            assert oracle.logit(case["query"], context) == pytest.approx(logit, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_computes_the_goldens(name: str) -> None:
    for case in cases(name):
        scores = reranker(name).score(case["query"], case["contexts"], score="logit")
        np.testing.assert_allclose(scores, case["logits"], rtol=0, atol=TOLERANCE)
        # The usage tells the tokens of a request, not of a context: one at a time.
        for context, logit, tokens in zip(case["contexts"], case["logits"], case["tokens"], strict=True):
            ranking = reranker(name).rank(case["query"], [context], score="logit")
            assert ranking.usage.tokens == tokens
            assert ranking[0].score == pytest.approx(logit, abs=TOLERANCE)


# ---- against the reference --------------------------------------------------------------------------------

# Any text; words, so that pieces longer than a letter occur; and runs long enough to be truncated, on either
# side.
WORDS = st.sampled_from(
    [
        "the",
        "a",
        "of",
        "pizza",
        "library",
        "Größe",
        "naïve",
        "мир",
        "東京",
        "مرحبا",
        "🔥",
        "½",
        "ﬁ",
        "don't",
        "x1",
        "...",
    ]
)
TEXT = st.one_of(
    st.text(min_size=1, max_size=60),
    st.lists(WORDS, min_size=1, max_size=30).map(" ".join),
    st.builds(lambda word, times: f"{word} " * times, WORDS, st.integers(1, 200)),
)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=40, deadline=None)
@given(query=TEXT, contexts=st.lists(TEXT, min_size=1, max_size=4))
def test_the_engine_agrees_with_the_reference_on_any_text(name: str, query: str, contexts: list[str]) -> None:
    expected = [reference(name).logit(query, context) for context in contexts]
    scores = reranker(name).score(query, contexts, score="logit")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("text", ["[SEP]", "</s>", "<pad>", "[PAD] a [CLS]", "<mask>x", "a<pad>b <s>"])
def test_a_text_that_spells_special_tokens_is_read_as_transformers_reads_it(name: str, text: str) -> None:
    for query, context in ((text, "plain"), ("plain", text), (text, text)):
        expected = reference(name).logit(query, context)
        score = reranker(name).score(query, [context], score="logit")[0]
        assert score == pytest.approx(expected, abs=TOLERANCE)


# ---- against itself ---------------------------------------------------------------------------------------


def bits(name: str, threads: int, query: str, contexts: list[str]) -> list[int]:
    scores = reranker(name, threads).score(query, contexts, score="logit")
    return [int(score) for score in scores.view(np.uint32)]


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_alone_equals_the_pair_in_any_batch_to_the_bit(name: str) -> None:
    """Whatever shares the wave, in whatever order, on one thread or two, or under another query's ticket."""
    rng = np.random.default_rng(5)
    contexts = [context for case in cases(name) for context in case["contexts"]]
    query = cases(name)[0]["query"]
    alone = [bits(name, 2, query, [context])[0] for context in contexts]
    for threads in (1, 2):
        assert [bits(name, threads, query, [context])[0] for context in contexts] == alone
        for _ in range(4):
            order = rng.permutation(len(contexts))[: rng.integers(2, len(contexts) + 1)].tolist()
            assert bits(name, threads, query, [contexts[i] for i in order]) == [alone[i] for i in order]
        pairs = [(["other", query][i % 2], context) for i, context in enumerate(contexts)]
        mixed = reranker(name, threads).predict(pairs, score="logit").view(np.uint32).tolist()
        assert mixed[1::2] == alone[1::2]


@pytest.mark.parametrize("name", ["bert", "roberta"])
@settings(max_examples=30, deadline=None)
@given(query=TEXT, contexts=st.lists(TEXT, min_size=2, max_size=12), data=st.data())
def test_any_texts_score_the_same_in_any_order(
    name: str, query: str, contexts: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(contexts))))
    together = bits(name, 2, query, contexts)
    assert bits(name, 1, query, [contexts[i] for i in order]) == [together[i] for i in order]
    assert bits(name, 1, query, contexts[:1]) == together[:1]
