"""The forward pass of a step, and the pull-back of a gradient through it.

The forward pass itself assigns nothing. It collects the new states of layers (BatchNorm, Dropout),
which are assigned behind the gate of the update, and the penalties that layers add to the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import keras
import tensorflow as tf

from . import checks
from .compiled import Nest, assigning_functions, calls_function, refuse_slow_by_xla
from .loss_scale import LossScale
from .optimizers import Gradient, map_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .losses import LossGradient, Metrics

Direct: TypeAlias = list[list[tf.Tensor | None]]
"""For each variable the parts of ∂L/∂θ at constant y; None stands for 0."""

ASSIGNED = "vantage_assigned"
"""The graph collection of assigned states and their values, in order."""


class Scope(keras.StatelessScope):  # type: ignore[misc]  # Keras has no types
    """Collects what a forward pass would assign (BatchNorm, Dropout), and the losses it adds.

    Keras itself forgets a model's losses when the model is called a second time. A trained variable
    that the pass assigns (SpectralNormalization) is differentiated at each of its values, as in
    `fit`.
    """

    def __init__(self, tape: tf.GradientTape, variables: Sequence[keras.Variable]) -> None:
        # critical: read once, outside the tape. Compiled functions in the model read the variables
        # themselves; that part of the gradient is taken separately and must not be counted twice.
        with tape.stop_recording():
            values = [tf.convert_to_tensor(variable.value) for variable in variables]
        mapping = list(zip(variables, values, strict=True))
        super().__init__(state_mapping=mapping, collect_losses=True)
        self.tape = tape
        self.variables = [variable.value for variable in variables]
        self.collects = True
        self.leaves = {id(variable): [value] for variable, value in mapping}
        self.penalties: list[tf.Tensor] = []
        self.hidden: list[tuple[tf.Tensor, tf.Tensor]] = []  # logits behind outputs, dL/dlogits
        self.loss_scale: LossScale | None = None
        self.states: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        # By state: the number of operations in the graph when it was first assigned.
        self._first: dict[int, int] = {}
        # By value: the variable that held it, and the number of operations when it was replaced.
        self._replaced: dict[int, tuple[keras.Variable, int]] = {}
        tape.watch((self.leaves, self.variables))

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """The value within the pass; None inside a function that is traced.

        Such a function is traced once, so it must read the variable, not the tensors of one pass.
        """
        parts = self.leaves.get(id(variable), ())
        if len(parts) == 1 and self._is_in_function():
            return None
        return super().get_current_value(variable)

    def _is_in_function(self) -> bool:
        """Whether a function is being traced inside the step; loops and branches do not count."""
        if self._graph is None:
            return False
        graph = tf.compat.v1.get_default_graph()
        while graph is not self._graph:
            if type(graph).__name__ == "FuncGraph" or getattr(graph, "outer_graph", None) is None:
                return True
            graph = graph.outer_graph
        return False

    def add_loss(self, loss: tf.Tensor) -> None:
        """Collects a penalty, `[]` in single precision."""
        super().add_loss(loss)
        if self.collects:
            self.penalties.append(tf.reduce_sum(tf.cast(loss, tf.float32)))

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        """Collects an assignment; within the scope the variable has the new value.

        Raises:
            ValueError: The assignment is inside an inner graph, whose tensors cannot leave it.
        """
        variable, value = update
        if self._graph is not None and tf.compat.v1.get_default_graph() is not self._graph:
            raise checks.inner_assignment(variable.path)
        if id(variable) in self.leaves:
            value = tf.stop_gradient(value)
            self.tape.watch(value)
            self.leaves[id(variable)].append(value)
        super().add_update((variable, value))
        self.states[id(variable)] = variable, value
        if self._graph is not None:
            now = len(self._graph.get_operations())
            self._first.setdefault(id(variable), now)
            for earlier, old in self._graph.get_collection(ASSIGNED):  # also of earlier updates
                if earlier is variable:
                    self._replaced[id(old)] = variable, now
            self._graph.add_to_collection(ASSIGNED, (variable, value))

    def evaluate(
        self, loss_gradient: LossGradient, outputs: Nest, targets: Nest
    ) -> tuple[tf.Tensor, Nest, Metrics, Direct | None]:
        """L, dL/dy, metrics, and for each variable the parts of ∂L/∂θ at constant y.

        A TensorFlow loss may read the trained variables. Here it reads their values of the forward
        pass, so that a tape sees them; a compiled function in it may read the variables themselves.
        Penalties count once: a second call of the model, in the loss, adds none. Keras's
        cross-entropies use the logits behind a sigmoid or softmax instead of its output.
        """
        if not hasattr(loss_gradient, "with_direct"):
            with self:
                return *loss_gradient(distinct(outputs), targets), None
        logits = logits_behind(outputs)
        parts = []
        for values, variable in zip(self.leaves.values(), self.variables, strict=True):
            # The gradient at a variable that is the logits itself is already that of the logits.
            parts.append([*(v for v in values if not any(v is z for z in logits)), variable])
        self.collects = False
        with self:
            loss, seeds, metrics, (hidden, direct) = loss_gradient.with_direct(
                outputs, targets, (logits, parts)
            )
        self.hidden = [(z, g) for z, g in zip(logits, hidden, strict=True) if g is not None]
        return loss, seeds, metrics, direct

    def check_reads(self) -> None:
        """Refuses calls of functions that read the old value of what the pass has assigned.

        A function that was traced earlier reads the variable itself, or the value of another pass.

        Raises:
            ValueError: There is such a call.
        """
        if not self.states or self._graph is None:
            return
        old = dict(self._replaced)
        handles = {id(v.value.handle): (v, self._first[id(v)]) for v, _ in self.states.values()}
        for outside, inside in self._graph.captures:
            if id(outside) in handles:
                old[id(inside)] = handles[id(outside)]
        for position, operation in enumerate(self._graph.get_operations()):
            for tensor in operation.inputs:
                variable, since = old.get(id(tensor), (None, 0))
                is_old = variable is not None and position >= since
                if is_old and calls_function(operation.node_def):
                    raise checks.old_state(variable.path)

    def is_leaf(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is itself the value of a trained variable."""
        return any(tensor is value for values in self.leaves.values() for value in values)


