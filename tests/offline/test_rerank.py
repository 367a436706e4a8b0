"""examples/ray: what Ray Data makes of a file is what a plain loop does; bad rows are their own errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from benches.offline import read, run

FACTS = ["Lima is the capital of Peru.", "A llama spits when it is annoyed.", "Cusco was the Inca capital."]
GOOD: list[dict[str, Any]] = [
    {"query": f"capital of Peru, asked {at} times", "contexts": FACTS, "row": at} for at in range(40)
]
BAD: list[dict[str, Any]] = [
    {"query": "", "contexts": FACTS, "row": 40},
    {"query": "capital of Peru", "contexts": ["Lima.", ""], "row": 41},
    {"query": None, "contexts": FACTS, "row": 42},
    {"query": "capital of Peru", "contexts": None, "row": 43},
    {"query": "capital of Peru", "contexts": [], "row": 44},
]
FLAGS = ["--actors=2", "--threads=1", "--batch-rows=8"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_it_is_what_a_plain_loop_gives_in_the_same_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", GOOD + BAD)
    run("loop.py", source, tmp_path / "looped.jsonl", ["--threads=1", "--top-k=2"])
    run("rerank.py", source, tmp_path / "ranked", ["--top-k=2", *FLAGS])
    looped, ranked = read(tmp_path / "looped.jsonl"), read(tmp_path / "ranked")
    assert ranked == looped
    assert [row["row"] for row in ranked] == list(range(45))
    assert [[each["id"] for each in row["ranking"]] for row in ranked[:40]] == [[0, 2]] * 40
    assert [row["ranking"] for row in ranked[40:]] == [None, None, None, None, []]
    fields = [row["error"].partition(": ")[0] for row in ranked[40:44]]
    assert fields == ["query", "contexts[1].text", "query", "contexts"]


def test_parquet_in_and_out_with_keys(tmp_path: Path) -> None:
    contexts = [{"text": text, "key": f"k{at}" if at else None} for at, text in enumerate(FACTS)]
    table = pyarrow.Table.from_pylist([{"query": "capital of Peru", "contexts": contexts}] * 3)
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    run("rerank.py", tmp_path / "in.parquet", tmp_path / "out.parquet", ["--actors=1"])
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [[(each["id"], each["key"]) for each in row["ranking"]] for row in rows] == [
        [(0, ""), (2, "k2"), (1, "k1")]
    ] * 3


def test_rows_without_contexts_are_refused_by_a_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"query": "capital of Peru", "documents": FACTS}])
    with pytest.raises(SystemExit, match="its rows have no contexts"):
        run("rerank.py", source, tmp_path / "out", FLAGS)
