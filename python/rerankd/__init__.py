"""rerankd: which of a search system's candidates are relevant to a query.

Reranker ranks in this process; Client and AsyncClient ask a server. Everything is imported when it is first
asked for, so that `import rerankd` is quick, and gRPC comes in with a client alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankd._core import __version__ as __version__
    from rerankd.client import AsyncClient as AsyncClient
    from rerankd.client import Client as Client
    from rerankd.errors import AuthError as AuthError
    from rerankd.errors import DeadlineError as DeadlineError
    from rerankd.errors import DeviceError as DeviceError
    from rerankd.errors import InputError as InputError
    from rerankd.errors import InternalError as InternalError
    from rerankd.errors import LostError as LostError
    from rerankd.errors import ModelError as ModelError
    from rerankd.errors import OverloadedError as OverloadedError
    from rerankd.errors import RerankdError as RerankdError
    from rerankd.errors import UnknownModelError as UnknownModelError
    from rerankd.errors import UnreachableError as UnreachableError
    from rerankd.pool import Pool as Pool
    from rerankd.ranking import Ranking as Ranking
    from rerankd.ranking import Result as Result
    from rerankd.ranking import Timing as Timing
    from rerankd.ranking import Usage as Usage
    from rerankd.reranker import RankStream as RankStream
    from rerankd.reranker import Reranker as Reranker

_HOME = {
    "__version__": "_core",
    "AsyncClient": "client",
    "Client": "client",
    "Pool": "pool",
    "RankStream": "completions",
    "Ranking": "ranking",
    "Reranker": "reranker",
    "Result": "ranking",
    "Timing": "ranking",
    "Usage": "ranking",
} | dict.fromkeys(
    (
        "AuthError",
        "DeadlineError",
        "DeviceError",
        "InputError",
        "InternalError",
        "LostError",
        "ModelError",
        "OverloadedError",
        "RerankdError",
        "UnknownModelError",
        "UnreachableError",
    ),
    "errors",
)

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
