"""PyTorch and transformers on the same GPU, checkpoint and lengths: bf16, SDPA, batches sorted by length. Ids
beforehand: what is compared is the model. Only where both are installed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.gpu_figures import batches

# Tokens of a padded batch: more was no faster on the GPUs that people have told of; each size is tried.
BATCH_TOKENS = (8192, 32768)


def missing() -> str:
    """What is not installed; "" where all is."""
    return ", ".join(name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None)


class Torch:
    """A checkpoint in bf16 on the first GPU."""

    def __init__(self, checkpoint: Path) -> None:
        import torch  # noqa: PLC0415 - only where it is there
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

        self.torch: Any = torch
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            str(checkpoint), dtype=torch.bfloat16, attn_implementation="sdpa"
        ).to("cuda")
        self.model.eval()

    def seconds(self, lengths: Sequence[int], runs: int) -> float:
        """The best of `runs` over all pairs, in the better batch size, logits on the host included."""
        return min(self._timed(lengths, tokens) for tokens in BATCH_TOKENS for _ in range(runs + 1))

    def _timed(self, lengths: Sequence[int], tokens: int) -> float:
        torch, rng = self.torch, np.random.default_rng(3)
        feeds = []
        for batch in batches(lengths, tokens):
            longest = lengths[batch[0]]
            mask = np.array([[int(i < lengths[at]) for i in range(longest)] for at in batch])
            ids = rng.integers(5, 1000, mask.shape) * mask + (1 - mask)
            feeds.append({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.inference_mode():
            logits = [self.model(**{k: v.to("cuda") for k, v in feed.items()}).logits for feed in feeds]
            torch.cat(logits).float().cpu()
        return time.perf_counter() - begun
