"""Checks numbers and flags from any library and converts them to Python's own types."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np


def whole(name: str, number: Any, least: int = 1) -> int:
    """Converts a whole number of any numeric type, such as NumPy's or 1e3, to an int.

    Raises:
        ValueError: It is not a whole number, or less than `least`.
    """
    is_number = isinstance(number, numbers.Real) and not isinstance(number, bool | np.bool_)
    if not is_number or not math.isfinite(number) or number != int(number):
        raise ValueError(
            f"{name} must be a whole number of at least {least}. Received: {name}={number!r:.60}. "
            "Pass one."
        )
    if number < least:
        raise ValueError(f"{name} must be at least {least}. Received: {number}.")
    return int(number)


def flag(name: str, value: object) -> bool:
    """Converts True, False, 1 or 0, from Python or NumPy, to a bool.

    Raises:
        ValueError: It is anything else, such as the text "False", which Python takes for true.
    """
    if isinstance(value, bool | np.bool_ | numbers.Integral) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{name} must be True or False. Received: {name}={value!r:.60}. Pass one.")
