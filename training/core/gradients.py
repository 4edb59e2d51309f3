"""The external-loss gradient core: the only place where weights change.

    y = f(x; θ)                     forward, in TensorFlow
    g = ∂L/∂y                       the loss: TensorFlow, NumPy, a simulator, an estimate
    θ ← optimizer(θ, gᵀ ∂y/∂θ)      the pull-back of g through f, in TensorFlow

The loss is a function of outputs and targets and never sees the model. A *loss gradient* is a
function `(outputs, targets) -> (L, dL/dy, metrics)`; four lifts make one: `differentiate` of a
TensorFlow loss, below; `given` a gradient, `external` of a host function and `estimated` of a
score, in `host_losses.py`. A TensorFlow loss that reads trained variables by itself adds ∂L/∂θ.

Legend: B examples, K updates in one call, M examples per update.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ..common import interrupts
from . import arguments, checks
from .compiled import Compiled, Nest, restored
from .forward import differentiated, distinct, gradients_once, marked, marks_of
from .host_losses import estimated as estimated
from .host_losses import external as external
from .host_losses import given as given
from .losses import aligned, call, in_our_order, is_keras_loss, must_align, unpacked
from .optimizers import Joined, apply_if, build_optimizer, global_norm, join
from .scan import scan

FAILING = ("Assert", "CheckNumerics", "EagerPyFunc", "If", "PyFunc", "StatefulPartitionedCall")
"""Operations that may raise, and whose results an update need not use."""

LossGradient = Callable[[Nest, Nest], tuple[tf.Tensor, Nest, Mapping[str, tf.Tensor]]]


PIECE_SECONDS = 0.5  # of a call that is cut
Refused = Callable[[checks.NonfiniteUpdate], None]


class Step:
    """A compiled update, made by `compile_step`: `step(inputs, targets) -> metrics`.

    A long call of many updates runs in pieces of about half a second, and between two of them
    `interrupts.notice` answers a signal. The pieces make the same bits as the whole.
    """

    def __init__(
        self,
        compiled: Compiled,
        host: Any,
        names: list[str],
        mirror: Sequence[keras.Variable],
        updates: int | None,
        examples: int,
        targets: Nest = (),
        joined: Sequence[Joined] = (),
        is_long: bool = False,
        turns: Sequence[str] = (),
    ) -> None:
        self._turns = tuple(turns)
        self._joined = list(joined)
        self._names, self._updates, self._examples = names, updates, examples
        self._host, self._has_vectors = host, len(set(names)) < len(names)
        self._traced = compiled
        self._compiled = compiled if host is None else host.guard(compiled)
        self._keeps = compiled.state if is_long else lambda: []
        self._bounds = np.array([0, updates or 1], np.int32)
        self._piece, self._is_new = 1, True  # updates of a piece; whether none was made yet
        self._targets, self._opaque = targets, () if host is None else host.opaque
        shapes = [tuple(variable.shape) for variable in mirror]
        cuts = np.cumsum([0, *map(math.prod, shapes)]).tolist()
        self._cuts = list(zip(cuts, cuts[1:], shapes, strict=False))  # begin, end, shape
        self._flat = np.concatenate([np.empty(0, np.float32), *(v.numpy().ravel() for v in mirror)])

    def __call__(
        self,
        inputs: Nest,
        targets: Nest,
        rows: np.ndarray | None = None,
        refused: Refused | None = None,
    ) -> dict:
        """Makes one update, or with `updates` K of them: on all examples or on `rows` `[K, M]`.

        Args:
            inputs: As the signature says.
            targets: As the signature says.
            rows: The examples of each update.
            refused: With K updates, a function of the error of each update that is not finite.
                Unless it raises, the step skips that update and makes the next one. The metrics
                keep the values of a skipped update.

        Returns:
            `{"loss", "grad_norm", **metrics}`: floats, or with `updates` arrays `[K]`.

        Raises:
            ValueError: The arrays differ from the signature, or `rows` index no example.
            FloatingPointError: The loss or a gradient is not finite. That update, and any after
                it in the same call, changed no weight, optimizer slot, counter or layer state; of
                an update in turns, the turns before the bad one did.
            UpdateCut: A signal arrived between two pieces, and the caller allows cuts.
        """
        if self._is_new:
            with interrupts.patience():
                array = self._run(inputs, targets, rows, refused)
            self._is_new = False
        else:
            array = self._run(inputs, targets, rows, refused)
        try:
            return self._read(array)
        except checks.NonfiniteUpdate as error:
            raise error.located(inputs, targets, rows) from None

    def compile(self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None) -> None:
        """Makes ready for `start`: compiles what makes several updates, and makes none.

        It also takes over the optimizer's slots, whose reading waits for what was started.
        """
        for each in self._joined:
            each.open()
        if self._is_new and self._updates is not None:
            with interrupts.patience():
                self._start(inputs, targets, rows, np.zeros(2, np.int32)).numpy()
            self._is_new = False

    def start(self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None) -> tf.Tensor:
        """The first half of a call, in one piece: what the compiled function returns."""
        return self._start(inputs, targets, rows, self._bounds)

    def read(self, vector: tf.Tensor) -> dict:
        """The second half: the metrics; the new weights are kept."""
        return self._read(vector.numpy())

    def _run(
        self, inputs: Nest, targets: Nest, rows: np.ndarray | None, refused: Refused | None
    ) -> np.ndarray:
        """What the compiled function returns, of as many pieces as the call needs."""
        count, width = self._updates, len(self._names)
        before = self._keeps()
        if count is None:
            with restored(before):
                return self._start(inputs, targets, rows, self._bounds).numpy()
        table = np.zeros((count, width), np.float32)  # [K, metrics]
        begin, is_first = 0, self._is_new
        while True:
            end, began = min(begin + self._piece, count), time.perf_counter()
            with restored(before):
                bounds = np.array([begin, end], np.int32)
                array = self._start(inputs, targets, rows, bounds).numpy()
            table[begin:end] = array[: table.size].reshape(table.shape)[begin:end]
            failed = table[begin:end, 0] < checks.MADE
            is_made = not failed.any()
            if not is_made:
                end = begin + int(failed.argmax()) + 1  # those after it were not reached
            if not is_first:  # it compiles
                seconds = (time.perf_counter() - began) / (end - begin)
                self._piece = max(1, int(PIECE_SECONDS / seconds))
            if is_made and end - begin == count:
                return array
            try:
                if not is_made and refused is not None and table[end - 1, 0] != checks.STOPPED:
                    error = checks.nonfinite(table, end - 1, self._names, self._turns)
                    refused(error.located(inputs, targets, rows))
                    table[end - 1, 0], is_made = checks.MADE, True  # it is not refused again
                if not is_made or end == count:
                    return np.concatenate([table.ravel(), array[table.size :]])
                interrupts.notice()
            except BaseException:
                if self._host is not None:
                    self._host.take_metrics(True)  # critical: they are not those of the next call
                raise
            begin, is_first = end, False

    def _start(self, inputs: Nest, targets: Nest, rows: Any, bounds: np.ndarray) -> tf.Tensor:
        if self._opaque:
            targets = self._host.keep(self._targets, targets, self._opaque)
        if rows is not None and self._examples:
            checks.check_rows(rows, self._examples)
        more = [*([] if rows is None else [rows]), *([] if self._updates is None else [bounds])]
        for each in self._joined:
            each.open()
        try:
            return self._compiled(inputs, targets, *more)
        finally:
            for each in self._joined:
                each.close()

    def _read(self, array: np.ndarray) -> dict:
        stacked = self._updates is not None
        host_metrics = {} if self._host is None else self._host.take_metrics(stacked)
        count = len(self._names) * (self._updates or 1)
        table = array[:count].reshape(-1, len(self._names))  # [K, metrics]
        self._flat = array[count:]
        if table[:, 0].min() < checks.MADE:
            table = checks.made(table, self._names, stacked, self._turns)
        columns = table[:, 1:].T if stacked else table[0, 1:].tolist()
        metrics = dict(zip(self._names[1:], columns, strict=True)) | host_metrics
        if self._has_vectors:
            return checks.with_vectors(metrics, table, self._names, stacked)
        return metrics

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics; those of a host loss are known only after a call."""
        return self._names[1:]

    @property
    def is_random(self) -> bool:
        """Whether an update draws random numbers, as Dropout does."""
        return self._traced.is_random

    @property
    def keeps_drawing(self) -> bool:
        """Whether that depends on the calls before, which XLA does not know of."""
        return self._traced.keeps_drawing

    @property
    def weights(self) -> list[np.ndarray]:
        """The mirrored variables after the last call (or at first), as views of one array."""
        return [self._flat[begin:end].reshape(shape) for begin, end, shape in self._cuts]


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
        made, and of K only those before it are told of.

    Raises:
        ValueError: `variables` is empty, or holds some that no gradient reaches (they are named);
            an argument is of another type than it says above.
    """
    loss_gradient = lifted(loss_gradient)
    host = getattr(loss_gradient, "host", None)
    made = make_update(forward, loss_gradient, variables, optimizer, gradients)
    options = host, signature, updates, mirror, jit_compile, prepare
    return compile_updates(made.update, made.joined, *options, assigned=made.assigned)


class Made(NamedTuple):
    """An update of `compile_step`, to be traced, and what belongs to it."""

    update: Callable[..., dict[str, tf.Tensor]]
    """`(inputs, targets, gate) -> metrics`. The first metric is `status`, `MADE` if the update
    changed anything: it changes nothing if `gate` is false."""
    joined: list[Joined]
    """Each call opens these first and closes them afterwards."""
    assigned: dict[int, tf.Tensor]
    """Variables' ids and their new values, flat. A trace of the update fills it."""


