"""The external-loss gradient core: the only place where weights change.

    y = f(x; θ)                     forward, in TensorFlow
    g = ∂L/∂y                       the loss: TensorFlow, NumPy, a simulator, an estimate
    θ ← optimizer(θ, gᵀ ∂y/∂θ)      the pull-back of g through f, in TensorFlow

The loss is a function of outputs and targets and never sees the model. A *loss gradient* is a
function `(outputs, targets) -> (L, dL/dy, metrics)`; the four lifts at the end of this file make
one out of a TensorFlow loss, a host function, a gradient, or a score.

Legend: B examples, K updates in one call, M examples per update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .compiled import Compiled, Nest, describe

LossGradient = Callable[[Nest, Nest], tuple[tf.Tensor, Nest, Mapping[str, tf.Tensor]]]


class Step:
    """A compiled update, made by `compile_step`: `step(inputs, targets) -> metrics`."""

    def __init__(
        self,
        compiled: Compiled,
        loss_gradient: LossGradient,
        names: list[str],
        mirror: Sequence[keras.Variable],
        updates: int | None,
        examples: int,
    ) -> None:
        self._compiled, self._names = compiled, names
        self._updates, self._examples = updates, examples
        self._host = getattr(loss_gradient, "host", None)
        self._shapes = [tuple(variable.shape) for variable in mirror]
        self._cuts = np.cumsum([math.prod(shape) for shape in self._shapes]).tolist()
        self._flat = np.concatenate([np.empty(0, np.float32), *(v.numpy().ravel() for v in mirror)])

    def __call__(self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None) -> dict:
        """Makes one update, or with `updates=(K, M)` the K updates on `rows` `[K, M]`.

        Returns:
            `{"loss", "grad_norm", **metrics}`: floats, or with `updates` arrays `[K]`.

        Raises:
            ValueError: The arrays differ from the signature, or `rows` index no example.
            FloatingPointError: The loss or a gradient is not finite. That update, and any after
                it in the same call, changed no weight, optimizer slot, counter or layer state.
        """
        arguments = (inputs, targets) if rows is None else (inputs, targets, rows)
        stacked = self._updates is not None
        if stacked and rows is not None:
            _check_rows(rows, self._examples)
        try:
            vector = self._compiled(*arguments)
        except tf.errors.OpError:
            error = self._host and self._host.take_error()
            if error is not None:
                raise error from None
            raise
        host_metrics = {} if self._host is None else self._host.take_metrics(stacked)
        count = len(self._names) * (self._updates or 1)
        table = vector[:count].reshape(-1, len(self._names))  # [K, metrics]
        self._flat = vector[count:]
        finite = table[:, 0] > 0
        if not finite.all():
            _raise_not_finite(table, finite, self._names)
        columns = table[:, 1:].T if stacked else table[0, 1:].tolist()
        return dict(zip(self._names[1:], columns, strict=True)) | host_metrics

    @property
    def weights(self) -> list[np.ndarray]:
        """The mirrored variables after the last call (or at first), as views of one array."""
        starts = [0, *self._cuts]
        return [
            self._flat[start:stop].reshape(shape)
            for start, stop, shape in zip(starts, self._cuts, self._shapes, strict=False)
        ]


def compile_step(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    signature: tuple[Nest, Nest],
    *,
    updates: tuple[int, int] | None = None,
    mirror: Sequence[keras.Variable] = (),
    jit_compile: bool | None = None,
) -> Step:
    """Compiles `θ ← optimizer(θ, (∂L/∂y)ᵀ ∂y/∂θ)` into one call, traced once.

    What `fit` would do is done here too: penalties (`model.losses`: regularisers of `variables`,
    activity regularisers, `add_loss`) are added to the loss and reported as `penalty`, the
    optimizer clips, scales, averages and constrains, BatchNorm and Dropout keep their state.
    The models' own variables stay the truth: set them, and the next step starts from there.

    Args:
        forward: Outputs y from inputs x: a built Keras model (called with `training=True`), or any
            function of several of them, which passes `training=True` itself.
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`.
            Outputs of half precision reach it as float32.
        variables: What to train; each must be reached by a gradient. Those that occur twice, as in
            a trunk that two models share, are trained once.
        optimizer: Any Keras optimizer, one per set of variables. It is built here.
        signature: The pair of nests of `tf.TensorSpec` for inputs and targets.
        updates: `(K, M)` for K updates in one call. The step then takes `rows` `[K, M]`, int32: the
            examples (indices into the first axis of every input and target) of each update.
        mirror: float32 variables whose values after the update come back with the metrics.
        jit_compile: XLA or not. By default only for several updates in one call.

    Returns:
        `step(inputs, targets) -> {"loss", "grad_norm", **metrics}`, `grad_norm` being the global
        norm ‖gᵀ ∂y/∂θ‖₂ before clipping.

    Raises:
        ValueError: `variables` is empty, or holds some that no gradient reaches (they are named).
    """
    variables = list({id(variable): variable for variable in variables}.values())
    host = hasattr(loss_gradient, "host")
    if not variables:
        raise ValueError(
            "A step must have variables to train. Received: none. "
            "Build the model first (`model.build(shape)`, or start it with `keras.Input`)."
        )
    if jit_compile is None:
        jit_compile = updates is not None and not host
    if jit_compile and host:
        raise ValueError(
            "A loss on the host must be compiled without XLA. Received: jit_compile=True. "
            "Pass jit_compile=False or leave it out."
        )
    if isinstance(forward, keras.Layer):
        model = forward
        forward = lambda inputs: model(inputs, training=True)  # noqa: E731
    if not optimizer.built:
        optimizer.build(variables)  # critical: eagerly, its slots must exist before the trace
    names: list[str] = []

    def update(inputs: Nest, targets: Nest) -> tf.Tensor:
        scope, outputs = _run(forward, inputs, variables)
        loss, seeds, metrics = loss_gradient(outputs, targets)
        gradients = _pull_back(scope, outputs, seeds, variables, optimizer)
        norm = _global_norm(gradients, optimizer.scale_loss(1.0))
        metrics = _checked(metrics, scope.penalties)
        loss = tf.cast(loss, tf.float32) + metrics.get("penalty", 0.0)
        finite = tf.math.is_finite(loss) & (tf.math.is_finite(norm) | _scales(optimizer))
        _apply_if(finite, optimizer, gradients, variables, scope.states)
        metrics = {"finite": finite, "loss": loss, "grad_norm": norm, **metrics}
        names[:] = metrics
        return tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])

    def run(inputs: Nest, targets: Nest, rows: tf.Tensor | None = None) -> tf.Tensor:
        if rows is None:
            table = update(inputs, targets)
        else:
            table = _scan(update, (inputs, targets), rows)
        weights = [tf.reshape(variable.value, [-1]) for variable in mirror]
        return tf.concat([tf.reshape(table, [-1]), *weights], 0)

    count, examples = None, 0
    if updates is not None:
        count, examples = updates[0], min(leaf.shape[0] for leaf in tf.nest.flatten(signature))
        signature = (*signature, tf.TensorSpec(updates, tf.int32))
    compiled = Compiled(run, tuple(signature), jit_compile=jit_compile)
    return Step(compiled, loss_gradient, names, mirror, count, examples)


class _Scope(keras.StatelessScope):
    """Holds back what a forward pass would assign (BatchNorm, Dropout), and keeps its losses.

    Keras itself forgets a model's losses when the model is called a second time. A trained variable
    that the pass assigns (SpectralNormalization) is differentiated at every value it takes, as the
    tape of `fit` does.
    """

    def __init__(self, tape: tf.GradientTape, variables: Sequence[keras.Variable]) -> None:
        super().__init__(collect_losses=True)
        self.tape = tape
        self.leaves = {id(variable): [variable.value] for variable in variables}
        self.penalties: list[tf.Tensor] = []
        self.states: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        tape.watch(self.leaves)

    def add_loss(self, loss: tf.Tensor) -> None:
        super().add_loss(loss)
        self.penalties.append(tf.reduce_sum(_at_least_float32(loss)))

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        variable, value = update
        if id(variable) in self.leaves:
            value = tf.stop_gradient(value)
            self.tape.watch(value)
            self.leaves[id(variable)].append(value)
        super().add_update((variable, value))
        self.states[id(variable)] = variable, value


def _run(forward, inputs, variables):
    """The scope of a forward pass, and its outputs in single precision or better."""
    tape = tf.GradientTape(watch_accessed_variables=False)
    with tape, _Scope(tape, variables) as scope:
        outputs = tf.nest.map_structure(_at_least_float32, forward(inputs))
        for variable in variables:
            if variable.regularizer is not None:
                scope.add_loss(variable.regularizer(variable.value))
    return scope, outputs


def _at_least_float32(output: tf.Tensor) -> tf.Tensor:
    return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output


def _pull_back(scope, outputs, seeds, variables, optimizer) -> list[tf.Tensor]:
    """Σₖ (dL/dyₖ)ᵀ dyₖ/dθ + dpenalty/dθ, scaled as the optimizer wants it."""
    _check_gradient(seeds, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(seeds), strict=True)
    pairs = [(y, tf.cast(g, y.dtype)) for y, g in flat if g is not None]
    pairs += [(penalty, tf.ones_like(penalty)) for penalty in scope.penalties]
    by_leaf = scope.tape.gradient(
        [y for y, _ in pairs],
        [scope.leaves[id(variable)] for variable in variables],
        output_gradients=[optimizer.scale_loss(g) for _, g in pairs],
    )
    gradients = [_sum([g for g in leaves if g is not None]) for leaves in by_leaf]
    unreached = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if unreached:
        raise ValueError(
            "Every variable of a step must receive a gradient. Received none for: "
            f"{', '.join(unreached)}. Leave them out of `variables`, or let `forward` use them."
        )
    return gradients


def _sum(gradients: list[tf.Tensor]) -> tf.Tensor | None:
    return tf.add_n(gradients) if len(gradients) > 1 else next(iter(gradients), None)


def _check_gradient(gradient: Nest, outputs: Nest) -> None:
    """Refuses a dL/dy that is not nested and shaped like y (None, from a tape, is no gradient)."""
    try:
        tf.nest.assert_same_structure(outputs, gradient)
        flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(gradient), strict=True)
        fits = all(
            g is None or tf.TensorShape(y.shape).is_compatible_with(g.shape) for y, g in flat
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"dL/dy must be nested and shaped like the outputs, {describe(outputs)}. "
            f"Received: {describe(gradient)}. Return zeros for an output that the loss ignores."
        )


def _check_rows(rows: np.ndarray, examples: int) -> None:
    # critical: XLA would clamp such rows in silence.
    if np.min(rows) < 0 or np.max(rows) >= examples:
        raise ValueError(
            f"`rows` must index the {examples} examples of the signature. Received: rows from "
            f"{np.min(rows)} to {np.max(rows)}. Draw them from range({examples})."
        )


def _global_norm(gradients: list[tf.Tensor], scale: float | tf.Tensor) -> tf.Tensor:
    # Dense first: the rows of an embedding's gradient may repeat.
    dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
    return tf.linalg.global_norm([g / scale for g in dense])  # its square of a scaled g overflows


def _checked(metrics: Mapping[str, Any], penalties: list[tf.Tensor]) -> dict[str, tf.Tensor]:
    for name, value in metrics.items():
        if name in ("finite", "loss", "grad_norm", "penalty") or tuple(np.shape(value)) != ():
            raise ValueError(
                "A metric must be a scalar under a name of its own (not finite, loss, grad_norm or "
                f"penalty). Received: {name} = {value}. Reduce or rename it."
            )
    if penalties:
        metrics = {"penalty": tf.add_n([tf.cast(p, tf.float32) for p in penalties]), **metrics}
    return dict(metrics)


def _scales(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer answers an overflow itself: no update, and half the scale."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _apply_if(finite, optimizer, gradients, variables, states) -> None:
    def apply() -> tf.Tensor:
        for variable, value in states.values():  # first, as `fit` does: some may be trained, too
            variable.assign(value)
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    tf.cond(finite, apply, lambda: tf.constant(False))


def _scan(update, arrays: Nest, rows: tf.Tensor) -> tf.Tensor:
    """Metrics `[K, metrics]` of one update per row of `rows`; stops at the first bad one."""

    def body(k, _, table):
        batch = tf.nest.map_structure(lambda array: tf.gather(array, rows[k]), arrays)
        metrics = update(*batch)
        return k + 1, metrics[0] > 0, table.write(k, metrics)

    count = rows.shape[0]
    _, _, table = tf.while_loop(
        lambda k, finite, _: (k < count) & finite,
        body,
        (tf.constant(0), tf.constant(True), tf.TensorArray(tf.float32, size=count)),
        parallel_iterations=1,
    )
    return table.stack()


def _raise_not_finite(table: np.ndarray, finite: np.ndarray, names: list[str]) -> None:
    k = int(np.argmin(finite))
    row = dict(zip(names[1:], table[k, 1:].tolist(), strict=True))
    where = f" in update {k + 1} of {len(table)}" if len(table) > 1 else ""
    raise FloatingPointError(
        f"The loss and its gradient must be finite. Received{where}: "
        f"{', '.join(f'{name}={value:.6g}' for name, value in row.items())}. No weight was changed "
        "by that update; look for log(0), division by zero or a learning rate that is too high."
    )


def differentiate(loss: Callable[[Nest, Nest], Any]) -> LossGradient:
    """Lifts a TensorFlow loss `(y, targets) -> L` or `(L, metrics)`: dL/dy by a tape at y.

    Raises:
        ValueError: L is not a scalar, or does not depend on the outputs.
    """

    def loss_gradient(outputs: Nest, targets: Nest):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            result = loss(outputs, targets)
            value, metrics = result if isinstance(result, tuple) else (result, {})
            value = tf.convert_to_tensor(value)
        if value.shape.rank != 0:
            raise ValueError(
                "A loss must be a scalar. Received: a tensor of shape "
                f"{tuple(value.shape)}. Reduce it, with tf.reduce_mean for instance."
            )
        seeds = tape.gradient(value, outputs)
        if all(seed is None for seed in tf.nest.flatten(seeds)):
            raise ValueError(
                "A loss must depend on the outputs through differentiable TensorFlow operations. "
                "Received: one that does not. Use `external` for a loss computed by NumPy."
            )
        return value, seeds, metrics

    return loss_gradient


def given(outputs: Nest, output_gradients: Nest) -> tuple[tf.Tensor, Nest, dict]:
    """Takes the target itself as dL/dy; reports Σ y·dL/dy, the linear loss with that gradient."""
    _check_gradient(output_gradients, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(output_gradients), strict=True)
    return tf.add_n([tf.reduce_sum(y * tf.cast(g, y.dtype)) for y, g in flat]), output_gradients, {}


def external(loss: Callable[[Nest, Nest], tuple]) -> LossGradient:
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
) -> LossGradient:
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
    generator = np.random.default_rng(seed)

    def loss(outputs: Nest, targets: Nest):
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

    return external(loss)


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

    def take_error(self) -> BaseException:
        error, self.error, self.metrics = self.error, None, []
        return error

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
    _check_gradient(gradient, outputs)
    return value, tf.nest.flatten(gradient), _checked(metrics, [])
