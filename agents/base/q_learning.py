"""What agents that learn action values have in common: networks, targets, acting, priorities.

    explore   with probability ε any action, else argmax_a Q(s, a)            [N]
    observe   K minibatches of M from the replay buffer, one compiled call; each step
              y = the target function of Q, Q' and the examples, a constant
              L = the loss of the network's output for s, and y

Q' is the target network, which moves between two updates. An algorithm adds the network's head, the
target function and the loss.

Legend: N environments, K gradient steps, M examples of a minibatch, A actions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from ...training.common.interrupts import UpdateCut
from ...training.core import checks
from ...training.core.gradients import compile_step
from ...training.core.losses import Loss, unpacked
from ...training.core.optimizers import build_optimizer, clip_limit, learning_rate, refuse_averages
from ...training.core.turns import Turn
from ...training.experience.prioritized import Priorities
from ..acting.distributions import Categorical
from ..networks.mirrors import acting_network, check_overlap
from ..networks.targets import following, target_of
from .losses import fixed_target, is_on_host, lifted, of_targets, refuse_host, reserving
from .off_policy import Examples, OffPolicyAgent
from .overlap import OverlappedStep

if TYPE_CHECKING:
    from ...training.core.compiled import Nest
    from ...training.experience.protocols import Metrics, Observations, State
    from ..configs.config import QLearningConfig
    from .agent import Update
    from .inspection import Arrays


class QTargets(NamedTuple):
    """What a loss of action values receives of the examples, besides the network's output."""

    y: tf.Tensor  # [M, …]: the result of the target function
    actions: tf.Tensor  # [M, 1]: the indices of those taken; behind them masks, if there are any
    weights: tf.Tensor  # [M]: 1, or those of priorities


class QNetworks(NamedTuple):
    """What a target function may ask: both take observations `[M, …]`."""

    online: Callable[[tf.Tensor], tf.Tensor]
    """The network that is trained, as it is before this gradient step."""
    target: Callable[[tf.Tensor], tf.Tensor]
    """The one that follows it."""


TargetFunction = Callable[[QNetworks, Examples], tf.Tensor]


def best_actions(values: tf.Tensor, examples: Examples) -> tf.Tensor:
    """argmax_a of values `[M, A]` over the actions that the next states allow, one-hot `[M, A]`."""
    if tf.is_tensor(examples.next_masks):
        values = tf.where(examples.next_masks, values, -np.inf)
    return tf.one_hot(tf.argmax(values, axis=1), values.shape[1])


