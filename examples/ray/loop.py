"""The same as rerank.py, on one machine and in a plain loop: for files that one machine gets through.

python loop.py candidates.jsonl ranked.jsonl --threads 2
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerankd import InputError, Reranker


def ranked(reranker: Reranker, row: dict[str, Any], top_k: int | None) -> dict[str, Any]:
    """The row with its two columns more."""
    try:
        ranking = reranker.rank(row["query"], row["contexts"], top_k)
    except InputError as error:
        return {**row, "ranking": None, "error": str(error)}
    results = [{"id": each.id, "score": each.score, "key": each.key} for each in ranking]
    return {**row, "ranking": results, "error": None}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("input", metavar="IN", type=Path, help="JSON lines")
    parser.add_argument("output", metavar="OUT", type=Path, help="JSON lines")
    parser.add_argument("--model", default="mini-en", help="as `rerankd serve` has it")
    parser.add_argument("--threads", type=int, default=None, help="default: as many as the machine gives")
    parser.add_argument("--top-k", type=int, default=None, help="results to keep of a row; default: all")
    options = parser.parse_args(arguments)
    with (
        Reranker(options.model, threads=options.threads) as reranker,
        options.input.open(encoding="utf-8") as rows,
        options.output.open("w", encoding="utf-8") as out,
    ):
        for row in rows:
            out.write(json.dumps(ranked(reranker, json.loads(row), options.top_k)) + "\n")


if __name__ == "__main__":
    main()
