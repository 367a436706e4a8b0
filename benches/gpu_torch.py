"""PyTorch and transformers on the same GPU, checkpoint and lengths: bf16, SDPA, batches sorted by length. Ids
beforehand: what is compared is the model. Only where both are installed.

Twice: in batches of 32 pairs, which is what sentence-transformers' CrossEncoder takes where it is told
nothing, and in the best of several much larger ones, which is what a careful user finds.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.gpu_figures import batches

# Pairs of a batch, and tokens of one when padded. On an H200 131,072 tokens were no faster than 65,536.
DEFAULT_PAIRS = 32
BATCH_TOKENS = (16_384, 65_536)


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

    def seconds(self, lengths: Sequence[int], runs: int) -> tuple[float, float]:
        """In batches of 32 pairs, and in the better of the large sizes: the best of `runs` over all pairs,
        logits on the host included."""
        usual = [self._timed(lengths, batches(lengths, pairs=DEFAULT_PAIRS)) for _ in range(runs)]
        large = [
            self._timed(lengths, batches(lengths, tokens=tokens))
            for tokens in BATCH_TOKENS
            for _ in range(runs + 1)
        ]
        return min(usual), min(large)

    def _timed(self, lengths: Sequence[int], cut: Sequence[Sequence[int]]) -> float:
        torch, rng = self.torch, np.random.default_rng(3)
        feeds = []
        for batch in cut:
            size = np.array([lengths[at] for at in batch])
            mask = (np.arange(size.max()) < size[:, None]).astype(np.int64)
            ids = rng.integers(5, 1000, mask.shape) * mask + (1 - mask)
            feeds.append({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.inference_mode():
            logits = [self.model(**{k: v.to("cuda") for k, v in feed.items()}).logits for feed in feeds]
            torch.cat(logits).float().cpu()
        return time.perf_counter() - begun
