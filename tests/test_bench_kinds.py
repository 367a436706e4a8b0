"""Rates, mixes and ranges of words, as flags say them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankd import bench_kinds

weights = st.floats(0.001, 1000).map(lambda value: round(value, 4))


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 99_999), weights, min_size=1, max_size=6))
def test_a_mix_is_read_as_it_is_written(mix: dict[int, float]) -> None:
    text = ",".join(f"{contexts}:{weight:.4f}" for contexts, weight in mix.items())
    assert bench_kinds.parse_mix(text) == tuple(bench_kinds.Share(*each) for each in mix.items())


def test_a_size_alone_weighs_one() -> None:
    assert bench_kinds.parse_mix("20") == (bench_kinds.Share(20, 1.0),)
    assert bench_kinds.parse_mix("5, 100:.5") == (bench_kinds.Share(5, 1.0), bench_kinds.Share(100, 0.5))


@pytest.mark.parametrize(
    "text", ["", "5:", "0:1", "5:0", "5:1,5:2", "5:-1", "a:1", "5:1,", "5:1e3", "100000", "5:nan"]
)
def test_what_is_no_mix_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a kind says no more
        bench_kinds.parse_mix(text)


def test_rates() -> None:
    assert bench_kinds.Rate.parse("50") == bench_kinds.Rate(50.0, False)
    assert bench_kinds.Rate.parse("0.7x") == bench_kinds.Rate(0.7, True)
    assert [str(bench_kinds.Rate.parse(text)) for text in ("50.0", "3x")] == ["50", "3x"]
    for text in ("", "0", "0x", "-1", "x", "1e3", "nan", "inf", "3 x", "3X", "9" * 400):
        with pytest.raises(ValueError):  # noqa: PT011
            bench_kinds.Rate.parse(text)


def test_words() -> None:
    assert bench_kinds.parse_words("20-120") == (20, 120)
    assert bench_kinds.parse_words("7") == (7, 7)
    for text in ("", "0", "5-4", "0-4", "4-", "-4", "100000"):
        with pytest.raises(ValueError):  # noqa: PT011
            bench_kinds.parse_words(text)
