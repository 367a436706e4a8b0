"""Pairs of exact token lengths, in plausible English, from seeds: the same text for every contender and
every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benches.checkpoints import BGE_BASE, MINILM_L6, Shape
from benches.vocabulary import english_words, zipf

QUERY_WORDS = 8


@dataclass(frozen=True)
class Workload:
    """What a bench ranks: one query against one context per length, in tokens of the whole pair."""

    name: str
    shape: Shape
    lengths: Callable[[], list[int]]


def mixed() -> list[int]:
    """32 lengths as of search results: lognormal, median 110, deviation 0.65 of the logarithm, clipped to
    24-400.

    Of the seeds tried this one has the usual padding: in one batch 2.7 times the tokens, in sorted eights
    1.34 times.
    """
    drawn = np.random.default_rng(12).lognormal(np.log(110), 0.65, 32)
    return [int(length) for length in np.clip(drawn.round(), 24, 400)]


def even() -> list[int]:
    """16 x 128: no padding anywhere, so only the arithmetic is compared."""
    return [128] * 16


def hundred() -> list[int]:
    """100 lengths, even between 64 and 200."""
    return [int(length) for length in np.random.default_rng(100).integers(64, 201, 100)]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("bge-base, 32 mixed", BGE_BASE, mixed),
        Workload("bge-base, 16 x 128", BGE_BASE, even),
        Workload("minilm-l6, 100 of 64-200", MINILM_L6, hundred),
    )
}


def load_tokenizer(checkpoint: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Writer:
    """Draws text of a wanted number of tokens. Words are split at blanks first, so their tokens simply add
    up.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = np.random.default_rng(seed)
        words = english_words()
        self.words = [*words, *(word.capitalize() for word in words), *(word + "." for word in words)]
        share = zipf(len(words))
        # Each ninth word ends its sentence and each ninth begins one.
        self.share = np.concatenate([share * 7, share, share]) / 9
        encoded = tokenizer.encode_batch(self.words, add_special_tokens=False)
        self.cost = np.array([len(encoding.ids) for encoding in encoded])
        self.short = np.flatnonzero(self.cost == 1)[:1000]

    def text(self, tokens: int) -> str:
        """Text of exactly so many tokens."""
        chosen: list[int] = []
        left = tokens
        for word in self.rng.choice(len(self.words), size=tokens, p=self.share).tolist():
            if self.cost[word] > left:
                break
            chosen.append(word)
            left -= int(self.cost[word])
        chosen += self.rng.choice(self.short, size=left).tolist()
        return " ".join(self.words[word] for word in chosen)

    def query(self) -> str:
        words = english_words()
        return " ".join(
            words[word] for word in self.rng.choice(len(words), size=QUERY_WORDS, p=zipf(len(words)))
        )


def pairs(tokenizer: Tokenizer, lengths: Sequence[int], seed: int = 7) -> tuple[str, list[str]]:
    """A query, and one context per length: each pair has exactly that many tokens, special tokens
    included.
    """
    writer = Writer(tokenizer, seed)
    query = writer.query()
    fixed = len(tokenizer.encode(query).ids) + tokenizer.num_special_tokens_to_add(is_pair=True)
    fixed -= tokenizer.num_special_tokens_to_add(is_pair=False)
    if min(lengths) <= fixed:
        raise ValueError(f"lengths: a pair with this query has more than {fixed} tokens, not {min(lengths)}")
    contexts = [writer.text(length - fixed) for length in lengths]
    for context, length in zip(contexts, lengths, strict=True):
        made = len(tokenizer.encode(query, context).ids)
        if made != length:
            raise AssertionError(f"a context of {made} tokens instead of {length}: {context[:80]!r}")
    return query, contexts
