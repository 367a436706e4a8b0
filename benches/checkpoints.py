"""Checkpoints of the real shapes with random weights, made here from a seed, in benches/.checkpoints/.

    python -m benches.checkpoints [bge-base] [minilm-l6]

Speed and memory depend on shapes, not on what was learned, so no download is needed and everyone measures the
same bytes. Weights are scaled so that every activation keeps a variance near 1, as in a trained model; the
logits then spread, and a comparison of them means something.
"""

import argparse
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from benches import vocabulary

CHECKPOINTS = Path(__file__).resolve().parent / ".checkpoints"
# Numbers written at a time: 32 MB of f32, so that a table of 768 MB needs no memory to make.
CHUNK = 1 << 23
# Raised whenever what is written changes: an older checkpoint is then made anew.
FORMAT = 1


@dataclass(frozen=True)
class Shape:
    """A checkpoint's dimensions. `types` is the rows of the token type table, `positions` of the position
    table.
    """

    name: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    positions: int
    types: int

    @property
    def prefix(self) -> str:
        return "roberta" if self.model_type == "xlm-roberta" else "bert"


BGE_BASE = Shape("bge-base", "xlm-roberta", 12, 768, 12, 3072, vocabulary.ENTRIES, 514, 1)
MINILM_L6 = Shape("minilm-l6", "bert", 6, 384, 12, 1536, 30_522, 512, 2)
SHAPES = {shape.name: shape for shape in (BGE_BASE, MINILM_L6)}


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and dimensions, named as Hugging Face's checkpoints name them."""
    hidden, root = shape.hidden, shape.prefix
    dims: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.word_embeddings.weight": (shape.vocab, hidden),
        f"{root}.embeddings.position_embeddings.weight": (shape.positions, hidden),
        f"{root}.embeddings.token_type_embeddings.weight": (shape.types, hidden),
    }

    def norm(name: str) -> None:
        dims[f"{name}.weight"] = dims[f"{name}.bias"] = (hidden,)

    def dense(name: str, rows: int, columns: int) -> None:
        dims[f"{name}.weight"], dims[f"{name}.bias"] = (rows, columns), (rows,)

    norm(f"{root}.embeddings.LayerNorm")
    for layer in range(shape.layers):
        at = f"{root}.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{at}.attention.{part}", hidden, hidden)
        norm(f"{at}.attention.output.LayerNorm")
        dense(f"{at}.intermediate.dense", shape.ffn, hidden)
        dense(f"{at}.output.dense", hidden, shape.ffn)
        norm(f"{at}.output.LayerNorm")
    if shape.model_type == "xlm-roberta":
        dense("classifier.dense", hidden, hidden)
        dense("classifier.out_proj", 1, hidden)
    else:
        dense(f"{root}.pooler.dense", hidden, hidden)
        dense("classifier", 1, hidden)
    return dims


def values(name: str, dims: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
    """A tensor's numbers, in chunks, from a seed of its own: the order of writing does not matter."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = math.prod(dims)
    # A dense weight of deviation 1/sqrt(columns) keeps the variance of what it multiplies.
    deviation = 1.0 / math.sqrt(dims[-1]) if len(dims) == 2 and "embeddings" not in name else 0.05
    centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    if name in ("classifier.weight", "classifier.out_proj.weight"):
        # Random weights tell pairs apart less than learned ones: spread their logits over a few units.
        deviation *= 4
    for start in range(0, count, CHUNK):
        numbers = rng.standard_normal(min(CHUNK, count - start), dtype=np.float32)
        yield numbers * np.float32(deviation) + np.float32(centre)


def write_safetensors(file: BinaryIO, shape: Shape) -> None:
    """The header, then each tensor's bytes in the header's order. Memory: one chunk."""
    dims = tensors(shape)
    # Published checkpoints of these shapes carry their position ids too; a loader has to pass over them.
    ids_name = f"{shape.prefix}.embeddings.position_ids"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0

    def place(name: str, dtype: str, dimensions: tuple[int, ...], width: int) -> None:
        nonlocal end
        start, end = end, end + width * math.prod(dimensions)
        header[name] = {"dtype": dtype, "shape": list(dimensions), "data_offsets": [start, end]}

    place(ids_name, "I64", (1, shape.positions), 8)
    for name in sorted(dims):
        place(name, "F32", dims[name], 4)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.write(np.arange(shape.positions, dtype="<i8").tobytes())
    for name in sorted(dims):
        for numbers in values(name, dims[name]):
            file.write(numbers.astype("<f4", copy=False).tobytes())


def config(shape: Shape) -> dict[str, Any]:
    """config.json, with the keys that transformers and the engine read."""
    roberta = shape.model_type == "xlm-roberta"
    architecture = "XLMRobertaForSequenceClassification" if roberta else "BertForSequenceClassification"
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2} if roberta else {"pad_token_id": 0}
    return {
        "architectures": [architecture],
        "model_type": shape.model_type,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.hidden,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "layer_norm_eps": 1e-5 if roberta else 1e-12,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": shape.types,
        "use_cache": True,
        "vocab_size": shape.vocab,
        **special,
    }


def tokenizer_config(shape: Shape) -> dict[str, Any]:
    if shape.model_type == "bert":
        own: dict[str, Any] = json.loads((vocabulary.MINI_EN / "tokenizer_config.json").read_text())
        return own
    return {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": 512,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }


def stamp(shape: Shape) -> str:
    """What a complete checkpoint was made for; found again, it need not be made."""
    return f"{FORMAT} {shape}\n"


def make(shape: Shape) -> Path:
    """The checkpoint's directory, made if it is not there. Interrupted, it leaves nothing that looks
    complete.
    """
    target = CHECKPOINTS / shape.name
    if (target / "made").is_file() and (target / "made").read_text() == stamp(shape):
        return target
    print(f"making {shape.name} in {target} ...", file=sys.stderr)
    partial = CHECKPOINTS / f"{shape.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        (partial / "config.json").write_text(json.dumps(config(shape), indent=2))
        (partial / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(shape), indent=2))
        if shape.model_type == "bert":
            shutil.copyfile(vocabulary.MINI_EN / "tokenizer.json", partial / "tokenizer.json")
        else:
            text = json.dumps(vocabulary.tokenizer_json(), ensure_ascii=False)
            (partial / "tokenizer.json").write_text(text, encoding="utf-8")
        with (partial / "model.safetensors").open("wb") as file:
            write_safetensors(file, shape)
        (partial / "made").write_text(stamp(shape))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def linked(source: Path) -> Path:
    """A real checkpoint beside the synthetic ones: what is made of it has its place there, not in the
    source.
    """
    target = CHECKPOINTS / source.name
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        link = target / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the benches' checkpoints.")
    parser.add_argument("names", nargs="*", choices=[*SHAPES, []], help="default: all")
    for name in parser.parse_args().names or SHAPES:
        print(make(SHAPES[name]))


if __name__ == "__main__":
    main()
