"""One contender in a process of its own, driven by lines of JSON: `python -m benches.contenders NAME ...`.

It runs under the interpreter that has the contender installed, so nothing here imports a contender before it
is asked for, and nothing imports the rest of the benches but report.py. Peers get what their users would give
them at best: pairs sorted by length, batches padded to their own longest pair. rerankd gets the strings.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benches import report

Logits = npt.NDArray[np.float32]
# ONNX graphs of a checkpoint: as exported, and with onnxruntime's transformer fusions.
GRAPHS = {"onnxruntime f32": "plain.onnx", "onnxruntime f32, fused": "fused.onnx"}
NAMES = ("rerankd f32", *GRAPHS, "pytorch f32")


class Contender(Protocol):
    def score(self, batch: int) -> Logits:
        """The logits of all pairs, in the order given; `batch` pairs at a time where the contender
        batches.
        """

    def tokenize(self) -> None:
        """Tokenizes all pairs, where `score` starts from ids."""


class Rerankd:
    """Strings in, logits out: tokenizing is part of every figure."""

    def __init__(self, checkpoint: Path, pairs: tuple[str, list[str]], threads: int) -> None:
        import rerankd  # noqa: PLC0415

        self.query, self.contexts = pairs
        self.reranker = rerankd.Reranker(str(checkpoint), device="cpu", dtype="f32", threads=threads)

    def score(self, batch: int) -> Logits:
        del batch  # the engine packs; there is nothing to choose
        return np.asarray(self.reranker.score(self.query, self.contexts, score="logit"), dtype=np.float32)

    def tokenize(self) -> None:
        pass


class Peer:
    """What peers have in common: ids beforehand, sorted, padded per batch. A subclass gives `forward`."""

    def __init__(self, checkpoint: Path, pairs: tuple[str, list[str]]) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415

        config = json.loads((checkpoint / "config.json").read_text())
        self.pad: int = config["pad_token_id"]
        self.typed: bool = config["model_type"] == "bert"
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.pairs = [(pairs[0], context) for context in pairs[1]]
        encoded = self.tokenizer.encode_batch(self.pairs)
        self.ids = [encoding.ids for encoding in encoded]
        self.types = [encoding.type_ids for encoding in encoded]
        self.order = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))

    def tokenize(self) -> None:
        self.tokenizer.encode_batch(self.pairs)

    def score(self, batch: int) -> Logits:
        logits = np.empty(len(self.ids), dtype=np.float32)
        for start in range(0, len(self.order), batch):
            rows = self.order[start : start + batch]
            longest = max(len(self.ids[row]) for row in rows)
            feed = {"input_ids": np.full((len(rows), longest), self.pad, dtype=np.int64)}
            feed["attention_mask"] = np.zeros((len(rows), longest), dtype=np.int64)
            if self.typed:
                feed["token_type_ids"] = np.zeros((len(rows), longest), dtype=np.int64)
            for at, row in enumerate(rows):
                length = len(self.ids[row])
                feed["input_ids"][at, :length] = self.ids[row]
                feed["attention_mask"][at, :length] = 1
                if self.typed:
                    feed["token_type_ids"][at, :length] = self.types[row]
            logits[rows] = self.forward(feed)
        return logits

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        raise NotImplementedError


class OnnxRuntime(Peer):
    def __init__(self, checkpoint: Path, pairs: tuple[str, list[str]], threads: int, graph: str) -> None:
        super().__init__(checkpoint, pairs)
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        path = str(checkpoint / "onnx" / graph)
        self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        logits: Logits = self.session.run(["logits"], feed)[0][:, 0]
        return logits


class PyTorch(Peer):
    def __init__(self, checkpoint: Path, pairs: tuple[str, list[str]], threads: int) -> None:
        super().__init__(checkpoint, pairs)
        import torch  # noqa: PLC0415
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
        self.model.eval()

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        with self.torch.inference_mode():
            tensors = {name: self.torch.from_numpy(array) for name, array in feed.items()}
            logits: Logits = self.model(**tensors).logits[:, 0].numpy()
        return logits


def load(name: str, checkpoint: Path, pairs: tuple[str, list[str]], threads: int) -> Contender:
    if name == "rerankd f32":
        return Rerankd(checkpoint, pairs, threads)
    if name in GRAPHS:
        return OnnxRuntime(checkpoint, pairs, threads, GRAPHS[name])
    return PyTorch(checkpoint, pairs, threads)


def seconds(work: Any, *arguments: int) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def answer(contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
    """One order's answer. Times in seconds, memory in MB."""
    if order["do"] == "score":
        return {"logits": [float(logit) for logit in contender.score(order["batch"])]}
    if order["do"] == "time":
        return {"tokenize": seconds(contender.tokenize), "score": seconds(contender.score, order["batch"])}
    return {"peak": report.memory()["VmHWM"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="One contender; benches.peers starts it.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pairs", type=Path, help="a JSON file: [query, contexts]")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # The tokenizers package takes its threads from here, once, at its first use.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    # Whatever a library prints must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    query, contexts = json.loads(options.pairs.read_text(encoding="utf-8"))
    contender = load(options.name, options.checkpoint, (query, contexts), options.threads)
    print(json.dumps({"ready": options.name}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(contender, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
