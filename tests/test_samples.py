"""A user's queries, contexts and labels: what is read, and how what can't be is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import samples
from rerankd.errors import InputError


def read(*lines: str) -> list[samples.Sample]:
    return samples.read("mine.jsonl", range(1, len(lines) + 1), lines)


def test_the_forms_of_a_line() -> None:
    plain, labelled, parallel, mixed = read(
        '{"query": "q", "contexts": ["a", "b"]}',
        '{"query": "q", "contexts": [{"text": "a", "label": 1}, {"text": "b", "label": 0.5}], "id": 7}',
        '{"query": "q", "contexts": ["a", {"text": "b", "key": 3}], "labels": [0, 2]}',
        '{"query": "q", "contexts": ["a", {"text": "b"}]}',
    )
    assert all((sample.query, sample.texts) == ("q", ["a", "b"]) for sample in (plain, labelled, parallel))
    assert (plain.labels, mixed.labels) == (None, None)
    assert (labelled.labels, parallel.labels) == ([1.0, 0.5], [0.0, 2.0])
    assert parallel.where == "line 3 of 'mine.jsonl'"


def labelled(label: str) -> str:
    return f'{{"query": "q", "contexts": [{{"text": "a", "label": 0}}, {{"text": "b", "label": {label}}}]}}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "q", contexts}', ": is not JSON at column 16 (Expecting property name enclosed in"),
        ("[" * 100_000, ": is JSON past what can be read; each line is to be {"),
        ('{"query": ' + "9" * 5000 + "}", ": is JSON past what can be read; each line is to be {"),
        ('["q", "a"]', ": is a list; each line is to be one object, as {"),
        ("{}", ', query: is missing; each line is to be {"query": "...", "contexts": ["...", "..."]}'),
        ('{"contexts": ["a"]}', ", query: is missing; each line is to be {"),
        ('{"query": "", "contexts": ["a"]}', ", query: is empty; give its text"),
        ('{"query": null, "contexts": ["a"]}', ", query: is null; give its text as a string"),
        ('{"query": "q"}', ", contexts: is missing; give a list of one context or more"),
        ('{"query": "q", "contexts": []}', ", contexts: is an empty list; give a list of one context or"),
        ('{"query": "q", "contexts": "a"}', ", contexts: is a string; give a list of one context or more"),
        ('{"query": "q", "contexts": ["a", ""]}', ", contexts[1]: is empty; give its text"),
        ('{"query": "q", "contexts": ["a", 3]}', ", contexts[1]: is the number 3; give its text as a string"),
        ('{"query": "q", "contexts": [{"text": ""}]}', ", contexts[0].text: is empty; give its text"),
        ('{"query": "q", "contexts": [{"txt": "a"}]}', ", contexts[0].text: is missing; each line is to be"),
        ('{"query": "q", "contexts": [{}]}', ", contexts[0].text: is missing; each line is to be"),
        (
            '{"query": "q", "contexts": ["a", "b"], "labels": [1]}',
            ", labels: has length 1, contexts 2; give one label per context",
        ),
        ('{"query": "q", "contexts": ["a"], "labels": null}', ", labels: is null; give a list of numbers"),
        ('{"query": "q", "contexts": ["a"], "labels": {"0": 1}}', ", labels: is an object; give a list of"),
        ('{"query": "q", "contexts": ["a"], "labels": [NaN]}', ", labels[0]: is the number nan; give a numb"),
        (
            '{"query": "q", "contexts": [{"text": "a", "label": 1}], "labels": [1]}',
            ", labels: are given here and as contexts[0].label; keep one of the two",
        ),
        (
            '{"query": "q", "contexts": ["a", {"text": "b", "label": 1}]}',
            ", contexts[0].label: is missing, and contexts[1] has one; label all contexts of a query, 0 for",
        ),
        (
            labelled("NaN"),
            ", contexts[1].label: is the number nan; give a number from 0, not relevant, to 100, or leave "
            "out all labels of the query",
        ),
        (labelled("-1"), ", contexts[1].label: is the number -1; give a number from 0"),
        (labelled("101"), ", contexts[1].label: is the number 101; give a number from 0"),
        (labelled("1e999"), ", contexts[1].label: is a huge number; give a number from 0"),
        (labelled("1" + "0" * 400), ", contexts[1].label: is a huge number; give a number from 0"),
        (labelled("true"), ", contexts[1].label: is true; give a number from 0"),
        (labelled("null"), ", contexts[1].label: is null; give a number from 0"),
        (labelled('"2"'), ", contexts[1].label: is a string; give a number from 0"),
        (labelled("{}"), ", contexts[1].label: is an empty object; give a number from 0"),
    ],
    ids=lambda value: value[:60],
)
def test_a_bad_line_is_named_with_its_field_and_what_to_do(line: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        read('{"query": "q", "contexts": ["a"]}', line)
    assert str(raised.value).startswith("line 2 of 'mine.jsonl'" + says)


def test_an_empty_file() -> None:
    with pytest.raises(InputError, match=r"^FILE: 'mine.jsonl' holds no query; each line of it is to be \{"):
        read()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
TEXT = st.text(max_size=2)
CONTEXT = TEXT | st.fixed_dictionaries(
    {}, optional={"text": TEXT | ANYTHING, "label": st.floats() | ANYTHING}
)
LINE = st.fixed_dictionaries(
    {},
    optional={
        "query": TEXT | ANYTHING,
        "contexts": st.lists(CONTEXT, max_size=3) | ANYTHING,
        "labels": st.lists(st.integers(-1, 3), max_size=3) | ANYTHING,
    },
)


@given(LINE | ANYTHING)
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        (sample,) = read(json.dumps(value))
    except InputError as error:
        refused = error.field
    else:
        assert sample.query
        assert all(sample.texts)
        assert sample.labels is None or len(sample.labels) == len(sample.texts) > 0
        assert all(0 <= label <= 100 for label in sample.labels or ())
        return
    assert refused.startswith("line 1 of 'mine.jsonl'")
