"""The forward pass of a step, and the pull-back of a gradient through it.

What the forward pass would assign and what it adds to the loss are held back.

Layer states (BatchNorm, Dropout) are assigned later, behind the gate of the update.
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
"""Of each variable ∂L/∂θ at constant y, in parts, of which None is 0."""

ASSIGNED = "vantage_assigned"
"""A graph's collection of states and the values that they took, in order."""


class Scope(keras.StatelessScope):  # type: ignore[misc]  # Keras has no types
    """Holds back what a forward pass would assign (BatchNorm, Dropout), and keeps its losses.

    Keras itself forgets a model's losses when the model is called a second time. A trained variable
    that the pass assigns (SpectralNormalization) is differentiated at every value it takes, as the
    tape of `fit` does.
    """

    def __init__(self, tape: tf.GradientTape, variables: Sequence[keras.Variable]) -> None:
        # critical: read once, unseen by the tape. Compiled functions in the model hold variables
        # themselves, whose gradient is another part, which must not be counted twice.
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
        self._first: dict[int, int] = {}  # by state, operations before it was first assigned
        self._replaced: dict[int, tuple[keras.Variable, int]] = {}  # by value, when it became old
        tape.watch((self.leaves, self.variables))

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """The value within the pass; None where the variable itself is to be read.

        A compiled function is traced once, and must not hold the tensors of one pass.
        """
        parts = self.leaves.get(id(variable), ())
        if len(parts) == 1 and self._is_in_function():
            return None
        return super().get_current_value(variable)

    def _is_in_function(self) -> bool:
        """Whether what is traced is a function of its own; loops and branches are none."""
        if self._graph is None:
            return False
        graph = tf.compat.v1.get_default_graph()
        while graph is not self._graph:
            if type(graph).__name__ == "FuncGraph" or getattr(graph, "outer_graph", None) is None:
                return True
            graph = graph.outer_graph
        return False

    def add_loss(self, loss: tf.Tensor) -> None:
        """Keeps a penalty, `[]` in single precision."""
        super().add_loss(loss)
        if self.collects:
            self.penalties.append(tf.reduce_sum(tf.cast(loss, tf.float32)))

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        """Keeps an assignment; reading the variable gives the new value within the scope.

        Raises:
            ValueError: It is made in a graph within that of the step, which cannot hand it out.
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
            for earlier, old in self._graph.get_collection(ASSIGNED):  # by earlier updates, too
                if earlier is variable:
                    self._replaced[id(old)] = variable, now
            self._graph.add_to_collection(ASSIGNED, (variable, value))

    def evaluate(
        self, loss_gradient: LossGradient, outputs: Nest, targets: Nest
    ) -> tuple[tf.Tensor, Nest, Metrics, Direct | None]:
        """L, dL/dy, metrics, and of each variable ∂L/∂θ at constant y, a list of parts.

        A TensorFlow loss may read the trained variables: here it reads those of the forward pass,
        so that a tape sees them. A compiled function in it may hold the variables themselves. What
        a second call of the model adds to the loss (penalties) is added once, by the forward pass.
        Keras's cross-entropies look behind a sigmoid or softmax, at its logits.
        """
        if not hasattr(loss_gradient, "with_direct"):
            return *loss_gradient(distinct(outputs), targets), None
        logits = logits_behind(outputs)
        parts = []
        for values, variable in zip(self.leaves.values(), self.variables, strict=True):
            # A variable that is the logits itself has its gradient there.
            parts.append([*(v for v in values if not any(v is z for z in logits)), variable])
        self.collects = False
        with self:
            loss, seeds, metrics, (hidden, direct) = loss_gradient.with_direct(
                outputs, targets, (logits, parts)
            )
        self.hidden = [(z, g) for z, g in zip(logits, hidden, strict=True) if g is not None]
        return loss, seeds, metrics, direct

    def check_reads(self) -> None:
        """Refuses calls of functions that read what the pass has assigned as it was before.

        A function that was traced earlier holds the variable, or the value of another pass.

        Raises:
            ValueError: There is one.
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
        """Whether a tensor is the value of a trained variable, and not computed from it."""
        return any(tensor is value for values in self.leaves.values() for value in values)


def distinct(outputs: Nest) -> Nest:
    """Outputs as tensors of their own, behind which no logits are found.

    All of a loss's gradient is that of such outputs, wherever it takes it.
    """
    seen = set[int]()

    def own(output: tf.Tensor) -> tf.Tensor:
        is_new = id(output) not in seen and not logits_behind(output)
        seen.add(id(output))
        if is_new:
            return output
        return _with_mask_of(output, tf.identity(output))

    return tf.nest.map_structure(own, outputs)


def gradients_once(tape: tf.GradientTape, value: tf.Tensor, sources: Nest) -> Nest:
    """The gradients of a nest's tensors; of one that stands there twice once, and then None.

    A tape gives the whole gradient at either place. An output may be another's logits, too.
    """
    flat = tf.nest.flatten(sources)
    unique = list({id(tensor): tensor for tensor in flat}.values())
    found = dict(zip(map(id, unique), tape.gradient(value, unique), strict=True))
    return tf.nest.pack_sequence_as(sources, [found.pop(id(tensor), None) for tensor in flat])


