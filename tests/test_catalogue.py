"""Which model a name means: the models' own names, their aliases, and those that were given."""

from __future__ import annotations

from typing import Any

import pytest
from rerankd.catalogue import Catalogue
from rerankd.errors import InputError, UnknownModelError
from rerankd.reranker import Reranker


class Named:
    """A reranker of which only the names matter."""

    def __init__(self, name: str, *aliases: str) -> None:
        self.name, self.aliases = name, aliases


def catalogue(*named: Any, **given: Any) -> Catalogue:
    return Catalogue(named, given)


def test_an_alias_that_was_given_beats_one_that_a_model_has_of_itself(reranker: Reranker) -> None:
    hub: Any = Named("org/base", "base", "hosted")
    models = catalogue(hub, reranker, hosted=reranker)
    assert [models.find(name) for name in ("base", "hosted", "")] == [hub, reranker, hub]
    assert models.aliases(hub) == ["base"]
    assert models.aliases(reranker) == ["hosted"]
    assert list(models) == [hub, reranker]


def test_an_alias_of_two_models_is_nobodys() -> None:
    one, other = Named("a/base", "base"), Named("b/base", "base")
    models = catalogue(one, other)
    assert models.get("base") is None
    with pytest.raises(UnknownModelError, match="no model 'base' is served here; served: a/base, b/base"):
        models.find("base")


def test_two_models_of_one_name_are_refused(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="two models are called 'mini-en'"):
        catalogue(reranker, reranker)


def test_an_alias_that_is_another_models_name_is_refused(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="is another model's own name"):
        Catalogue([reranker, Named("other")], {"other": reranker})  # type: ignore[list-item]
