"""Deep Q-learning (DQN): Mnih et al. 2015, "Human-level control through deep RL", algorithm 1.

    explore   with probability ε any action, else argmax_a Q(s, a)            [N]
    observe   K minibatches of M from the replay buffer, one compiled call; each step
              y = r + discount·max_a' Q'(s', a')          Q' the target network, moved in between
              double:  y = r + discount·Q'(s', argmax_a' Q(s', a'))
              L = mean(w·huber(y − Q(s, a))),  w = 1 unless drawn by priority

r is the sum of up to n discounted rewards, s' what is seen after them. Actions that a mask forbids
are neither taken nor believed in: argmax and max are over those that are allowed. Double Q-learning
is that of van Hasselt et al. 2016, "Deep Reinforcement Learning with Double Q-learning", eq. 4.

Legend: N environments, K gradient steps, M examples of a minibatch, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from ..training.common.interrupts import UpdateCut
from ..training.core.compiled import Nest
from ..training.core.gradients import compile_step
from ..training.core.lifts import differentiate
from ..training.core.optimizers import build_optimizer, clip_limit, learning_rate, refuse_averages
from ..training.core.overlap import Overlapped
from ..training.core.turns import Turn
from ..training.experience.prioritized import Priorities
from .acting.distributions import Categorical
from .configs.config import DQNConfig
from .networks.mirrors import acting_network, check_overlap
from .networks.targets import following, target_of
from .networks.value_networks import check_q_network, q_network
from .off_policy import OffPolicyAgent


def dqn_loss(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of DQN, as `differentiate` takes it.

    L = mean(w·huber(δ)),  δ = y − Q(s, a),  y = r + discount·Q'(s', argmax_a' chooser(s', a')),
    huber(δ) = δ²/2 where |δ| < 1, else |δ| − 1/2. No gradient goes through y.

    Outputs: Q(s, ·), Q'(s', ·) and what chooses a', `[M, A]` each: Q' again, or Q(s', ·) for double
    Q-learning. Targets: raw actions `[M, 1 (+ A)]`, rewards r, discounts, weights w, each `[M]`,
    and where there are masks the actions `[M, A]` allowed in s'.
    """
    q, next_q, chooser = outputs
    actions, rewards, discounts, weights, *allowed = targets
    if allowed:
        chooser = tf.where(allowed[0], chooser, -np.inf)
    count = q.shape[1]
    best = tf.one_hot(tf.argmax(chooser, axis=1), count)  # [M, A]
    y = tf.stop_gradient(rewards + discounts * tf.reduce_sum(best * next_q, axis=1))  # [M]
    q = tf.reduce_sum(tf.one_hot(actions[:, 0], count) * q, axis=1)
    error = y - q
    size = tf.abs(error)
    huber = tf.where(size < 1.0, 0.5 * tf.square(error), size - 0.5)
    return tf.reduce_mean(weights * huber), {"q": tf.reduce_mean(q), "error": error}


