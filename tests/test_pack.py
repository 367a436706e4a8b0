"""rerankd pack: the same scores from a file that is mapped, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from rerankd import Reranker, cli, pack
from rerankd.errors import InputError, ModelError, RerankdError

QUERY = "how do plants make sugar?"
CONTEXTS = ["Plants make sugar from light.", "Trains run on rails.", "Sugar is sweet. " * 40]


def scores(model: str | Path, **how: object) -> list[float]:
    with Reranker(model, threads=1, **how) as reranker:  # type: ignore[arg-type]
        return list(reranker.score(QUERY, CONTEXTS, score="logit"))


@pytest.mark.parametrize("kernels", ["auto", "scalar", "gemm"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_packed_scores_are_the_same_to_the_bit(tmp_path: Path, dtype: str, kernels: str) -> None:
    packed = pack.pack("mini-en", tmp_path / "packed", dtype=dtype, kernels=kernels, emulate=True)
    assert packed.dtype == dtype
    assert packed.bytes == (packed.directory / "model.safetensors").stat().st_size
    plain = scores("mini-en", dtype=dtype, kernels=kernels, emulate=True)
    assert scores(packed.directory, emulate=True) == plain
    assert scores(packed.directory, dtype=dtype, emulate=True) == plain
    # Nothing else was left beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_every_architecture_packs(tmp_path: Path) -> None:
    for golden in sorted((Path(__file__).parent / "golden").iterdir()):
        if not (golden / "config.json").is_file():
            continue
        out = tmp_path / golden.name
        try:
            pack.pack(str(golden), out, dtype="int8", emulate=True)
        except ModelError:
            with pytest.raises(ModelError):  # one of those that can't be served at all
                Reranker(golden)
            continue
        assert scores(out, emulate=True) == scores(golden, dtype="int8", emulate=True)


def test_a_packed_checkpoint_is_served_as_it_is_packed(tmp_path: Path) -> None:
    out = pack.pack("mini-en", tmp_path / "packed", dtype="int8", kernels="scalar", emulate=True).directory
    with pytest.raises(InputError, match=r"f32 was asked for, but .*packed is packed for int8"):
        scores(out, dtype="f32")
    with pytest.raises(InputError, match=r"avx2 was asked for, but .* is packed for scalar"):
        scores(out, kernels="avx2", emulate=True)
    with pytest.raises(ModelError, match="packed already"):
        pack.pack(str(out), tmp_path / "again", dtype="int8", emulate=True)
    assert not (tmp_path / "again").exists()


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there already"):
        pack.pack("mini-en", tmp_path, dtype="f32")
    with pytest.raises(RerankdError, match="no-such-model"):
        pack.pack("no-such-model", tmp_path / "out", dtype="f32")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ModelError, match="nothing was packed"):
        pack.pack("mini-en", blocked / "out", dtype="f32")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"rerankd.packed":"3"', '"rerankd.packed":"9"', "layout 9"),
        ('"rerankd.kernels":"scalar"', '"rerankd.kernels":"skalar"', "skalar"),
        ("layer.0.intermediate.dense.panels", "layer.0.intermediate.dense.spanel", "panels is missing"),
        ("layer.1.output.dense.bias", "layer.1.output.dense.sbia", "pack the checkpoint again"),
    ],
)
def test_a_packed_file_that_is_not_ours_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    out = pack.pack("mini-en", tmp_path / "packed", dtype="f32", kernels="scalar").directory
    file = out / "model.safetensors"
    raw = file.read_bytes()
    assert len(old) == len(new)
    assert raw.count(old.encode()) == 1
    file.write_bytes(raw.replace(old.encode(), new.encode()))
    with pytest.raises(RerankdError, match=says):
        scores(out)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "packed"
    assert cli.main(["pack", "mini-en", str(out), "--dtype", "f32"]) == 0
    assert f"rerankd serve --model {out}" in capsys.readouterr().out
    assert cli.main(["pack", "mini-en", str(out), "--dtype", "f32"]) == 2
    assert "there already" in capsys.readouterr().err
