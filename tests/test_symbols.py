"""Names that reflection is asked for."""

from __future__ import annotations

import pytest
from rerankd.symbols import Symbols

SERVICE = "rerankd.v1.RerankService"


@pytest.mark.parametrize("symbol", [SERVICE, f"{SERVICE}.RerankBatch", "rerankd.v1.Context"])
def test_a_symbol_is_of_its_file(symbol: str) -> None:
    assert Symbols().FindFileContainingSymbol(symbol).name == "rerankd/v1/rerank.proto"


@pytest.mark.parametrize("symbol", ["", "Rerank", f"{SERVICE}.Nothing", "rerankd.v1.Nothing.Rerank"])
def test_what_there_is_not_is_a_key_error(symbol: str) -> None:
    with pytest.raises(KeyError):
        Symbols().FindFileContainingSymbol(symbol)


def test_all_else_is_the_pools() -> None:
    assert Symbols().FindFileByName("rerankd/v1/rerank.proto").package == "rerankd.v1"
