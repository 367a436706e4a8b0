"""A cross-encoder in numpy, read as the papers: BERT (Devlin et al. 2019), RoBERTa, XLM-R, ELECTRA,
DistilBERT.

The oracle of test_parity.py. Each pair is computed alone, in float64, with nothing fused and nothing saved,
so that every line can be held against a paper. It knows nothing of rerankd.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Array = npt.NDArray[np.float64]

# A layer's tensors by their role: BERT's names, which RoBERTa and ELECTRA share, and DistilBERT's.
BERT = {
    "layer": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
DISTILBERT = {
    "layer": "transformer.layer",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm": "output_layer_norm",
}
# DistilBERT's config.json has names of its own for these.
OWN_NAMES = {
    "hidden_act": "activation",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
}

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return result


def gelu_new(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


def read_safetensors(path: Path) -> dict[str, Array]:
    """Eight bytes of length, a JSON header of {name: dtype, shape, offsets}, then the numbers,
    little-endian."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors: dict[str, Array] = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__" or entry["dtype"] == "I64":
            continue
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        if entry["dtype"] == "BF16":  # the upper half of an f32
            numbers = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = np.frombuffer(raw, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = numbers.astype(np.float64).reshape(entry["shape"])
    return tensors


class Reference:
    def __init__(self, directory: Path) -> None:
        self.config = json.loads((directory / "config.json").read_text())
        self.family: str = self.config["model_type"]
        self.root = {"xlm-roberta": "roberta"}.get(self.family, self.family)
        self.names = DISTILBERT if self.family == "distilbert" else BERT
        self.tensors = read_safetensors(directory / "model.safetensors")
        self.eps: float = self.config.get("layer_norm_eps", 1e-12)
        self.act = ACTIVATIONS[self.of("hidden_act")]
        # RoBERTa counts positions from pad + 1, so that many rows of its table are never reached.
        positions: int = self.config["max_position_embeddings"]
        if self.root == "roberta":
            positions -= self.config["pad_token_id"] + 1
        settings = json.loads((directory / "tokenizer_config.json").read_text())
        limit = settings.get("model_max_length", positions)
        # What transformers does: a tokenizer of its generic class hands the model no types unless told to,
        # and a model that gets none takes them all for 0.
        generic = settings["tokenizer_class"] == "TokenizersBackend"
        inputs = settings.get("model_input_names", [] if generic else ["token_type_ids"])
        self.typed = "token_type_ids" in inputs
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(limit, positions), strategy="longest_first")

    def of(self, key: str) -> str:
        value: str = self.config[OWN_NAMES[key] if self.family == "distilbert" else key]
        return value

    def encode(self, query: str, context: str) -> tuple[list[int], list[int]]:
        """A pair's token ids and their types (segments)."""
        encoding = self.tokenizer.encode(query, context)
        return encoding.ids, encoding.type_ids if self.typed else [0] * len(encoding.ids)

    def dense(self, x: Array, name: str) -> Array:
        result: Array = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return result

    def normalize(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt(x.var(axis=-1, keepdims=True) + self.eps)
        result: Array = unit * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return result

    def embed(self, ids: npt.NDArray[np.int64], types: npt.NDArray[np.int64]) -> Array:
        """[tokens] -> [tokens, hidden]"""
        at = f"{self.root}.embeddings"
        positions = np.arange(len(ids))
        if self.root == "roberta":
            # A pad among the tokens, which only a text that spells it can bring in, does not count.
            real = ids != self.config["pad_token_id"]
            positions = np.cumsum(real) * real + self.config["pad_token_id"]
        x: Array = self.tensors[f"{at}.word_embeddings.weight"][ids]
        x = x + self.tensors[f"{at}.position_embeddings.weight"][positions]
        if self.family != "distilbert":
            x = x + self.tensors[f"{at}.token_type_embeddings.weight"][types]
        x = self.normalize(x, f"{at}.LayerNorm")
        if f"{self.root}.embeddings_project.weight" in self.tensors:  # ELECTRA, small
            x = self.dense(x, f"{self.root}.embeddings_project")
        return x

    def attend(self, x: Array, at: str) -> Array:
        """Every token attends to every token, in each head apart."""
        tokens, hidden = x.shape
        heads = int(self.of("num_attention_heads"))

        def split(role: str) -> Array:
            rows = self.dense(x, f"{at}.{self.names[role]}").reshape(tokens, heads, hidden // heads)
            return np.swapaxes(rows, 0, 1)  # [heads, tokens, hidden of a head]

        query, key, value = split("query"), split("key"), split("value")
        weights = softmax(query @ np.swapaxes(key, 1, 2) / math.sqrt(hidden // heads))
        return np.swapaxes(weights @ value, 0, 1).reshape(tokens, hidden)

    def layer(self, x: Array, at: str) -> Array:
        names = self.names
        attended = self.dense(self.attend(x, at), f"{at}.{names['output']}")
        x = self.normalize(x + attended, f"{at}.{names['attention_norm']}")
        fed = self.dense(self.act(self.dense(x, f"{at}.{names['up']}")), f"{at}.{names['down']}")
        return self.normalize(x + fed, f"{at}.{names['norm']}")

    def head(self, first: Array) -> Array:
        """The first token's row [hidden] -> [labels]"""
        if self.family == "bert":
            return self.dense(np.tanh(self.dense(first, "bert.pooler.dense")), "classifier")
        if self.family == "distilbert":
            return self.dense(relu(self.dense(first, "pre_classifier")), "classifier")
        between = gelu if self.family == "electra" else np.tanh
        return self.dense(between(self.dense(first, "classifier.dense")), "classifier.out_proj")

    def logit(self, query: str, context: str) -> float:
        ids, types = self.encode(query, context)
        x = self.embed(np.array(ids), np.array(types))
        for layer in range(int(self.of("num_hidden_layers"))):
            x = self.layer(x, f"{self.root}.{self.names['layer']}.{layer}")
        logits = self.head(x[0])
        return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])