def make_update(forward, loss_gradient, variables, optimizer, kept=None) -> Made:
    """The update of `compile_step`, not traced yet."""
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
        status, made = checks.status(finite, metrics)
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

    return Made(update, [] if joined is None else [joined], assigned)


def _before_gate(metrics: Mapping[str, tf.Tensor]) -> list[Any]:
    """What may still fail though the loss is known: metrics and assertions."""
    operations = tf.compat.v1.get_default_graph().get_operations()
    failing = [op for op in operations if op.type in FAILING]
    return [*filter(tf.is_tensor, metrics.values()), *failing]


def compile_updates(
    update,
    joined,
    host,
    signature,
    updates,
    mirror,
    jit_compile,
    prepare=None,
    turns: Sequence[str] = (),
    assigned: Mapping[int, tf.Tensor] | None = None,
) -> Step:
    """The step that makes `update` once, or K times; `host` is that of a loss outside TensorFlow.

    `turns` are the names of those that an update consists of. `assigned` holds the new values of
    variables that the graph knows, so that a single update need not read them back.

    Raises:
        ValueError: XLA is to compile a loss on the host.
    """
    updates, mirror = arguments.as_updates(updates), arguments.as_mirror(mirror)
    arguments.check_signature(signature, isinstance(updates, tuple))
    arguments.check_function("prepare", prepare, "inputs", "targets")
    jit_compile = arguments.as_jit_compile(jit_compile)
    if updates is None or host is not None:  # XLA repays several updates only
        jit_compile = bool(jit_compile)
    checks.check_compiler(host is not None, bool(jit_compile))
    names: list[str] = []

    def traced(inputs: Nest, targets: Nest) -> tf.Tensor:
        metrics = update(inputs, targets)
        names[:] = checks.columns(metrics)
        return join([tf.cast(value, tf.float32) for value in metrics.values()])

    def run(inputs: Nest, targets: Nest, *more: tf.Tensor) -> tf.Tensor:
        arrays = inputs, targets
        if prepare is not None:
            with keras.StatelessScope():  # what it would assign is left as it is
                arrays = prepare(*arrays)
            checks.check_prepared(arrays)
        if count is None:
            table = traced(*arrays)
        else:
            table = scan(traced, arrays, count, more[-1], more[0] if size else None)
        known = assigned if count is None and assigned else {}  # a loop's tensors stay inside it
        return join([table, *(known[id(v)] if id(v) in known else v.value for v in mirror)])

    count, size = updates if isinstance(updates, tuple) else (updates, None)
    examples, targets = 0, ()
    if host is not None and prepare is None:  # else the host loss sees what `prepare` makes
        targets = signature[1]
        signature = signature[0], host.stand_ins(targets)
    if count is not None:
        examples = min(leaf.shape[0] for leaf in tf.nest.flatten(signature)) if size else 0
        rows = [tf.TensorSpec((count, size), tf.int32)] if size else []
        signature = (*signature, *rows, tf.TensorSpec((2,), tf.int32))
    compiled = Compiled(run, tuple(signature), jit_compile=jit_compile)
    joined = [each for each in joined if each.is_used]
    is_long = bool(turns) or count is not None
    return Step(compiled, host, names, mirror, count, examples, targets, joined, is_long, turns)


