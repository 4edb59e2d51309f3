"""Arguments of environments as Python's own numbers and bools, whatever library they come from."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np


def whole(name: str, number: Any, least: int = 1) -> int:
    """A whole number of any numeric type, as NumPy's or 1e3, as an int.

    Raises:
        ValueError: It is none, or less than `least`.
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
    """True or False, of Python's or NumPy's or as 1 or 0, as Python's.

    Raises:
        ValueError: It is anything else, such as a text, of which even "False" counts as true.
    """
    if isinstance(value, bool | np.bool_ | numbers.Integral) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{name} must be True or False. Received: {name}={value!r:.60}. Pass one.")
