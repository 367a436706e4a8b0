"""What the GPU's check counts and decides."""

from __future__ import annotations

import numpy as np

from benches import gpu_check, gpu_figures
from benches.checkpoints import BGE_BASE, MINILM_L6
from benches.gpu_figures import Parity, batches, operations, parity, utilization


def test_operations_are_those_of_the_shape() -> None:
    # 22.4 GFLOP for all 12 layers, of which the last leaves out all but keys and values.
    whole = operations(BGE_BASE, 128) / 1e9
    assert 20.5 < whole < 22.4
    linear = 24 * 768 * 768 * 128 * 12 / 1e9
    assert abs(operations(BGE_BASE, 512) / 4 / 1e9 - whole) > 1, "attention grows with the square"
    assert whole < linear * 1.05
    assert operations(MINILM_L6, 128) < operations(BGE_BASE, 128) / 7


def test_utilization_is_of_the_peak_that_is_known() -> None:
    lengths = [128] * 1000
    seconds = sum(operations(BGE_BASE, 128) for _ in lengths) / 989e12
    used = utilization(BGE_BASE, lengths, 2 * seconds, "NVIDIA H200, 570.86")
    assert used is not None
    assert abs(used - 0.5) < 1e-9
    assert utilization(BGE_BASE, lengths, seconds, "Voodoo 2") is None


def test_batches_have_all_pairs_once_and_keep_to_their_tokens_padded() -> None:
    lengths = gpu_figures.mixed(300)
    made = batches(lengths, tokens=4096)
    assert sorted(at for batch in made for at in batch) == list(range(300))
    assert all(len(batch) * max(lengths[at] for at in batch) <= 4096 for batch in made)
    assert len(made) < 20
    assert batches([9000, 10], tokens=4096) == [[0], [1]], "one that is longer goes alone"
    assert batches([1, 3, 2, 5, 4], pairs=2) == [[3, 4], [1, 2], [0]]


def test_parity_counts_scores_and_first_places() -> None:
    assert parity([[0.0, 1.0]], [[0.0, 1.0]]) == Parity(0.0, 0, 1)
    found = parity([[2.0, 1.0], [3.0, 0.0]], [[1.0, 2.0], [3.0, 0.5]])
    assert (found.changed, found.queries) == (1, 2)
    assert found.fails(gpu_figures.bar("mini-en", "bf16"))
    close = parity([[1.0, 1.00001]], [[1.00001, 1.0]])
    assert close.changed == 0, "the reference can't tell them apart"
    assert not close.fails(gpu_figures.bar("bert", "f32"))
    assert not Parity(1.9e-3, 0, 5).fails(gpu_figures.bar("mini-en", "f16"))
    assert Parity(2.1e-3, 0, 5).fails(gpu_figures.bar("mini-en", "f16"))


def test_random_weights_may_lose_what_pytorch_loses_of_them() -> None:
    assert gpu_figures.bar("distilbert", "f16") > gpu_figures.bar("mini-en", "f16") == 2e-3
    assert gpu_figures.bar("distilbert", "f32") == gpu_figures.bar("mini-en", "f32") == 1e-4


def test_text_is_long_enough_and_each_is_another() -> None:
    texts = {gpu_check.text(64, seed) for seed in range(40)}
    assert len(texts) > 20
    assert all(len(text.split()) == 64 for text in texts)


def test_the_check_tries_itself_without_a_gpu() -> None:
    rows = gpu_check.rows("cpu", quick=True, binary=None)
    assert [row for row in rows if row[3] == "FAILED"] == []
    assert sum(row[0].startswith("parity") and row[3] == "ok" for row in rows) == len(gpu_check.GOLDENS) + 1
    speeds = [row for row in rows if "tokens/s" in row[1]]
    assert len(speeds) == 5
    assert all("PyTorch not run" in row[2] for row in speeds)
    assert np.all(["pairs/s" in row[1] for row in rows[-1:]])
