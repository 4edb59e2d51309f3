"""Losses outside TensorFlow: a gradient that is given, or a host function (NumPy, a simulator)."""

from __future__ import annotations

import itertools
import math
import numbers
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from ..common.plain import whole
from . import checks
from .host_workers import Divided
from .hosts import Host
from .losses import crossed, guarded, in_our_order, is_crossed, is_keras_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from .compiled import Nest
    from .losses import Lift, LossGradient, Metrics

HostLoss: TypeAlias = "Callable[[Nest, Nest], tuple[Any, ...]]"
"""Of outputs and targets, to (L, dL/dy) or (L, dL/dy, metrics): numbers and arrays."""

Score: TypeAlias = "Callable[[Nest, Nest], ArrayLike]"
"""Of outputs and targets, to numbers `[B]`, or to one for the batch."""


def given(outputs: Nest, output_gradients: Nest) -> tuple[tf.Tensor, Nest, Metrics]:
    """Takes the targets as dL/dy; reports Σ y·dL/dy, the linear loss with that gradient.

    Raises:
        ValueError: Outputs and gradient are not arrays of real numbers, nested and shaped alike.
    """
    checks.check_arrays(outputs, output_gradients)
    checks.check_gradient(output_gradients, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(output_gradients), strict=True)
    return tf.add_n([tf.reduce_sum(y * tf.cast(g, y.dtype)) for y, g in flat]), output_gradients, {}


given.lift = "given"  # type: ignore[attr-defined]  # mypy knows no attributes of functions


def external(loss: HostLoss, *, workers: int | None = None, timeout: float = 60.0) -> LossGradient:
    """Lifts a host function `(y, targets) -> (L, dL/dy)` or `(L, dL/dy, metrics)`.

    The function receives read-only NumPy arrays and may compute with anything: NumPy, SciPy, a
    simulator. Targets arrive unchanged: strings stay strings. A loss whose parameters are named in
    Keras's order, such as `(y_true, y_pred)`, is called in that order. dL/dy is nested and shaped
    like y, the outputs. Exceptions of the function reach the caller of the step unchanged.

    With `workers`, W processes each evaluate the loss for a part of the batch: L is the mean of
    their losses, weighted by their numbers of examples, and so are the metrics. The loss must be a
    mean over its examples.

    Args:
        loss: The host function.
        workers: W, or None to evaluate the loss in this process. Workers import neither TensorFlow
            nor the main script. They start in the first call, and end with this process.
        timeout: Seconds in which each worker must answer.

    Raises:
        ValueError: The loss is not a function of two arguments, is a Keras loss, or cannot be
            pickled for workers; from the step: L is not a scalar, dL/dy is not shaped like y,
            outputs are `[B, 1]` while the targets are floats `[B]`, or arrays of these two shapes
            are broadcast to `[B, B]`; or, with workers, L is no mean over examples.
        WorkerError: From the step: a worker died, or did not answer in time.
    """
    if is_keras_loss(loss):
        raise ValueError(
            "A loss for `external` must be a host function that returns (L, dL/dy). Received: "
            f"{loss!s:.80}, a loss of Keras. Use `differentiate`, which takes it as it is."
        )
    loss = in_our_order(loss, "`external`")
    if workers is None:
        return External(loss, "external")
    divided = Divided(loss, workers, timeout, _unpacked)
    # critical: TensorFlow never lets go of a host function, and would keep the processes with it.
    lift = External(weakref.proxy(divided), "external")
    lift.divided = divided
    return lift


