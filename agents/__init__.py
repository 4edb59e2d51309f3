"""What acts and learns: one file per algorithm, readable top to bottom.

Names are imported when first used, so that configs and host policies load without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .a2c import A2C as A2C
    from .config import A2CConfig as A2CConfig

_MODULES = {"A2C": "a2c", "A2CConfig": "config"}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