class QLearningAgent(OffPolicyAgent):
    """An agent with a network of action values, and all of it but head, target and loss.

    Attributes:
        target: Q', the clone that follows.
    """

    config: QLearningConfig
    curves = frozenset(
        {"loss", "q", "grad_norm", "clipped_updates", "learning_rate", "rollout/exploration_rate"}
    )
    _reserved = curves - {"q", "loss", "grad_norm"} | {"priority_beta", "seconds", "stop"}
    """Metrics that a loss of the user's must not report."""
    _actions: Categorical
    network: keras.Model
    optimizer: keras.optimizers.Optimizer

    # What an algorithm adds.

    @abstractmethod
    def _make_network(self, network: keras.Model | None, seed: int) -> keras.Model:
        """The default network, or the user's own after it was checked.

        Raises:
            ValueError: It does not fit the spaces.
        """

    @abstractmethod
    def _target(self) -> TargetFunction:
        """The target function of the algorithm."""

    @abstractmethod
    def _loss(self) -> Loss:
        """The loss of the algorithm, of `QTargets`.

        Its metrics are `q` and, for priorities, `error` `[M]`, which is not reported.
        """

    @property
    def _target_shape(self) -> tuple[int, ...]:
        """Of the target of an example."""
        return ()

    def _action_values(self, outputs: np.ndarray) -> np.ndarray:
        """Q(s, ·) `[N, A]` of what the network returns, flat `[N, …]`."""
        return outputs

    # What is common.

    def _build(
        self,
        network: keras.Model | None,
        optimizer: keras.optimizers.Optimizer | None,
        seed: int,
    ) -> None:
        config = self.config
        if not isinstance(self.action_space, spaces.Discrete):
            raise ValueError(
                f"The action space of {type(self).__name__} must be Discrete. Received: "
                f"{self.action_space}. Use A2C or PPO, or for a Box SAC or TD3."
            )
        self._actions = Categorical(self.action_space)
        self.network = network = self._make_network(network, seed)
        self.target = target_of(network)
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
        self._check_loss()
        self._moves = 0  # of the target network
        self._priorities: Priorities | None = None

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Prepares training: the replay buffer, its priorities and the compiled update."""
        before = self._replay
        super().begin(num_envs, total_steps, done_steps, masked)
        self._moves = self._done_steps // self.config.target_update_interval
        if self.config.prioritized and self._replay is not before:
            self._priorities = Priorities(self._replay, self.config.priority_alpha)

    def _compile(self, masked: bool) -> Update:
        config, encoder, network = self.config, self._encoder, self.network
        raw_shape = self._actions.masked_shape if masked else self._actions.raw_shape
        steps, size = self._minibatches = self._gradient_steps, config.batch_size
        examples, self._is_masked = steps * size, masked
        self._ones = np.ones(examples, np.float32)
        self._rows = np.arange(examples, dtype=np.int32).reshape(steps, size)  # [K, M]
        target_function = self.target_function or self._target()
        both = QNetworks(self._reading(network), self._reading(self.target))

        def evaluate(inputs: Nest) -> Nest:
            outputs = network(inputs.observations, training=True)
            with keras.StatelessScope():  # what Q and Q' would add to the loss is not learned from
                y = fixed_target(target_function, both, inputs, (size, *self._target_shape))
            return outputs, y

        self._check_loss()  # the attribute may have been set
        loss = of_targets(self._losses.get("", self._loss()), QTargets)
        encoded = tf.TensorSpec((examples, *encoder.shape), encoder.dtype)
        vector = tf.TensorSpec((examples,), tf.float32)
        raw = tf.TensorSpec((examples, *raw_shape), tf.int32)
        masks = tf.TensorSpec((examples, self._actions.size), tf.bool) if masked else ()
        inputs = Examples(encoded, raw, vector, vector, encoded, next_masks=masks)
        trained = lifted(loss, self._completed), network.trainable_variables, self.optimizer
        self.turns = {"": Turn(evaluate, *trained)}
        step = compile_step(
            evaluate,
            *trained,
            (inputs, (raw, vector)),
            updates=(steps, size) if steps > 1 else None,
            mirror=self._acting.variables,
        )
        return OverlappedStep(step) if config.overlap_update else step

    @staticmethod
    def _reading(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
        return lambda x: tf.cast(network(x, training=False), tf.float32)

    def _check_loss(self) -> None:
        """Refuses a loss on the host beside options that need one in TensorFlow.

        Raises:
            ValueError: It is to overlap with the acting, or to give priorities.
        """
        for setting in ("overlap_update", "prioritized"):
            if getattr(self.config, setting):
                refuse_host(self._losses.get(""), setting)

    def _completed(self, loss: Loss) -> Loss:
        """The loss, which also reports the learning rate, and errors for priorities alone."""
        is_prioritized, optimizer = self.config.prioritized, self.optimizer
        is_own = bool(self._losses)

        def completed(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            value, metrics = unpacked(loss(outputs, targets))
            metrics = dict(metrics)
            if is_own:
                checks.check_names(metrics, self._reserved, "the agent")
            if not is_prioritized:
                metrics.pop("error", None)
            elif (shape := np.shape(metrics.get("error", ()))) != tuple(targets[-1].shape):
                received = f"`error` of shape {shape}" if "error" in metrics else "none"
                raise ValueError(
                    "prioritized needs a loss that also returns the error of each example, [M], as "
                    f"the metric `error`. Received: {received}. "
                    'Return (L, {"error": y − q}), or leave prioritized out.'
                )
            elif is_own:  # an error that is not finite refuses the update: it would stay for good
                finite = tf.reduce_all(tf.math.is_finite(tf.cast(metrics["error"], tf.float32)))
                value = tf.where(finite, value, tf.cast(math.nan, value.dtype))
            return value, {**metrics, "learning_rate": learning_rate(optimizer)}

        return completed

    def _learn(self) -> Metrics:
        config, replay, priorities = self.config, self._replay, self._priorities
        if priorities is None:
            weights = self._ones
            batch = replay.sample(len(weights), self.generator, config.n_steps, config.gamma)
        else:
            beta = config.priority_beta + self._progress * (1.0 - config.priority_beta)
            drawn, weights = priorities.draw(self._minibatches, self.generator, beta)
            batch = replay.gather(drawn, config.n_steps, config.gamma)
        masks = self._next_masks(batch.following) if self._is_masked else ()
        rows = (self._rows,) if len(self._rows) > 1 else ()
        self.batch = Examples.of(batch, next_masks=masks), (batch.actions, weights)
        moves = self._moves
        self._move_target()
        try:
            with reserving(self._losses.get(""), self._reserved):
                metrics = self._scheduled_step(*self.batch, *rows)
        except UpdateCut:
            self._moves = moves
            raise
        if priorities is not None:
            priorities.update(drawn, metrics.pop("error").ravel())
            metrics["priority_beta"] = beta
        if is_on_host(self._losses.get("")):
            metrics["learning_rate"] = float(learning_rate(self.optimizer))
        metrics["clipped_updates"] = np.greater(metrics.get("grad_norm", np.nan), self._limit)
        return {**metrics, "rollout/exploration_rate": self.exploration_rate}

    def _next_masks(self, slots: np.ndarray) -> np.ndarray:
        """What may be done in the steps of these slots, `[M, A]`; anything where there is none."""
        actions = self._replay.actions
        masks: np.ndarray = actions.reshape(-1, actions.shape[-1]).take(slots, 0)[:, 1:] != 0
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
        raw = self._best(encoded, masks)
        if explores.any():
            raw = np.where(explores[:, None], self._random(count, masks), raw)
        return raw

    def _best(self, encoded: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        return self._actions.mode(self._action_values(self._acting(encoded)[0]), masks)

    def _random(self, count: int, masks: np.ndarray | None) -> np.ndarray:
        return self._actions.uniform(count, self.generator, masks)

    def _choose(
        self, encoded: np.ndarray, deterministic: bool, masks: np.ndarray | None
    ) -> np.ndarray:
        return self._best(encoded, masks) if deterministic else self._sample(encoded, masks)

    def value(self, observations: Observations) -> np.ndarray:
        """max_a Q(s, a) `[N]`; of a single observation, `[]`.

        Raises:
            ValueError: The observations differ from the space in shape or kind.
        """
        batch, is_single = self._encoder.batch(observations)
        self._acting.refresh()
        encoded = self._encoder.encode(batch)
        values: np.ndarray = self._action_values(self._acting(encoded)[0]).max(axis=1)
        self._keep_behind()
        return values[0] if is_single else values

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All variables: those of network and target, and the optimizer's."""
        networks = [*self.network.variables, *self.target.variables]
        return {"network": networks, "optimizer": self.optimizer.variables}

    def training_state(self) -> State:
        """The replay buffer, its priorities, and the running episodes."""
        state = super().training_state()
        if state:
            state["replay"]["moves"] = self._moves
            if self._priorities is not None:
                state["replay"]["priorities"] = self._priorities.get_state()
        return state

    def restore_training(self, state: State) -> None:
        """Restores it, after `begin`.

        Raises:
            ValueError: Buffer or priorities do not fit, or are damaged.
        """
        super().restore_training(state)
        if "replay" in state:
            self._moves = int(state["replay"]["moves"])
            if self._priorities is not None:
                self._priorities.set_state(state["replay"]["priorities"])

    def _policy_arrays(self, inputs: Examples) -> Arrays:
        return {"action_values": self._action_values(self._acting(inputs.observations)[0])}
