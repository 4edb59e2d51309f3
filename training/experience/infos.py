"""What the infos of a vector environment say about acting, as arrays `[N, ...]`.

Gymnasium joins the infos of N environments key by key; `_key` says which of them had one.
"""

from collections.abc import Mapping

import numpy as np

from .protocols import Infos

Array = np.ndarray


def first_masks(infos: Infos) -> Array | None:
    """Bools `[N, A]` of `infos["action_mask"]` after a reset; None if there are none."""
    given = infos.get("action_mask")
    if given is None:
        return None
    masked, rows = _rows(infos, np.ones(len(given), bool))
    if not len(rows):
        return None
    masks = np.ones((len(masked), rows.shape[1]), bool)
    masks[masked] = rows
    return masks


def next_masks(infos: Infos, before: Array | None, only: Array | None) -> Array | None:
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
    masked, rows = _rows(infos, asked)
    if before is None and not len(rows):
        return None
    if before is None or (len(rows) and rows.shape[1] != before.shape[1]):
        raise ValueError(
            "Action masks must have one shape, from the first reset on. Received: "
            f"{rows.shape[1]} choices after {'none' if before is None else before.shape[1]}, of "
            f"environment {int(masked.argmax())}. Return info['action_mask'] from reset as from "
            "step."
        )
    masks = np.where(asked[:, None], True, before)
    if len(rows):
        masks[masked] = rows
    return masks


def _rows(infos: Infos, asked: Array) -> tuple[Array, Array]:
    """Which of the asked environments gave a mask, bools `[N]`, and their masks `[M, A]`."""
    given = infos.get("action_mask")
    if given is None:
        return np.zeros(len(asked), bool), np.zeros((0, 0), bool)
    masked = asked & infos.get("_action_mask", np.ones(len(given), bool))
    if np.asarray(given).dtype.kind == "O":  # None allows everything
        masked &= [mask is not None for mask in given]
    rows = [_flat(given[index], index) for index in np.flatnonzero(masked).tolist()]
    sizes = {row.size for row in rows}
    if len(sizes) > 1:
        raise ValueError(
            f"Action masks must have one shape. Received: masks of {sorted(sizes)} choices. "
            "Give every choice an entry at every step."
        )
    return masked, np.array(rows) if rows else np.zeros((0, 0), bool)


def _flat(mask: object, index: int) -> Array:
    """A mask as one array; that of several components may be a tuple of theirs."""
    parts = mask if isinstance(mask, tuple | list) else (mask,)
    try:
        joined = np.concatenate([np.ravel(part) for part in parts])
    except ValueError:  # ragged
        joined = np.asarray(None)
    if joined.dtype.kind == "b":
        return joined
    if joined.dtype.kind not in "iuf" or not ((joined == 0) | (joined == 1)).all():
        raise ValueError(
            "Action masks must hold True or False, or 1 or 0, for every choice. Received: "
            f"{mask!r:.100} of environment {index}. Return info['action_mask'] as bools."
        )
    return joined.astype(bool)


def successes(infos: Infos, ended: Array, has_final: bool) -> list[float]:
    """`is_success`, or `success`, of the episodes that ended; what is no number is left out.

    Args:
        infos: Of an ended step.
        ended: Bools `[N]`.
        has_final: Whether theirs are `infos["final_info"]`, as in SAME_STEP mode.
    """
    final = infos.get("final_info") if has_final else infos
    final = final if isinstance(final, Mapping) else infos
    name = "is_success" if "is_success" in final else "success"
    if name not in final:
        return []
    known = ended & final.get(f"_{name}", True)
    values = np.asarray(final[name])
    return [
        float(value)
        for value in values[known]
        if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf" and np.isfinite(value)
    ]
