"""Deep Q-learning (DQN): Mnih et al. 2015, "Human-level control through deep RL", algorithm 1.

    y = r + discount·max_a' Q'(s', a')          Q' the target network, moved between two updates
    double:  y = r + discount·Q'(s', argmax_a' Q(s', a'))
    L = mean(w·huber(y − Q(s, a))),  w = 1 unless drawn by priority

r is the sum of up to n discounted rewards, s' the observation after them. Actions that a mask
forbids are neither taken nor valued: argmax and max are over those that are allowed. Double
Q-learning is that of van Hasselt et al. 2016, "Deep Reinforcement Learning with Double Q-learning",
eq. 4.

Legend: M examples of a minibatch, A actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from .base.q_learning import QLearningAgent, QNetworks, QTargets, TargetFunction, best_actions
from .configs.dqn import DQNConfig
from .networks.value_networks import check_q_network, q_network

if TYPE_CHECKING:
    import keras

    from ..training.core.losses import Loss
    from .base.off_policy import Examples


def greatest_value(q: QNetworks, examples: Examples) -> tf.Tensor:
    """The target y = r + discount·max_a' Q'(s', a'), `[M]`."""
    next_q = q.target(examples.next_observations)
    best = best_actions(next_q, examples)
    return examples.rewards + examples.discounts * tf.reduce_sum(best * next_q, axis=1)


def double_value(q: QNetworks, examples: Examples) -> tf.Tensor:
    """The target y = r + discount·Q'(s', argmax_a' Q(s', a')), `[M]`."""
    next_q = q.target(examples.next_observations)
    best = best_actions(q.online(examples.next_observations), examples)
    return examples.rewards + examples.discounts * tf.reduce_sum(best * next_q, axis=1)


def dqn_loss(q: tf.Tensor, targets: QTargets) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of DQN on Q(s, ·) `[M, A]`, as `differentiate` takes it.

    L = mean(w·huber(δ)),  δ = y − Q(s, a),  huber(δ) = δ²/2 where |δ| < 1, else |δ| − 1/2.
    """
    chosen = tf.one_hot(targets.actions[:, 0], q.shape[1])
    q = tf.reduce_sum(chosen * q, axis=1)
    error = targets.y - q
    size = tf.abs(error)
    huber = tf.where(size < 1.0, 0.5 * tf.square(error), size - 0.5)
    return tf.reduce_mean(targets.weights * huber), {"q": tf.reduce_mean(q), "error": error}


class DQN(QLearningAgent):
    """A DQN agent for Discrete actions; how it acts and learns is in `QLearningAgent`.

    `network=` is a Keras model of your own, encoded observations `[B, …]` to action values
    `[B, A]`. The replay buffer must fit into the machine's memory: `begin` checks it before any is
    taken, and raises a ValueError that says how much is needed.
    """

    algorithm = "dqn"
    config: DQNConfig
    config_type = DQNConfig

    def _make_network(self, network: keras.Model | None, seed: int) -> keras.Model:
        config, count = self.config, self._actions.size
        if network is None:
            return q_network(self._encoder, count, config, seed, dueling=config.dueling)
        check_q_network(network, self._encoder, count)
        return network

    def _target(self) -> TargetFunction:
        return double_value if self.config.double else greatest_value

    def _loss(self) -> Loss:
        return dqn_loss
