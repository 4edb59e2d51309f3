"""What the bridges have in common: the import of an extra, and checks of what a loss returns."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.losses import is_keras_loss


def imported(module: str, user: str, framework: str) -> Any:
    """A module of an extra.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"`{user}` must find {framework}. Received: {error}. Install the extra: "
            f"pip install 'vantage-rl[{module.partition('.')[0]}]'."
        ) from error


def check_no_keras_loss(loss: object, user: str) -> None:
    """Refuses a loss of Keras.

    Raises:
        ValueError: It is one.
    """
    if is_keras_loss(loss):
        raise ValueError(
            f"A loss for `{user}` must be a function of the framework's arrays. Received: "
            f"{loss!s:.80}, a loss of Keras. Use `differentiate`, which takes it as it is."
        )


def unpacked(result: object, array_type: Any, user: str) -> tuple[Any, dict[str, Any]]:
    """L and the metrics in what a loss returned.

    Raises:
        ValueError: The loss returned something else, or L is no scalar of floats.
    """
    parts: tuple[Any, ...] = result if isinstance(result, tuple) else (result, {})
    value: Any
    metrics: Any
    value, metrics = parts if len(parts) == 2 else (None, {})
    if not isinstance(value, array_type) or not isinstance(metrics, Mapping):
        names = ", ".join(type(each).__name__ for each in parts)
        received = f"tuple of {names}" if parts is result else type(result).__name__
        raise ValueError(
            f"A loss for `{user}` must return L or (L, metrics) with a dict of metrics, computed "
            f"by this framework from the outputs. Received: {received}. Return one number, and "
            "leave the gradient to the framework, or use `external` for a loss that returns dL/dy."
        )
    if tuple(value.shape) != ():
        raise ValueError(
            f"A loss for `{user}` must be one number. Received: shape {tuple(value.shape)}. Return "
            "its mean."
        )
    return value, dict(metrics)


def independent(user: str, cause: str) -> ValueError:
    """The error for a loss without a gradient at the outputs."""
    return ValueError(
        f"A loss for `{user}` must depend on the outputs through differentiable operations. "
        f"Received: one that does not, as after {cause}, a rounding, or a computation in NumPy. "
        "Use the outputs as they are passed, or `estimated` for a score with steps."
    )


def own_memory(leaf: np.ndarray) -> np.ndarray:
    """The array that a read-only view of all of it shows: NumPy exports no read-only arrays."""
    base = leaf.base
    if isinstance(base, np.ndarray) and base.flags.writeable:
        if (base.ctypes.data, base.shape, base.strides, base.dtype) == (
            *(leaf.ctypes.data, leaf.shape, leaf.strides, leaf.dtype),
        ):
            return base
    return leaf.view(np.ndarray)


def no_array(user: str, leaf: Any) -> ValueError:
    """The error for an array that the framework cannot represent."""
    return ValueError(
        f"Outputs and targets for `{user}` must be arrays of numbers that the framework has. "
        f"Received: {leaf.dtype}{list(leaf.shape)}. Encode strings and objects as numbers, or use "
        "`external` and convert them in the loss."
    )
