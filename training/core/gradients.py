"""The external-loss gradient core: from the gradient of any loss at the outputs to an update.

    y = f(x; θ)                     forward, in TensorFlow
    g = ∂L/∂y                       the loss: TensorFlow, NumPy, a simulator, an estimate
    θ ← optimizer(θ, gᵀ ∂y/∂θ)      the pull-back of g through f, in TensorFlow

The loss is a function of outputs and targets and never sees the model. A *loss gradient* is a
function `(outputs, targets) -> (L, dL/dy, metrics)`. Four lifts return one: `differentiate` for a
TensorFlow loss, in `lifts.py`; `external` for a host function, `estimated` for a score, and `given`
for a gradient, in `host_losses.py`. Training changes weights in two files of this room:
`optimizers.py` assigns the optimizer's new weights, and `turns.py` moves averages such as target
networks. A TensorFlow loss that itself reads trained variables adds ∂L/∂θ.

Legend: B examples, K updates in one call, M examples per update.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from . import arguments
from .compiled import Nest
from .losses import LossGradient, Metrics
from .objective import EvaluatingOptimizer, Objective, check_optimizer
from .optimizers import Joined, apply_if, build_optimizer, global_norm, join
from .step import Step, Update, compile_updates
from .table import status_of

FAILING = ("Assert", "CheckNumerics", "EagerPyFunc", "If", "PyFunc", "StatefulPartitionedCall")
"""Operations that may raise even where the update does not use their results."""


def compile_step(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer | EvaluatingOptimizer,
    signature: tuple[Nest, ...],
    *,
    updates: int | tuple[int, int] | None = None,
    prepare: Callable[[Nest, Nest], tuple[Nest, Nest]] | None = None,
    mirror: Sequence[keras.Variable] = (),
    gradients: keras.Variable | None = None,
    jit_compile: bool | None = None,
) -> Step:
    """Compiles `θ ← optimizer(θ, (∂L/∂y)ᵀ ∂y/∂θ)` into one call, traced once.

    It does what `fit` does: penalties (`model.losses`: regularisers of `variables`, activity
    regularisers, `add_loss`) are added to the loss and reported as `penalty`; the optimizer clips,
    scales, averages and constrains; BatchNorm and Dropout update their state. The models' own
    variables stay the truth: set them, and the next step starts from there.

    Args:
        forward: Maps inputs x to outputs y: a built Keras model (called with `training=True`), or
            any function of several models, which passes `training=True` itself.
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`. A
            Keras loss, its name, or a TensorFlow function without a lift is differentiated.
            It receives outputs of half precision as float32.
        variables: The variables to train; each must receive a gradient. Those that occur twice, as
            in a trunk that two models share, are trained once.
        optimizer: Any Keras optimizer, one per set of variables; it is built here. Or one that
            evaluates the loss itself: `LBFGS`, `SAM`.
        signature: The pair of nests of `tf.TensorSpec` for inputs and targets.
        updates: K for K updates in one call, each on all examples; or `(K, M)`, and then the step
            takes `rows` `[K, M]`, int32: the examples of each update, as indices into the first
            axis of every input and target.
        prepare: `(inputs, targets) -> (inputs, targets)` of all examples: forward and loss receive
            what it returns. It runs once per call (per piece of a long call), so it is the place
            for computations that updates do not change; it must not assign variables.
        mirror: float32 variables whose new values come back together with the metrics.
        gradients: A variable `[P]` that receives the gradient of the last update, before clipping,
            for inspection.
        jit_compile: XLA or a graph. By default XLA for several updates in one call, unless they
            contain operations that XLA cannot compile or computes slowly: convolutions, pooling.

    Returns:
        `step(inputs, targets) -> {"loss", "grad_norm", **metrics}`, where `grad_norm` is the global
        norm ‖gᵀ ∂y/∂θ‖₂ before clipping. A metric is a number, or a vector `[M]` with one number
        for each example. A metric named `stop` ends the call when it is true: this update and the
        remaining ones are skipped, and only those before it are reported.

    Raises:
        ValueError: `variables` is empty, or some receive no gradient (the message names them); an
            argument has the wrong type.
    """
    objective = Objective(forward, loss_gradient, variables)
    check_optimizer("optimizer", optimizer)
    if isinstance(optimizer, EvaluatingOptimizer):
        _refuse_inspection(optimizer, gradients)
        update = optimizer.make_update(objective, isinstance(updates, tuple))
    else:
        update = update_by_keras(objective, optimizer, gradients)
    return compile_updates(update, signature, updates, mirror, jit_compile, prepare)


def make_update(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    *,
    joins: bool = True,
) -> Update:
    """The update of `compile_step`; it takes a gate as third argument, and is skipped if false.

    Without `joins` it works in any graph: no step has to open and close joined variables.
    """
    arguments.check_optimizer("optimizer", optimizer)
    objective = Objective(forward, loss_gradient, variables)
    return update_by_keras(objective, optimizer, None, joins=joins)


def update_by_keras(
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
    inspected: keras.Variable | None,
    *,
    joins: bool = True,
) -> Update:
    """The update by one evaluation of an objective and an optimizer of Keras, built here."""
    variables = objective.variables
    if inspected is not None:
        arguments.check_inspected(inspected, variables)
    build_optimizer(optimizer, variables)  # critical: slots must exist before the trace
    joined = Joined.of(optimizer, variables) if joins else None
    handles_overflow = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assigned: dict[int, tf.Tensor] = {}

    def update(inputs: Nest, targets: Nest, gate: tf.Tensor | bool = True) -> dict[str, tf.Tensor]:
        loss, metrics, gradients, unscaled, scope = objective.evaluate(
            inputs, targets, optimizer, inspected is not None
        )
        norm = global_norm(unscaled)
        if inspected is not None:
            assigned[id(inspected)] = gradient = join(unscaled)
            inspected.assign(gradient)
        scale, is_finite = scope.loss_scale, tf.math.is_finite(norm)
        handles = handles_overflow if scale is None else scale.factor > 1.0
        finite = gate & tf.math.is_finite(loss) & (is_finite | handles)
        status, proceeds = status_of(finite, metrics)
        with tf.control_dependencies(before_gate(metrics)):
            proceeds = tf.identity(proceeds)
        if scale is not None:
            scale.move_if(proceeds, is_finite)
            proceeds &= is_finite
        values = [scope.leaves[id(variable)] for variable in variables]
        states = scope.states.values()
        assigned.update(
            apply_if(proceeds, optimizer, gradients, norm, variables, values, states, joined)
        )
        return {"status": status, "loss": loss, "grad_norm": norm, **metrics}

    return Update(update, [] if joined is None else [joined], assigned, objective.hosts)


def _refuse_inspection(optimizer: EvaluatingOptimizer, inspected: keras.Variable | None) -> None:
    if inspected is not None:
        raise ValueError(
            "`gradients` must be left out with an optimizer that computes several in an update. "
            f"Received: one for {type(optimizer).__name__}. Use compile_gradient."
        )


def before_gate(metrics: Metrics) -> list[tf.Tensor | tf.Operation]:
    """What may still fail once the loss is known: metrics and assertions."""
    operations = tf.compat.v1.get_default_graph().get_operations()
    failing = [op for op in operations if op.type in FAILING]
    return [*filter(tf.is_tensor, metrics.values()), *failing]
