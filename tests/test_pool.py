"""Pool: rerankers that share threads and a queue."""

from __future__ import annotations

import pytest
from rerankd import InputError, OverloadedError, Pool, Reranker
from support import CONTEXTS, LONG, QUERY


@pytest.mark.parametrize("name", ["threads", "wave_tokens", "queue_tokens"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2"])
def test_a_bad_number_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: must be an integer, at least 1; not"):
        Pool(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["threads", "wave_tokens", "queue_tokens"])
def test_what_is_the_pools_is_not_the_rerankers(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: is the pool's"):
        Reranker("mini-en", pool=Pool(1), **{name: 1})  # type: ignore[arg-type]


def test_two_rerankers_share_threads_and_a_queue(reranker: Reranker) -> None:
    want = reranker.score(QUERY, CONTEXTS).tolist()
    pool = Pool(1, queue_tokens=1000)
    with Reranker("mini-en", pool=pool) as one, Reranker("mini-en", pool=pool) as two:
        assert (one.engine.threads, pool.core.threads, pool.core.stats()["threads"]) == (1, 1, 1)
        assert one.score(QUERY, CONTEXTS).tolist() == two.score(QUERY, CONTEXTS).tolist() == want
        assert one.engine.stats()["pairs"] == two.engine.stats()["pairs"] == 4
        # What either of them holds is not there for the other.
        from rerankd._core import Completions  # noqa: PLC0415 - the boundary itself, where nothing waits

        ticket = one.engine.submit(Completions(), QUERY, LONG)
        with pytest.raises(OverloadedError):
            two.rank(QUERY, LONG)
        one.engine.cancel(ticket)
        assert two.score(QUERY, CONTEXTS).tolist() == want
        # A reranker that is closed leaves the threads to the others.
        one.close()
        with pytest.raises(OverloadedError):
            one.rank(QUERY, CONTEXTS)
        assert two.score(QUERY, CONTEXTS).tolist() == want
    pool.close()
    assert pool.core.stats()["threads"] == 0


def test_what_was_counted_adds_up(own_reranker: Reranker) -> None:
    own_reranker.rank(QUERY, CONTEXTS)
    own_reranker.rank(QUERY, CONTEXTS[:1])
    stats, histograms = own_reranker.engine.stats(), own_reranker.engine.histograms()
    bounds, counts, total = histograms["wave_tokens"]
    assert (sum(counts), total, len(counts)) == (stats["waves"], stats["tokens"], len(bounds) + 1)
    assert bounds == sorted(bounds)
    assert sum(histograms["queue_us"][1]) == 2
