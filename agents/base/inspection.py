"""The arrays that a look inside an agent returns, by name."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Arrays: TypeAlias = dict[str, np.ndarray]


def free_path(path: str, arrays: Arrays) -> str:
    """The path, with the first number that makes it unique if it is already used."""
    number, free = 1, path
    while f"weights/{free}" in arrays:
        number += 1
        free = f"{path}_{number}"
    return free
