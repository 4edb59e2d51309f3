"""The optimizer's update behind a gate, on one joined variable where that is the same mathematics.

A bad update must change no weight, slot, counter or layer state. A branch around the optimizer does
that for any optimizer. But twelve small variables cost twelve times the operations of one, and a
branch that captures them as much again; an elementwise optimizer makes the same update on one:

    p = [θ₁ | θ₂ | …],  g = [g₁ | g₂ | …]        joined in the compiled call
    p' = twin(p, g)  if finite, else p           with slots of the twin's own, joined like p
    [θ₁ | θ₂ | …] ← p'                           the models' own variables stay the truth

The twin is an optimizer of the same settings, whose slots are joined like p. The optimizer itself
is built as Keras builds it, a slot for each variable, and they look up to date to everybody: what
the twin has made of them is put into them when somebody looks (`Slot`).

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
"""Of one variable: dense, or the rows of an embedding that were used."""

ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
)
MOST_PARAMETERS = 50_000  # above, the copies cost more than the operations they save


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
    """Assigns layer states, weights, slots and counter where `finite`.

    Whatever is assigned waits for the gate: an error on the way to it leaves no trace.

    Args:
        finite: The gate.
        optimizer: Built by `build_optimizer` for the variables.
        gradients: One per variable.
        norm: Of all gradients.
        variables: What is trained.
        values: Of each variable, what it was before the forward pass, and after it.
        states: What the forward pass wants to assign: first, as `fit` does, since some of it may be
            trained, too.
        joined: Of `Joined.of`. It is left alone if a gradient is sparse, for which Keras has other
            rules.

    Returns:
        The new weights, flat, by their variables' ids; only of joined ones.
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
    """g·min(1, c/‖g‖) with the norm that is known; the optimizer would sum all squares again.

    As Keras does it, where every gradient is dense and of single precision and none is accumulated;
    otherwise it is left to the optimizer. Source: Pascanu et al. 2013, algorithm 1.
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
    """Gradients without `loss_scale_factor` where one is sparse: Keras divides only dense ones."""
    scale = optimizer.loss_scale_factor
    if scale is None or not any(isinstance(g, tf.IndexedSlices) for g in gradients):
        yield gradients
        return
    with _without(optimizer, "loss_scale_factor"):
        yield [map_values(lambda values: values / scale, gradient) for gradient in gradients]


@contextlib.contextmanager
def _without(optimizer: keras.optimizers.Optimizer, name: str) -> Iterator[None]:
    """Sets an attribute to None for a while, where what it asks for is already done."""
    value = getattr(optimizer, name)
    setattr(optimizer, name, None)
    try:
        yield
    finally:
        setattr(optimizer, name, value)


def map_values(function: Callable[[tf.Tensor], tf.Tensor], gradient: Gradient) -> Gradient:
    """A function of a gradient's numbers; a sparse one stays sparse."""
    if not isinstance(gradient, tf.IndexedSlices):
        return function(gradient)
    return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)


class Slot(keras.Variable):  # type: ignore[misc]  # Keras has no types
    """A slot of an optimizer that may lag behind a twin's, and catches up before it is looked at.

    Whoever reads or sets it by `numpy` and `assign`, as `load_own_variables` and agents do, costs
    nothing afterwards. Whoever takes its `value` holds TensorFlow's variable and may read or write
    it at any time, as a compiled `fit` does: from then on it is up to date after every call.
    """

    keeper: Keeper

    @classmethod
    def adopt(cls, variables: Iterable[keras.Variable]) -> None:
        """Makes slots of an optimizer's new variables."""
        keeper = Keeper()
        for variable in variables:
            variable.__class__ = cls  # Keras makes them, and asks nobody what they are to be
            variable.keeper = keeper

    @property
    def value(self) -> tf.Variable:
        """TensorFlow's variable."""
        self.keeper.expose()
        return self.plain

    @property
    def plain(self) -> tf.Variable:
        """TensorFlow's variable as it is, for those who keep it up to date."""
        return super().value

    def numpy(self) -> np.ndarray:
        """A copy of the value."""
        self.keeper.settle()
        value: np.ndarray = self.plain.numpy()
        return value

    def assign(self, value: ArrayLike | tf.Tensor) -> tf.Tensor:
        """Sets the value."""
        self.keeper.settle() if tf.executing_eagerly() else self.keeper.expose()
        return super().assign(value)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)  # a copy anyway

    def __repr__(self) -> str:
        self.keeper.settle()
        return str(super().__repr__())

    def __deepcopy__(self, memo: dict[int, object]) -> keras.Variable:
        copy = keras.Variable(self.numpy(), trainable=False, dtype=self.dtype, name=self.name)
        memo[id(self)] = copy
        return copy


class Keeper:
    """Where the slots of an optimizer are: in its own variables, or in a twin's that is ahead."""

    def __init__(self) -> None:
        self.ahead: Joined | None = None
        self.is_exposed = False  # somebody may read or write the variables without a word

    def settle(self) -> None:
        """Brings the optimizer's own variables up to date."""
        joined, self.ahead = self.ahead, None
        if joined is not None:
            with tf.init_scope():  # at once, if a trace asks for it
                joined.put()

    def expose(self) -> None:
        """Brings them up to date, now and after every call."""
        self.settle()
        self.is_exposed = True


class Joined:
    """One variable in place of those of a step, and a twin of the optimizer that updates it."""

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
        self._keeper = self._slots[0][1][0].keeper if self._slots else Keeper()
        self.is_used = False

    @classmethod
    def of(
        cls, optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
    ) -> Joined | None:
        """A twin for a step on some of the optimizer's variables, where `build_optimizer` saw fit.

        None otherwise: for an optimizer that somebody else has built, too.
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
        """Each slot of the twin, and those of the optimizer that it stands for, in order.

        Keras names a slot by the path of its variable and its kind; of variables of one path it
        makes the slots in the order of the variables.
        """
        named: dict[str, list[Slot]] = {}
        for slot in self.optimizer.variables:
            named.setdefault(slot.name, []).append(slot)
        pairs = []
        for joined in self.twin.variables[1:]:  # the first is its counter
            kind = joined.name.removeprefix(_path(self.parameters))
            own = {id(v): named[_path(v) + kind].pop(0) for v in built_variables(self.optimizer)}
            pairs.append((joined, [own[id(variable)] for variable in self.variables]))
        return pairs

    def open(self) -> None:
        """Before a call: takes over the optimizer's slots, unless they are those of the last."""
        keeper = self._keeper
        if keeper.ahead is not self:
            keeper.settle()
            for joined, slots in self._slots:
                joined.assign(np.concatenate([slot.plain.numpy().ravel() for slot in slots]))
            keeper.ahead = self

    def close(self) -> None:
        """After a call."""
        if self._keeper.is_exposed:
            self._keeper.settle()

    def put(self) -> None:
        """Puts the slots back into the optimizer's."""
        for joined, slots in self._slots:
            for slot, piece in zip(slots, np.split(joined.numpy(), self._cuts), strict=True):
                slot.plain.assign(piece.reshape(slot.shape))

    def apply_if(
        self, finite: tf.Tensor, gradient: tf.Tensor, values: list[list[tf.Tensor]]
    ) -> dict[int, tf.Tensor]:
        """Updates, then puts the old values back unless `finite`; returns what `apply_if` does."""
        self.is_used = True
        before = now = join([value[0] for value in values])
        if any(len(value) > 1 for value in values):  # the forward pass assigned some
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
            is_vector = len(variable.shape) == 1  # every operation has to be compiled
            variable.assign(piece if is_vector else tf.reshape(piece, variable.shape))
        return {id(v): piece for v, piece in zip(self.variables, pieces, strict=True)}


def _path(variable: keras.Variable) -> str:
    return str(variable.path).replace("/", "_")


def _twin(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer | None:
    """An optimizer of the same settings and learning rate; None if its settings are not known."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a learning rate that is a lambda
            config = optimizer.get_config()
    except (NotImplementedError, TypeError, ValueError):
        return None  # a schedule of one's own
    config["learning_rate"] = lambda: optimizer.learning_rate
    return type(optimizer).from_config(config)


def clip_limit(optimizer: keras.optimizers.Optimizer) -> float:
    """The global norm to which an optimizer clips; infinity if it does not."""
    return getattr(optimizer, "global_clipnorm", None) or math.inf


def learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | float:
    """The learning rate that an optimizer has now; NaN if it has none (Keras's MultiOptimizer)."""
    return getattr(optimizer, "learning_rate", math.nan)


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """‖g‖₂ over all: of few numbers joined; of many that of the columns' norms.

    Columns XLA adds up side by side. It would do away with sums of sums, but not with their roots.
    """
    if sum(math.prod(gradient.shape) for gradient in gradients) < 2**14:
        every = join(gradients)
        return tf.sqrt(tf.tensordot(every, every, 1))
    columns = [tf.norm(g, axis=0) if g.shape.rank else tf.abs(g) for g in gradients]
    return tf.norm(join(columns))


def join(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tensors laid end to end, `[P]`."""
    return tf.concat([t if t.shape.rank == 1 else tf.reshape(t, [-1]) for t in tensors], 0)


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> None:
    """Builds an optimizer as Keras does, for joined updates where they are the same and pay.

    They are the same mathematics for an optimizer that is elementwise and does nothing variable by
    variable (constraints, clipping each gradient, leaving some out of weight decay). One that is
    built already stays as it is.

    Raises:
        ValueError: It was built for other variables.
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
            "Make an optimizer for each set of variables: a new one, where `trainable` was set to "
            "True after it was built."
        )


def finalize(optimizer: keras.optimizers.Optimizer) -> None:
    """Puts averages (`use_ema`) into the variables, as Keras's `fit` does at its end."""
    optimizer.finalize_variable_values(built_variables(optimizer))


def refuse_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuses averages that only the end of a training would put into the network: runs resume.

    Raises:
        ValueError: The optimizer keeps such averages.
    """
    each = getattr(optimizer, "inner_optimizer", optimizer)
    if each.use_ema and not each.ema_overwrite_frequency:
        raise ValueError(
            "An agent's optimizer must put its averages into the network while it trains. "
            f"Received: {type(each).__name__}(use_ema=True) without ema_overwrite_frequency. Pass "
            "ema_overwrite_frequency=, or use_ema=False."
        )


def trainable_state(model: keras.Layer) -> tuple[object, ...]:
    """What a step compiled for a model depends on beside shapes: what of it is frozen.

    A frozen BatchNormalization without weights keeps its averages, wherever it is held.
    """
    own = tuple(id(variable) for variable in model.trainable_variables)
    return own, *(layer.trainable for layer in model._flatten_layers())  # noqa: SLF001


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
