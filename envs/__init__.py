"""Vector environments, checks and examples; independent of `vantage.agents` and `vantage.training`.

Names are imported on first use, so that a command loads only what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checking.check import check_env as check_env
    from .checking.findings import Report as Report
    from .make import EnvSource as EnvSource
    from .make import Vectorization as Vectorization
    from .make import make_vec as make_vec
    from .vector.broken import BrokenEnvironmentError as BrokenEnvironmentError

_MODULES = {
    "BrokenEnvironmentError": "vector.broken",
    "EnvSource": "make",
    "Report": "checking.findings",
    "Vectorization": "make",
    "check_env": "checking.check",
    "make_vec": "make",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
