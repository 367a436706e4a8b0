"""Reranks a large file offline, on Ray Data: queries with their contexts in, the same with a ranking out.

    python rerank.py candidates.jsonl ranked --actors 2 --threads 1

IN is a file, or a directory of files, of JSON lines or Parquet; each row has a `query`, and `contexts` that
are strings, or have a `text` and optionally a `key`. OUT is a directory; the rows in it are those of IN, in
their order, with two more columns, of which one is null: `ranking`, and `error`. A bad row is its own error
and nobody else's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from rerankd import InputError, Reranker

# Said once, for a batch in which every row fails would tell nothing of a ranking's type.
RANKING: Final = pa.list_(pa.struct({"id": pa.int64(), "score": pa.float64(), "key": pa.string()}))
_Outcome = tuple[list[dict[str, Any]] | None, str | None]


class Ranker:
    """An actor: a model with threads of its own, loaded once and asked for batch after batch of rows."""

    def __init__(self, model: str, threads: int, top_k: int | None) -> None:
        self._reranker = Reranker(model, threads=threads)
        self._top_k = top_k
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with its two columns more."""
        queries, contexts = batch["query"].to_pylist(), batch["contexts"].to_pylist()
        outcomes = self._loop.run_until_complete(self._all(queries, contexts))
        batch = batch.append_column("ranking", pa.array([ranking for ranking, _ in outcomes], RANKING))
        return batch.append_column("error", pa.array([error for _, error in outcomes], pa.string()))

    async def _all(self, queries: list[Any], contexts: list[Any]) -> list[_Outcome]:
        # All rows at once: waves are filled across them, and no thread waits for the end of another's row.
        return await asyncio.gather(*map(self._one, queries, contexts))

    async def _one(self, query: Any, contexts: Any) -> _Outcome:
        try:
            ranking = await self._reranker.rank_async(query, _given(contexts), self._top_k)
        except InputError as error:
            return None, str(error)
        return [{"id": each.id, "score": each.score, "key": each.key} for each in ranking], None


def _given(contexts: Any) -> Any:
    """As the row has them: where one has no key, a column that has keys holds a null."""
    if not isinstance(contexts, list):
        return contexts
    return [
        {name: value for name, value in each.items() if value is not None} if isinstance(each, dict) else each
        for each in contexts
    ]


def start(cpus: int) -> None:
    """Joins the cluster that RAY_ADDRESS names; where none is named, starts Ray on this machine.

    cpus: what the actors will hold. Ray then has one more to give, for what reads and writes, which need
    little: with none left they would wait for ever.
    """
    if "RAY_ADDRESS" in os.environ:
        ray.init()
    else:
        ray.init(num_cpus=max(cpus + 1, os.cpu_count() or 1), include_dashboard=False)


def read(path: str) -> ray.data.Dataset:
    """A data set of what lies there; SystemExit where its rows have no query or contexts."""
    rows = ray.data.read_parquet(path) if _parquet(path) else ray.data.read_json(path, lines=True)
    missing = {"query", "contexts"} - set(rows.columns() or [])
    if missing:
        raise SystemExit(f"{path}: its rows have no {' and no '.join(sorted(missing))}")
    return rows


def rerank(rows: ray.data.Dataset, options: argparse.Namespace) -> ray.data.Dataset:
    """The data set that it will be; nothing is computed before it is asked for."""
    return rows.repartition(target_num_rows_per_block=options.batch_rows).map_batches(
        Ranker,
        fn_constructor_args=(options.model, options.threads, options.top_k),
        batch_format="pyarrow",
        batch_size=options.batch_rows,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=options.threads,
    )


def _parquet(path: str) -> bool:
    return path.endswith((".parquet", ".parquet/"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("input", metavar="IN", help="Parquet where it ends in .parquet, JSON lines else")
    parser.add_argument("output", metavar="OUT", help="a directory: Parquet where it ends in .parquet")
    parser.add_argument("--model", default="mini-en", help="as `rerankd serve` has it; on every machine")
    parser.add_argument("--actors", type=int, default=1, help="copies of the model")
    parser.add_argument("--threads", type=int, default=1, help="of each copy")
    parser.add_argument("--top-k", type=int, default=None, help="results to keep of a row; default: all")
    parser.add_argument("--batch-rows", type=int, default=64, help="rows that a copy is given at a time")
    options = parser.parse_args(arguments)
    start(options.actors * options.threads)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    ranked = rerank(read(options.input), options)
    if _parquet(options.output):
        ranked.write_parquet(options.output)
    else:
        # As many digits as pandas, which writes it, can.
        ranked.write_json(options.output, double_precision=15)


if __name__ == "__main__":
    main()
