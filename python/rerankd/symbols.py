"""What server reflection looks names up in."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pool

_POOL: Final[Any] = descriptor_pool.Default()


class Symbols:
    """protobuf's default pool, which knows methods too, as `rerankd.v1.RerankService.Rerank`.

    Reflection's own .proto lets a client ask for one, and ghz does; protobuf finds services and messages.
    """

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's name
        """The file that declares it. Raises KeyError where none does."""
        try:
            return _POOL.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return _POOL.FindServiceByName(service).methods_by_name[method].containing_service.file

    def __getattr__(self, name: str) -> Any:
        return getattr(_POOL, name)
