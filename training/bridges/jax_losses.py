"""Losses in JAX: their gradient at the outputs, by JAX's own differentiation."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ..core.host_losses import external
from ..core.losses import in_our_order
from . import results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..core.compiled import Nest
    from ..core.losses import LossGradient

USER = "from_jax"


def from_jax(loss: Callable[[Any, Any], Any]) -> LossGradient:
    """Lifts a JAX loss `(y, targets) -> L` or `(L, metrics)`: dL/dy by `jax.value_and_grad`.

    Outputs and targets arrive in their nests as CPU arrays of the same dtypes, in TensorFlow's own
    memory (DLPack) where possible; with float64 or int64 among them JAX computes in its x64 mode.
    The loss runs on the host: XLA cannot compile it together with the model. Decorate it with
    `jax.jit`, or every operation is dispatched by itself. Exceptions of the loss reach the caller
    of the step unchanged.

    Raises:
        ImportError: JAX is not installed; it is the extra `jax`.
        ValueError: The loss is not a function of two arguments; from the step: L is no scalar
            array, or does not depend on the outputs.
    """
    jax = results.imported("jax", USER, "JAX")
    results.check_no_keras_loss(loss, USER)
    ordered = in_our_order(loss, f"`{USER}`")
    cpu = jax.devices("cpu")[0]

    def evaluate(outputs: Nest, targets: Nest) -> tuple[float, Nest, dict[str, Any]]:
        leaves = tf.nest.flatten((outputs, targets))
        with jax.default_device(cpu), _precision(jax, leaves):
            arrays = [_array(jax, leaf) for leaf in leaves]
            ys, ts = tf.nest.pack_sequence_as((outputs, targets), arrays)

            def value_of(y: Nest) -> tuple[Any, dict[str, Any]]:
                return results.unpacked(ordered(y, ts), jax.Array, USER)

            (value, metrics), gradient = jax.value_and_grad(value_of, has_aux=True)(ys)
            flat = [np.asarray(each) for each in tf.nest.flatten(gradient)]
            if not any(each.any() for each in flat) and not _reaches(jax, value_of, ys):
                raise results.independent(USER, "jax.lax.stop_gradient, an argmax")
            numbers = {name: np.asarray(metric) for name, metric in metrics.items()}
            return float(value), tf.nest.pack_sequence_as(outputs, flat), numbers

    return external(evaluate)


def _precision(jax: Any, leaves: Iterable[np.ndarray]) -> contextlib.AbstractContextManager[Any]:
    """JAX's x64 mode if any array needs it; otherwise JAX would shorten it in silence."""
    if not any(leaf.dtype.itemsize == 8 for leaf in leaves):
        return contextlib.nullcontext()
    enable = getattr(jax, "enable_x64", None)
    if enable is None:  # before JAX 0.8
        enable = results.imported("jax.experimental", USER, "JAX").enable_x64
    context: contextlib.AbstractContextManager[Any] = enable(True)
    return context


def _array(jax: Any, leaf: np.ndarray) -> Any:
    array = results.own_memory(leaf)  # nothing in JAX writes into it
    with contextlib.suppress(BufferError, RuntimeError, TypeError, ValueError):
        return jax.numpy.from_dlpack(array)
    try:
        return jax.numpy.asarray(array)
    except TypeError:
        raise results.no_array(USER, leaf) from None


def _reaches(jax: Any, value_of: Callable[[Nest], Any], ys: Nest) -> bool:
    """Whether the loss has a derivative at the outputs: JAX has zeros in place of none.

    It has one if the tangent of L depends on the tangent of y. Asked only when all are zero.
    """

    def tangent(direction: Nest) -> Any:
        return jax.jvp(lambda y: value_of(y)[0], (ys,), (direction,))[1]

    try:
        jaxpr = jax.make_jaxpr(tangent)(ys).jaxpr
    except Exception:  # a loss that looks at values
        return True
    known = set(map(id, jaxpr.invars))
    for equation in jaxpr.eqns:
        if known & set(map(id, equation.invars)):
            known |= set(map(id, equation.outvars))
    return bool(known & set(map(id, jaxpr.outvars)))
