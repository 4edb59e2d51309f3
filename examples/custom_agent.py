"""One-step actor-critic (Sutton & Barto 2018, section 13.5): an agent of your own for `train`.

Run it again after a kill, and it continues. Legend: N environments, A actions.
"""

import keras
import numpy as np
import tensorflow as tf

from vantage.envs import make_vec
from vantage.training import Agent, compile_step, differentiate, evaluate, train


def loss(outputs, targets):
    """mean(½·δ² − δ·log π(a|s)), δ = r + discount·v(s') − v(s); dummy steps have weight 0."""
    (logits, values), (_, next_values), (actions, rewards, discounts, weights) = *outputs, targets
    delta = rewards + discounts * tf.stop_gradient(next_values[:, 0]) - values[:, 0]  # [N]
    minus_log = tf.nn.sparse_softmax_cross_entropy_with_logits(actions, logits)  # [N]
    each = tf.square(delta) / 2 + tf.stop_gradient(delta) * minus_log
    return tf.reduce_sum(weights * each) / tf.reduce_sum(weights)


class ActorCritic(Agent):
    """Learns from every step; `settle` is the protocol's, which does nothing."""

    def __init__(self, size, choices, seed=0):
        keras.utils.set_random_seed(seed)
        hidden = keras.layers.Dense(64, "tanh")(x := keras.Input((size,)))
        self.network = keras.Model(x, [keras.layers.Dense(n)(hidden) for n in (choices, 1)])
        self.optimizer = keras.optimizers.Adam(5e-3)
        self.optimizer.build(self.network.trainable_variables)
        self.variables = [*self.network.variables, *self.optimizer.variables]
        self.rng, self.weights = np.random.default_rng(seed), self.network.get_weights()

    def begin(self, num_envs, total_steps, done_steps=0, masked=False):
        """Compiles the update, whose new weights come back for acting in NumPy."""
        seen = tf.TensorSpec((num_envs, *self.network.input_shape[1:]))
        theta, number = self.network.trainable_variables, tf.TensorSpec((num_envs,))
        signature = (seen, seen), (tf.TensorSpec((num_envs,), tf.int32), number, number, number)
        both = lambda inputs: [self.network(x, training=True) for x in inputs]  # noqa: E731
        trained = both, differentiate(loss), theta, self.optimizer
        self.step = compile_step(*trained, signature, mirror=theta)

    def act(self, observations, deterministic=False):
        """Actions `[N]`: the most likely ones, or sampled from softmax(logits)."""
        w, b, v, c, *_ = self.weights
        logits = np.tanh(observations @ w + b) @ v + c  # [N, A]
        noise = 0 if deterministic else self.rng.gumbel(size=logits.shape)
        return np.argmax(logits + noise, axis=1)

    def explore(self, observations, action_masks=None):
        """Samples actions and remembers them for `observe`."""
        self.before, self.actions = np.copy(observations), self.act(observations)
        return self.actions

    def observe(self, step):
        """Learns from what the actions led to; the metrics of the update become curves."""
        after = step.observations if step.final_observations is None else step.final_observations
        targets = self.actions, step.rewards, 0.99 * ~step.terminated, step.weights
        metrics = self.step((self.before, after), targets) if step.weights.any() else None
        self.weights = self.step.weights
        return metrics

    def get_state(self):
        """All that a resumed run needs."""
        values = [variable.numpy() for variable in self.variables]
        return {"variables": values, "rng": self.rng.bit_generator.state}

    def set_state(self, state):
        """Takes it back: before `begin`, and once more after it."""
        for variable, array in zip(self.variables, state["variables"], strict=True):
            variable.assign(array)
        self.rng.bit_generator.state = state["rng"]
        self.weights = self.network.get_weights()


def main(total_steps=100_000, logdir="runs/actor-critic"):
    """Trains until 100 episodes have a mean return of 475, and evaluates."""
    envs = make_vec("CartPole-v1", num_envs=16, seed=0, vectorization="native")
    agent = ActorCritic(4, 2)
    train(agent, envs, total_steps, logdir=logdir, resume=True, stop_at_return=475)
    print(evaluate(agent, make_vec("CartPole-v1", num_envs=10), episodes=100, seed=1))
    return agent


if __name__ == "__main__":
    main()