def differentiate(loss: Callable[[Nest, Nest], Any] | str) -> LossGradient:
    """Lifts a TensorFlow loss `(y, targets) -> L` or `(L, metrics)`: dL/dy by a tape at y.

    A loss of Keras, an object, function or name, is reduced and masked as `compile` does it. One
    whose parameter names say so, as `(y_true, y_pred)`, is called in that order. Targets `[B]` of
    outputs `[B, 1]`, which would be broadcast to `[B, B]`, receive the outputs' rank.

    A loss that also reads trained variables (a penalty on weights, dy/dx, a second call of the
    model) has a gradient of its own there: dL/dθ = (∂L/∂y)ᵀ ∂y/∂θ + ∂L/∂θ.

    Raises:
        ValueError: It is no function of two arguments; from the step: L is not a scalar, or does
            not depend on the outputs.
    """
    return Differentiated(in_our_order(loss, "`differentiate`", reduce=True))


def lifted(loss: Any) -> LossGradient:
    """The loss gradient itself, or that of a loss that nobody has lifted.

    A loss of Keras and a TensorFlow function are differentiated. A function that returns
    (L, dL/dy, metrics) as tensors is a loss gradient.

    Raises:
        ValueError: It is no loss; from the step: it computes outside TensorFlow.
    """
    if hasattr(loss, "lift"):
        return loss
    if is_keras_loss(loss):
        return differentiate(loss)
    return Differentiated(in_our_order(loss, "a step without a lift"), may_be_lifted=True)


