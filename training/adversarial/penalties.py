"""What keeps a discriminator smooth: penalties on its slopes ∂D/∂x, and clipped weights.

Legend: B examples, P numbers in one example, D(x) the sum of an example's logits.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeGuard

import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import keras


Place: TypeAlias = Literal["real", "fake", "between"]


class Penalty:
    """A penalty of the discriminator's slopes; subclass it for one of your own.

    A subclass sets `at` and computes the penalty from the slopes ∂D/∂x `[B, P]`, in TensorFlow.

    Attributes:
        at: Where the slopes are taken: at "real" examples, at "fake" ones, or at points "between"
            them, x̂ = ε·x + (1 − ε)·G(z) with ε ~ U(0, 1) for each example.
    """

    at: ClassVar[Place] = "real"

    def __call__(self, slopes: tf.Tensor) -> tf.Tensor:
        """The penalty, one number, of slopes `[B, P]`."""
        raise NotImplementedError


@dataclass(frozen=True)
class R1(Penalty):
    """γ/2 · E ‖∂D(x)/∂x‖² on real examples: `gradient_penalty=γ` is the same.

    It prevents the players from circling each other and losing modes. Source: Mescheder et al.
    2018, "Which Training Methods for GANs do actually Converge?", equation 9.

    Args:
        gamma: γ, at least 0.

    Raises:
        ValueError: γ is out of range.
    """

    gamma: float
    at: ClassVar[Place] = "real"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", _weight("gamma", self.gamma))

    def __call__(self, slopes: tf.Tensor) -> tf.Tensor:
        """The penalty of slopes `[B, P]`."""
        return self.gamma / 2 * tf.reduce_mean(tf.reduce_sum(slopes**2, 1))


@dataclass(frozen=True)
class R2(R1):
    """γ/2 · E ‖∂D(G(z))/∂G(z)‖² on generated examples.

    Source: Mescheder et al. 2018, equation 10.

    Args:
        gamma: γ, at least 0.

    Raises:
        ValueError: γ is out of range.
    """

    at: ClassVar[Place] = "fake"


@dataclass(frozen=True)
class WassersteinPenalty(Penalty):
    """λ · E (‖∂D(x̂)/∂x̂‖ − 1)² at points x̂ between real and generated examples.

    The discriminator should not have BatchNormalization, which makes the slope at one example
    depend on the others: use LayerNormalization. Source: Gulrajani et al. 2017, "Improved Training
    of Wasserstein GANs", equation 3 and algorithm 1.

    Args:
        weight: λ, at least 0.

    Raises:
        ValueError: λ is out of range.
    """

    weight: float = 10.0
    at: ClassVar[Place] = "between"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _weight("weight", self.weight))

    def __call__(self, slopes: tf.Tensor) -> tf.Tensor:
        """The penalty of slopes `[B, P]`."""
        squares = tf.reduce_sum(slopes**2, 1)
        norms = tf.sqrt(tf.maximum(squares, 1e-12))  # the slope of a root at 0 is infinite
        return self.weight * tf.reduce_mean((norms - 1.0) ** 2)


def as_penalties(penalty: object, gradient_penalty: object) -> tuple[Penalty, ...]:
    """The penalties of a GAN, from its two arguments.

    Raises:
        ValueError: One is no penalty, or R1 is given twice.
    """
    gamma = _weight("gradient_penalty", gradient_penalty)
    received = list(penalty) if isinstance(penalty, tuple | list) else [penalty]
    listed: list[Penalty] = []
    for each in received if penalty is not None else ():
        if not isinstance(each, Penalty) or each.at not in ("real", "fake", "between"):
            raise ValueError(
                "penalty must be an R1, R2 or WassersteinPenalty, a Penalty of your own, or a list "
                f"of them. Received: {' '.join(repr(each).split()):.80}. Pass an object such as "
                "R1(10.0)."
            )
        listed.append(each)
    if gamma and any(type(each) is R1 for each in listed):
        raise ValueError(
            "A GAN must have one R1 penalty at most, which gradient_penalty is as well. Received: "
            f"gradient_penalty={gamma} and {penalty!r:.80}. Pass one of the two."
        )
    return (*([R1(gamma)] if gamma else []), *listed)


def as_limit(clip_weights: object) -> float | None:
    """The limit of clipped weights, or None.

    Raises:
        ValueError: It is neither None nor a finite number above 0.
    """
    if clip_weights is None:
        return None
    if not _is_weight(clip_weights) or not clip_weights:
        raise ValueError(
            "clip_weights must be a finite number above 0. Received: "
            f"clip_weights={clip_weights!r:.40}. Pass 0.01, or None for no clipping."
        )
    return float(clip_weights)


@contextlib.contextmanager
def clipped(variables: Sequence[keras.Variable], limit: float | None) -> Iterator[None]:
    """Context in which the variables have one more constraint, w ← min(max(w, −c), c).

    A step that is compiled in it clips after each update, behind the gate of the update. The models
    keep their own constraints afterwards.
    """
    before = [variable.constraint for variable in variables]
    try:
        if limit is not None:
            for variable, own in zip(variables, before, strict=True):
                variable.constraint = _clip(own, limit)
        yield
    finally:
        for variable, own in zip(variables, before, strict=True):
            variable.constraint = own


def _clip(
    own: Callable[[tf.Tensor], tf.Tensor] | None, limit: float
) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda w: tf.clip_by_value(w if own is None else own(w), -limit, limit)


def _is_weight(value: object) -> TypeGuard[float]:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return 0 <= float(value) < math.inf


def _weight(name: str, value: object) -> float:
    if not _is_weight(value):
        raise ValueError(
            f"The weight of a penalty must be finite and >= 0. Received: {name}={value!r:.40}. "
            "Pass a number, 0 for none."
        )
    return float(value)