def logits_behind(outputs: Nest) -> list[tf.Tensor]:
    """The logits of outputs that are a sigmoid or softmax: Keras's losses take these."""
    found = map(_logits_behind, tf.nest.flatten(outputs))
    return [logits for logits in found if logits is not None]


def _logits_behind(output: tf.Tensor) -> tf.Tensor | None:
    marks = _marks_of(output)
    marks.pop(MASK, None)
    return next(iter(marks.values()), None)


Marks = dict[str, tf.Tensor]
MASK, LOGITS = "_keras_mask", "_keras_logits"
ACTIVATIONS = {"Sigmoid": tf.sigmoid, "Softmax": tf.nn.softmax}
"""Keras's binary cross-entropies look for the logits of a sigmoid, the others of a softmax."""


def marks_of(outputs: Nest) -> list[Marks]:
    """What Keras's losses look for on each output: a mask, and logits. A compiled call drops it."""
    return list(map(_marks_of, tf.nest.flatten(outputs)))


def _marks_of(output: tf.Tensor) -> Marks:
    marks = {name: getattr(output, name, None) for name in (MASK, LOGITS, *ACTIVATIONS)}
    in_graph = hasattr(output, "graph") and not isinstance(output, tf.Variable)
    if in_graph and output.op.type in ACTIVATIONS and marks[LOGITS] is None:
        marks[output.op.type] = output.op.inputs[0]
    return {name: mark for name, mark in marks.items() if mark is not None}


def marked(outputs: Nest, marks: Sequence[Marks]) -> Nest:
    """Outputs with their marks; in a graph those of an operation are its result again."""
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(outputs)]
    for k, own in enumerate(marks):
        if not tf.executing_eagerly():
            leaves[k] = next((ACTIVATIONS[n](own[n]) for n in own if n in ACTIVATIONS), leaves[k])
        for name, mark in own.items():
            setattr(leaves[k], name, mark)
    return tf.nest.pack_sequence_as(outputs, leaves)


def run_forward(
    forward: Callable[[Nest], Nest], inputs: Nest, variables: Sequence[keras.Variable]
) -> tuple[Scope, Nest]:
    """The scope of a forward pass, and its outputs in single precision or better."""
    tape = tf.GradientTape(watch_accessed_variables=False)
    with tape, Scope(tape, variables) as scope:
        training = {"training": True} if isinstance(forward, keras.Layer) else {}
        earlier = assigning_functions()  # branches of the updates before this one
        outputs = forward(inputs, **training)
        if assigning := assigning_functions() - earlier:
            raise checks.inner_assignment(", ".join(sorted(assigning)))
        outputs = tf.nest.map_structure(at_least_float32, outputs)
        # critical: a variable that is an output is a tensor of its own there; else what the loss
        # reads as output would be taken for what it reads of the variable as well.
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
    """The scope of a forward pass, L, its metrics, and dL/dθ of every variable: scaled, and plain.

    Assigns nothing, so that it may also be called for a look at the gradients. Unless `dense`, the
    plain ones are only as long as theirs (‖·‖₂), where that is less work.
    """
    scope, outputs = run_forward(forward, inputs, variables)
    refuse_slow_by_xla()
    loss, seeds, metrics, direct = scope.evaluate(loss_gradient, outputs, targets)
    scope.check_reads()
    scope.loss_scale = LossScale.of(optimizer)
    scaled, plain = pull_back(scope, outputs, seeds, variables, optimizer, direct, dense)
    return scope, tf.cast(loss, tf.float32), metrics, scaled, plain


def at_least_float32(output: tf.Tensor) -> tf.Tensor:
    """An output in single precision or better, with the mask that Keras's losses look for."""
    if output.dtype not in (tf.float16, tf.bfloat16):
        return output
    return _with_mask_of(output, tf.cast(output, tf.float32))


def _with_mask_of(output: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The other tensor with the mask of an output, by which Keras's losses leave padding out."""
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
    """Σₖ (dL/dyₖ)ᵀ dyₖ/dθ + dpenalty/dθ + ∂L/∂θ: scaled for the optimizer, and without the scale.

    `direct` holds ∂L/∂θ at constant y of each variable, a list of parts that are None as a rule.
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
    # Dense: the rows of an embedding's gradient may repeat. Unscaled: squares may overflow.
    whole = tf.convert_to_tensor if dense else _as_long
    plain = [tf.cast(whole(g), tf.float32) for g in gradients]
    own = optimizer.scale_loss(1.0)
    is_scaled = not isinstance(own, float) or own != 1.0
    return gradients, [g / own for g in plain] if is_scaled else plain


def _shaped(gradient: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """A gradient with the shape of its output, which a Python function does not say."""
    known = gradient.shape.is_fully_defined()
    return gradient if known else tf.ensure_shape(gradient, output.shape)


def _as_long(gradient: Gradient) -> tf.Tensor:
    """A dense gradient; of a sparse one with few rows these, added up where they repeat, `[n, D]`.

    Shapes stay known, so that XLA compiles it; what is left over at the end is 0.
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
