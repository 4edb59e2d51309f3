"""The external-loss gradient core: the only place where weights change.

    y = f(x; θ)                     forward, in TensorFlow
    g = ∂L/∂y                       the loss: TensorFlow, NumPy, a simulator, an estimate
    θ ← optimizer(θ, gᵀ ∂y/∂θ)      the pull-back of g through f, in TensorFlow

The loss is a function of outputs and targets and never sees the model. A *loss gradient* is a
function `(outputs, targets) -> (L, dL/dy, metrics)`; four lifts make one: `differentiate` of a
TensorFlow loss and `given` a gradient, below; `external` of a host function and `estimated` of a
score, in `host_losses.py`.

Legend: B examples, K updates in one call, M examples per update.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import checks
from .compiled import Compiled, Nest
from .host_losses import estimated as estimated
from .host_losses import external as external
from .scan import scan

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
        self._names, self._updates, self._examples = names, updates, examples
        self._host = getattr(loss_gradient, "host", None)
        self._compiled = compiled if self._host is None else self._host.guard(compiled)
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
            checks.check_rows(rows, self._examples)
        vector = self._compiled(*arguments)
        host_metrics = {} if self._host is None else self._host.take_metrics(stacked)
        count = len(self._names) * (self._updates or 1)
        table = vector[:count].reshape(-1, len(self._names))  # [K, metrics]
        self._flat = vector[count:]
        finite = table[:, 0] > 0
        if not finite.all():
            raise checks.not_finite(table, finite, self._names)
        columns = table[:, 1:].T if stacked else table[0, 1:].tolist()
        return dict(zip(self._names[1:], columns, strict=True)) | host_metrics

    @property
    def weights(self) -> list[np.ndarray]:
        """The mirrored variables after the last call (or at first), as views of one array."""
        pieces = np.split(self._flat, self._cuts)
        return [piece.reshape(s) for piece, s in zip(pieces, self._shapes, strict=False)]


def compile_step(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    signature: tuple[Nest, ...],
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
    if jit_compile is None:
        jit_compile = updates is not None and not host
    checks.check_step(variables, host, jit_compile)
    if isinstance(forward, keras.Layer):
        model = forward
        forward = lambda inputs: model(inputs, training=True)  # noqa: E731
    if not optimizer.built:
        optimizer.build(variables)  # critical: eagerly, its slots must exist before the trace
    answers_overflow = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    names: list[str] = []

    def update(inputs: Nest, targets: Nest) -> tf.Tensor:
        scope, outputs = _run(forward, inputs, variables)
        loss, seeds, metrics = loss_gradient(outputs, targets)
        loss = tf.cast(loss, tf.float32)
        gradients, norm = _pull_back(scope, outputs, seeds, variables, optimizer)
        checks.check_metrics(metrics)
        if scope.penalties:
            metrics = {"penalty": tf.add_n(scope.penalties), **metrics}
            loss += metrics["penalty"]
        finite = tf.math.is_finite(loss) & (tf.math.is_finite(norm) | answers_overflow)
        _apply_if(finite, optimizer, gradients, variables, scope.states)
        metrics = {"finite": finite, "loss": loss, "grad_norm": norm, **metrics}
        names[:] = metrics
        return tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])

    def run(inputs: Nest, targets: Nest, rows: tf.Tensor | None = None) -> tf.Tensor:
        arrays = (inputs, targets)
        table = update(*arrays) if rows is None else scan(update, arrays, rows)
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
        self.penalties.append(tf.reduce_sum(tf.cast(loss, tf.float32)))

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


def _pull_back(scope, outputs, seeds, variables, optimizer) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Σₖ (dL/dyₖ)ᵀ dyₖ/dθ + dpenalty/dθ, scaled for the optimizer, and its own norm."""
    checks.check_gradient(seeds, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(seeds), strict=True)
    pairs = [(y, tf.cast(g, y.dtype)) for y, g in flat if g is not None]
    pairs += [(penalty, tf.ones_like(penalty)) for penalty in scope.penalties]
    by_leaf = scope.tape.gradient(
        [y for y, _ in pairs],
        [scope.leaves[id(variable)] for variable in variables],
        output_gradients=[optimizer.scale_loss(g) for _, g in pairs],
    )
    gradients = [_sum([g for g in leaves if g is not None]) for leaves in by_leaf]
    checks.check_reached(variables, gradients)
    # Dense first: the rows of an embedding's gradient may repeat. Unscaled first: squares overflow.
    dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
    return gradients, tf.linalg.global_norm([g / optimizer.scale_loss(1.0) for g in dense])


def _sum(gradients: list[tf.Tensor]) -> tf.Tensor | None:
    return tf.add_n(gradients) if len(gradients) > 1 else next(iter(gradients), None)


def _apply_if(finite, optimizer, gradients, variables, states) -> None:
    def apply() -> tf.Tensor:
        for variable, value in states.values():  # first, as `fit` does: some may be trained, too
            variable.assign(value)
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    tf.cond(finite, apply, lambda: tf.constant(False))


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
        seeds = tape.gradient(value, outputs) if value.shape.rank == 0 else None
        checks.check_loss(value, seeds)
        return value, seeds, metrics

    return loss_gradient


def given(outputs: Nest, output_gradients: Nest) -> tuple[tf.Tensor, Nest, dict]:
    """Takes the target itself as dL/dy; reports Σ y·dL/dy, the linear loss with that gradient."""
    checks.check_gradient(output_gradients, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(output_gradients), strict=True)
    return tf.add_n([tf.reduce_sum(y * tf.cast(g, y.dtype)) for y, g in flat]), output_gradients, {}
