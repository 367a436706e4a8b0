"""What PyTorch itself loses in f16 and bf16 on the goldens and mini-en's cases, into
tests/golden/halves.json: a GPU's precision is held against it. In the peers' environment:
`.peers/bin/python -m benches.halves`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
GOLDENS = ("bert", "bert-sbert-identity", "roberta", "xlm-roberta", "electra", "distilbert")
MINI_EN = ROOT / "python" / "rerankd" / "models" / "mini-en"


def scores(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))


def lost(model_path: Path, cases_path: Path, dtype: str) -> dict[str, float]:
    """The largest difference of a logit and of a score from the reference, pair by pair."""
    import torch  # noqa: PLC0415 - the peers' alone
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        model_path, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()
    # RoBERTa's first two positions are for padding.
    positions = model.config.max_position_embeddings - 2 * model.config.model_type.endswith("roberta")
    ours, reference = [], []
    for case in json.loads(cases_path.read_text()):
        reference += case["logits"]
        for context in case["contexts"]:
            pair = tokenizer(
                case["query"],
                context,
                truncation="longest_first",
                max_length=min(512, positions),
                return_tensors="pt",
            )
            with torch.inference_mode():
                ours.append(float(model(**pair).logits.float().flatten()[0]))
    off = np.abs(np.asarray(ours) - np.asarray(reference)).max()
    return {"logit": float(off), "score": float(np.abs(scores(ours) - scores(reference)).max())}


def main() -> None:
    places = [(GOLDEN / name, GOLDEN / name / "cases.json") for name in GOLDENS]
    places.append((MINI_EN, GOLDEN / "mini-en-cases.json"))
    found = {
        model.name: {
            short: {what: float(f"{off:.2e}") for what, off in lost(model, cases, dtype).items()}
            for short, dtype in (("f16", "float16"), ("bf16", "bfloat16"))
        }
        for model, cases in places
    }
    (GOLDEN / "halves.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
