"""What the infos of a vector environment tell about acting, as arrays `[N, ...]`.

Gymnasium joins the infos of N environments key by key; `_key` tells which of them had one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def first_masks(infos: Mapping[str, Any]) -> Array | None:
    """Bools `[N, A]` of `infos["action_mask"]` after a reset; None if there are none."""
    given = infos.get("action_mask")
    if given is None:
        return None
    told, rows = _rows(infos, np.ones(len(given), bool))
    if not len(rows):
        return None
    masks = np.ones((len(told), rows.shape[1]), bool)
    masks[told] = rows
    return masks


def next_masks(infos: Mapping[str, Any], before: Array | None, only: Array | None) -> Array | None:
    """The same after a step; an environment that says nothing allows everything.

    Args:
        infos: As the vector environment returned them.
        before: The masks until now.
        only: Bools `[N]`, of which environments the infos speak: others keep `before`. None: all.

    Raises:
        ValueError: The masks have another shape than at first, when there may have been none.
    """
    if before is None and "action_mask" not in infos:
        return None
    asked = np.ones(len(infos["action_mask"]) if before is None else len(before), bool)
    asked = asked if only is None else only
    told, rows = _rows(infos, asked)
    if before is None or (len(rows) and rows.shape[1] != before.shape[1]):
        raise ValueError(
            "Action masks must have one shape, from the first reset on. Received: "
            f"{rows.shape[1]} choices after {'none' if before is None else before.shape[1]}. "
            "Return info['action_mask'] from reset as from step."
        )
    masks = np.where(asked[:, None], True, before)
    if len(rows):
        masks[told] = rows
    return masks


def _rows(infos: Mapping[str, Any], asked: Array) -> tuple[Array, Array]:
    """Which of the asked environments gave a mask, bools `[N]`, and their masks `[M, A]`."""
    given = infos.get("action_mask")
    if given is None:
        return np.zeros(len(asked), bool), np.zeros((0, 0), bool)
    told = asked & infos.get("_action_mask", np.ones(len(given), bool))
    rows = [_flat(given[index]) for index in np.flatnonzero(told)]
    sizes = {row.size for row in rows}
    if len(sizes) > 1:
        raise ValueError(
            f"Action masks must have one shape. Received: masks of {sorted(sizes)} choices. "
            "Give every choice an entry at every step."
        )
    return told, np.array(rows) if rows else np.zeros((0, 0), bool)


def _flat(mask: Any) -> Array:
    """A mask as one array; that of several components may be a tuple of theirs."""
    parts = mask if isinstance(mask, tuple | list) else (mask,)
    return np.concatenate([np.ravel(part) for part in parts]).astype(bool)


def restarted(infos: Mapping[str, Any]) -> Array | None:
    """Bools `[N]` of `infos["restarted"]`; None if no environment was rebuilt."""
    given = infos.get("restarted")
    return None if given is None or not np.any(given) else np.asarray(given, bool)


def successes(infos: Mapping[str, Any], ended: Array) -> list[float]:
    """`is_success`, or `success`, of the episodes that ended and told it.

    Of the infos of an ended step; in SAME_STEP mode those are `infos["final_info"]`.
    """
    told = infos.get("final_info", infos)
    name = "is_success" if "is_success" in told else "success"
    if name not in told:
        return []
    known = ended & told.get(f"_{name}", True)
    return [float(value) for value in np.asarray(told[name])[known]]
