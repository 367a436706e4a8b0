"""The benches where they compute and decide, without what they measure."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rerankd.v1 import rerank_pb2 as pb
from support import RunningServer

from benches import accuracy, choices, overhead, questions, race, report, serving
from benches.contenders import NAMES
from benches.corpus import WORKLOADS, Workload
from benches.environment import MADE_BY, ROOT
from benches.lean import Lean
from benches.race import BATCHES, PEERS, Entry
from benches.worker import folders

WORKLOAD: Workload = WORKLOADS["bge-base, 16 x 128"]
TOKENS = 16 * 128


def entry(contender: str, score: list[float], tokenize: float = 0.0, batch: int = 1) -> Entry:
    return Entry(contender, contender, batch, score, [tokenize] * len(score))


ENTRIES = [
    entry("pytorch f32", [4.0, 4.0, 4.0]),
    entry("rerankd int8", [0.5, 1.0, 0.5]),
    # Noise that hits a round hits ours and the peer alike: the ratio of the medians would be 2.0, or 1.0.
    entry("onnxruntime f32", [2.0, 4.0, 3.0], tokenize=1.0),
    entry("rerankd f32", [1.0, 2.0, 2.0]),
    entry("onnxruntime int8", [1.0, 2.0, 1.5]),
]


def test_ours_come_first_and_beside_their_peers() -> None:
    assert [it.contender for it in race.turns(ENTRIES)] == [
        "rerankd f32",
        "pytorch f32",
        "onnxruntime f32",
        "rerankd int8",
        "onnxruntime int8",
    ]


def test_ratios_are_of_rounds_and_of_one_precision() -> None:
    rows = {row[0]: row for row in race.rows(WORKLOAD, ENTRIES)}
    assert rows["rerankd f32"][-2:] == ["1.00", "1.00"]
    assert rows["onnxruntime f32, batches of 1"][-2:] == ["2.00", "2.50"]
    assert rows["onnxruntime int8, batches of 1"][-2:] == ["2.00", "2.00"]
    assert rows["pytorch f32, batches of 1"][1:4] == ["4.0", f"{TOKENS / 4:.0f}", f"{TOKENS / 4:.0f}"]
    assert all(len(row) == len(race.HEADER) for row in rows.values())


def test_without_ours_there_is_no_ratio() -> None:
    peers = [it for it in ENTRIES if not it.ours]
    assert [row[-2:] for row in race.rows(WORKLOAD, peers)] == [["", ""]] * 3
    assert race.summary(peers) == []


def test_the_summary_takes_the_fastest_peer() -> None:
    assert race.summary(ENTRIES) == [
        [
            "rerankd f32",
            "the fastest f32 peer: onnxruntime f32, batches of 1",
            "2.00",
            "1.50 to 2.00",
            "2.50",
        ],
        ["rerankd int8", "onnxruntime int8, batches of 1", "2.00", "2.00 to 3.00", "2.00"],
        [
            "rerankd int8",
            "the fastest f32 peer: onnxruntime f32, batches of 1",
            "4.00",
            "4.00 to 6.00",
            "6.00",
        ],
    ]


def test_the_search_finds_the_best_in_noise() -> None:
    calls: Counter[tuple[str, int]] = Counter()

    def timed(name: str, batch: int) -> float:
        calls[name, batch] += 1
        # The first pass of b's best is a slow one.
        noise = 1.4 if (name, batch, calls[name, batch]) == ("b", 2, 1) else 1.0
        return noise * {"a": 1.1, "b": 1.0}[name] * {1: 1.2, 2: 1.0, 4: 1.15, 8: 2.0, 32: 9.0}[batch]

    keys = [(name, batch) for name in "ab" for batch in BATCHES]
    best = race.search(timed, keys)
    assert min(best, key=best.__getitem__) == ("b", 2)
    assert set(best) == set(keys)
    assert calls["b", 8] == calls["b", 32] == 1
    assert calls["b", 2] == 3


def test_batches_that_are_mostly_padding_are_not_tried() -> None:
    assert race.batches([128] * 16) == list(BATCHES)
    assert race.batches(WORKLOADS["bge-base, 32 mixed"].lengths()) == [1, 2, 4, 8]
    assert race.batches(WORKLOADS["minilm-l6, 100 of 64-200"].lengths()) == list(BATCHES)


def test_every_way_of_every_peer_can_be_run() -> None:
    for peer in PEERS:
        for flags in (set[str](), {"avx512_vnni"}):
            for way in race.ways(peer, flags):
                assert way in NAMES
                assert race.precision(way) == race.precision(peer)
    assert race.ways("onnxruntime int8", {"avx2"}) != race.ways("onnxruntime int8", {"avx2", "avx_vnni"})
    assert folders(list(NAMES)) == set(MADE_BY)
    for module in MADE_BY.values():
        assert (ROOT / "benches" / f"{module}.py").is_file()


def test_the_recorded_command_names_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "/home/me/benches/peers.py",
        "--workload",
        "bge-base, 32 mixed",
        "--peers-python",
        "/opt/p",
        "--record",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert report.command() == "python -m benches.peers --workload 'bge-base, 32 mixed'"
    assert report.slug("bge-base, 16 x 128") == "bge-base-16-x-128"


def test_errors_of_logits() -> None:
    reference = np.array([[2.0, 0.0, -2.0], [0.1, 0.0, -1.0]])
    none = accuracy.Error.of(reference, reference)
    assert none == accuracy.Error(0.0, 0.0, 0.0, 0.0)
    logits = reference + np.array([[0.4, 0.0, 0.0], [0.0, 0.2, 0.0]])
    error = accuracy.Error.of(logits, reference)
    assert error.changed == 0.5
    assert error.mean_logit == pytest.approx(0.6 / 6 / 4)
    assert error.max_score == pytest.approx(1 / (1 + np.exp(-0.2)) - 0.5)
    worse = accuracy.Error(error.mean_score * 4, 1.0, 1.0, 1.0)
    assert accuracy.verdict(error, [worse, error, worse]) == [
        ["mean error of a score", "0.25", "1.00", "at most 0.5"],
        ["first places changed", "0.50", "1.00", "at most 0.5"],
    ]
    assert accuracy.verdict(none, [none])[0][1] == "no error there"
    assert "0 to 0.05: 0%" in accuracy.distribution(reference)


def test_facts_are_complete() -> None:
    for domain in questions.read():
        assert len(domain.attributes) == 4, domain.name
        assert len(domain.things) > 5, domain.name
        for attribute in domain.attributes:
            assert len(attribute.questions) == len(attribute.statements) == 3, attribute.name
            assert all("{v}" not in template for template in attribute.questions)
            assert all("{v}" in template for template in attribute.statements)
        assert {len(values) for values in domain.things.values()} == {4}, domain.name


def test_questions_are_the_same_every_time_and_all_different() -> None:
    made = questions.groups(150)
    assert made == questions.groups(150)
    assert made != questions.groups(150, seed=12)
    assert len({query for query, _ in made}) == 150
    for _, contexts in made:
        assert len(contexts) == len(set(contexts)) == questions.CONTEXTS
        assert not any("{" in context for context in contexts)
    with pytest.raises(ValueError, match="count: there are"):
        questions.groups(10_000)


def test_cpu_is_told_apart_by_thread() -> None:
    before = {"1 python": 100, "2 rerankd-0": 50, "3 a (b) c": 7}
    after = {"1 python": 104, "2 rerankd-0": 90, "3 a (b) c": 8, "4 rerankd-1": 55}
    assert overhead.outside(before, after) == pytest.approx(5 / 100)
    assert overhead.outside(before, before) == 1.0  # nothing was spent: no claim that the engine did
    worked, end = threading.Event(), threading.Event()

    def work() -> None:
        while time.thread_time() < 0.05:
            pass
        worked.set()
        end.wait()

    begun = overhead.cpu(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    worked.wait()
    spent = overhead.cpu(os.getpid())
    end.set()
    thread.join()
    key = next(key for key in spent if key.startswith(f"{thread.native_id} "))
    assert key not in begun
    assert spent[key] >= 3  # ticks of 10 ms


def test_a_waves_time() -> None:
    # 2 threads at 51,200 tokens a second together: each 25,600, which is 100 waves.
    assert serving.wave_milliseconds(51_200, 2) == pytest.approx(10.0)
    assert serving.milliseconds([0.001, 0.002, 0.003], 50) == pytest.approx(2.0)
    assert np.isnan(serving.milliseconds([], 50))


def test_choices_are_kept_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    first = choices.Choices(path, "mixed, 2 threads")
    assert not first.known
    assert first.get("openvino f32") is None
    first.keep("openvino f32", choices.Choice("openvino f32, from PyTorch", 2))
    again = choices.Choices(path, "mixed, 2 threads")
    assert again.known
    assert again.get("openvino f32") == choices.Choice("openvino f32, from PyTorch", 2)
    assert not choices.Choices(path, "mixed, 1 threads").known
    nowhere = choices.Choices(None, "mixed, 2 threads")
    nowhere.keep("openvino f32", choices.Choice("openvino f32", 1))
    assert nowhere.get("openvino f32") is None


def test_the_peers_are_pinned() -> None:
    lines = (ROOT / "benches" / "peers-requirements.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert {pin.split("==")[0] for pin in pins} >= {"numpy", "onnxruntime", "openvino", "torch", "matplotlib"}


def test_the_lean_client_is_answered_call_after_call_and_told_when_a_call_fails(
    server: RunningServer,
) -> None:
    message = pb.RerankRequest(query="bread", contexts=[pb.Context(text="a loaf")]).SerializeToString()
    with Lean(server.target, overhead.METHOD) as client:
        scores = [pb.RerankResponse.FromString(client.call(message)).results[0].score for _ in range(3)]
        assert len(set(scores)) == 1
        assert client.call(pb.RerankRequest(contexts=[pb.Context(text="a")]).SerializeToString()) == b"", (
            "no query"
        )
        assert client.call(message), "the connection is as it was"
