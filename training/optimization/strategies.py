"""Evolution strategies: distributions of weights that move towards lower scores.

Legend: P parameters, n candidates of a generation.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ..common.plain import flag, number_or_none, whole, whole_or_none
from ..core import arguments
from ..core.gradients import compile_step
from ..core.host_losses import given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.floating[Any]]


class Strategy(Protocol):
    """A distribution of weights whose mean is what it has learned."""

    def begin(self, variables: Sequence[keras.Variable], generator: np.random.Generator) -> None:
        """Starts at the weights of the variables; `generator` draws all its random numbers.

        Raises:
            ValueError: It was begun before, or a package is missing.
        """

    def ask(self) -> Vector:
        """The candidates of a generation, `[n, P]`."""

    def tell(self, scores: Vector) -> dict[str, float]:
        """Assigns the new mean to the variables, which hold the old one; lower `scores` are better.

        Args:
            scores: Of the candidates of the last `ask`, `[n]`, finite.

        Returns:
            Metrics.
        """

    def get_state(self) -> dict[str, Any]:
        """All that later generations depend on besides weights and generator."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from there, after `begin`."""


class OpenAIES:
    """A Gaussian with fixed standard deviation, whose mean any Keras optimizer moves.

        ∇θ E s(θ + σε) ≈ 1/n Σₖ [u(θ + σεₖ) − u(θ − σεₖ)] εₖ / σ,    εₖ ~ N(0, 1), k = 1 … n/2

    Noise is antithetic. With rank shaping, u are the ranks of the scores from −½ to ½ (equal scores
    share their mean rank), so the size of the scores does not matter; otherwise u = s. It takes
    memory for n/2 · P numbers and suits large models and noisy scores.

    Source: Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement
    Learning", algorithm 1 and section 2.1.

    Args:
        optimizer: Any Keras optimizer that is used for nothing else. It sees all weights as one
            variable, so constraints and regularisers of layers do not apply.
        sigma: σ, in the units of the weights.
        population: n, even.
        rank_shaping: Whether ranks replace scores.

    Raises:
        ValueError: An argument is of another kind or out of range.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        sigma: float = 0.05,
        population: int = 50,
        rank_shaping: bool = True,
    ) -> None:
        arguments.check_optimizer("The optimizer of OpenAIES", optimizer)
        self._optimizer, self._sigma = optimizer, _deviation(sigma)
        self._population = whole("population", population, 2)
        if self._population % 2:
            raise ValueError(
                "population must be even, because noise is used with both signs. Received: "
                f"population={population}. Pass {self._population + 1}."
            )
        self._shapes = flag("rank_shaping", rank_shaping)
        self._variables: list[keras.Variable] = []
        self._noise: Vector = np.zeros((0, 0), np.float32)

    def begin(self, variables: Sequence[keras.Variable], generator: np.random.Generator) -> None:
        """Compiles the step of the optimizer."""
        _check_new(self._variables, "An OpenAIES")
        start = flat(variables)
        mean = keras.Variable(start, name="mean")  # [P]
        signature = (), tf.TensorSpec(start.shape)
        # The outputs are the weights, so the gradient at the outputs is the estimate.
        forward = lambda inputs: mean.value  # noqa: E731
        self._step = compile_step(forward, given, [mean], self._optimizer, signature)
        self._variables, self._generator, self._mean = list(variables), generator, mean

    def ask(self) -> Vector:
        """θ + σε and θ − σε, `[n, P]`."""
        mean = flat(self._variables)
        shape = self._population // 2, mean.size
        self._noise = self._generator.standard_normal(shape, np.float32)
        moves = np.float32(self._sigma) * self._noise
        return np.concatenate([mean + moves, mean - moves])

    def tell(self, scores: Vector) -> dict[str, float]:
        """A step of the optimizer along the estimate; reports its norm as `grad_norm`."""
        utilities = centered_ranks(scores) if self._shapes else scores
        plus, minus = np.split(utilities, 2)
        gradient = (plus - minus) @ self._noise / (self._sigma * self._population)
        self._mean.assign(flat(self._variables))
        metrics = self._step((), gradient)
        assign(self._variables, self._mean.numpy())
        return {"grad_norm": metrics["grad_norm"], "sigma": self._sigma}

    def get_state(self) -> dict[str, Any]:
        """The optimizer's variables."""
        return {"optimizer": [variable.numpy() for variable in self._optimizer.variables]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Assigns the optimizer's variables."""
        for variable, value in zip(self._optimizer.variables, state["optimizer"], strict=True):
            variable.assign(value)


class CMAES:
    """A Gaussian that also learns its covariance: strong on up to about a thousand parameters.

    Memory and time grow with P² and more. It is that of the package `cma` (extra `evolution`).

    Source: Hansen 2016, "The CMA Evolution Strategy: A Tutorial".

    Args:
        sigma: The first standard deviation, in the units of the weights.
        population: n; by default 4 + ⌊3·log P⌋.

    Raises:
        ValueError: A number is out of range; from the first `fit`: the package is missing.
    """

    def __init__(self, *, sigma: float = 0.5, population: int | None = None) -> None:
        self._sigma = _deviation(sigma)
        self._population = whole_or_none("population", population, 4)
        self._variables: list[keras.Variable] = []
        self._told: list[Vector] = []
        self._search: Any = None

    def begin(self, variables: Sequence[keras.Variable], generator: np.random.Generator) -> None:
        """Starts the search of the package, with random numbers of `generator`."""
        _check_new(self._variables, "A CMAES")
        try:
            import cma
        except ImportError:
            raise ValueError(
                "CMAES must have the package cma. Received: a Python without it. Install the "
                "extra: pip install 'vantage-rl[evolution]', or use OpenAIES."
            ) from None
        self._make = cma.CMAEvolutionStrategy
        self._variables, self._generator = list(variables), generator
        self._start(flat(self._variables).astype(float))

    def _start(self, mean: Vector) -> None:
        self._first = mean
        options = {
            "popsize": self._population or 4 + int(3 * math.log(max(mean.size, 1))),
            "randn": lambda *shape: self._generator.standard_normal(shape),
            "seed": math.nan,  # NumPy's global generator is left alone
            "verbose": -9,
            "verb_log": 0,
        }
        with _quiet():
            self._search = self._make(mean, self._sigma, options)

    def ask(self) -> Vector:
        """Candidates of the current Gaussian, `[n, P]`.

        Raises:
            ValueError: The weights are not its mean any more.
        """
        if not np.array_equal(flat(self._variables), self._search.mean.astype(np.float32)):
            raise ValueError(
                "CMAES must continue from its own mean. Received: weights that changed after the "
                "last generation. Create a new Evolution, which starts from them."
            )
        return self._ask()

    def _ask(self) -> Vector:
        with _quiet():
            self._asked = self._search.ask()
        return np.asarray(self._asked)

    def tell(self, scores: Vector) -> dict[str, float]:
        """Adapts mean, covariance and `sigma`, which it reports."""
        self._tell(scores)
        assign(self._variables, self._search.mean)
        return {"sigma": float(self._search.sigma)}

    def _tell(self, scores: Vector) -> None:
        with _quiet():
            self._search.tell(self._asked, scores.tolist())
        self._told.append(scores)

    def get_state(self) -> dict[str, Any]:
        """Where the search started and all scores: with them it is repeated without the model."""
        return {"first": self._first, "scores": np.array(self._told)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Repeats the search with the known scores; the generator must be as at its start."""
        self._told = []
        self._start(np.asarray(state["first"], float))
        for scores in state["scores"]:
            self._ask()
            self._tell(np.asarray(scores))


def flat(variables: Sequence[keras.Variable]) -> Vector:
    """The weights as one float32 vector, `[P]`."""
    pieces = [variable.numpy().astype(np.float32).ravel() for variable in variables]
    return np.concatenate(pieces)


def assign(variables: Sequence[keras.Variable], weights: Vector) -> None:
    """Sets the variables to the pieces of a vector `[P]`."""
    cuts = np.cumsum([math.prod(variable.shape) for variable in variables])[:-1]
    pieces = np.split(weights.astype(np.float32), cuts)
    for variable, piece in zip(variables, pieces, strict=True):
        variable.assign(piece.reshape(variable.shape))


def centered_ranks(scores: Vector) -> Vector:
    """Ranks from −½ (lowest) to ½; equal scores share the mean of their ranks."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts + 1) / 2)[which]
    centered: Vector = ranks / max(len(scores) - 1, 1) - 0.5
    return centered


def _deviation(sigma: object) -> float:
    number = number_or_none("sigma", sigma)
    if number is None or number <= 0:
        raise ValueError(
            f"sigma must be a number above 0. Received: sigma={sigma!r:.40}. Pass about a tenth of "
            "the weights' size."
        )
    return number


def _check_new(variables: Sequence[keras.Variable], what: str) -> None:
    if variables:
        raise ValueError(
            f"{what} must be used in one Evolution. Received: one that trains "
            f"{variables[0].path!s:.80}. Create another one."
        )


class _quiet(warnings.catch_warnings):  # used like the one that it is
    """Context without the package's warnings, about flat scores for example."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered
