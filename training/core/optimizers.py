"""The optimizer's update behind a gate, on one joined variable where that is the same mathematics.

A bad update must change no weight, slot, counter or layer state. A branch around the optimizer
ensures that for any optimizer. But twelve small variables cost twelve times the operations of one,
and a branch that captures them as much again. An elementwise optimizer computes the same update on
one joined variable:

    p = [θ₁ | θ₂ | …],  g = [g₁ | g₂ | …]        joined in the compiled call
    p' = twin(p, g)  if finite, else p           with the twin's slots, joined like p
    [θ₁ | θ₂ | …] ← p'                           the models' own variables stay the truth

The twin is an optimizer with the same settings. The optimizer itself is built as Keras builds it,
with slots for each variable. These always look up to date: the values of the twin's slots are
copied into them when they are read (`Slot`).

Legend: P parameters over all variables.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, DTypeLike

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices
"""The gradient of a variable: dense, or only the used rows of an embedding."""

ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
)
MOST_PARAMETERS = 50_000  # with more, the copies cost more than the operations that they save


def apply_if(
    finite: tf.Tensor,
    optimizer: keras.optimizers.Optimizer,
    gradients: list[Gradient],
    norm: tf.Tensor,
    variables: Sequence[keras.Variable],
    values: list[list[tf.Tensor]],
    states: Iterable[tuple[keras.Variable, tf.Tensor]],
    joined: Joined | None = None,
) -> dict[int, tf.Tensor]:
    """Assigns layer states, weights, slots and counter if `finite`.

    All assignments wait for the gate, so an error before it changes nothing.

    Args:
        finite: The gate.
        optimizer: An optimizer that `build_optimizer` has built for the variables.
        gradients: One per variable.
        norm: The global norm of all gradients.
        variables: The variables to train.
        values: For each variable, its value before the forward pass, and those assigned by it.
        states: What the forward pass assigns. As in `fit`, it is assigned before the weights,
            because some of it may be trained as well.
        joined: From `Joined.of`; not used if a gradient is sparse, for which Keras has other rules.

    Returns:
        The new weights of joined variables, flat, by the variables' ids.
    """
    if any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients):
        joined = None

    def apply() -> tf.Tensor:
        for state, value in states:
            state.assign(value)
        with _unscaled(clipped, optimizer) as plain:
            optimizer.apply(plain, variables)
        return tf.constant(True)

    if joined is not None:
        gradients = [join(gradients)]
    with _clipped(gradients, norm, optimizer if joined is None else joined.twin) as clipped:
        if joined is None:
            tf.cond(finite, apply, lambda: tf.constant(False))
            return {}
        for state, value in states:
            state.assign(tf.where(finite, value, state.value))
        return joined.apply_if(finite, clipped[0], values)


@contextlib.contextmanager
def _clipped(
    gradients: list[Gradient], norm: tf.Tensor, optimizer: keras.optimizers.Optimizer
) -> Iterator[list[Gradient]]:
    """g·min(1, c/‖g‖) with the known norm; the optimizer would sum all squares again.

    Equal to Keras's clipping where every gradient is dense, in single precision and not
    accumulated; otherwise the optimizer clips. Source: Pascanu et al. 2013, algorithm 1.
    """
    limit, steps = clip_limit(optimizer), optimizer.gradient_accumulation_steps
    is_plain = all(isinstance(g, tf.Tensor) and g.dtype == tf.float32 for g in gradients)
    if limit == math.inf or optimizer.clipnorm or steps or not is_plain:
        yield gradients
        return
    scale = limit * tf.minimum(1.0 / norm, 1.0 / limit)
    with _without(optimizer, "global_clipnorm"):
        yield [gradient * scale for gradient in gradients]


@contextlib.contextmanager
def _unscaled(
    gradients: list[Gradient], optimizer: keras.optimizers.Optimizer
) -> Iterator[list[Gradient]]:
    """Gradients divided by `loss_scale_factor` if one is sparse; Keras divides dense ones only."""
    scale = optimizer.loss_scale_factor
    if scale is None or not any(isinstance(g, tf.IndexedSlices) for g in gradients):
        yield gradients
        return
    with _without(optimizer, "loss_scale_factor"):
        yield [map_values(lambda values: values / scale, gradient) for gradient in gradients]


@contextlib.contextmanager
def _without(optimizer: keras.optimizers.Optimizer, name: str) -> Iterator[None]:
    """Context in which an attribute is None, because its work is already done."""
    value = getattr(optimizer, name)
    setattr(optimizer, name, None)
    try:
        yield
    finally:
        setattr(optimizer, name, value)


def map_values(function: Callable[[tf.Tensor], tf.Tensor], gradient: Gradient) -> Gradient:
    """Applies a function to the values of a gradient; a sparse gradient stays sparse."""
    if not isinstance(gradient, tf.IndexedSlices):
        return function(gradient)
    return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)


def assign(variable: tf.Variable, value: float | tf.Tensor) -> None:
    """Queues an assignment after the running update and before the next one.

    `variable.assign` would wait for the running update, because it needs the shape of the value,
    which TensorFlow knows only once everything before has run. Numbers are passed as Python floats:
    NumPy's take eight times as long.
    """
    value = value if tf.is_tensor(value) else float(value)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


class Slot(keras.Variable):  # type: ignore[misc]  # Keras has no types
    """A slot of an optimizer that may lag behind the twin's and is updated before it is read.

    Reading or setting it by `numpy` and `assign`, as `load_own_variables` and agents do, has no
    lasting cost. Code that takes its `value` holds TensorFlow's variable and may read or write it
    at any time, as a compiled `fit` does; from then on the slot is updated after every call.
    """

    place: SlotPlace

    @classmethod
    def adopt(cls, variables: Iterable[keras.Variable]) -> None:
        """Turns new variables of an optimizer into slots."""
        place = SlotPlace()
        for variable in variables:
            variable.__class__ = cls  # Keras creates them and lets nobody choose their class
            variable.place = place

    @property
    def value(self) -> tf.Variable:
        """TensorFlow's variable."""
        self.place.expose()
        return self.plain

    @property
    def plain(self) -> tf.Variable:
        """TensorFlow's variable as it is, for the code that updates it."""
        return super().value

    def numpy(self) -> np.ndarray:
        """A copy of the value."""
        self.place.settle()
        value: np.ndarray = self.plain.numpy()
        return value

    def assign(self, value: ArrayLike | tf.Tensor) -> tf.Tensor:
        """Sets the value."""
        self.place.settle() if tf.executing_eagerly() else self.place.expose()
        return super().assign(value)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)  # always a copy

    def __repr__(self) -> str:
        self.place.settle()
        return str(super().__repr__())

    def __deepcopy__(self, memo: dict[int, object]) -> keras.Variable:
        copy = keras.Variable(self.numpy(), trainable=False, dtype=self.dtype, name=self.name)
        memo[id(self)] = copy
        return copy


