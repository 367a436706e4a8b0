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
# Queries with their contexts.
Groups = list[tuple[str, list[str]]]
# rerankd's precision, the instructions, and whether it may do without those for the precision: where only the
# scores count. In plain Rust int8 has the 8 bits and the blocks that it has with AVX-512 and AMX.
RERANKD = {
    "rerankd f32": ("f32", "auto", False),
    "rerankd bf16": ("bf16", "auto", False),
    "rerankd int8": ("int8", "auto", False),
    "rerankd bf16, emulated": ("bf16", "auto", True),
    "rerankd int8, emulated": ("int8", "auto", True),
    "rerankd int8 in plain Rust": ("int8", "scalar", True),
}
# onnxruntime's graphs of a checkpoint: as exported, and with its transformer fusions; in int8 with weights
# in 8 bits and in 7.
GRAPHS = {
    "onnxruntime f32": "onnx/plain.onnx",
    "onnxruntime f32, fused": "onnx/fused.onnx",
    "onnxruntime int8": "onnx-int8/plain-8.onnx",
    "onnxruntime int8, fused": "onnx-int8/fused-8.onnx",
    "onnxruntime int8, 7 bits": "onnx-int8/plain-7.onnx",
    "onnxruntime int8, fused, 7 bits": "onnx-int8/fused-7.onnx",
}
# OpenVINO's name of each precision, and the two ways to its graph.
OPENVINO = {
    f"openvino {dtype}{suffix}": (dtype, graph)
    for dtype in ("f32", "bf16")
    for suffix, graph in (("", "onnx/plain.onnx"), (", from PyTorch", "openvino/model.xml"))
}
PYTORCH = {"pytorch f32": "float32", "pytorch bf16": "bfloat16"}
NAMES = (*RERANKD, *GRAPHS, *OPENVINO, *PYTORCH)


class CannotRunError(Exception):
    """The contender can't run so on this machine; the message says why, in its own words if it has any."""


class Contender(Protocol):
    def score(self, batch: int) -> Logits:
        """The logits of all pairs, in the order given; `batch` pairs at a time where the contender
        batches.
        """

    def tokenize(self) -> None:
        """Tokenizes all pairs, where `score` starts from ids."""


class Rerankd:
    """Strings in, logits out: tokenizing is part of every figure."""

    def __init__(self, checkpoint: Path, groups: Groups, threads: int, way: tuple[str, str, bool]) -> None:
        import rerankd  # noqa: PLC0415
        from rerankd.errors import DeviceError  # noqa: PLC0415

        self.groups = groups
        dtype, kernels, emulate = way
        try:
            self.reranker = rerankd.Reranker(
                str(checkpoint),
                device="cpu",
                dtype=dtype,
                threads=threads,
                kernels=kernels,
                emulate=emulate,
            )
        except DeviceError as error:
            raise CannotRunError(str(error)) from None

    def score(self, batch: int) -> Logits:
        del batch  # the engine packs; there is nothing to choose
        logits = [self.reranker.score(query, contexts, score="logit") for query, contexts in self.groups]
        return np.concatenate(logits)

    def tokenize(self) -> None:
        pass


class Peer:
    """What peers have in common: ids beforehand, sorted, padded per batch. A subclass gives `forward`."""

    def __init__(self, checkpoint: Path, groups: Groups) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415

        config = json.loads((checkpoint / "config.json").read_text())
        self.pad: int = config["pad_token_id"]
        self.typed: bool = config["model_type"] == "bert"
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.pairs = [(query, context) for query, contexts in groups for context in contexts]
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
    def __init__(self, checkpoint: Path, groups: Groups, threads: int, graph: str) -> None:
        super().__init__(checkpoint, groups)
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        path = str(checkpoint / graph)
        self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        logits: Logits = self.session.run(["logits"], feed)[0][:, 0]
        return logits


class OpenVino(Peer):
    def __init__(self, checkpoint: Path, groups: Groups, threads: int, dtype: str, graph: str) -> None:
        super().__init__(checkpoint, groups)
        import openvino  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if dtype.upper() not in able and dtype != "f32":
            raise CannotRunError(f"its CPU plugin has no {dtype} here, only {', '.join(able)}")
        hints = {
            "INFERENCE_PRECISION_HINT": dtype,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(core.read_model(checkpoint / graph), "CPU", hints)
        # A hint may be passed over: what counts is what it was compiled for.
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != dtype:
            raise CannotRunError(f"asked for {dtype}, it computes in {precision}")
        self.request: Any = compiled.create_infer_request()

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        logits: Logits = self.request.infer(feed)[0][:, 0]
        return logits


class PyTorch(Peer):
    def __init__(self, checkpoint: Path, groups: Groups, threads: int, dtype: str) -> None:
        super().__init__(checkpoint, groups)
        import torch  # noqa: PLC0415
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        self.model.eval()

    def forward(self, feed: dict[str, npt.NDArray[np.int64]]) -> Logits:
        with self.torch.inference_mode():
            tensors = {name: self.torch.from_numpy(array) for name, array in feed.items()}
            logits: Logits = self.model(**tensors).logits[:, 0].float().numpy()
        return logits


def load(name: str, checkpoint: Path, groups: Groups, threads: int) -> Contender:
    if name in RERANKD:
        return Rerankd(checkpoint, groups, threads, RERANKD[name])
    if name in GRAPHS:
        return OnnxRuntime(checkpoint, groups, threads, GRAPHS[name])
    if name in OPENVINO:
        return OpenVino(checkpoint, groups, threads, *OPENVINO[name])
    return PyTorch(checkpoint, groups, threads, PYTORCH[name])


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
    parser = argparse.ArgumentParser(description="One contender; a driver starts it.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("groups", type=Path, help="a JSON file: a list of [query, contexts]")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # The tokenizers package takes its threads from here, once, at its first use.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["TQDM_DISABLE"] = "1"
    # Whatever a library prints, from C++ too, must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    groups = [(query, texts) for query, texts in json.loads(options.groups.read_text(encoding="utf-8"))]
    try:
        contender = load(options.name, options.checkpoint, groups, options.threads)
    except CannotRunError as error:
        print(json.dumps({"cannot": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"ready": options.name}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(contender, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
