"""Quantile-regression DQN: Dabney et al. 2018, "Distributional RL with Quantile Regression".

The network returns N quantiles θᵢ(s, a) of the return for each action; Q(s, a) is their mean.

    yⱼ = r + discount·θ'ⱼ(s', a*)     a* = argmax_a' Σⱼ θ'ⱼ(s', a'),  θ' the target network
    L  = mean(w·Σᵢ meanⱼ ρᵢ(yⱼ − θᵢ(s, a)))
    ρᵢ(u) = |τᵢ − 1{u < 0}|·huber(u),   τᵢ = (i − ½) / N              (eq. 10 and algorithm 1)

Legend: M examples of a minibatch, A actions, N quantiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .base.q_learning import QLearningAgent, QNetworks, QTargets, TargetFunction, best_actions
from .configs.qrdqn import QRDQNConfig
from .networks.value_networks import check_q_network, q_network

if TYPE_CHECKING:
    import keras

    from ..training.core.losses import Loss
    from .base.off_policy import Examples


def quantile_target(count: int) -> TargetFunction:
    """The target y `[M, N]`: the quantiles of the best next action, as rewards shift them.

    Args:
        count: N.
    """

    def target(q: QNetworks, examples: Examples) -> tf.Tensor:
        quantiles = by_action(q.target(examples.next_observations), count)  # [M, A, N]
        best = best_actions(tf.reduce_mean(quantiles, axis=2), examples)  # [M, A]
        after = tf.reduce_sum(best[:, :, None] * quantiles, axis=1)  # [M, N]
        return examples.rewards[:, None] + examples.discounts[:, None] * after

    return target


def quantile_loss(count: int) -> Loss:
    """The quantile Huber loss of QR-DQN on its outputs `[M, A·N]`, as `differentiate` takes it.

    L = mean(w·Σᵢ meanⱼ |τᵢ − 1{uᵢⱼ < 0}|·huber(uᵢⱼ)),  uᵢⱼ = yⱼ − θᵢ(s, a),
    huber(u) = u²/2 where |u| < 1, else |u| − 1/2.

    Source: Dabney et al. 2018, eq. 10 with κ = 1.
    """
    levels = tf.constant((np.arange(count, dtype=np.float32) + 0.5) / count)[:, None]  # τ, [N, 1]

    def loss(outputs: tf.Tensor, targets: QTargets) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        quantiles = by_action(outputs, count)
        chosen = tf.one_hot(targets.actions[:, 0], quantiles.shape[1])
        quantiles = tf.reduce_sum(chosen[:, :, None] * quantiles, axis=1)  # [M, N]
        u = targets.y[:, None, :] - quantiles[:, :, None]  # [M, N, N]
        size = tf.abs(u)
        huber = tf.where(size < 1.0, 0.5 * tf.square(u), size - 0.5)
        tilted = tf.abs(levels - tf.cast(u < 0.0, tf.float32)) * huber
        each = tf.reduce_sum(tf.reduce_mean(tilted, axis=2), axis=1)  # [M]
        q = tf.reduce_mean(quantiles, axis=1)
        metrics = {"q": tf.reduce_mean(q), "error": tf.reduce_mean(targets.y, axis=1) - q}
        return tf.reduce_mean(targets.weights * each), metrics

    return loss


def by_action(outputs: Any, count: int) -> Any:
    """Outputs `[M, A·N]` as quantiles `[M, A, N]`."""
    reshape = tf.reshape if tf.is_tensor(outputs) else np.reshape
    return reshape(outputs, (outputs.shape[0], outputs.shape[1] // count, count))


class QRDQN(QLearningAgent):
    """A QR-DQN agent for Discrete actions; how it acts and learns is in `QLearningAgent`.

    `network=` is a Keras model of your own, encoded observations `[B, …]` to the quantiles of all
    actions `[B, A·N]`, those of one action next to each other.
    """

    algorithm = "qrdqn"
    config: QRDQNConfig
    config_type = QRDQNConfig

    def _make_network(self, network: keras.Model | None, seed: int) -> keras.Model:
        width = self._actions.size * self.config.n_quantiles
        if network is None:
            return q_network(self._encoder, width, self.config, seed)
        check_q_network(network, self._encoder, width)
        return network

    def _target(self) -> TargetFunction:
        return quantile_target(self.config.n_quantiles)

    def _loss(self) -> Loss:
        return quantile_loss(self.config.n_quantiles)

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return (self.config.n_quantiles,)

    def _action_values(self, outputs: np.ndarray) -> np.ndarray:
        means: np.ndarray = by_action(outputs, self.config.n_quantiles).mean(axis=2)
        return means
