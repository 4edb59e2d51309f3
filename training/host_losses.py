"""Losses computed elsewhere: given, or by a host function (NumPy, a simulator, a measurement)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from . import checks
from .compiled import Nest


def given(outputs: Nest, output_gradients: Nest) -> tuple[tf.Tensor, Nest, dict]:
    """Takes the target itself as dL/dy; reports Σ y·dL/dy, the linear loss with that gradient."""
    checks.check_gradient(output_gradients, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(output_gradients), strict=True)
    return tf.add_n([tf.reduce_sum(y * tf.cast(g, y.dtype)) for y, g in flat]), output_gradients, {}


def external(loss: Callable[[Nest, Nest], tuple]) -> Callable:
    """Lifts a host function `(y, targets) -> (L, dL/dy)` or `(L, dL/dy, metrics)`.

    It receives read-only NumPy arrays and may compute with anything: NumPy, SciPy, a simulator.
    dL/dy is nested and shaped like y. Its exceptions reach the caller of the step unchanged.

    Raises:
        ValueError: From the step, if L is not a scalar or dL/dy is not shaped like y.
    """
    host = _Host()

    def loss_gradient(outputs: Nest, targets: Nest):
        ys = tf.nest.flatten(outputs)

        def call(*leaves: np.ndarray):
            with host:
                arrays = [np.asarray(leaf) for leaf in leaves]
                for array in arrays:
                    array.flags.writeable = False  # they are TensorFlow's own buffers
                nests = tf.nest.pack_sequence_as((outputs, targets), arrays)
                value, seeds, metrics = _unpacked(loss(*nests), nests[0])
                host.metrics.append(metrics)
                seeds = [seed.astype(y.dtype) for seed, y in zip(seeds, arrays, strict=False)]
                return np.float32(value), *seeds

        dtypes = [tf.float32, *(y.dtype for y in ys)]
        value, *seeds = tf.numpy_function(call, [*ys, *tf.nest.flatten(targets)], dtypes)
        seeds = [tf.ensure_shape(seed, y.shape) for seed, y in zip(seeds, ys, strict=True)]
        return tf.ensure_shape(value, ()), tf.nest.pack_sequence_as(outputs, seeds), {}

    loss_gradient.host = host  # type: ignore[attr-defined]
    return loss_gradient


def estimated(
    score: Callable[[Nest, Nest], Any], *, scale: float = 0.1, samples: int = 8, seed: int = 0
) -> Callable:
    """Lifts a host function that returns only numbers, `(y, targets) -> [B]`, lower being better.

    Antithetic Gaussian perturbation of the outputs, ε ~ N(0, 1) of y's shape, n = `samples` pairs:

        dL/dyᵢ ≈ 1/(n·B) Σₖ [sᵢ(y + σεₖ) − sᵢ(y − σεₖ)] εₖᵢ / (2σ)

    is the gradient of the smoothed loss L = E mean s(y + σε), which is what it reports, and
    `standard_error`, the root of the summed squared standard errors of the estimate's entries. A
    score that returns one number for the whole batch is allowed; its estimate is B times noisier,
    as every example is blamed for the noise of all. 2n calls of `score` per update.

    Source: Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative", section 2.

    Args:
        score: The measurement; one number per example, or one for the batch.
        scale: σ, in units of the outputs.
        samples: n, the antithetic pairs per update, at least 2.
        seed: Of the perturbations.

    Raises:
        ValueError: `scale` or `samples` is out of range; from the step: a score of another shape.
    """
    if scale <= 0 or samples < 2:
        raise ValueError(
            "`estimated` must have scale > 0 and samples >= 2 (antithetic pairs). "
            f"Received: scale={scale}, samples={samples}."
        )

    def loss(generator: np.random.Generator, outputs: Nest, targets: Nest):
        ys = tf.nest.flatten(outputs)
        batch = len(ys[0])
        total, estimates = 0.0, []
        for _ in range(samples):
            noises = [generator.standard_normal(y.shape, np.float32) for y in ys]

            def measure(sign: float, noises=noises) -> np.ndarray:
                moved = [y + sign * scale * e for y, e in zip(ys, noises, strict=True)]
                scores = np.asarray(score(tf.nest.pack_sequence_as(outputs, moved), targets), float)
                if scores.shape not in ((), (batch,)):
                    raise ValueError(
                        f"A score must have shape ({batch},), one number per example, or (). "
                        f"Received: {scores.shape}. Sum or average its other axes."
                    )
                return scores

            plus, minus = measure(1.0), measure(-1.0)
            total += float(np.mean(plus + minus)) / (2 * samples)
            slope = (plus - minus) / (2 * scale * max(plus.size, 1))  # [B] or []
            estimates.append([_scale_examples(e, slope) for e in noises])
        stacks = [np.stack(leaf) for leaf in zip(*estimates, strict=True)]  # n × y
        variances = sum(float(stack.var(0, ddof=1).sum()) for stack in stacks)
        seeds = tf.nest.pack_sequence_as(outputs, [stack.mean(0) for stack in stacks])
        return total, seeds, {"standard_error": math.sqrt(variances / samples)}

    generator = np.random.default_rng(seed)
    lifted = external(lambda outputs, targets: loss(generator, outputs, targets))
    # For a validation, which must not move the training's generator, and always draws the same.
    lifted.observe = external(  # type: ignore[attr-defined]
        lambda outputs, targets: loss(np.random.default_rng(seed).spawn(1)[0], outputs, targets)
    )
    return lifted


def _scale_examples(noise: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return noise * slope.reshape(slope.shape + (1,) * (noise.ndim - slope.ndim))


class _Host:
    """What a host loss leaves for the caller of the step: its exception, or its metrics."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.metrics: list[dict[str, float]] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        self.error = error

    def guard(self, compiled: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        """The compiled function, raising the host loss's own exception instead of TensorFlow's."""

        def call(*arguments: Nest) -> tf.Tensor:
            try:
                return compiled(*arguments)
            except tf.errors.OpError:
                error, self.error, self.metrics = self.error, None, []
                if error is None:
                    raise
                raise error from None

        return call

    def take_metrics(self, stacked: bool) -> dict[str, Any]:
        rows, self.metrics = self.metrics, []
        if not stacked:
            return rows[-1]
        return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}


def _unpacked(result: Any, outputs: Nest) -> tuple[float, list[np.ndarray], dict[str, float]]:
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise ValueError(
            "An external loss must return (L, dL/dy) or (L, dL/dy, metrics). Received: "
            f"{type(result).__name__}. Use `estimated` for a loss without a gradient."
        )
    value, gradient, metrics = (*result, {})[:3]
    if np.shape(value) != ():
        raise ValueError(
            f"An external loss must be one number. Received: shape {np.shape(value)}. "
            "Return its mean, and the gradient of that mean."
        )
    gradient = tf.nest.map_structure(np.asarray, gradient)
    checks.check_gradient(gradient, outputs)
    checks.check_metrics(metrics, rank=0)
    return value, tf.nest.flatten(gradient), dict(metrics)
