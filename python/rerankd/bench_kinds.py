"""What the flags of `rerankd bench` can say that no setting does: rates, mixes of sizes, ranges of words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls to begin per second: a number, or a multiple of a capacity that is measured first."""

    value: float
    of_capacity: bool

    @classmethod
    def parse(cls, raw: object) -> Rate:
        """Reads "50" or "0.7x". Raises ValueError."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(x?)", str(raw))
        value = float(match[1]) if match else 0.0
        if match is None or not 0 < value < math.inf:
            raise ValueError
        return cls(value, match[2] == "x")

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.of_capacity else ''}"


@dataclass(frozen=True, slots=True)
class Share:
    """A size of request and how often it is asked for, next to the others."""

    contexts: int
    weight: float


def parse_mix(raw: object) -> tuple[Share, ...]:
    """Reads "5:0.9,100:0.1": contexts per request and a weight, 1 where there is none. Raises ValueError."""
    shares: list[Share] = []
    for part in str(raw).split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?::([0-9]+(?:\.[0-9]*)?|\.[0-9]+))?\s*", part)
        if match is None:
            raise ValueError
        shares.append(Share(int(match[1]), float(match[2] or 1)))
    sizes = [share.contexts for share in shares]
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError
    if not all(0 < share.weight < math.inf for share in shares):
        raise ValueError
    return tuple(shares)


def parse_words(raw: object) -> tuple[int, int]:
    """Reads "20-120", the least and the most words of a context, or "50". Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(raw))
    if match is None:
        raise ValueError
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high:
        raise ValueError
    return low, high
