"""The Keras models of DQN, SAC and TD3: action values, actors, and critics of state and action."""

from __future__ import annotations

import keras


class Dueling(keras.layers.Layer):
    """Q = V + A − mean(A), of a value `[B, 1]` and advantages `[B, A]`.

    Source: Wang et al. 2016, "Dueling Network Architectures", eq. 9.
    """

    def call(self, value, advantages):
        """Action values `[B, A]`."""
        return value + advantages - keras.ops.mean(advantages, axis=1, keepdims=True)

    def compute_output_shape(self, value_shape, advantages_shape):
        """`[B, A]`."""
        return advantages_shape