def distinct(outputs: Nest) -> Nest:
    """Copies of outputs that occur twice or have logits behind them.

    The whole gradient of a loss is then at the outputs themselves.
    """
    seen = set[int]()

    def copied(output: tf.Tensor) -> tf.Tensor:
        is_new = id(output) not in seen and not logits_behind(output)
        seen.add(id(output))
        if is_new:
            return output
        return _with_mask_of(output, tf.identity(output))

    return tf.nest.map_structure(copied, outputs)


def gradients_once(tape: tf.GradientTape, value: tf.Tensor, sources: Nest) -> Nest:
    """The gradients at the tensors of a nest; None where a tensor occurs a second time.

    A tape gives the whole gradient at both places. One output may be the logits of another.
    """
    flat = tf.nest.flatten(sources)
    unique = list({id(tensor): tensor for tensor in flat}.values())
    found = dict(zip(map(id, unique), tape.gradient(value, unique), strict=True))
    return tf.nest.pack_sequence_as(sources, [found.pop(id(tensor), None) for tensor in flat])


def logits_behind(outputs: Nest) -> list[tf.Tensor]:
    """The logits of outputs that are a sigmoid or softmax, which Keras's losses use instead."""
    found = map(_logits_behind, tf.nest.flatten(outputs))
    return [logits for logits in found if logits is not None]


def _logits_behind(output: tf.Tensor) -> tf.Tensor | None:
    marks = _marks_of(output)
    marks.pop(MASK, None)
    return next(iter(marks.values()), None)


Marks = dict[str, tf.Tensor]
MASK, LOGITS = "_keras_mask", "_keras_logits"
ACTIVATIONS = {"Sigmoid": tf.sigmoid, "Softmax": tf.nn.softmax}
"""Keras's binary cross-entropies use the logits of a sigmoid, its other ones those of a softmax."""


def marks_of(outputs: Nest) -> list[Marks]:
    """The mask and the logits that Keras attaches to each output; a compiled call drops them."""
    return list(map(_marks_of, tf.nest.flatten(outputs)))


def _marks_of(output: tf.Tensor) -> Marks:
    marks = {name: getattr(output, name, None) for name in (MASK, LOGITS, *ACTIVATIONS)}
    in_graph = hasattr(output, "graph") and not isinstance(output, tf.Variable)
    if in_graph and output.op.type in ACTIVATIONS and marks[LOGITS] is None:
        marks[output.op.type] = output.op.inputs[0]
    return {name: mark for name, mark in marks.items() if mark is not None}


def marked(outputs: Nest, marks: Sequence[Marks]) -> Nest:
    """Outputs with their marks; in a graph, an activation is computed again from its logits."""
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(outputs)]
    for k, of_leaf in enumerate(marks):
        if not tf.executing_eagerly():
            found = (ACTIVATIONS[n](of_leaf[n]) for n in of_leaf if n in ACTIVATIONS)
            leaves[k] = next(found, leaves[k])
        for name, mark in of_leaf.items():
            setattr(leaves[k], name, mark)
    return tf.nest.pack_sequence_as(outputs, leaves)


def run_forward(
    forward: Callable[[Nest], Nest], inputs: Nest, variables: Sequence[keras.Variable]
) -> tuple[Scope, Nest]:
    """The scope of a forward pass, and its outputs in single precision or better."""
    tape = tf.GradientTape(watch_accessed_variables=False)
    with tape, Scope(tape, variables) as scope:
        training = {"training": True} if isinstance(forward, keras.Layer) else {}
        earlier = assigning_functions()  # branches of earlier updates in the same graph
        outputs = forward(inputs, **training)
        if assigning := assigning_functions() - earlier:
            raise checks.inner_assignment(", ".join(sorted(assigning)))
        outputs = tf.nest.map_structure(at_least_float32, outputs)
        # critical: copy a variable that is itself an output. Otherwise the gradient at the output
        # would count again as the gradient at a variable that the loss reads.
        outputs = tf.nest.map_structure(
            lambda y: tf.identity(y) if scope.is_leaf(y) else y, outputs
        )
        for variable in variables:
            if variable.regularizer is not None:
                scope.add_loss(variable.regularizer(variable.value))
    return scope, outputs


