"""Derivatives of a model with respect to its inputs, within the forward pass of an update.

Legend: B examples, d inputs, k outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike


class Derivatives(NamedTuple):
    """Outputs of a model and their derivatives with respect to its inputs."""

    y: tf.Tensor
    """The outputs y, `[B, k]`."""
    first: tf.Tensor
    """∂yᵢ/∂xⱼ at `[:, i, j]`, `[B, k, d]`."""
    second: Any = ()
    """∂²yᵢ/∂xⱼ² at `[:, i, j]`, `[B, k, d]`; with `hessian` ∂²yᵢ/∂xⱼ∂xₗ at `[:, i, j, l]`,
    `[B, k, d, d]`; with `columns` d is their number; without order 2 it is empty."""


def derivatives(
    model: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor | ArrayLike,
    order: int = 1,
    *,
    columns: Sequence[int] | None = None,
    hessian: bool = False,
    training: bool = False,
) -> Derivatives:
    """Returns y = f(x), ∂y/∂x and, with order 2, ∂²y/∂x²: the terms of a differential equation.

    Call it within the `forward` of `compile_step`: the update differentiates through it. It calls
    the model once. Outside of a compiled function it works as well, only slower.

    First derivatives are pulled back if k < d, and pushed forward otherwise; second derivatives are
    pushed forward twice, each direction once, for all outputs together.

    Args:
        model: A Keras model, or any function of x whose rows are independent: row i of the result
            must depend on row i of x alone. Only sums over rows are computed, so derivatives of
            another function (one with BatchNorm in training mode) would be wrong.
        x: Inputs `[B, d]`, floats.
        order: 1, or 2 for second derivatives.
        columns: The columns of x for which there are second derivatives, in this order; by default
            all d. The others are not computed: of u(x, t) a heat equation needs only ∂²u/∂x².
        hessian: Whether to return all second derivatives, and not only the pure ones. This takes
            d (d + 1) / 2 second derivatives instead of d.
        training: Whether a Keras model runs in training mode, where Dropout drops.

    Raises:
        ValueError: x is no matrix of floats; `columns` are none of its columns; the result is not
            `[B, k]`, or does not depend on x by differentiable operations; `order` is another
            number; the model has a BatchNorm in training mode.
    """
    _check_order(order, hessian)
    x = _matrix(x)
    chosen = _chosen(columns, x.shape[1], order)
    arguments = {}
    if isinstance(model, keras.Layer):
        arguments["training"] = bool(training)
        _check_independent(model, bool(training))
    # Only what depends on x is recorded; the weights are on the tape of the update.
    options = {"persistent": True, "watch_accessed_variables": False}
    with tf.GradientTape(**options) as outer:
        outer.watch(x)
        with tf.GradientTape(**options) as inner:
            inner.watch(x)
            y = model(x, **arguments)
            _check_outputs(y, x)
            columns = [y[:, i] for i in range(y.shape[1])] if order == 1 else []
        if order == 1 and len(columns) < x.shape[1]:
            return Derivatives(y, _pulled(inner, columns, x))
        directions = list(_directions(x))
        firsts = _pushed(inner, y, x, directions)
        _check_reached(firsts)
    first = tf.stack(firsts, 2)
    if order == 1:
        return Derivatives(y, first)
    firsts, directions = ([each[j] for j in chosen] for each in (firsts, directions))
    if not hessian:
        pure = [_pushed(outer, dy, x, [v])[0] for dy, v in zip(firsts, directions, strict=True)]
        return Derivatives(y, first, tf.stack([_or_zeros(each, y) for each in pure], 2))
    # ∂²y/∂xⱼ∂xₗ = ∂²y/∂xₗ∂xⱼ: row j holds l ≥ j, and takes the rest from the rows before it.
    rows: list[list[tf.Tensor]] = []
    for j, dy in enumerate(firsts):
        upper = [_or_zeros(each, y) for each in _pushed(outer, dy, x, directions[j:])]
        rows.append([*(row[j] for row in rows), *upper])
    return Derivatives(y, first, tf.stack([tf.stack(row, 2) for row in rows], 2))


# On 2 shared cores, one thread, a whole Adam update of the residual of a heat
# equation, d = 2, B = 1000, tanh, XLA; µs for forward over forward, reverse over reverse, and
# Hessian-vector products: 20 × 3 layers, k = 1: 1206, 1228, 1061; 64 × 4, k = 1: 7274, 6665, 7222;
# 32 × 3, k = 3: 2121, 5699, 5588 (as a graph 2244, 8078, 5702). So the first, for it does not grow
# with k. `tf.autodiff.ForwardAccumulator` takes 1776 as a graph (against 1351), and XLA did not
# finish compiling it in 8 minutes. Rules written by hand for Dense layers: 971, 5321, 1717.


def _pushed(
    tape: tf.GradientTape, y: tf.Tensor, x: tf.Tensor, directions: Sequence[tf.Tensor]
) -> list[tf.Tensor | None]:
    """(∂y/∂x) v for each direction v, of what a tape has recorded; None if y is constant.

    The pull-back u ↦ (∂y/∂x)ᵀ u is linear, and the pull-back of that is (∂y/∂x) v. Its own value
    is not used, and compiled functions leave it out.
    """
    seed = tf.ones_like(y)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as linear:
        linear.watch(seed)
        pulled = tape.gradient(y, x, output_gradients=seed)
        if pulled is None:
            return [None] * len(directions)
        pulled = tf.convert_to_tensor(pulled)  # gathered columns have sparse gradients
    return [linear.gradient(pulled, seed, output_gradients=v) for v in directions]


def _pulled(tape: tf.GradientTape, columns: Sequence[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """∂y/∂x, `[B, k, d]`, one pull-back for each output."""
    gradients = [tape.gradient(column, x) for column in columns]
    _check_reached(gradients)
    return tf.stack([_or_zeros(gradient, x) for gradient in gradients], 1)


def _directions(x: tf.Tensor) -> Iterator[tf.Tensor]:
    for j in range(x.shape[1]):
        yield tf.broadcast_to(tf.one_hot(j, x.shape[1], dtype=x.dtype), tf.shape(x))


def _or_zeros(gradient: tf.Tensor | None, like: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(like) if gradient is None else tf.convert_to_tensor(gradient)


def _check_order(order: object, hessian: bool) -> None:
    is_order = isinstance(order, int | np.integer) and not isinstance(order, bool)
    if not is_order or order not in (1, 2):
        raise ValueError(
            f"`order` must be 1 or 2. Received: order={order!r:.40}. For higher derivatives pass a "
            "function that calls `derivatives` itself."
        )
    if hessian and order == 1:
        raise ValueError(
            "`hessian` must be used with second derivatives. Received: hessian=True with order=1. "
            "Pass order=2 as well."
        )


def _chosen(columns: Sequence[int] | None, d: int, order: int) -> list[int]:
    if columns is None:
        return list(range(d))
    chosen = np.asarray(columns)
    is_list = chosen.ndim == 1 and chosen.size > 0 and chosen.dtype.kind in "iu"
    if order == 1 or not is_list or not set(chosen.tolist()) <= set(range(d)):
        raise ValueError(
            f"`columns` must list columns of x, from 0 to {d - 1}, for second derivatives. "
            f"Received: columns={columns!r:.60} with order={order}. Pass columns=[0] and order=2, "
            "for instance."
        )
    return chosen.tolist()  # type: ignore[no-any-return]


def _matrix(x: tf.Tensor | ArrayLike) -> tf.Tensor:
    try:
        x = tf.convert_to_tensor(x)
    except (TypeError, ValueError):
        raise ValueError(
            f"x must be a matrix of floats, [B, d]. Received: {type(x).__name__}. Pass one tensor; "
            "for several inputs join their columns, and split them in the function."
        ) from None
    if x.shape.rank != 2 or not x.shape[1] or not x.dtype.is_floating:
        raise ValueError(
            f"x must be a matrix of floats, [B, d]. Received: {x.dtype.name}{x.shape}. Add or "
            "remove an axis, or cast it with tf.cast(x, 'float32')."
        )
    return x


def _check_outputs(y: Any, x: tf.Tensor) -> None:
    fits = tf.is_tensor(y) and y.shape.rank == 2 and y.shape[1] and y.dtype.is_floating
    if not fits or not y.shape[:1].is_compatible_with(x.shape[:1]):
        received = f"{y.dtype.name}{y.shape}" if tf.is_tensor(y) else type(y).__name__
        raise ValueError(
            "The model must return a matrix of floats with one row for each row of x, "
            f"[{x.shape[0]}, k]. Received: {received}. Return one tensor of that shape: "
            "y[:, None] adds an axis, tf.concat joins several outputs."
        )


def _check_reached(firsts: Sequence[tf.Tensor | None]) -> None:
    if all(each is None for each in firsts):
        raise ValueError(
            "The model must depend on x through differentiable operations. Received: outputs with "
            "no gradient at x. Leave out NumPy, tf.stop_gradient, rounding and casts to integers, "
            "and compute the outputs from the x that the function receives."
        )


def _check_independent(model: keras.Layer, training: bool) -> None:
    normalizing = [
        layer
        for layer in _layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if training and normalizing:
        raise ValueError(
            "The rows of the model must be independent. Received: training=True, and a model with "
            f"{normalizing[0].name}, a BatchNormalization, which mixes them. Leave out `training`, "
            "or use LayerNormalization."
        )


def _layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _layers(inner)
