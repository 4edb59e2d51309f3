"""The machinery under every learner; knows neither agents nor environments.

Names are imported when first used, so that NumPy-only modules load without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bridges.jax_losses import from_jax as from_jax
    from .bridges.torch_losses import from_torch as from_torch
    from .core.gradients import compile_step as compile_step
    from .core.host_losses import estimated as estimated
    from .core.host_losses import external as external
    from .core.host_losses import given as given
    from .core.lifts import differentiate as differentiate
    from .core.step import Step as Step
    from .core.turns import Average as Average
    from .core.turns import Turn as Turn
    from .core.turns import compile_turns as compile_turns
    from .experience.evaluation import Evaluation as Evaluation
    from .experience.evaluation import evaluate as evaluate
    from .experience.protocols import Agent as Agent
    from .experience.replay import Replay as Replay
    from .experience.rollout import Rollout as Rollout
    from .physics.derivatives import Derivatives as Derivatives
    from .physics.derivatives import derivatives as derivatives
    from .runs.loop import train as train
    from .runs.options import TrainOptions as TrainOptions
    from .storage.checkpoint import load_checkpoint as load_checkpoint
    from .storage.checkpoint import save_checkpoint as save_checkpoint
    from .supervised.gan import GAN as GAN
    from .supervised.players import log_sigmoid_loss as log_sigmoid_loss
    from .supervised.players import minimax_loss as minimax_loss
    from .supervised.players import non_saturating_loss as non_saturating_loss
    from .supervised.regression import Regression as Regression
    from .tensorboard.events import TensorBoardWriter as TensorBoardWriter
    from .tensorboard.writer import Writer as Writer

_MODULES = {
    "GAN": "supervised.gan",
    "Agent": "experience.protocols",
    "Average": "core.turns",
    "Derivatives": "physics.derivatives",
    "Evaluation": "experience.evaluation",
    "Regression": "supervised.regression",
    "Replay": "experience.replay",
    "Rollout": "experience.rollout",
    "Step": "core.step",
    "TensorBoardWriter": "tensorboard.events",
    "TrainOptions": "runs.options",
    "Turn": "core.turns",
    "Writer": "tensorboard.writer",
    "compile_step": "core.gradients",
    "compile_turns": "core.turns",
    "derivatives": "physics.derivatives",
    "differentiate": "core.lifts",
    "estimated": "core.host_losses",
    "evaluate": "experience.evaluation",
    "external": "core.host_losses",
    "from_jax": "bridges.jax_losses",
    "from_torch": "bridges.torch_losses",
    "given": "core.host_losses",
    "load_checkpoint": "storage.checkpoint",
    "log_sigmoid_loss": "supervised.players",
    "minimax_loss": "supervised.players",
    "non_saturating_loss": "supervised.players",
    "save_checkpoint": "storage.checkpoint",
    "train": "runs.loop",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
