"""Losses as users write them, turned into functions of (outputs, targets): order and shapes.

Keras calls losses as `(y_true, y_pred)`, this package as `(outputs, targets)`. A loss whose
parameter names follow Keras is called in Keras's order.

Legend: B examples.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from . import checks
from .compiled import Nest, calls_function

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from tensorflow.core.framework.function_pb2 import FunctionDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

Metrics: TypeAlias = Mapping[str, tf.Tensor]
"""What a loss reports besides L, by name: scalars, or vectors `[M]`."""

Loss: TypeAlias = Callable[[Nest, Nest], tf.Tensor | tuple[tf.Tensor, Metrics]]
"""A loss as users write it: from outputs and targets to L or (L, metrics)."""

LossGradient: TypeAlias = Callable[[Nest, Nest], tuple[tf.Tensor, Nest, Metrics]]
"""A loss with its gradient: from outputs and targets to (L, dL/dy, metrics)."""

Lift = Literal["differentiate", "external", "estimated", "given"]
"""The functions that turn a loss into a loss gradient."""

PREDICTED = {"pred", "preds", "predicted", "prediction", "predictions", "hat", "yhat", "ypred"}
TRUE = {"true", "truth", "ytrue", "target", "targets", "label", "labels", "actual", "gt"}
TRUE_ALONE = {"t", "expected", "desired", "reference", "observed", "gold"}  # but not "expected_q"
OUTPUT = {"output", "outputs", "logit", "logits"}

Shapes: TypeAlias = dict[str, list[tuple[int, ...]]]
"""The output shapes of each operation, by its name."""

HOST_FUNCTIONS = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def lift_of(loss: object) -> Lift | None:
    """The lift that returned a loss gradient; None for a loss that is not lifted."""
    lift: Lift | None = getattr(loss, "lift", None)
    return lift


def is_keras_loss(loss: object) -> bool:
    """Whether a loss is a name, a `keras.losses.Loss` or a function of `keras.losses`."""
    return isinstance(loss, str | keras.losses.Loss) or _is_keras_function(loss)


def in_our_order(loss: object, user: str, *, reduce: bool = False) -> Callable[[Nest, Nest], Any]:
    """The loss as a function that is called as `(outputs, targets)`.

    Args:
        loss: A function, a `keras.losses.Loss`, or the name of a loss as in Keras's `compile`.
        user: The function that receives the loss, for error messages.
        reduce: Whether to reduce and mask functions of `keras.losses`, which return a number per
            example, as Keras's `compile` does.

    Raises:
        ValueError: The loss is not a function of two arguments, is lifted already, or names both
            of its parameters alike.
    """
    function = _checked(_named(loss, user) if isinstance(loss, str) else loss, user)
    if reduce and _is_keras_function(function):
        function = _Reduced(function)
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):  # a builtin, whose parameters are unknown
        return function
    try:
        signature.bind(None, None)
    except TypeError:
        return _by_keyword(function, signature, user)
    names = [*signature.parameters, "", ""][:2]
    first, second = map(role, names)
    if first == second in ("true", "predicted") or all(map(_is_true_output, names)):
        raise ValueError(
            f"The parameters of a loss for {user} must say which are the outputs and which the "
            f"targets. Received: ({', '.join(names)}), two names with one meaning. Rename them to "
            "(outputs, targets), or in Keras's order to (y_true, y_pred)."
        )
    is_keras = first == "true" and second != "true"
    is_keras |= first is None and second in ("predicted", "output")
    return Reordered(function) if is_keras else function


class Reordered:
    """A loss in Keras's order, `(y_true, y_pred)`, to be called as `(outputs, targets)`.

    Attributes:
        loss: As the user has it.
    """

    def __init__(self, loss: Callable[[Nest, Nest], Any]) -> None:
        self.loss = loss

    def __call__(self, outputs: Nest, targets: Nest, **more: Any) -> Any:
        """What the loss returns."""
        return self.loss(targets, outputs, **more)


def signature_of(loss: Callable[..., object]) -> inspect.Signature:
    """The parameters; for a traced function, which takes `*args`, those it was traced with."""
    if isinstance(loss, tf.types.experimental.ConcreteFunction):
        traced: inspect.Signature = loss.function_type
        return traced
    return inspect.signature(loss)


class _Reduced(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """A function of `keras.losses`, reduced and masked as in Keras's `compile`."""

    def __init__(self, function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> None:
        super().__init__(name="loss")
        self._function = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each example."""
        return self._function(y_true, y_pred)


def _is_keras_function(loss: object) -> bool:
    while isinstance(loss, functools.partial):
        loss = loss.func
    name = getattr(loss, "__name__", "")
    return inspect.isfunction(loss) and getattr(keras.losses, name, None) is loss


def _named(name: str, user: str) -> object:
    try:
        return keras.losses.get(name)
    except ValueError:
        raise ValueError(
            f"A loss for {user} must be a function, or a name that `keras.losses.get` knows. "
            f"Received: {name!r:.80}. Pass 'mse', or a function of outputs and targets."
        ) from None


def _checked(loss: object, user: str) -> Callable[..., Any]:
    """Returns the loss, and refuses one that cannot be called as `loss(outputs, targets)`."""
    lift = lift_of(loss)
    if lift is not None:
        raise ValueError(
            f"A loss for {user} must be one that is not lifted yet. Received: a loss that "
            f"`{lift}` has lifted. Pass that as it is: a loss is lifted once, by "
            "`differentiate`, `external` or `estimated`."
        )
    if inspect.isclass(loss):
        raise ValueError(
            f"A loss for {user} must be a function or an object. Received: the class "
            f"{loss.__name__}. Pass an instance: {loss.__name__}()."
        )
    if not callable(loss) or isinstance(loss, keras.metrics.Metric | keras.Layer):
        raise ValueError(
            f"A loss for {user} must be one function of all outputs and targets, which returns "
            f"one number. Received: {type(loss).__name__} {loss!s:.80}. For several outputs, "
            "write a function that adds up their losses."
        )
    return loss


def _by_keyword(
    loss: Callable[..., Any], signature: inspect.Signature, user: str
) -> Callable[[Nest, Nest], Any]:
    """Adapts a loss that takes its arguments by keyword only, as a `functools.partial` may."""
    roles = {role(name): name for name in reversed(signature.parameters)}
    outputs = roles.get("predicted") or roles.get("output")
    names = {name for name in (outputs, roles.get("true")) if name is not None}
    try:
        signature.bind(**dict.fromkeys(names))
        fits = len(names) == 2
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(
            f"A loss for {user} must be a function of two arguments, outputs and targets. "
            f"Received: one with the parameters {signature!s:.120}. Bind the others with "
            "functools.partial, or give them defaults."
        )
    return lambda y, t: loss(**{str(outputs): y, roles["true"]: t})


def role(name: str) -> str | None:
    """What a parameter's name implies: "predicted", "output", "true", or None."""
    words = _words(name)
    if words & PREDICTED:
        return "predicted"
    if words & OUTPUT:
        return None if _is_true_output(name) else "output"
    return "true" if words & TRUE or name.lower() in TRUE_ALONE else None


def _is_true_output(name: str) -> bool:
    """Whether a name means desired or measured outputs, as `desired_output` does."""
    words = _words(name)
    return bool(words & OUTPUT and words & (TRUE | TRUE_ALONE - {"t"}) and not words & PREDICTED)


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+", name)}


# --- shapes ---------------------------------------------------------------------------------------


def crossed(outputs: Nest, targets: Nest) -> list[tuple[int, int]]:
    """Pairs of leaves, as `[B, 1]` and `[B]`, that NumPy would broadcast to `[B, B]`.

    Leaves are paired where outputs and targets have the same structure; otherwise all pairs count.
    """
    ys, ts = ([_shape(leaf) for leaf in tf.nest.flatten(nest)] for nest in (outputs, targets))
    pairs = [(k, j) for k in range(len(ys)) for j in range(len(ts))]
    if is_paired(outputs, targets):
        pairs = [(k, j) for k, j in pairs if k == j]
    return [(k, j) for k, j in pairs if is_crossed(ys[k], ts[j])]


def _shape(leaf: ArrayLike | tf.Tensor) -> tuple[int | None, ...]:
    shape = np.shape(leaf)
    return () if isinstance(shape, tf.TensorShape) and shape.rank is None else tuple(shape)


def is_crossed(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes differ only by an axis of length 1 at the end of one of them."""
    low, high = sorted((tuple(one), tuple(other)), key=len)
    return len(low) > 0 and high == (*low, 1) and low[0] != 1


def is_paired(outputs: Nest, targets: Nest) -> bool:
    """Whether each output has a target: there is one of each, or they have the same structure."""
    if len(tf.nest.flatten(outputs)) == len(tf.nest.flatten(targets)) == 1:
        return True
    try:
        tf.nest.assert_same_structure(outputs, targets)
    except (TypeError, ValueError):
        return False
    return True


def aligned(outputs: Nest, targets: Nest) -> Nest:
    """The targets with the outputs' rank: each leaf gains or loses an axis of length 1.

    Source: Keras's losses, `squeeze_or_expand_to_same_rank`.
    """
    pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(targets), strict=True)
    leaves = [tf.reshape(t, y.shape) if is_crossed(y.shape, t.shape) else t for y, t in pairs]
    return tf.nest.pack_sequence_as(targets, leaves)


def must_align(loss: Loss | LossGradient, outputs: Nest, targets: Nest) -> bool:
    """Whether a TensorFlow loss would broadcast outputs `[B, 1]` against targets `[B]`.

    The loss is traced, not run. It would if its trace holds operations from `[B, 1]` and `[B]` to
    `[B, B]`, and fewer of them for targets of the outputs' rank.

    Raises:
        ValueError: It broadcasts leaves that are not an output and its target; or each output has
            a target, and the loss contains a host function, which cannot be traced.
    """
    leaves = [_shape(leaf) for leaf in tf.nest.flatten((outputs, targets))]
    if not any(is_crossed(one, other) for one, other in itertools.combinations(leaves, 2)):
        return False
    shapes = tf.nest.map_structure(_spec, (outputs, targets))
    pairs = crossed(outputs, targets) if is_paired(outputs, targets) else []
    count, aligns = _crossings(loss, shapes, bool(pairs)), False
    if pairs:
        fitted = shapes
        for k, j in pairs:
            fitted = _reshaped(fitted, len(tf.nest.flatten(outputs)) + j, leaves[k])
        fewer = _crossings(loss, fitted)
        if fewer is not None and (count is None or fewer < count):
            shapes, count, aligns = fitted, fewer, True
    if count:
        _refuse_crossed(loss, shapes, count)
    return aligns


def _refuse_crossed(loss: Loss | LossGradient, shapes: tuple[Nest, Nest], count: int) -> None:
    """Refuses a loss that broadcasts leaves `[B, 1]` against leaves `[B]`.

    It does so if its trace has fewer such operations once some leaves have the rank of the others.

    Raises:
        ValueError: The loss broadcasts such leaves.
    """
    leaves = [_shape(leaf) for leaf in tf.nest.flatten(shapes)]
    partners: dict[int, list[int]] = {}
    for j, k in itertools.permutations(range(len(leaves)), 2):
        if is_crossed(leaves[j], leaves[k]):
            partners.setdefault(j, []).append(k)
    low = [j for j, (k, *_) in partners.items() if len(leaves[j]) < len(leaves[k])]
    fits = list[int]()
    # One leaf at a time, then together all those of the lower rank that the loss accepts reshaped.
    for chosen in (*([j] for j in low), fits, *([j] for j in partners if j not in low)):
        fitted = shapes
        for j in chosen:
            fitted = _reshaped(fitted, j, leaves[partners[j][0]])
        fewer = _crossings(loss, fitted)
        if fewer is not None and fewer < count:
            ones, others = sorted((chosen, partners[chosen[0]]))
            names = _one_of(shapes, ones), _one_of(shapes, others)
            raise ValueError(checks.crossed_message(leaves[ones[0]], leaves[others[0]], *names))
        if fewer is not None and chosen is not fits:
            fits += chosen


def _one_of(shapes: tuple[Nest, Nest], leaves: list[int]) -> str:
    outputs = len(tf.nest.flatten(shapes[0]))
    names = [f"output {j}" if j < outputs else f"target {j - outputs}" for j in leaves]
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _spec(leaf: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(leaf.shape, leaf.dtype)


def _reshaped(nest: Nest, which: int, shape: Sequence[int | None]) -> Nest:
    specs = tf.nest.flatten(nest)
    specs[which] = tf.TensorSpec(shape, specs[which].dtype)
    return tf.nest.pack_sequence_as(nest, specs)


def _crossings(
    loss: Loss | LossGradient, shapes: tuple[Nest, Nest], knows_all: bool = False
) -> int | None:
    """Counts the operations of a loss that broadcast `[n, 1]` against `[n]`.

    Operations in a host function are not counted. Returns None if the loss refuses the shapes.

    Raises:
        ValueError: There is a host function, and the count must be complete (`knows_all`).
    """

    def flat(*leaves: tf.Tensor) -> tf.Tensor:
        result = loss(*tf.nest.pack_sequence_as(shapes, leaves))
        return result[0] if isinstance(result, tuple) else result

    specs = tf.nest.flatten(shapes)
    try:
        with keras.StatelessScope():  # drops what the loss would assign
            traced = tf.function(flat, input_signature=specs, autograph=False)
            graph = traced.get_concrete_function().graph
    except Exception:  # any error means that the loss does not accept these shapes
        return None
    definition = graph.as_graph_def(add_shapes=True)
    bodies = [(definition.node, {}), *map(_body, definition.library.function)]
    if knows_all and any(node.op in HOST_FUNCTIONS for nodes, _ in bodies for node in nodes):
        k, j = crossed(*shapes)[0]
        y, t = tf.nest.flatten(shapes[0])[k].shape, tf.nest.flatten(shapes[1])[j].shape
        raise ValueError(checks.crossed_message(y, t))
    return sum(_crossings_of(nodes, known) for nodes, known in bodies)


def _body(function: FunctionDef) -> tuple[Sequence[NodeDef], Shapes]:
    """The operations of a function that a graph calls, and the shapes of its arguments."""
    arguments = enumerate(function.signature.input_arg)
    return function.node_def, {a.name: _shapes(function.arg_attr[i]) for i, a in arguments}


def _crossings_of(nodes: Sequence[NodeDef], known: Shapes) -> int:
    """Counts the operations of one graph from `[n, 1]` and `[n]` to `[n, n]`."""
    known = known | {node.name: _shapes(node) for node in nodes}
    count = 0
    for node in nodes:
        if calls_function(node):
            continue  # its operations are counted in the body of the function
        inputs = []
        for each in node.input:
            name, *where = each.removeprefix("^").split(":")
            index = int(where[-1]) if where else 0
            inputs += known.get(name, [])[index : index + 1]
        for one, other in itertools.combinations(inputs, 2):
            if is_crossed(one, other):
                high = max(one, other, key=len)
                count += any(len(y) == len(high) and y[-1] != 1 for y in known[node.name])
    return count


def _shapes(node: NodeDef) -> list[tuple[int, ...]]:
    """The output shapes of an operation; -1 is an unknown length, () may be an unknown shape."""
    return [tuple(a.size for a in s.dim) for s in node.attr["_output_shapes"].list.shape]


def guarded(array: np.ndarray) -> np.ndarray:
    """An output or target of a host loss that refuses to be broadcast from `[B, 1]` to `[B, B]`.

    The shapes alone prove no mistake: `[B]` is right for ids and weights.
    """
    return array.view(_Guarded) if array.dtype.kind in "biufc" else array


class _Guarded(np.ndarray):
    """An array that refuses to be broadcast to `[B, B]`; arrays computed from it refuse as well."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Computes the operation, unless it would broadcast `[B, 1]` against `[B]`."""
        if method == "__call__" and ufunc.signature is None:
            _refuse_broadcast(inputs)
        if "out" in options:
            options["out"] = tuple(map(_plain, options["out"]))
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        return _guarded_again(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """The same for functions that are not ufuncs: a few of them broadcast."""
        if function in (np.where, np.select, np.choose, np.broadcast_arrays):
            _refuse_broadcast(tf.nest.flatten((arguments, options)))
        return _guarded_again(super().__array_function__(function, types, arguments, options))


def _refuse_broadcast(arrays: Iterable[ArrayLike]) -> None:
    for one, other in itertools.combinations(map(np.shape, arrays), 2):
        if is_crossed(one, other):
            low, high = sorted((one, other), key=len)
            raise ValueError(checks.crossed_message(high, low))


def _plain(array: object) -> object:
    return array.view(np.ndarray) if isinstance(array, _Guarded) else array


def _guarded_again(result: object) -> object:
    if type(result) is list or type(result) is tuple:
        return type(result)(map(_guarded_again, result))
    return guarded(result) if type(result) is np.ndarray else result


# --- TensorFlow losses ----------------------------------------------------------------------------


def unpacked(result: Any) -> tuple[tf.Tensor, Metrics]:
    """L and the metrics in what a TensorFlow loss returned.

    Raises:
        ValueError: The loss returned something else.
    """
    value, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    checks.check_result(value, metrics, result)
    value = tf.convert_to_tensor(value)
    checks.check_scalar(value)
    return value, metrics


def call(
    function: Callable[[Any, Any], Any],
    first: Nest,
    second: Nest,
    what: str = "A loss without a lift, or lifted by `differentiate`,",
    advice: str = "Use `external` for a loss that returns (L, dL/dy), `estimated` for one that "
    "returns numbers only, and tf.where in place of `if`.",
) -> Any:
    """Calls a TensorFlow function of the user's: a loss, of outputs and targets, or `what`.

    Raises:
        ValueError: It computes outside TensorFlow.
    """
    try:
        return function(first, second)
    except Exception as error:
        if "symbolic" in str(error).lower():
            raise ValueError(
                f"{what} must consist of TensorFlow or keras.ops operations. Received: one that "
                "needs values outside them (NumPy, float(), .numpy(), `if`, `for`), "
                f"{type(error).__name__}: {error!s:.120}. {advice}"
            ) from error
        raise
