"""`rerankd compare`: what it measures, and how it tells it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import Reranker, agreement, compare, compare_command, samples, table
from rerankd.errors import InputError, InternalError
from rerankd.ranking import sigmoid
from support import EMBEDDED
from test_cli import bare, fails, ok, on_a_terminal, run

EXAMPLE = Path(__file__).parents[1] / "examples" / "compare.jsonl"


def read(*lines: str) -> list[samples.Sample]:
    return samples.read("mine.jsonl", range(1, len(lines) + 1), lines)


# ---- the measurement --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> list[samples.Sample]:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    return samples.read("compare.jsonl", range(1, len(lines) + 1), lines)


def test_a_model_agrees_with_itself(reranker: Reranker, judged: list[samples.Sample]) -> None:
    told: list[str] = []
    found = compare.compare(judged, reranker, reranker, top_k=3, runs=2, tell=told.append)
    assert (found.queries, found.contexts, found.truncated) == (8, 42, 0)
    assert found.tokens == sum(reranker.rank(s.query, s.texts).usage.tokens for s in judged)
    assert dataclasses.astuple(found.scores) == (0, 0, 0)
    assert dataclasses.astuple(found.logits)[:3] == (0, 0, 0)
    assert (found.logits.mean_of_spread, found.logits.max_of_spread) == (0, 0)
    assert found.logits.spread > 0
    assert found.top_1_changed == compare.Mean(8, 0)
    assert found.top_k_overlap == found.tau_b == compare.Mean(8, 1)
    # One of the eight has no labels.
    assert (found.ndcg.queries, found.ndcg.difference) == (7, 0)
    assert found.ndcg.dtype == found.ndcg.against
    scoring = f"scoring with {reranker.engine.dtype}"
    assert told == [scoring] * 2 + ["measuring speed, run 1 of 2", "measuring speed, run 2 of 2"]


def test_what_differs_is_measured(reranker: Reranker, judged: list[samples.Sample]) -> None:
    """The same model with texts cut short: scores that differ as those of a bad precision would."""
    with Reranker("mini-en", max_tokens=14) as short:
        found = compare.compare(judged, short, reranker, top_k=3, runs=1)
        both = [[side.score(s.query, s.texts, "logit") for s in judged] for side in (short, reranker)]
    all_new, all_old = (np.concatenate(side) for side in both)
    assert found.scores == agreement.difference(sigmoid(all_new), sigmoid(all_old))
    assert found.scores.max > found.scores.mean > 0
    assert found.logits.max == pytest.approx(float(np.abs(all_new.astype(np.float64) - all_old).max()))
    assert found.logits.spread == pytest.approx(all_old.std(), rel=1e-5)
    assert found.logits.max_of_spread == pytest.approx(found.logits.max / found.logits.spread)

    taus = [agreement.tau_b(*pair) for pair in zip(*both, strict=True)]
    assert found.tau_b.mean == pytest.approx(np.mean([tau for tau in taus if tau is not None]))
    assert found.tau_b != compare.Mean(8, 1)
    changed = [np.argmax(a) != np.argmax(b) for a, b in zip(*both, strict=True)]
    assert found.top_1_changed == compare.Mean(8, float(np.mean(changed)))
    labelled = [(at, np.array(sample.labels)) for at, sample in enumerate(judged) if sample.labels]
    ndcg = [
        sum(agreement.ndcg(labels, side[at], 3) or 0 for at, labels in labelled) / len(labelled)
        for side in both
    ]
    assert [found.ndcg.dtype, found.ndcg.against] == pytest.approx(ndcg)
    assert found.ndcg.difference == pytest.approx(ndcg[0] - ndcg[1])


def test_speed(reranker: Reranker, judged: list[samples.Sample]) -> None:
    with Reranker("mini-en", max_tokens=8) as short:
        speed = compare.compare(judged, short, reranker, runs=3).speed
    assert speed.runs == 3
    assert speed.ratio_min <= speed.ratio <= speed.ratio_max
    # It has less than half of the tokens to read.
    assert speed.ratio > 1
    assert speed.dtype.pairs_per_second > speed.against.pairs_per_second > 0
    ratio = speed.against.tokens_per_second / speed.against.pairs_per_second
    assert ratio == pytest.approx(sum(reranker.rank(s.query, s.texts).usage.tokens for s in judged) / 42)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 50)), min_size=1, max_size=8), st.integers(1, 99))
def test_turns_hold_every_pair_as_often_and_are_long_enough(sizes: list[tuple[int, int]], least: int) -> None:
    made = [samples.Sample("", str(at), ["t"] * contexts, None) for at, (contexts, _) in enumerate(sizes)]
    tokens = [count for _, count in sizes]
    turns, repeats = compare._turns(made, tokens, least)
    assert [pair for turn in turns for pair in turn] == [
        pair for sample in made for pair in [(sample.query, "t")] * len(sample.texts) * repeats
    ]
    assert sum(tokens) * (repeats - 1) < least <= sum(tokens) * repeats
    of_query = {sample.query: count * repeats for sample, count in zip(made, tokens, strict=True)}
    held = [sum(of_query[query] for query in {query for query, _ in turn}) for turn in turns]
    assert all(count >= least for count in held[:-1])
    assert all(turns)


def test_questions_that_do_not_arise(reranker: Reranker) -> None:
    alone = read('{"query": "q", "contexts": ["a"]}', '{"query": "r", "contexts": ["a"], "labels": [0]}')
    found = compare.compare(alone, reranker, reranker, runs=1)
    nothing = compare.Mean(0, None)
    assert found.top_1_changed == found.top_k_overlap == found.tau_b == nothing
    assert found.ndcg == compare.Quality(0, None, None, None)
    shown = "\n".join(compare_command.lines(found, table.Screen(100, unicode=False, colour=False)))
    assert re.search(r"^top-1 changed +- +no query has two contexts$", shown, re.MULTILINE)
    assert re.search(r"^top-10 overlap +- +no query has more than 10 contexts$", shown, re.MULTILINE)
    assert re.search(r"^nDCG@10 +- +no query has a label above 0$", shown, re.MULTILINE)
    one = compare.compare(alone[:1], reranker, reranker, runs=1)
    assert (one.logits.spread, one.logits.mean_of_spread, one.logits.max_of_spread) == (0, None, None)
    shown = "\n".join(compare_command.lines(one, table.Screen(100, unicode=False, colour=False)))
    assert "\n1 query - 1 context - " in shown
    assert "the logits are all the same" in shown


def test_what_the_engine_refuses_is_named_by_its_line(reranker: Reranker) -> None:
    with pytest.raises(
        InputError, match=r"^line 2 of 'mine.jsonl', contexts\[1\].text: is not valid Unicode"
    ):
        compare.compare(
            read('{"query": "q", "contexts": ["a"]}', r'{"query": "q", "contexts": ["a", "\ud800"]}'),
            reranker,
            reranker,
        )
    (sample,) = read('{"query": "q", "contexts": ["a"]}')
    # Not the line's fault.
    assert sample.blame(InputError("max_tokens", "is 3")).field == "max_tokens"


def test_a_precision_that_can_not_score_is_named(tmp_path: Path) -> None:
    """A checkpoint whose head gives NaN stands for a precision too narrow for its model."""
    broken = shutil.copytree(EMBEDDED, tmp_path / "broken")
    weights = bytearray((broken / "model.safetensors").read_bytes())
    begin = 8 + int.from_bytes(weights[:8], "little")
    bias = json.loads(weights[8:begin])["classifier.bias"]
    at = begin + bias["data_offsets"][0]
    weights[at : at + 2] = np.float16(np.nan).tobytes()
    (broken / "model.safetensors").write_bytes(weights)
    with (
        Reranker(broken, dtype="f32") as reranker,
        pytest.raises(InternalError, match=r"^line 1 of 'mine.jsonl', f32: the model gave NaN"),
    ):
        compare.compare(read('{"query": "q", "contexts": ["a"]}'), reranker, reranker)


# ---- the command ------------------------------------------------------------------------------------------


def shape(value: object) -> object:
    return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else None


def test_json_is_one_object_of_the_documented_shape() -> None:
    answer = json.loads(ok("compare", "--dtype", "f32", str(EXAMPLE), "--runs", "1", "--top-k=3", "--json"))
    documented = re.search(r'\{"model".*"ratio_max"\}\}', compare_command.OUTPUT, re.DOTALL)
    assert documented is not None
    rate = '{"pairs_per_second", "tokens_per_second"}'
    keys = re.sub(r'(?<=[{ ])("\w+")(?=[,}])', r"\1: null", documented[0].replace("RATE", rate))
    assert shape(answer) == shape(json.loads(keys))
    assert (answer["model"], answer["dtype"], answer["against"]) == ("mini-en", "f32", "f32")
    assert (answer["scores"]["max"], answer["tau_b"]) == (0, {"queries": 8, "mean": 1})
    assert answer["ndcg"]["against"] > 0.8
    assert 0 < answer["speed"]["ratio_min"] <= answer["speed"]["ratio_max"]


def test_int8_is_compared_with_f32() -> None:
    done = run("compare", "--dtype", "int8", str(EXAMPLE), "--runs", "1", "--json")
    if done.returncode == 1 and "dtype int8: " in done.stderr:
        pytest.skip("this machine has no instructions for int8")
    answer = json.loads(done.stdout)
    assert (answer["dtype"], answer["against"]) == ("int8", "f32")
    assert 0 < answer["scores"]["mean"] < answer["scores"]["max"] < 0.2
    assert answer["tau_b"]["mean"] > 0.8
    assert abs(answer["ndcg"]["difference"]) < 0.1


def test_the_standard_input_is_compared_and_a_pipe_gets_the_whole_table() -> None:
    text = EXAMPLE.read_text("utf-8")
    flags = ("--dtype=f32", "--runs=1", "--top-k", "3", "--threads=1", "--max-tokens=16")
    shown = ok("compare", *flags, stdin="\n" + text)
    lines = shown.splitlines()
    assert re.fullmatch(r"mini-en · f32 against f32 again · cpu \(\w+\) · 1 thread", lines[0])
    assert re.fullmatch(r"8 queries · 42 contexts · 6\d\d tokens · \d+ truncated", lines[1])
    figures = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in lines[3:18]}
    assert figures["score difference, max"] == ["0.000000"]
    assert figures["top-1 changed"] == ["0.00%", "another context is first; 8 queries"]
    assert figures["top-3 overlap"] == ["1.0000", "share of the best 3 in both; 8 queries"]
    assert figures["Kendall's tau-b"] == ["1.0000", "1: same order, -1: reversed; 8 queries"]
    assert figures["nDCG@3, difference"] == ["+0.0000", "below 0, f32 ranks worse"]
    assert re.fullmatch(r"times as fast as f32 again; [\d.]+ to [\d.]+ in 1 run", figures["speed, ratio"][1])
    assert lines[18].startswith(
        "Both sides are f32: what differs is the noise of this machine. Judge by nDCG"
    )


@pytest.mark.parametrize("columns", [40, 80])
def test_the_table_fits_its_terminal(columns: int) -> None:
    lines = on_a_terminal("compare", str(EXAMPLE), "--dtype=f32", "--runs", "1", columns=columns)
    # What was told while it ran, each from the line's beginning, and in the end nothing over it.
    told = [line.rstrip() for line in lines[:5]]
    assert told == ["", "scoring with f32", "scoring with f32", "measuring speed, run 1 of 1", ""]
    assert bare(lines[5]).startswith("mini-en · f32 against f32 again")
    assert max(table.width(bare(line)) for line in lines) <= columns


def test_the_two_sides_are_told_apart_by_their_precisions(
    reranker: Reranker, judged: list[samples.Sample]
) -> None:
    found = compare.compare(judged, reranker, reranker, runs=1)
    other = dataclasses.replace(
        found,
        dtype="int8",
        against="f32",
        kernels=compare.Kernels("vnni", "avx2"),
        ndcg=dataclasses.replace(found.ndcg, difference=-0.00001),
    )
    shown = "\n".join(compare_command.lines(other, table.Screen(100, unicode=True, colour=False)))
    for part in (
        "int8 against f32 · cpu (vnni against avx2) · ",
        "nDCG@10, int8 ",
        "nDCG@10, f32 ",
        "speed, int8 ",
        "speed, f32 ",
    ):
        assert part in shown
    assert re.search(r"difference +\+0\.0000 +below 0, int8 ranks worse", shown)
    assert "f32 again" not in shown
    assert "Both sides" not in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        ([], '{"query": "q"}', "line 1 of '-', contexts: is missing; give a list of one context or more"),
        ([], "\n\n{}\n", "line 3 of '-', query: is missing; each line is to be {"),
        ([], "\n \n", "FILE: '-' holds no query; each line of it is to be {"),
        (["/no/such/file"], "", "FILE: can't read '/no/such/file': No such file or directory"),
        (["--top-k", "0"], "", "top_k: '0' (from --top-k) is not legal; it must be an integer from 1 to"),
        (
            ["--runs", "few"],
            "",
            "runs: 'few' (from --runs) is not legal; it must be an integer from 1 to 1000",
        ),
        (
            ["--against", "f31"],
            "",
            "against: 'f31' (from --against) is not legal; it must be one of auto, f32",
        ),
        (["--dtype", "f31"], "", "dtype: 'f31' (from --dtype) is not legal; it must be one of auto, f32"),
        (["--model=a", "--model=b"], "", "model: one model is compared with itself, and here are 2"),
        (
            ["--max-tokens", "3"],
            '{"query": "q", "contexts": ["a"]}',
            "max_tokens: is 3; a pair takes at least",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_code_2(arguments: list[str], stdin: str, says: str) -> None:
    assert fails(2, "compare", *arguments, stdin=stdin).startswith("rerankd compare: " + says)


def test_a_line_that_is_not_utf_8() -> None:
    said = fails(2, "compare", stdin=b'{"query": "q", "contexts": ["a"]}\nd\xe9j\xe0 vu\n')
    assert said == "rerankd compare: FILE: line 2 of '-' is not UTF-8\n"