class SlotPlace:
    """Where the current slots of an optimizer are: in its own variables, or in those of a twin."""

    def __init__(self) -> None:
        self.ahead: Joined | None = None
        self.is_exposed = False  # whether other code may read or write the variables unnoticed

    def settle(self) -> None:
        """Updates the optimizer's own variables."""
        joined, self.ahead = self.ahead, None
        if joined is not None:
            with tf.init_scope():  # now, even if a trace asks for it
                joined.write_back()

    def expose(self) -> None:
        """Updates them now, and from now on after every call."""
        self.settle()
        self.is_exposed = True


class Joined:
    """One variable for all variables of a step, and the optimizer's twin that updates it."""

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        twin: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
    ) -> None:
        self.optimizer, self.twin, self.variables = optimizer, twin, list(variables)
        self._sizes = [math.prod(variable.shape) for variable in variables]
        self._cuts = np.cumsum(self._sizes)[:-1]
        with tf.device(variables[0].value.device):
            zeros = np.zeros(sum(self._sizes), np.float32)
            self.parameters = keras.Variable(zeros, name="parameters")  # [P]; scratch between calls
            twin.build([self.parameters])
        self._slots = self._pairs()
        self._place = self._slots[0][1][0].place if self._slots else SlotPlace()
        self.is_used = False

    @classmethod
    def of(
        cls, optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
    ) -> Joined | None:
        """Joins a step's variables if `build_optimizer` has prepared their optimizer for it.

        Returns None otherwise, also for an optimizer that other code has built.
        """
        if not _joins(optimizer, variables):
            return None
        twin = _twin(optimizer)
        fixed = {id(optimizer.iterations), id(learning_rate(optimizer))}
        slots = [v for v in optimizer.variables if id(v) not in fixed]
        if twin is None or not all(isinstance(slot, Slot) for slot in slots):
            return None
        return cls(optimizer, twin, variables)

    def _pairs(self) -> list[tuple[keras.Variable, list[Slot]]]:
        """Each slot of the twin, with the optimizer's slots that it replaces, in order.

        Keras names a slot by the path of its variable and its kind. If several variables have the
        same path, their slots are in the order of the variables.
        """
        named: dict[str, list[Slot]] = {}
        for slot in self.optimizer.variables:
            named.setdefault(slot.name, []).append(slot)
        pairs = []
        for joined in self.twin.variables[1:]:  # the first is its counter
            kind = joined.name.removeprefix(_path(self.parameters))
            slots = {id(v): named[_path(v) + kind].pop(0) for v in built_variables(self.optimizer)}
            pairs.append((joined, [slots[id(variable)] for variable in self.variables]))
        return pairs

    def open(self) -> None:
        """Before a call: copies the optimizer's slots, unless the last call has left them here."""
        place = self._place
        if place.ahead is not self:
            place.settle()
            for joined, slots in self._slots:
                joined.assign(np.concatenate([slot.plain.numpy().ravel() for slot in slots]))
            place.ahead = self

    def close(self) -> None:
        """After a call: writes the slots back if other code may read them unnoticed."""
        if self._place.is_exposed:
            self._place.settle()

    def write_back(self) -> None:
        """Copies the slots into the optimizer's."""
        for joined, slots in self._slots:
            for slot, piece in zip(slots, np.split(joined.numpy(), self._cuts), strict=True):
                slot.plain.assign(piece.reshape(slot.shape))

    def apply_if(
        self, finite: tf.Tensor, gradient: tf.Tensor, values: list[list[tf.Tensor]]
    ) -> dict[int, tf.Tensor]:
        """Updates, then restores the old values unless `finite`; returns the new weights by id."""
        self.is_used = True
        before = now = join([value[0] for value in values])
        if any(len(value) > 1 for value in values):  # the forward pass assigned some of them
            now = join([value[-1] for value in values])
        slots = [(slot, tf.identity(slot.value)) for slot, _ in self._slots]
        counter = self.optimizer.iterations
        with tf.control_dependencies([finite]):  # critical: an error before it changes nothing
            self.twin.iterations.assign(counter.value)
            self.parameters.assign(now)
            self.twin.apply([gradient], [self.parameters])
        for slot, value in slots:
            slot.assign(tf.where(finite, slot.value, value))
        counter.assign(tf.where(finite, self.twin.iterations.value, counter.value))
        after = tf.where(finite, self.parameters.value, before)
        pieces = tf.split(after, self._sizes)
        for variable, piece in zip(self.variables, pieces, strict=True):
            is_vector = len(variable.shape) == 1  # a reshape less to compile
            variable.assign(piece if is_vector else tf.reshape(piece, variable.shape))
        return {id(v): piece for v, piece in zip(self.variables, pieces, strict=True)}


