"""Checks of action masks. No TensorFlow in this file."""

import numpy as np

Array = np.ndarray


def checked_masks(masks: Array, count: int, sizes: list[int]) -> Array:
    """Masks as bools `[count, Σ sizes]`, with a choice left in every component.

    Raises:
        ValueError: Their shape is another one, or some component has no choice left.
    """
    if masks.shape != (count, sum(sizes)):
        raise ValueError(
            f"Action masks must have shape [{count}, {sum(sizes)}], an entry for every choice of "
            f"every component. Received: {list(masks.shape)}. Join the masks of the components."
        )
    masks = masks.astype(bool, copy=False)
    components = np.split(masks, np.cumsum(sizes)[:-1], axis=1)
    empty = ~np.stack([part.any(1) for part in components], 1)  # [N, components]
    if empty.any():
        env, component = np.argwhere(empty)[0].tolist()
        raise ValueError(
            "An action mask must leave a choice. Received: none for component "
            f"{component} of environment {env}. End the episode when there is nothing to do."
        )
    return masks
