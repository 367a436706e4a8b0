"""Made-up text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rerankd.bench_text import Writer
from rerankd.reranker import Reranker


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 99))
def test_text_has_as_many_words_as_asked_for(low: int, more: int, seed: int) -> None:
    writer, again = Writer((low, low + more), seed), Writer((low, low + more), seed)
    for _ in range(5):
        query, context = writer.query(), writer.context()
        assert (query, context) == (again.query(), again.context())
        assert low <= len(context.split()) <= low + more
        assert 3 <= len(query.split()) <= 10
        assert query.endswith("?")
        assert context.endswith(".")
        assert context[0].isupper()


def test_words_are_words_to_a_tokenizer(reranker: Reranker) -> None:
    """Made-up text that falls to pieces would cost more than a user's: English has some 1.3 tokens a word."""
    writer = Writer((100, 100), 1)
    query, contexts = writer.query(), [writer.context() for _ in range(10)]
    usage = reranker.rank(query, contexts).usage
    words = sum(len(text.split()) + len(query.split()) for text in contexts)
    assert 1.0 < usage.tokens / words < 1.6
