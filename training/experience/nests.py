"""Observations of Dict and Tuple spaces: nests of arrays `[N, ...]`."""

import numpy as np

from .protocols import Infos, Observations


def copied(batched: Observations) -> Observations:
    """A copy of a batch of observations whose arrays are new."""
    if isinstance(batched, dict):
        return {key: copied(value) for key, value in batched.items()}
    if isinstance(batched, tuple):
        return tuple(copied(value) for value in batched)
    return batched.copy() if isinstance(batched, np.ndarray) else batched


def with_final(batched: Observations, ended: np.ndarray, infos: Infos) -> Observations:
    """A batch with the final observations, `infos["final_obs"]`, where an episode ended."""
    final = copied(batched)
    for index in np.flatnonzero(ended).tolist():
        _put(final, index, infos["final_obs"][index])
    return final


def _put(batched: Observations, index: int, single: Observations) -> None:
    """Overwrites row `index` of a batch; entries that are no arrays (texts) stay as they are."""
    if isinstance(single, dict):
        for key, value in single.items():
            _put(batched[key], index, value)
    elif isinstance(single, tuple):
        for part, value in zip(batched, single, strict=True):
            _put(part, index, value)
    elif isinstance(batched, np.ndarray):
        batched[index] = single
