"""Checks of what a step receives and of what its functions return, with their error messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import keras
    from numpy.typing import DTypeLike

OURS = ("status", "loss", "grad_norm", "penalty")  # metrics that the core itself reports


def describe(nest: object) -> object:
    """A nest with every leaf replaced by `dtype[shape]`."""

    def leaf(value: object) -> str:
        if isinstance(value, tf.TensorSpec | tf.Tensor):
            return f"{value.dtype.name}{value.shape.as_list()}"
        value = np.asarray(value)
        return f"{value.dtype}{list(value.shape)}"

    return tf.nest.map_structure(leaf, nest)


def check_signature(leaves: Sequence[object]) -> None:
    """Refuses a signature that leaves a shape open."""
    for leaf in leaves:
        if not (isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined()):
            raise ValueError(
                "A signature must hold tf.TensorSpecs of known shape. "
                f"Received: {leaf!r:.80}. Specify the length of every axis, also of the batch."
            )


def check_prepared(result: object) -> None:
    """Refuses a result of `prepare` other than a pair of inputs and targets."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(
            "`prepare` must return a pair, (inputs, targets). Received: "
            f"{' '.join(repr(result).split()):.80}. Return () for no targets."
        )


def inner_assignment(what: str) -> ValueError:
    """The error for an assignment in a model that its step cannot defer."""
    return ValueError(
        "A model must assign its states (averages, seeds) outside of compiled functions and "
        "branches, so that a refused update leaves them unchanged. "
        f"Received: {what}. Leave out @tf.function, which a step does not need; use "
        "keras.ops.where in place of tf.cond."
    )


def old_state(path: str) -> ValueError:
    """The error for a function that reads the old value of what the forward pass has assigned."""
    return ValueError(
        "States that the forward pass of a step assigns (averages, seeds) must not be read by "
        f"functions compiled earlier. Received: one that reads the old value of {path}. Leave out "
        "@tf.function in loss and forward, which a step does not need."
    )


def structure_error(signature: object, arguments: object) -> ValueError:
    """The error for arguments that are not nested like the signature."""
    return ValueError(
        "Arguments must have the structure of the signature, "
        f"{describe(signature)}. Received: {describe(arguments)}. "
        "Pass the same tuples, lists and dict keys."
    )


