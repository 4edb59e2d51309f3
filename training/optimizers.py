"""The optimizer's update behind a gate, on one joined variable where that is the same mathematics.

A bad update must change no weight, slot, counter or layer state. A branch around the optimizer does
that for any optimizer. But twelve small variables cost twelve times the operations of one, and a
branch that captures them as much again; an elementwise optimizer makes the same update on one:

    p = [θ₁ | θ₂ | …],  g = [g₁ | g₂ | …]        joined in the compiled call
    p' = optimizer(p, g)  if finite, else p      slots and counter alike
    [θ₁ | θ₂ | …] ← p'                           the models' own variables stay the truth

Legend: P parameters over all variables.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
)
MOST_PARAMETERS = 50_000  # above, the copies cost more than the operations they save


def apply_if(
    finite: tf.Tensor,
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    norm: tf.Tensor,
    variables: Sequence[keras.Variable],
    values: list[list[tf.Tensor]],
    states: Iterable[tuple[keras.Variable, tf.Tensor]],
) -> None:
    """Assigns layer states, weights, slots and counter where `finite`.

    Args:
        finite: The gate.
        optimizer: Built by `build_optimizer` for the variables.
        gradients: One per variable.
        norm: Of all gradients.
        variables: What is trained.
        values: Of each variable, what it was before the forward pass, and after it.
        states: What the forward pass wants to assign: first, as `fit` does, since some of it may be
            trained, too.
    """
    joined = _JOINED.get(optimizer)

    def apply() -> tf.Tensor:
        for state, value in states:
            state.assign(value)
        optimizer.apply(clipped, variables)
        return tf.constant(True)

    if joined is not None:
        gradients = [joined.join(gradients)]
    with _clipped(gradients, norm, optimizer) as clipped:
        if joined is None:
            tf.cond(finite, apply, lambda: tf.constant(False))
            return
        for state, value in states:
            state.assign(tf.where(finite, value, state.value))
        joined.apply_if(finite, optimizer, clipped[0], values)


@contextlib.contextmanager
def _clipped(
    gradients: list[tf.Tensor], norm: tf.Tensor, optimizer: keras.optimizers.Optimizer
) -> Iterator[list[tf.Tensor]]:
    """g·min(1, c/‖g‖) with the norm that is known; the optimizer would sum all squares again.

    As Keras does it, where every gradient is dense and of single precision and none is accumulated;
    otherwise it is left to the optimizer. Source: Pascanu et al. 2013, algorithm 1.
    """
    limit, steps = clip_limit(optimizer), optimizer.gradient_accumulation_steps
    is_plain = all(isinstance(g, tf.Tensor) and g.dtype == tf.float32 for g in gradients)
    if limit == math.inf or optimizer.clipnorm or steps or not is_plain:
        yield gradients
        return
    scale = limit * tf.minimum(1.0 / norm, 1.0 / limit)
    optimizer.global_clipnorm = None
    try:
        yield [gradient * scale for gradient in gradients]
    finally:
        optimizer.global_clipnorm = limit


class Joined:
    """The variable that an optimizer was built on, in place of those it stands for."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        values = np.concatenate([variable.numpy().ravel() for variable in variables])
        self.parameters = keras.Variable(values, name="parameters")  # [P]; scratch between calls
        self.variables = list(variables)

    def join(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """The gradients of the variables as one, `[P]`.

        Raises:
            ValueError: One is a `tf.IndexedSlices`, for which Keras has other rules.
        """
        for variable, gradient in zip(self.variables, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                raise ValueError(
                    "A joined optimizer must receive dense gradients. Received: tf.IndexedSlices "
                    f"for {variable.path}. Call optimizer.build(variables) before, which gives "
                    "every variable slots of its own."
                )
        return join(gradients)

    def apply_if(
        self,
        finite: tf.Tensor,
        optimizer: keras.optimizers.Optimizer,
        gradient: tf.Tensor,
        values: list[list[tf.Tensor]],
    ) -> None:
        """Updates, then puts the old values back unless `finite`."""
        before = now = join([value[0] for value in values])
        if any(len(value) > 1 for value in values):  # the forward pass assigned some
            now = join([value[-1] for value in values])
        rate = optimizer.learning_rate  # no update changes it
        slots = [(v, tf.identity(v.value)) for v in optimizer.variables if v is not rate]
        self.parameters.assign(now)
        optimizer.apply([gradient], [self.parameters])
        for slot, value in slots:
            slot.assign(tf.where(finite, slot.value, value))
        after = tf.where(finite, self.parameters.value, before)
        pieces = tf.split(after, [math.prod(variable.shape) for variable in self.variables])
        for variable, piece in zip(self.variables, pieces, strict=True):
            is_vector = len(variable.shape) == 1  # every operation has to be compiled
            variable.assign(piece if is_vector else tf.reshape(piece, variable.shape))


def clip_limit(optimizer: keras.optimizers.Optimizer) -> float:
    """The global norm to which an optimizer clips; infinity if it does not."""
    return getattr(optimizer, "global_clipnorm", None) or math.inf


def learning_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate that an optimizer has now; NaN if it has none (Keras's MultiOptimizer)."""
    return getattr(optimizer, "learning_rate", math.nan)


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """‖g‖₂ over all: of few numbers joined; of many that of the columns' norms.

    Columns XLA adds up side by side. It would do away with sums of sums, but not with their roots.
    """
    if sum(math.prod(gradient.shape) for gradient in gradients) < 2**14:
        every = join(gradients)
        return tf.sqrt(tf.tensordot(every, every, 1))
    columns = [tf.norm(g, axis=0) if g.shape.rank else tf.abs(g) for g in gradients]
    return tf.norm(join(columns))


def join(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tensors laid end to end, `[P]`."""
    return tf.concat([t if t.shape.rank == 1 else tf.reshape(t, [-1]) for t in tensors], 0)


_JOINED: WeakKeyDictionary[keras.optimizers.Optimizer, Joined] = WeakKeyDictionary()


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> None:
    """Builds an optimizer, on one joined variable where that is the same mathematics and pays.

    It is the same for an optimizer that is elementwise and does nothing variable by variable
    (constraints, clipping each gradient, leaving some out of weight decay), and for dense gradients
    (an `Embedding` has none). One that is built already stays as it is.

    Raises:
        ValueError: It was built here for other variables.
    """
    if optimizer.built:
        known = _JOINED.get(optimizer)
        if known is not None and list(map(id, known.variables)) != list(map(id, variables)):
            raise ValueError(
                "An optimizer must be used with the variables it was built for. Received: "
                f"{[v.path for v in variables]}, after {[v.path for v in known.variables]}. "
                "Make an optimizer for each set of variables."
            )
        return
    parameters = sum(math.prod(variable.shape) for variable in variables)
    if parameters > MOST_PARAMETERS or not _is_elementwise(optimizer, variables):
        optimizer.build(variables)
        return
    joined = _JOINED[optimizer] = Joined(variables)
    optimizer.build([joined.parameters])


def _is_elementwise(optimizer, variables) -> bool:
    if type(optimizer) not in ELEMENTWISE:
        return False
    excludes = hasattr(optimizer, "_exclude_from_weight_decay")
    per_variable = (optimizer.clipnorm, optimizer.gradient_accumulation_steps, excludes)
    return (
        not any(per_variable)
        and not optimizer.use_ema
        and all(v.dtype == "float32" and v.constraint is None for v in variables)
        and not any(v.overwrite_with_gradient or v.name == "embeddings" for v in variables)
    )
