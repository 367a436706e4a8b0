"""Modules that are imported when they are first used."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from rerankd.deferred import Deferred


def test_it_stands_for_the_module() -> None:
    stands = Deferred("math")
    assert stands.pi is math.pi
    assert stands.sqrt(4) == 2
    assert vars(stands)["pi"] is math.pi  # not looked up again
    with pytest.raises(AttributeError, match="no_such_thing"):
        stands.no_such_thing  # noqa: B018
    assert not hasattr(stands, "__wrapped__")


HEAVY = ("asyncio", "grpc", "numpy")


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("from rerankd import Reranker", []),
        ("import rerankd.deferred as d; d.begin('numpy'); import numpy; numpy.zeros(1)", ["numpy"]),
        ("from rerankd import Reranker; Reranker('mini-en').score('a', ['b'])", ["numpy"]),
    ],
)
def test_what_is_imported_when(program: str, loaded: list[str]) -> None:
    program += f"; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(loaded)
