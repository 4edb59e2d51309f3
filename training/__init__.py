"""The machinery under every learner; knows neither agents nor environments.

Names are imported when first used, so that NumPy-only modules load without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adversarial.gan import GAN as GAN
    from .adversarial.losses import hinge_loss as hinge_loss
    from .adversarial.losses import (
        least_squares_discriminator_loss as least_squares_discriminator_loss,
    )
    from .adversarial.losses import least_squares_loss as least_squares_loss
    from .adversarial.losses import log_sigmoid_loss as log_sigmoid_loss
    from .adversarial.losses import minimax_loss as minimax_loss
    from .adversarial.losses import non_saturating_loss as non_saturating_loss
    from .adversarial.losses import wasserstein_critic_loss as wasserstein_critic_loss
    from .adversarial.losses import wasserstein_loss as wasserstein_loss
    from .adversarial.metrics import Coverage as Coverage
    from .adversarial.metrics import FrechetDistance as FrechetDistance
    from .adversarial.metrics import ModeCoverage as ModeCoverage
    from .adversarial.metrics import frechet_distance as frechet_distance
    from .adversarial.metrics import mode_coverage as mode_coverage
    from .adversarial.penalties import R1 as R1
    from .adversarial.penalties import R2 as R2
    from .adversarial.penalties import Penalty as Penalty
    from .adversarial.penalties import WassersteinPenalty as WassersteinPenalty
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
    from .optimization.evolution import Evolution as Evolution
    from .optimization.gradient import GradientFunction as GradientFunction
    from .optimization.gradient import compile_gradient as compile_gradient
    from .optimization.lbfgs import LBFGS as LBFGS
    from .optimization.sam import SAM as SAM
    from .optimization.strategies import CMAES as CMAES
    from .optimization.strategies import OpenAIES as OpenAIES
    from .physics.derivatives import Derivatives as Derivatives
    from .physics.derivatives import derivatives as derivatives
    from .runs.loop import train as train
    from .runs.options import TrainOptions as TrainOptions
    from .storage.checkpoint import load_checkpoint as load_checkpoint
    from .storage.checkpoint import save_checkpoint as save_checkpoint
    from .supervised.keras_model import ExternalLossModel as ExternalLossModel
    from .supervised.keras_model import as_keras as as_keras
    from .supervised.regression import Regression as Regression
    from .supervised.trainer import Trainer as Trainer
    from .tensorboard.events import TensorBoardWriter as TensorBoardWriter
    from .tensorboard.writer import Writer as Writer

_MODULES = {
    "Agent": "experience.protocols",
    "Average": "core.turns",
    "CMAES": "optimization.strategies",
    "Coverage": "adversarial.metrics",
    "Derivatives": "physics.derivatives",
    "Evaluation": "experience.evaluation",
    "Evolution": "optimization.evolution",
    "ExternalLossModel": "supervised.keras_model",
    "FrechetDistance": "adversarial.metrics",
    "GAN": "adversarial.gan",
    "GradientFunction": "optimization.gradient",
    "LBFGS": "optimization.lbfgs",
    "ModeCoverage": "adversarial.metrics",
    "OpenAIES": "optimization.strategies",
    "Penalty": "adversarial.penalties",
    "R1": "adversarial.penalties",
    "R2": "adversarial.penalties",
    "Regression": "supervised.regression",
    "Replay": "experience.replay",
    "Rollout": "experience.rollout",
    "SAM": "optimization.sam",
    "Step": "core.step",
    "TensorBoardWriter": "tensorboard.events",
    "TrainOptions": "runs.options",
    "Trainer": "supervised.trainer",
    "Turn": "core.turns",
    "WassersteinPenalty": "adversarial.penalties",
    "Writer": "tensorboard.writer",
    "as_keras": "supervised.keras_model",
    "compile_gradient": "optimization.gradient",
    "compile_step": "core.gradients",
    "compile_turns": "core.turns",
    "derivatives": "physics.derivatives",
    "differentiate": "core.lifts",
    "estimated": "core.host_losses",
    "evaluate": "experience.evaluation",
    "external": "core.host_losses",
    "frechet_distance": "adversarial.metrics",
    "from_jax": "bridges.jax_losses",
    "from_torch": "bridges.torch_losses",
    "given": "core.host_losses",
    "hinge_loss": "adversarial.losses",
    "least_squares_discriminator_loss": "adversarial.losses",
    "least_squares_loss": "adversarial.losses",
    "load_checkpoint": "storage.checkpoint",
    "log_sigmoid_loss": "adversarial.losses",
    "minimax_loss": "adversarial.losses",
    "mode_coverage": "adversarial.metrics",
    "non_saturating_loss": "adversarial.losses",
    "save_checkpoint": "storage.checkpoint",
    "train": "runs.loop",
    "wasserstein_critic_loss": "adversarial.losses",
    "wasserstein_loss": "adversarial.losses",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
