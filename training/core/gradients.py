"""The external-loss gradient core: from the gradient of any loss at the outputs to an update.

    y = f(x; θ)                     forward, in TensorFlow
    g = ∂L/∂y                       the loss: TensorFlow, NumPy, a simulator, an estimate
    θ ← optimizer(θ, gᵀ ∂y/∂θ)      the pull-back of g through f, in TensorFlow

The loss is a function of outputs and targets and never sees the model. A *loss gradient* is a
function `(outputs, targets) -> (L, dL/dy, metrics)`; four lifts make one: `differentiate` of a
TensorFlow loss, in `lifts.py`; `given` a gradient, `external` of a host function and `estimated` of
a score, in `host_losses.py`. Training changes weights in two files of this room: `optimizers.py`
assigns what an optimizer makes of the gradient, and in `turns.py` averages follow, as target
networks do. A TensorFlow loss that reads trained variables by itself adds ∂L/∂θ.

Legend: B examples, K updates in one call, M examples per update.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from . import arguments, checks
from .compiled import Nest
from .forward import differentiated
from .host_losses import host_of
from .lifts import lifted
from .losses import LossGradient, Metrics
from .optimizers import Joined, apply_if, build_optimizer, global_norm, join
from .step import Step, Update, compile_updates
from .table import status_of

FAILING = ("Assert", "CheckNumerics", "EagerPyFunc", "If", "PyFunc", "StatefulPartitionedCall")
"""Operations that may raise, and whose results an update need not use."""


def compile_step(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    signature: tuple[Nest, ...],
    *,
    updates: int | tuple[int, int] | None = None,
    prepare: Callable[[Nest, Nest], tuple[Nest, Nest]] | None = None,
    mirror: Sequence[keras.Variable] = (),
    gradients: keras.Variable | None = None,
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
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`. A
            Keras loss, its name, or a TensorFlow function without a lift is differentiated.
            Outputs of half precision reach it as float32.
        variables: What to train; each must be reached by a gradient. Those that occur twice, as in
            a trunk that two models share, are trained once.
        optimizer: Any Keras optimizer, one per set of variables. It is built here.
        signature: The pair of nests of `tf.TensorSpec` for inputs and targets.
        updates: K for K updates in one call, each on all examples; or `(K, M)`, when the step takes
            `rows` `[K, M]`, int32: the examples (indices into the first axis of every input and
            target) of each update.
        prepare: `(inputs, targets) -> (inputs, targets)` of all examples, once a call (a long one:
            once a piece): what forward and loss see instead. The place of what no update changes;
            it assigns nothing.
        mirror: float32 variables whose values after the update come back with the metrics.
        gradients: A variable `[P]` that keeps the last update's, before clipping, for a look.
        jit_compile: XLA or a graph. By default XLA for several updates in one call, unless they
            contain operations that XLA cannot compile, or makes slow: convolutions and pooling.

    Returns:
        `step(inputs, targets) -> {"loss", "grad_norm", **metrics}`, `grad_norm` being the global
        norm ‖gᵀ ∂y/∂θ‖₂ before clipping. A metric is a number, or a vector `[M]` of one for each
        example. One named `stop` ends the call where it is true: that update and the rest are not
        made, and of K only those before it are reported.

    Raises:
        ValueError: `variables` is empty, or holds some that no gradient reaches (they are named);
            an argument is of another type than it says above.
    """
    update = make_update(forward, loss_gradient, variables, optimizer, gradients)
    return compile_updates(update, signature, updates, mirror, jit_compile, prepare)


def make_update(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    kept: keras.Variable | None = None,
) -> Update:
    """The update of `compile_step`; its third argument is a gate: if false, nothing changes."""
    loss_gradient = lifted(loss_gradient)
    arguments.check_forward(forward)
    arguments.check_optimizer("optimizer", optimizer)
    variables = arguments.as_variables("variables", variables)
    variables = list({id(variable): variable for variable in variables}.values())
    checks.check_variables(variables)
    if kept is not None:
        arguments.check_kept(kept, variables)
    build_optimizer(optimizer, variables)  # critical: slots must exist before the trace
    joined = Joined.of(optimizer, variables)
    answers_overflow = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assigned: dict[int, tf.Tensor] = {}

    def update(inputs: Nest, targets: Nest, gate: tf.Tensor | bool = True) -> dict[str, tf.Tensor]:
        scope, loss, metrics, gradients, plain = differentiated(
            forward, loss_gradient, variables, optimizer, inputs, targets, kept is not None
        )
        norm = global_norm(plain)
        if kept is not None:
            assigned[id(kept)] = every = join(plain)
            kept.assign(every)
        checks.check_metrics(metrics)
        if scope.penalties:
            metrics = {"penalty": tf.add_n(scope.penalties), **metrics}
            loss += metrics["penalty"]
        scale, is_small = scope.loss_scale, tf.math.is_finite(norm)
        answers = answers_overflow if scale is None else scale.factor > 1.0
        finite = gate & tf.math.is_finite(loss) & (is_small | answers)
        status, made = status_of(finite, metrics)
        with tf.control_dependencies(_before_gate(metrics)):
            made = tf.identity(made)
        if scale is not None:
            scale.move_if(made, is_small)
            made &= is_small
        values = [scope.leaves[id(variable)] for variable in variables]
        states = scope.states.values()
        assigned.update(
            apply_if(made, optimizer, gradients, norm, variables, values, states, joined)
        )
        return {"status": status, "loss": loss, "grad_norm": norm, **metrics}

    return Update(update, [] if joined is None else [joined], assigned, host_of(loss_gradient))


def _before_gate(metrics: Metrics) -> list[tf.Tensor | tf.Operation]:
    """What may still fail though the loss is known: metrics and assertions."""
    operations = tf.compat.v1.get_default_graph().get_operations()
    failing = [op for op in operations if op.type in FAILING]
    return [*filter(tf.is_tensor, metrics.values()), *failing]