class Differentiated:
    """A loss gradient by a tape: of the outputs, and of variables that the loss reads itself."""

    lift = "differentiate"

    def __init__(self, loss: Callable[[Nest, Nest], Any], *, may_be_lifted: bool = False) -> None:
        self._loss, self._may_be_lifted = loss, may_be_lifted
        self._aligns: dict[str, bool] = {}  # by shapes
        self._observed = tf.function(self._of_marked, autograph=False)

    def __call__(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, Nest, Mapping]:
        """L, dL/dy and the metrics."""
        return self.with_direct(distinct(outputs), targets, ((), ()))[:3]

    def with_direct(
        self, outputs: Nest, targets: Nest, others: tuple[Nest, Nest]
    ) -> tuple[tf.Tensor, Nest, Mapping, tuple[Nest, Nest]]:
        """L, dL/dy, the metrics, and the gradients of `others` at constant y.

        These are logits behind the outputs, and trained variables; None stands for the gradient of
        what the loss does not read.
        """
        targets = self._aligned(outputs, targets)
        with tf.GradientTape() as tape:
            tape.watch((outputs, others))
            result = call(self._loss, outputs, targets)
            if self._is_gradient(result):
                apart = distinct(outputs)
                both = zip(*map(tf.nest.flatten, (outputs, apart)), strict=True)
                if any(one is not other for one, other in both):
                    result = call(self._loss, apart, targets)
                return *result, tf.nest.map_structure(lambda _: None, others)
            value, metrics = unpacked(result)
        seeds, direct = gradients_once(tape, value, (outputs, others))
        hidden, of_variables = (
            any(g is not None for g in tf.nest.flatten(each)) for each in direct
        )
        if not hidden:
            checks.check_loss(value, seeds, outputs, of_variables)
        return value, seeds, metrics, direct

    def value(self, outputs: Nest, targets: Nest) -> tf.Tensor:
        """L alone; outputs may bear Keras's masks and logits."""
        result = call(self._loss, outputs, self._aligned(outputs, targets))
        return result[0] if self._is_gradient(result) else unpacked(result)[0]

    def observe(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, None, Mapping]:
        """L as the training computes it, compiled; what the loss assigns (seeds) is undone."""
        arguments = outputs, targets, marks_of(outputs)
        compiled = self._observed.get_concrete_function(*arguments)
        before = [(variable, variable.read_value()) for variable in compiled.graph.variables]
        try:
            return compiled(*arguments), None, {}
        finally:
            for variable, value in before:
                variable.assign(value)

    def _of_marked(self, outputs: Nest, targets: Nest, marks: list) -> tf.Tensor:
        with keras.StatelessScope():
            return self.value(marked(outputs, marks), targets)

    def _aligned(self, outputs: Nest, targets: Nest) -> Nest:
        key = str(tf.nest.map_structure(lambda leaf: (leaf.shape, leaf.dtype), (outputs, targets)))
        if key not in self._aligns:
            self._aligns[key] = must_align(self._loss, outputs, targets)
        return aligned(outputs, targets) if self._aligns[key] else targets

    def _is_gradient(self, result: Any) -> bool:
        return self._may_be_lifted and isinstance(result, tuple) and len(result) == 3
