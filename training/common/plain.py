"""Arguments from any library as Python numbers and JSON values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeGuard

import numpy as np


def _is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, of any library, and not a bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value)


def whole(name: str, value: object, least: int) -> int:
    """A whole number of any numeric type, such as NumPy's or 1e6, as an int.

    Raises:
        ValueError: It is not a whole number, or less than `least`.
    """
    if not _is_finite(value) or value != int(value):
        raise ValueError(
            f"{name} must be a whole number of at least {least}. Received: {name}={value!r:.60}. "
            "Pass one."
        )
    if value < least:
        raise ValueError(f"{name} must be at least {least}. Received: {value}. Pass a larger one.")
    return int(value)


def whole_or_none(name: str, value: object, least: int) -> int | None:
    """None, or a whole number as by `whole`.

    Raises:
        ValueError: It is neither.
    """
    return None if value is None else whole(name, value, least)


def number_or_none(name: str, value: object) -> float | None:
    """None, or a finite number of any numeric type as a float.

    Raises:
        ValueError: It is neither.
    """
    if value is None:
        return None
    if not _is_finite(value):
        raise ValueError(
            f"{name} must be a finite number. Received: {name}={value!r:.60}. Pass one, or None."
        )
    return float(value)


_BOOLS = (bool, np.bool_, numbers.Integral)


def flag(name: str, value: object) -> bool:
    """A bool of Python or NumPy, or 1 or 0, as a Python bool.

    Raises:
        ValueError: It is anything else, such as a string: Python counts even "False" as true.
    """
    if isinstance(value, _BOOLS) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{name} must be True or False. Received: {name}={value!r:.60}. Pass one.")


def flag_or_none(name: str, value: object) -> bool | None:
    """None, or a bool as by `flag`.

    Raises:
        ValueError: It is neither.
    """
    return None if value is None else flag(name, value)


def path_or_none(name: str, value: object) -> str | PurePath | None:
    """None, or a path as a string or a `Path`.

    Raises:
        ValueError: It is neither, or an empty string.
    """
    if value is None or isinstance(value, PurePath) or (isinstance(value, str) and value):
        return value
    raise ValueError(
        f"{name} must be a path, a string or a pathlib.Path. Received: {name}={value!r:.60}. "
        "Pass one, or None."
    )


def plain(value: Any, name: str = "config") -> Any:
    """Converts settings to JSON values for `config.json`: NumPy numbers, tuples and paths as well.

    Raises:
        ValueError: A value cannot be converted.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): plain(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    raise ValueError(
        f"{name} must be a JSON value: finite numbers, strings, lists, and dicts with strings as "
        f"keys. Received: {value!r:.80} ({type(value).__name__}). Convert it, or leave it out."
    )
