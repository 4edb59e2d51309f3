"""Target networks: clones that follow the trained networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from ...training.core.turns import Average

if TYPE_CHECKING:
    from collections.abc import Sequence


def target_of(network: keras.Model) -> keras.Model:
    """A clone with the same weights.

    Raises:
        ValueError: Keras cannot clone it.
    """
    try:
        clone = keras.models.clone_model(network)
        clone.set_weights(network.get_weights())
    except Exception as error:  # whatever a user's layers raise
        raise ValueError(
            "A network must be one that keras.models.clone_model can clone, for its target. "
            f"Received: {network.name!r}, which raised {error!r:.200}. Build it with "
            "keras.Model(inputs, outputs), and give layers of your own get_config."
        ) from error
    return clone


def following(
    targets: Sequence[keras.Model], networks: Sequence[keras.Model], tau: float
) -> list[Average]:
    """Averages that move the targets' trained weights; moving statistics are copied.

    Weights of frozen layers are copied as well: they do not change.
    """
    pairs = [
        pair
        for target, network in zip(targets, networks, strict=True)
        for pair in zip(target.weights, network.weights, strict=True)
    ]
    trained = {id(v) for network in networks for v in network.trainable_weights}
    return [
        Average([f for f, _ in those], [leader for _, leader in those], share)
        for those, share in (
            ([pair for pair in pairs if id(pair[1]) in trained], tau),
            ([pair for pair in pairs if id(pair[1]) not in trained], 1.0),
        )
    ]
