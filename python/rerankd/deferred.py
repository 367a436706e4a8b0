"""Modules that are imported when they are first used.

numpy and asyncio take half of the time from the start of the interpreter to a first score from a packed
checkpoint; a model loads meanwhile, on threads that need no interpreter.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any


class Deferred:
    """Stands for a module: `np = Deferred("numpy")`. Its attributes are the module's, kept once asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # A dunder that is asked of this object is not the module's: __file__, __wrapped__ and their kin.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


def begin(name: str) -> None:
    """Imports a module on a thread of its own, meanwhile; who uses it sooner waits for that."""
    if name not in sys.modules:
        threading.Thread(target=importlib.import_module, args=(name,), daemon=True).start()
