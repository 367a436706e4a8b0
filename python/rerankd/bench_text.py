"""Made-up text of real English words, from a seed: as long as asked for, and of the usual share of short and
long words. It means nothing; what it costs to tokenize and to compute is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

# Roughly the most frequent first: they are drawn by Zipf's law.
_FREQUENT: Final = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what
its about than into them can only other time new some could these two may first then do any like my now over
such our man me even most made after also did many off before must well back through years where much your way
down should because long each just state those people too how little good world make very year still see
own work men day get here old life both between being under three never know same last another while us might
great against go come since right came take used himself few house use place during high without again home
around small however found water went say part once thought general school every upon does got united left
number course war until always away something fact public though less put almost hand enough far took head yet
government system set better told nothing night end called why find going look asked later point knew next
city business case group toward room days young let given social side present several order second national
rather possible per face among form important often things looked early white large need big become within
felt along children saw best church ever least power development light seemed thing family interest want
members mind country area others done turned although open service certain kind problem began different door
thus help sense means whole matter human perhaps itself times law body door line above name example
reading company therefore action seen local knowledge bread river market evening bottle engine garden letter
window station history science temperature measurement description examination understanding refrigerator
transportation agricultural manufacturing environmental communication responsibility pharmaceutical
"""
_WORDS: Final = _FREQUENT.split()
_SENTENCE: Final = (6, 18)
_QUERY: Final = (3, 10)


class Writer:
    """Draws text. words: the least and the most that a context has. seed: the same gives the same text."""

    def __init__(self, words: tuple[int, int], seed: int | Sequence[int]) -> None:
        self._words = words
        self._rng = np.random.default_rng(seed)
        shares = 1 / np.arange(1, len(_WORDS) + 1)
        self._shares = shares / shares.sum()

    def query(self) -> str:
        """A question of a few words."""
        return " ".join(self._drawn(self._between(_QUERY))) + "?"

    def context(self) -> str:
        """A passage of sentences."""
        words = self._drawn(self._between(self._words))
        sentences = []
        while words:
            end = self._between(_SENTENCE)
            sentence = " ".join(words[:end])
            sentences.append(sentence[0].upper() + sentence[1:] + ".")
            words = words[end:]
        return " ".join(sentences)

    def _between(self, bounds: tuple[int, int]) -> int:
        return int(self._rng.integers(bounds[0], bounds[1] + 1))

    def _drawn(self, count: int) -> list[str]:
        return [_WORDS[at] for at in self._rng.choice(len(_WORDS), count, p=self._shares).tolist()]
