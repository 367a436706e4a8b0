"""CUDA's libraries where pip has put them. The engine looks for cuBLAS by its name, as the system's loader
does, which does not know of NVIDIA's wheels; one that is loaded already is found wherever it came from.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rerankd import _core

_DRIVER: Final = "libcuda.so.1"
# The second is linked to the first.
_NAMES: Final = ("libcublasLt.so.*", "libcublas.so.*")


def preload() -> None:
    """Loads cuBLAS from NVIDIA's wheels, if there is a driver for it. What is not there, the engine tells."""
    if not _core.cuda or not _loads(_DRIVER):
        return
    spec = importlib.util.find_spec("nvidia")
    for library in found(spec.submodule_search_locations or () if spec else ()):
        _loads(str(library))


def found(places: Iterable[str]) -> list[Path]:
    """The libraries in `places`, where NVIDIA's wheels lie, in the order in which they can be loaded."""
    there = (path for root in places for name in _NAMES for path in Path(root).glob(f"*/lib/{name}"))
    # The newest first, and what another is linked to before all.
    return sorted(there, key=lambda path: ("Lt" in path.name, path.name), reverse=True)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