def fit(index: int, array: object, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Casts within a kind (float64 to float32, int to float); refuses everything else."""
    received = np.asarray(array)
    if received.shape != shape or not np.can_cast(received.dtype, dtype, "same_kind"):
        raise ValueError(
            f"Argument {index} of the call must be {np.dtype(dtype)}{list(shape)} as in the "
            f"signature. Received: {received.dtype}{list(received.shape)}. Reshape or cast it, "
            "or compile a second step for the other signature."
        )
    wanted = np.dtype(dtype)
    if {received.dtype.kind, wanted.kind} <= {"i", "u"} and received.size:
        limits, extremes = np.iinfo(wanted), (int(received.min()), int(received.max()))
        if extremes[0] < limits.min or extremes[1] > limits.max:
            raise ValueError(
                f"Argument {index} of the call must fit {wanted} as in the signature, from "
                f"{limits.min} to {limits.max}. Received: {received.dtype} from {extremes[0]} to "
                f"{extremes[1]}. Compile a step with a tf.TensorSpec of {received.dtype}."
            )
    return received.astype(dtype)


def check_variables(variables: Sequence[keras.Variable]) -> None:
    """Refuses a step without variables to train."""
    if not variables:
        raise ValueError(
            "A step must have variables to train. Received: none. "
            "Build the model first (`model.build(shape)`, or start it with `keras.Input`), or set "
            "`trainable` of the layers to train."
        )


def check_compiler(is_host_loss: bool, jit_compile: bool) -> None:
    """Refuses XLA for a loss on the host, which it cannot compile."""
    if jit_compile and is_host_loss:
        raise ValueError(
            "A loss on the host must be compiled without XLA. Received: jit_compile=True. "
            "Pass jit_compile=False or leave it out."
        )


def xla_error(received: str) -> ValueError:
    """The error if XLA was requested and cannot compile a function."""
    return ValueError(
        "A function for jit_compile=True must hold operations that XLA can compile. Received: "
        f"{xla_reason(received)[:300]}. Leave jit_compile out, or pass jit_compile=False."
    )


def xla_reason(received: str) -> str:
    """The first line of what XLA reports."""
    return re.sub(r"^{{.*?}}", "", received).strip().partition("\n")[0]


def check_arrays(outputs: object, output_gradients: object) -> None:
    """Refuses outputs or gradients that are not arrays of real numbers, and missing outputs."""
    leaves = tf.nest.flatten((outputs, output_gradients))
    dtypes = [tf.as_dtype(getattr(leaf, "dtype", object)) for leaf in leaves]
    are_real = [d.is_floating or d.is_integer or d.is_bool for d in dtypes]
    if not all(are_real) or not tf.nest.flatten(outputs):
        raise ValueError(
            "`given` must receive outputs and dL/dy as tensors or arrays of real numbers. "
            f"Received: {describe((outputs, output_gradients))!s:.200}. Pass `given` itself as "
            "the loss, not a call of it, and dL/dy as the targets."
        )


def check_gradient(gradient: object, outputs: object) -> None:
    """Refuses a dL/dy that is not nested and shaped like y; None, from a tape, is allowed."""
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


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses an array whose shape differs from the signature."""
    if array.shape != shape:
        raise ValueError(
            f"{name} of the call must be shaped {list(shape)} as in the signature. Received: "
            f"{array.dtype}{list(array.shape)}. Reshape it, or compile a second step for the other "
            "signature."
        )


def check_number(name: str, value: object) -> None:
    """Refuses results of a host loss that are not real numbers: None, strings, complex numbers."""
    dtype = np.asarray(value).dtype
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise ValueError(
            f"{name} must consist of real numbers. Received: {dtype}, {value!s:.80}. "
            "Return floats, or NumPy arrays of floats."
        )


def check_score(result: object) -> None:
    """Refuses results that are not a score: a tuple (L, dL/dy), None, strings."""
    if isinstance(result, tuple | dict) or result is None:
        raise ValueError(
            "A score must be one number per example, or one for the batch. Received: "
            f"{type(result).__name__}. Use `external` for a loss that returns (L, dL/dy), or "
            "return the score alone."
        )
    check_number("A score", result)


def check_rows(rows: np.ndarray, examples: int) -> None:
    """Refuses indices that are out of range."""
    # critical: XLA would silently clamp such rows.
    if np.min(rows) < 0 or np.max(rows) >= examples:
        raise ValueError(
            f"`rows` must index the {examples} examples of the signature. Received: rows from "
            f"{np.min(rows)} to {np.max(rows)}. Draw them from range({examples})."
        )


def check_reached(
    variables: Sequence[keras.Variable], gradients: Sequence[tf.Tensor | None]
) -> None:
    """Refuses variables that receive no gradient, and names them."""
    unreached = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if unreached:
        raise ValueError(
            "Every variable of a step must receive a gradient. Received none for: "
            f"{', '.join(unreached):.300}. Let the loss use the outputs that they are for, set "
            "trainable = False on their layers (Regression and agents train all trainable "
            "variables), or leave them out of `variables`."
        )


def check_metrics(metrics: Mapping[str, tf.Tensor | np.ndarray | float], rank: int = 1) -> None:
    """Refuses metrics that are no numbers or vectors, or have a name of the core's own."""
    for name, value in metrics.items():
        if not isinstance(name, str) or not is_number(value):
            raise ValueError(
                "A metric must be a number, under a name that is a string. Received: "
                f"{name!r} = {value!r:.60}. Leave it out, or report NaN for an unknown one."
            )
        shape = tuple(np.shape(value))
        if name in OURS or len(shape) > rank or None in shape:
            raise ValueError(
                f"A metric must be a scalar{' or a vector' * rank}, under a name of its own (not "
                f"{', '.join(OURS)}). Received: {name} = {value}. Reduce or rename it."
            )


def check_stop(stop: tf.Tensor | float) -> None:
    """Refuses a metric `stop` other than one bool, or one number that is 0 or not."""
    shape = tuple(np.shape(stop))
    if shape:
        raise ValueError(
            "The metric `stop` must be one bool: whether this update is the first that is not "
            f"made. Received: shape {shape}. Reduce it, with tf.reduce_any for instance."
        )


def check_names(names: Iterable[str], taken: Iterable[str], user: str, advice: str = "") -> None:
    """Refuses metrics whose names are already taken where they are reported."""
    both = sorted({*names} & {*taken})
    if both:
        raise ValueError(
            f"The metrics of a loss must have names that {user} does not use itself. "
            f"Received: {', '.join(both)}. Rename {'them' if len(both) > 1 else 'it'}{advice}."
        )


def is_number(value: object) -> bool:
    """Whether it is a tensor, an array or a number, which TensorFlow takes."""
    if isinstance(value, np.generic | np.ndarray):
        return value.dtype.kind not in "OUSMm"
    return isinstance(value, int | float) or hasattr(value, "__tf_tensor__") or tf.is_tensor(value)


def check_result(value: object, metrics: object, result: object) -> None:
    """Refuses results of a TensorFlow loss other than a number, or a number and metrics."""
    if not is_number(value) or not isinstance(metrics, Mapping):
        parts = result if isinstance(result, tuple) else (result,)
        names = ["tensor" if tf.is_tensor(each) else type(each).__name__ for each in parts]
        kinds = f"tuple of {', '.join(names):.80}" if isinstance(result, tuple) else names[0]
        raise ValueError(
            "A loss must return a scalar tensor L, or (L, metrics) with a dict of metrics. "
            f"Received: {kinds}. Return one number, the sum of "
            "several losses; use `external` for a host function that returns (L, dL/dy)."
        )


def check_scalar(value: tf.Tensor) -> None:
    """Refuses a loss that is not a real scalar."""
    if value.shape.rank != 0 or value.dtype.is_complex:
        raise ValueError(
            f"A loss must be a scalar. Received: a tensor {describe(value)} of shape "
            f"{value.shape}. Reduce it to one real number, with tf.reduce_mean for instance; a "
            '`keras.losses` object does it by itself, but not with reduction="none".'
        )


def check_loss(value: tf.Tensor, seeds: object, outputs: object, reads_variables: bool) -> None:
    """Refuses a loss that does not depend on the outputs."""
    if any(seed is not None for seed in tf.nest.flatten(seeds)):
        return
    rule = "A loss must depend on the outputs through differentiable TensorFlow operations."
    if reads_variables or _ignores(value, tf.nest.flatten(outputs)):
        raise ValueError(
            f"{rule} Received: one that ignores them"
            f"{' and reads variables of the model only' if reads_variables else ''}. Compute what "
            "it needs in `forward` (the slopes of a model, say) and return that as an output, or "
            "use the outputs in the loss."
        )
    raise ValueError(
        f"{rule} Received: one that does not, as after round, argmax, a comparison or a cast to "
        "integers. Use `estimated` for a score with such steps, `external` for a loss that is "
        "computed by NumPy and knows its gradient."
    )


def _ignores(value: tf.Tensor, outputs: Sequence[tf.Tensor]) -> bool:
    """Whether a tensor of a graph does not depend on the outputs; False if run eagerly."""
    if not hasattr(value, "op") or tf.executing_eagerly():
        return False
    wanted, seen, stack = {id(y.op) for y in outputs}, set[int](), [value.op]
    while stack:
        op = stack.pop()
        if id(op) in wanted:
            return False
        if id(op) not in seen:
            seen.add(id(op))
            stack += [each.op for each in op.inputs] + list(op.control_inputs)
    return len(seen) > 1  # a lone constant may be a number that NumPy computed


def crossed_message(
    outputs: Sequence[int | None], targets: Sequence[int | None], *names: str
) -> str:
    """The message for outputs `[B, 1]` and targets `[B]` that would be broadcast to `[B, B]`."""
    where = f" of {' and '.join(names)}" if names else ""
    return (
        "Outputs and targets that a loss compares must have the same rank, or they are broadcast "
        f"to all pairs. Received: shapes {tuple(outputs)} and {tuple(targets)}{where}. "
        "Pass targets of the outputs' shape (targets[:, None] adds an axis), and let the loss take "
        "them so, or give the model outputs of the targets' shape (keras.layers.Flatten, Reshape)."
    )


def check_crossed(outputs: object, targets: object, pairs: Sequence[tuple[int, int]]) -> None:
    """Refuses a host loss with float targets `[B]` for outputs `[B, 1]`, or vice versa."""
    ys, ts = tf.nest.flatten(outputs), tf.nest.flatten(targets)
    for k, j in pairs:
        dtype = getattr(ts[j].dtype, "as_numpy_dtype", ts[j].dtype)
        if np.issubdtype(dtype, np.floating):
            raise ValueError(crossed_message(ys[k].shape, ts[j].shape))
