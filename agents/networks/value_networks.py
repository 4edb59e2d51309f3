"""The Keras model of DQN: from observations to the values of all actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from ..configs.config import OffPolicyConfig, hidden_widths
from .memoryless import check_memoryless
from .models import Layers, Shape, Tensor, features_of

if TYPE_CHECKING:
    from ..acting.observations import Encoder


class Dueling(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Q = V + A − mean(A), of a value `[B, 1]` and advantages `[B, A]`.

    Source: Wang et al. 2016, "Dueling Network Architectures", eq. 9.
    """

    def call(self, value: Tensor, advantages: Tensor) -> Tensor:
        """Action values `[B, A]`."""
        return value + advantages - keras.ops.mean(advantages, axis=1, keepdims=True)

    def compute_output_shape(self, value_shape: Shape, advantages_shape: Shape) -> Shape:
        """`[B, A]`."""
        return advantages_shape


def q_network(
    encoder: Encoder, count: int, config: OffPolicyConfig, seed: int, dueling: bool = False
) -> keras.Model:
    """The default network, from `[B, *encoder.shape]` to the values of `count` actions, `[B, A]`.

    Dense layers have PyTorch's uniform initial weights, ±1/√(inputs). A single image goes through
    convolutions (`networks.models.convolutions`); the head follows them, as in Mnih et al. 2015, or
    the hidden layers if `net_arch` is not the default.
    """
    layers = Layers(seed, is_orthogonal=False)
    observations = keras.Input(encoder.shape, name="observations", dtype=encoder.dtype)
    features = features_of(observations, encoder, layers)
    widths = hidden_widths(config, encoder.is_image)
    features = layers.trunk(features, config, "trunk", widths)
    if dueling:
        value = layers.dense(features, 1, "value")
        q = Dueling(name="q")(value, layers.dense(features, count, "advantages"))
    else:
        q = layers.dense(features, count, "q")
    return keras.Model(observations, q, name="q_network")


def check_q_network(network: object, encoder: Encoder, count: int) -> None:
    """Checks a network against the spaces.

    Raises:
        ValueError: The network is not a Keras model, or its output for a batch is not `[B, A]`.
    """
    given = ", ".join(map(str, ("B", *encoder.shape)))
    advice = f"Build it from {encoder.input_in_words}, with {count} units in its last layer."
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"network must be a Keras model from observations [{given}] to action values "
            f"[B, {count}]. Received: {network!r:.200}. {advice}"
        )
    check_memoryless(network)
    batch = keras.KerasTensor((3, *encoder.shape), np.dtype(encoder.dtype).name)
    try:
        outputs = keras.tree.flatten(network.compute_output_spec(batch))
    except Exception as error:  # whatever a user's layers raise
        raise ValueError(
            f"A network must accept observations [{given}]. Received: {network.name!r}, which "
            f"fails on them: {error!r:.300}. {advice}"
        ) from error
    if [tuple(output.shape) for output in outputs] != [(3, count)]:
        received = [("B", *output.shape[1:]) for output in outputs]
        raise ValueError(
            f"A network must return the values of all actions, [B, {count}]. Received: "
            f"{network.name!r} with outputs of shape {received}. {advice}"
        )