def differentiated(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    inputs: Nest,
    targets: Nest,
    dense: bool = True,
) -> tuple[Scope, tf.Tensor, Metrics, list[Gradient], list[tf.Tensor]]:
    """The scope of a forward pass, L, metrics, and dL/dθ of each variable: scaled, and unscaled.

    Assigns nothing, so it can also be used to inspect gradients. Without `dense`, an unscaled
    gradient may be shorter, with the same norm ‖·‖₂, where that is less work.
    """
    scope, outputs = run_forward(forward, inputs, variables)
    refuse_slow_by_xla()
    loss, seeds, metrics, direct = scope.evaluate(loss_gradient, outputs, targets)
    scope.check_reads()
    scope.loss_scale = LossScale.of(optimizer)
    scaled, plain = pull_back(scope, outputs, seeds, variables, optimizer, direct, dense)
    return scope, tf.cast(loss, tf.float32), metrics, scaled, plain


def at_least_float32(output: tf.Tensor) -> tf.Tensor:
    """An output in at least single precision, with its Keras mask."""
    if output.dtype not in (tf.float16, tf.bfloat16):
        return output
    return _with_mask_of(output, tf.cast(output, tf.float32))


def _with_mask_of(output: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Gives another tensor the mask of an output, with which Keras's losses skip padding."""
    mask = getattr(output, MASK, None)
    if mask is not None:
        setattr(other, MASK, mask)
    return other


def pull_back(
    scope: Scope,
    outputs: Nest,
    seeds: Nest,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    direct: Direct | None = None,
    dense: bool = True,
) -> tuple[list[Gradient], list[tf.Tensor]]:
    """Σₖ (dL/dyₖ)ᵀ dyₖ/dθ + dpenalty/dθ + ∂L/∂θ: scaled for the optimizer, and unscaled.

    `direct` holds the parts of ∂L/∂θ at constant y of each variable; most of them are None.
    """
    checks.check_gradient(seeds, outputs)
    flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(seeds), strict=True)
    pairs = [(y, _shaped(tf.cast(g, y.dtype), y)) for y, g in flat if g is not None]
    pairs += scope.hidden
    pairs += [(penalty, tf.ones_like(penalty)) for penalty in scope.penalties]
    scaled, scale = optimizer.scale_loss, scope.loss_scale
    if scale is not None:
        factor = scale.factor.value
        scaled = lambda g: g * tf.cast(factor, g.dtype)  # noqa: E731
    by_leaf = scope.tape.gradient(
        [y for y, _ in pairs],
        [[*scope.leaves[id(v)], held] for v, held in zip(variables, scope.variables, strict=True)],
        output_gradients=[scaled(g) for _, g in pairs],
    )
    if direct is not None:
        more = [[map_values(scaled, g) for g in parts if g is not None] for parts in direct]
        by_leaf = [[*leaves, *parts] for leaves, parts in zip(by_leaf, more, strict=True)]
    gradients = [_sum([g for g in leaves if g is not None]) for leaves in by_leaf]
    checks.check_reached(variables, gradients)
    if scale is not None:
        gradients = [tf.math.scalar_mul(1.0 / factor, g) for g in gradients]
    # Dense, because rows of an embedding's gradient may repeat; unscaled, because squares overflow.
    densify = tf.convert_to_tensor if dense else _same_norm
    unscaled = [tf.cast(densify(g), tf.float32) for g in gradients]
    by_optimizer = optimizer.scale_loss(1.0)
    is_scaled = not isinstance(by_optimizer, float) or by_optimizer != 1.0
    return gradients, [g / by_optimizer for g in unscaled] if is_scaled else unscaled


def _shaped(gradient: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """A gradient with the shape of its output, which a host function does not declare."""
    known = gradient.shape.is_fully_defined()
    return gradient if known else tf.ensure_shape(gradient, output.shape)


def _same_norm(gradient: Gradient) -> tf.Tensor:
    """A dense gradient, or the few distinct rows `[n, D]` of a sparse one; both have the same norm.

    Repeated rows are added up. For XLA n is the number of all rows; those that remain are 0.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    count = gradient.values.shape[0]
    if count is None or gradient.shape.rank is None or 4 * count > gradient.shape[0]:
        return tf.convert_to_tensor(gradient)
    order = tf.argsort(gradient.indices)
    rows = tf.gather(gradient.indices, order)
    places = tf.cumsum(tf.concat([[0], tf.cast(rows[1:] != rows[:-1], tf.int32)], 0))  # [n]
    return tf.math.unsorted_segment_sum(tf.gather(gradient.values, order), places, count)


def _sum(gradients: list[Gradient]) -> Gradient | None:
    return tf.add_n(gradients) if len(gradients) > 1 else next(iter(gradients), None)