class External:
    """A loss gradient by a host function, which the compiled update calls.

    Attributes:
        loss: The host function, called as `(outputs, targets)`.
        lift: "external" or "estimated".
        host: What the function leaves for the caller of the step.
        generator: What an estimated loss draws from, or None.
        observe: A loss gradient for validation that does not advance the random generator of the
            training; None if the loss draws nothing.
        divided: The loss in worker processes, which end with this object; None without them.
    """

    divided: Divided | None = None

    def __init__(
        self,
        loss: HostLoss,
        lift: Lift,
        observe: External | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.lift, self.host, self.observe = lift, Host(), observe
        self.loss, self.generator = loss, generator

    def __call__(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, Nest, Metrics]:
        """L, dL/dy, and no metrics: those of a host loss do not pass through TensorFlow."""
        host, loss, opaque = self.host, self.loss, self.host.opaque
        ys, ts = tf.nest.flatten(outputs), tf.nest.flatten(targets)
        pairs = [(k, j) for k, j in crossed(outputs, targets) if j not in opaque]
        shapes = [tuple(t.shape) for t in ts]
        kept = [*ys, *(t for j, t in enumerate(ts) if j not in opaque)]
        guards = any(is_crossed(a.shape, b.shape) for a, b in itertools.combinations(kept, 2))
        checks.check_crossed(ys, ts, [(k, j) for k, j in pairs if tuple(ys[k].shape) not in shapes])

        def evaluate(leaves: list[np.ndarray]) -> tuple[np.float32 | np.ndarray, ...]:
            arrays = [np.asarray(leaf).view() for leaf in leaves]
            for array in arrays:
                array.flags.writeable = False  # they are TensorFlow's own buffers
            nests = tf.nest.pack_sequence_as((outputs, targets), arrays)
            seen = tf.nest.map_structure(guarded, nests) if guards else nests
            value, seeds, metrics = _unpacked(loss(*seen), nests[0])
            checks.check_names(metrics, host.reserved, host.user)
            host.metrics.append(metrics)
            seeds = [seed.astype(y.dtype) for seed, y in zip(seeds, arrays, strict=False)]
            return np.float32(value), *seeds

        def call(*leaves: np.ndarray) -> tuple[np.float32 | np.ndarray, ...]:
            with host:
                arrays = list(leaves)
                for j in opaque:
                    rows, original = leaves[len(ys) + j], host.originals[j]
                    arrays[len(ys) + j] = original[rows] if original.ndim else original
                result = evaluate(arrays)
                host.check_metrics()
                return result

        if tf.executing_eagerly():
            value, *seeds = map(tf.constant, evaluate([*ys, *ts]))
            return value, tf.nest.pack_sequence_as(outputs, seeds), {}
        dtypes = [tf.float32, *(y.dtype for y in ys)]
        value, *seeds = tf.numpy_function(call, [*ys, *ts], dtypes)
        seeds = [tf.ensure_shape(seed, y.shape) for seed, y in zip(seeds, ys, strict=True)]
        return tf.ensure_shape(value, ()), tf.nest.pack_sequence_as(outputs, seeds), {}


def host_of(loss_gradient: LossGradient) -> Host | None:
    """What a host loss leaves for the caller of the step; None for a loss in TensorFlow."""
    host: Host | None = getattr(loss_gradient, "host", None)
    return host


def estimated(score: Score, *, scale: float = 0.1, samples: int = 8, seed: int = 0) -> LossGradient:
    """Lifts a host function that returns numbers only, `(y, targets) -> [B]`; lower is better.

    Antithetic Gaussian perturbation of the outputs, ε ~ N(0, 1) of y's shape, n = `samples` pairs:

        dL/dyᵢ ≈ 1/(n·B) Σₖ [sᵢ(y + σεₖ) − sᵢ(y − σεₖ)] εₖᵢ / (2σ)

    estimates the gradient of the smoothed loss L = E mean s(y + σε). It reports that loss and
    `standard_error`, the root of the summed squared standard errors of the estimate's entries. A
    score may return one number for the whole batch; its estimate is B times noisier, because each
    example receives the noise of all. An update calls `score` 2n times.

    Source: Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative", section 2.

    Args:
        score: The measurement: one number per example, or one for the batch.
        scale: σ, in units of the outputs.
        samples: n, the antithetic pairs per update, at least 2.
        seed: Seed of the perturbations.

    Raises:
        ValueError: A number is out of range; from the step: the score has another shape.
    """
    samples, seed = whole("samples", samples, 2), whole("seed", seed, 0)
    scale = _standard_deviation(scale)
    score = in_our_order(score, "`estimated`")

    def loss(
        generator: np.random.Generator, outputs: Nest, targets: Nest
    ) -> tuple[float, Nest, dict[str, float]]:
        ys = tf.nest.flatten(outputs)
        batch = len(ys[0])
        total, estimates = 0.0, []
        for _ in range(samples):
            noises = [generator.standard_normal(y.shape, np.float32) for y in ys]

            def measure(sign: float, noises: list[np.ndarray] = noises) -> np.ndarray:
                moved = [y + sign * scale * e for y, e in zip(ys, noises, strict=True)]
                result = score(tf.nest.pack_sequence_as(outputs, moved), targets)
                checks.check_score(result)
                scores = np.asarray(result, float)
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
    # Validation must not advance the training's generator, and draws the same numbers every time.
    observe = External(
        lambda outputs, targets: loss(np.random.default_rng(seed).spawn(1)[0], outputs, targets),
        "estimated",
    )
    return External(
        lambda outputs, targets: loss(generator, outputs, targets), "estimated", observe, generator
    )


def _standard_deviation(scale: object) -> float:
    sigma = math.nan
    if isinstance(scale, numbers.Real) and not isinstance(scale, bool | np.bool_):
        sigma = float(scale)
    with np.errstate(over="ignore"):  # the outputs are float32, and are multiplied by it
        is_usable = 0 < np.float32(sigma) < math.inf
    if not is_usable:
        raise ValueError(
            "`estimated` must have a scale > 0 that is finite as a float32. "
            f"Received: scale={scale!r:.40}. Pass about a tenth of the outputs' range."
        )
    return sigma


def _scale_examples(noise: np.ndarray, slope: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = noise * slope.reshape(slope.shape + (1,) * (noise.ndim - slope.ndim))
    return scaled


def _unpacked(result: object, outputs: Nest) -> tuple[float, list[np.ndarray], dict[str, float]]:
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        advice = "Use `estimated` for a loss without a gradient."
        if tf.is_tensor(result):
            advice = "Use `differentiate` for a loss of TensorFlow operations."
        raise ValueError(
            "An external loss must return (L, dL/dy) or (L, dL/dy, metrics). Received: "
            f"{type(result).__name__}. {advice}"
        )
    value, gradient, metrics = (*result, {})[:3]
    if np.shape(value) != ():
        raise ValueError(
            f"An external loss must be one number. Received: shape {np.shape(value)}. "
            "Return its mean, and the gradient of that mean."
        )
    checks.check_number("An external loss", value)
    gradient = tf.nest.map_structure(np.asarray, gradient)
    checks.check_gradient(gradient, outputs)
    for each in tf.nest.flatten(gradient):
        checks.check_number("dL/dy", each)
    checks.check_metrics(metrics, rank=0)
    checks.check_names(metrics, ["stop"], "the core", ", or write the loss in TensorFlow to stop")
    return value, tf.nest.flatten(gradient), dict(metrics)
