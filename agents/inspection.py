"""What is shown of a look inside an agent: arrays by name."""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]


def of_gaussian(parameters: np.ndarray, count: int) -> Arrays:
    """Means, and standard deviations where the parameters hold them."""
    arrays = {"action_means": parameters[:, :count]}
    if parameters.shape[1] >= 2 * count:
        arrays["action_stds"] = np.exp(parameters[:, count : 2 * count])
    return arrays


def free_path(path: str, arrays: Arrays) -> str:
    """The path, or with a number the first one like it that is not taken."""
    number, free = 1, path
    while f"weights/{free}" in arrays:
        number += 1
        free = f"{path}_{number}"
    return free