def _path(variable: keras.Variable) -> str:
    return str(variable.path).replace("/", "_")


def _twin(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer | None:
    """An optimizer with the same settings and learning rate; None if it cannot be configured."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a learning rate that is a lambda
            config = optimizer.get_config()
    except (NotImplementedError, TypeError, ValueError):
        return None  # a custom schedule
    config["learning_rate"] = lambda: optimizer.learning_rate
    return type(optimizer).from_config(config)


def clip_limit(optimizer: keras.optimizers.Optimizer) -> float:
    """The global norm to which an optimizer clips; infinity if it does not clip."""
    return getattr(optimizer, "global_clipnorm", None) or math.inf


def learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float:
    """The current learning rate of an optimizer; NaN if it has none (Keras's MultiOptimizer)."""
    return getattr(optimizer, "learning_rate", math.nan)


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """‖g‖₂ over all gradients: directly if there are few numbers, else the norm of column norms.

    Norm per column first: XLA vectorises over columns. A plain sum of squares would be fused into
    one slow scalar loop.
    """
    if sum(math.prod(gradient.shape) for gradient in gradients) < 2**14:
        every = join(gradients)
        return tf.sqrt(tf.tensordot(every, every, 1))
    columns = [tf.norm(g, axis=0) if g.shape.rank else tf.abs(g) for g in gradients]
    return tf.norm(join(columns))


def join(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tensors flattened and concatenated, `[P]`."""
    return tf.concat([t if t.shape.rank == 1 else tf.reshape(t, [-1]) for t in tensors], 0)


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> None:
    """Builds an optimizer as Keras does, and prepares it for joined updates where they pay off.

    Joined updates are the same mathematics if the optimizer is elementwise and treats all variables
    alike (no constraints, no clipping per gradient, no exclusion from weight decay). An optimizer
    that is already built stays as it is.

    Raises:
        ValueError: The optimizer was built for other variables.
    """
    if not optimizer.built:
        before = set(map(id, optimizer.variables))
        optimizer.build(list(variables))
        if _joins(optimizer, variables):
            Slot.adopt(v for v in optimizer.variables if id(v) not in before)
        return
    built_for = built_variables(optimizer)
    known = set(map(id, built_for))
    unknown = [variable.path for variable in variables if id(variable) not in known]
    if unknown:
        raise ValueError(
            "An optimizer must be used with the variables it was built for. Received: "
            f"{', '.join(unknown)!s:.300}, after {', '.join(v.path for v in built_for)!s:.300}. "
            "Use one optimizer for each set of variables, and a new one after `trainable` was set "
            "to True."
        )


def finalize(optimizer: keras.optimizers.Optimizer) -> None:
    """Copies averages (`use_ema`) into the variables, as Keras's `fit` does at its end."""
    optimizer.finalize_variable_values(built_variables(optimizer))


def refuse_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuses averages that enter the network only at the end of training, for runs can resume.

    Raises:
        ValueError: The optimizer has such averages.
    """
    each = getattr(optimizer, "inner_optimizer", optimizer)
    if each.use_ema and not each.ema_overwrite_frequency:
        raise ValueError(
            "An agent's optimizer must put its averages into the network while it trains. "
            f"Received: {type(each).__name__}(use_ema=True) without ema_overwrite_frequency. Pass "
            "ema_overwrite_frequency=, or use_ema=False."
        )


def trainable_state(model: keras.Layer) -> tuple[object, ...]:
    """Which parts of a model are frozen: a compiled step depends on it, besides on shapes.

    A frozen BatchNormalization without weights does not update its averages.
    """
    trained = tuple(id(variable) for variable in model.trainable_variables)
    return trained, *(layer.trainable for layer in model._flatten_layers())  # noqa: SLF001


def built_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that an optimizer was built for."""
    return list(optimizer._trainable_variables)  # noqa: SLF001


def _joins(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    parameters = sum(math.prod(variable.shape) for variable in variables)
    if type(optimizer) not in ELEMENTWISE or parameters > MOST_PARAMETERS:
        return False
    excludes = hasattr(optimizer, "_exclude_from_weight_decay")
    per_variable = (optimizer.clipnorm, optimizer.gradient_accumulation_steps, excludes)
    return (
        not any(per_variable)
        and not optimizer.use_ema
        and all(v.dtype == "float32" and v.constraint is None for v in variables)
        and not any(v.overwrite_with_gradient for v in variables)
    )
