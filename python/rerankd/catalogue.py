"""Catalogue: the models that a server has, and what a request may call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rerankd.errors import InputError, UnknownModelError
from rerankd.reranker import Reranker


class Catalogue:
    """Rerankers by name; the first is the default.

    aliases: names beside those that the models have of themselves. Raises InputError where two models have
    one name.
    """

    def __init__(self, rerankers: Sequence[Reranker], aliases: Mapping[str, Reranker] | None = None) -> None:
        self._rerankers = rerankers
        self._by_name = _by_name(rerankers, aliases or {})

    def __iter__(self) -> Iterator[Reranker]:
        return iter(self._rerankers)

    @property
    def default(self) -> Reranker:
        return self._rerankers[0]

    def get(self, name: str) -> Reranker | None:
        """The model of that name, or None."""
        return self._by_name.get(name)

    def find(self, name: str) -> Reranker:
        """The model of that name, the default for "". Raises UnknownModelError that lists those served."""
        reranker = self.get(name) if name else self.default
        if reranker is None:
            served = ", ".join(reranker.name for reranker in self._rerankers)
            raise UnknownModelError(f"no model {name[:80]!a} is served here; served: {served}")
        return reranker

    def aliases(self, reranker: Reranker) -> list[str]:
        """The other names that mean this model."""
        return [name for name, its in self._by_name.items() if its is reranker and name != reranker.name]


def _by_name(rerankers: Sequence[Reranker], given: Mapping[str, Reranker]) -> dict[str, Reranker]:
    by_name: dict[str, Reranker] = {}
    for reranker in rerankers:
        if reranker.name in by_name:
            raise InputError("model", f"two models are called {reranker.name!r}")
        by_name[reranker.name] = reranker
    for alias, reranker in given.items():
        if by_name.setdefault(alias, reranker) is not reranker:
            raise InputError("alias", f"{alias!r} is another model's own name; each name means one model")
    aliases = [alias for reranker in rerankers for alias in reranker.aliases]
    for reranker in rerankers:
        for alias in reranker.aliases:
            # An alias of two models is nobody's, unless it was given: to choose is not for us.
            if aliases.count(alias) == 1:
                by_name.setdefault(alias, reranker)
    return by_name