class DQN(OffPolicyAgent):
    """A DQN agent for Discrete actions; how it is built and saved is in `OffPolicyAgent`.

    `network=` is a Keras model of your own, encoded observations `[B, …]` to action values
    `[B, A]`. The replay buffer must fit into the machine's memory: `begin` checks it before any is
    taken, and raises a ValueError that tells how much is needed.

    Attributes:
        target: Q', the clone that follows.
    """

    config: DQNConfig
    algorithm = "dqn"
    config_type = DQNConfig
    curves = frozenset(
        {"loss", "q", "grad_norm", "clipped_updates", "learning_rate", "rollout/exploration_rate"}
    )
    network: keras.Model
    optimizer: keras.optimizers.Optimizer

    def _build(self, network: Any, optimizer: Any, seed: int) -> None:
        config, encoder = self.config, self._encoder
        if not isinstance(self.action_space, spaces.Discrete):
            raise ValueError(
                "The action space of DQN must be Discrete. Received: "
                f"{self.action_space}. Use A2C or PPO, or for a Box SAC or TD3."
            )
        self._actions = Categorical(self.action_space)
        if network is None:
            network = q_network(encoder, self._actions.size, config, seed)
        else:
            check_q_network(network, encoder, self._actions.size)
        self.network, self.target = network, target_of(network)
        if optimizer is None:
            optimizer = keras.optimizers.Adam(
                config.learning_rate, epsilon=1e-8, global_clipnorm=config.max_grad_norm
            )  # PyTorch's ε
        self.optimizer = optimizer
        refuse_averages(optimizer)
        build_optimizer(optimizer, network.trainable_variables)
        self._limit = clip_limit(optimizer)
        self._acting = acting_network(network)
        check_overlap(config.overlap_update, self._acting)
        self._moves = 0  # of the target network
        self._priorities: Priorities | None = None

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Makes ready to train: the replay buffer, its priorities and the compiled update."""
        before = self._replay
        super().begin(num_envs, total_steps, done_steps, masked)
        self._moves = self._done_steps // self.config.target_update_interval
        if self.config.prioritized and self._replay is not before:
            self._priorities = Priorities(self._replay, self.config.priority_alpha)

    def _compile(self, masked: bool) -> Any:
        config, encoder, network, target = self.config, self._encoder, self.network, self.target
        optimizer = self.optimizer
        raw_shape = self._actions.masked_shape if masked else self._actions.raw_shape
        steps, size = self._minibatches = self._gradient_steps, config.batch_size
        examples, self._is_masked = steps * size, masked
        self._ones = np.ones(examples, np.float32)
        self._rows = np.arange(examples, dtype=np.int32).reshape(steps, size)  # [K, M]

        def evaluate(inputs: Nest) -> Nest:
            observations, next_observations = inputs
            with keras.StatelessScope():  # what Q' would add to the loss is not learned from
                next_q = tf.cast(target(next_observations, training=False), tf.float32)
            q = network(observations, training=True)
            chooser = network(next_observations, training=False) if config.double else next_q
            return q, next_q, chooser

        def loss(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            value, metrics = dqn_loss(outputs, targets)
            if not config.prioritized:
                del metrics["error"]
            return value, {**metrics, "learning_rate": learning_rate(optimizer)}

        encoded = tf.TensorSpec((examples, *encoder.shape), encoder.dtype)
        vector = tf.TensorSpec((examples,), tf.float32)
        allowed = [tf.TensorSpec((examples, self._actions.size), tf.bool)] * masked
        raw = tf.TensorSpec((examples, *raw_shape), tf.int32)
        variables = network.trainable_variables
        trained = differentiate(loss), variables, optimizer
        self.turns = {"": Turn(evaluate, *trained)}
        step = compile_step(
            evaluate,
            *trained,
            ((encoded, encoded), (raw, vector, vector, vector, *allowed)),
            updates=(steps, size) if steps > 1 else None,
            mirror=self._acting.variables,
        )
        return Overlapped(step) if config.overlap_update else step

    def _learn(self) -> dict[str, Any]:
        config, replay, priorities = self.config, self._replay, self._priorities
        if priorities is None:
            weights = self._ones
            batch = replay.sample(len(weights), self.generator, config.n_steps, config.gamma)
        else:
            beta = config.priority_beta + self._progress * (1.0 - config.priority_beta)
            drawn, weights = priorities.draw(self._minibatches, self.generator, beta)
            batch = replay.gather(drawn, config.n_steps, config.gamma)
        allowed = (self._allowed_next(batch.following),) if self._is_masked else ()
        targets = (batch.actions, batch.rewards, batch.discounts, weights, *allowed)
        rows = (self._rows,) if len(self._rows) > 1 else ()
        self.batch = (batch.observations, batch.next_observations), targets
        moves = self._moves
        self._move_target()
        try:
            metrics = self._scheduled_step(*self.batch, *rows)
        except UpdateCut:
            self._moves = moves
            raise
        if priorities is not None:
            priorities.update(drawn, metrics.pop("error").ravel())
            metrics["priority_beta"] = beta
        metrics["clipped_updates"] = np.greater(metrics.get("grad_norm", np.nan), self._limit)
        return {**metrics, "rollout/exploration_rate": self.exploration_rate}

    def _allowed_next(self, slots: np.ndarray) -> np.ndarray:
        """What may be done in the steps of these slots, `[M, A]`; anything where there is none."""
        actions = self._replay.actions
        masks = actions.reshape(-1, actions.shape[-1]).take(slots, 0)[:, 1:] != 0
        return masks | (slots < 0)[:, None]

    def _move_target(self) -> None:
        """θ' ← τ·θ + (1 − τ)·θ', as often as its interval has passed since the last update.

        Nothing reads θ' in between and θ does not change.
        """
        moves = self._done_steps // self.config.target_update_interval
        passed, self._moves = moves - self._moves, moves
        if passed <= 0:
            return
        for average in following([self.target], [self.network], self.config.tau):
            average.move(passed)

    @property
    def exploration_rate(self) -> float:
        """ε: falls in a line over the first `exploration_fraction` of the training steps."""
        config, progress = self.config, self._progress
        if progress >= config.exploration_fraction:
            return config.exploration_final_eps
        first, last = config.exploration_initial_eps, config.exploration_final_eps
        return first + (last - first) * progress / config.exploration_fraction

    def _sample(self, encoded: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        count = len(encoded)
        explores = self.generator.random(count) < self.exploration_rate  # [N]
        if explores.all():
            return self._random(count, masks)
        raw = self._actions.mode(self._acting(encoded)[0], masks)
        if explores.any():
            raw = np.where(explores[:, None], self._random(count, masks), raw)
        return raw

    def _random(self, count: int, masks: np.ndarray | None) -> np.ndarray:
        actions = self._actions
        if masks is None:
            return self.generator.integers(actions.size, size=(count, 1), dtype=np.int32)
        return actions.sample(np.zeros((count, actions.size)), self.generator, masks)

    def _choose(self, encoded: np.ndarray, deterministic: bool, masks: np.ndarray | None) -> Any:
        if deterministic:
            return self._actions.mode(self._acting(encoded)[0], masks)
        return self._sample(encoded, masks)

    def value(self, observations: Any) -> np.ndarray:
        """max_a Q(s, a) `[N]`; of a single observation, `[]`.

        Raises:
            ValueError: The observations differ from the space in shape or kind.
        """
        batch, is_single = self._encoder.batch(observations)
        self._acting.refresh()
        values = self._acting(self._encoder.encode(batch))[0].max(axis=1)
        self._keep_behind()
        return values[0] if is_single else values

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All variables: those of network and target, and the optimizer's."""
        networks = [*self.network.variables, *self.target.variables]
        return {"network": networks, "optimizer": self.optimizer.variables}

    def training_state(self) -> dict[str, Any]:
        """The replay buffer, its priorities, and the running episodes."""
        state = super().training_state()
        if state:
            state["replay"]["moves"] = self._moves
            if self._priorities is not None:
                state["replay"]["priorities"] = self._priorities.get_state()
        return state

    def restore_training(self, state: Mapping[str, Any]) -> None:
        """Goes on with it, after `begin`.

        Raises:
            ValueError: Buffer or priorities are another one's, or damaged.
        """
        super().restore_training(state)
        if "replay" in state:
            self._moves = int(state["replay"]["moves"])
            if self._priorities is not None:
                self._priorities.set_state(state["replay"]["priorities"])
