"""The machinery under every learner; knows neither agents nor environments.

Names are imported when first used, so that NumPy-only modules load without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint as load_checkpoint
    from .checkpoint import save_checkpoint as save_checkpoint
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .events import TensorBoardWriter as TensorBoardWriter
    from .gan import GAN as GAN
    from .gradients import Step as Step
    from .gradients import compile_step as compile_step
    from .gradients import differentiate as differentiate
    from .gradients import estimated as estimated
    from .gradients import external as external
    from .gradients import given as given
    from .loop import train as train
    from .players import log_sigmoid_loss as log_sigmoid_loss
    from .players import minimax_loss as minimax_loss
    from .players import non_saturating_loss as non_saturating_loss
    from .protocols import Agent as Agent
    from .regression import Regression as Regression
    from .replay import Replay as Replay
    from .rollout import Rollout as Rollout
    from .turns import Turn as Turn
    from .turns import compile_turns as compile_turns
    from .writer import Writer as Writer

_MODULES = {
    "GAN": "gan",
    "Agent": "protocols",
    "Evaluation": "evaluation",
    "Regression": "regression",
    "Replay": "replay",
    "Rollout": "rollout",
    "Step": "gradients",
    "TensorBoardWriter": "events",
    "Turn": "turns",
    "Writer": "writer",
    "compile_step": "gradients",
    "compile_turns": "turns",
    "differentiate": "gradients",
    "estimated": "gradients",
    "evaluate": "evaluation",
    "external": "gradients",
    "given": "gradients",
    "load_checkpoint": "checkpoint",
    "log_sigmoid_loss": "players",
    "minimax_loss": "players",
    "non_saturating_loss": "players",
    "save_checkpoint": "checkpoint",
    "train": "loop",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
