"""Advantage actor-critic (A2C): the synchronous form of Mnih et al. 2016, algorithm S3.

    explore   y, v = network(s) on the host;  a ~ π(·|y)                      [N]
    observe   after n steps: returns G and advantages A = G − v in NumPy      [T, N]
              then one compiled update of
              L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π))

Means are over real steps: the dummy steps of an autoreset have weight 0.
Legend: T time, N environments, B = T·N, P policy parameters y.
"""

import math
import time
from copy import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from ..training.gradients import compile_step, differentiate
from ..training.optimizers import build_optimizer
from ..training.overlap import Overlapped
from ..training.returns import explained_variance, normalized
from ..training.rollout import Rollout
from ..training.transitions import Transition
from . import networks, saving
from .config import A2CConfig
from .distributions import Distribution, distribution
from .host import Policy
from .spaces import as_batch, check_observation_space, host_distribution


def a2c_loss(pi: Distribution, vf_coef: float, ent_coef: float):
    """The loss of A2C on outputs (y `[B, P]`, v `[B, 1]`), as `differentiate` takes it.

    L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π)), means weighted by `weights`.
    Targets: raw actions `[B, …]`, advantages A, returns G, weights, each `[B]`.
    """

    def loss(outputs, targets):
        parameters, values = outputs
        actions, advantages, returns, weights = targets
        values = tf.reshape(values, tf.shape(returns))
        policy_loss = -advantages * pi.log_prob(parameters, actions)  # [B]
        value_loss = tf.square(returns - values)
        entropy_loss = -pi.entropy(parameters)
        each = tf.stack([policy_loss, value_loss, entropy_loss])  # [3, B]
        means = tf.linalg.matvec(each, weights / tf.reduce_sum(weights))  # [3]
        total = tf.tensordot(means, tf.constant([1.0, vf_coef, ent_coef]), 1)
        names = ("policy_loss", "value_loss", "entropy_loss")
        return total, dict(zip(names, tf.unstack(means), strict=True))

    return loss


class A2C:
    """An A2C agent for a Box of observations and any of the four kinds of actions.

    Attributes:
        algorithm: Its name in files and on the command line.
        network: The Keras model, outputs (policy parameters `[B, P]`, values `[B, 1]`). Its
            variables are the truth: set them, and acting and training go on from there.
        optimizer: The Keras optimizer.
        policy: What acts on the host; a rollout worker needs no more.
        updates: Updates made so far.
    """

    algorithm = "a2c"
    config_type = A2CConfig

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        config: A2CConfig | None = None,
        *,
        network: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """Builds the agent.

        Args:
            observation_space: A Box; observations reach the network as float32 `[B, *shape]`.
            action_space: Discrete, MultiDiscrete, MultiBinary or a Box of floats.
            config: The settings; by default those of `A2CConfig`.
            network: A model of your own with outputs (policy parameters, values).
            optimizer: Any Keras optimizer; it replaces the one of the config, its learning rate,
                schedule and clipping included.
            seed: Of the initial weights and of the sampled actions.
            device: Where the network lives. Small networks are fastest on the "cpu".

        Raises:
            ValueError: A space is not supported, or the network does not fit the spaces or the
                config.
        """
        began = time.perf_counter()
        check_observation_space(observation_space)
        self.observation_space, self.action_space = observation_space, action_space
        self.config = config = config or A2CConfig()
        self._actions = host_distribution(action_space)
        self.own_network, self.own_optimizer = network is not None, optimizer is not None
        self._device = networks.checked_device(device)
        with tf.device(self._device):
            self.network = network or networks.actor_critic(
                observation_space, self._actions, config, seed
            )
            networks.check_actor_critic(self.network, observation_space, self._actions)
            self.optimizer = optimizer or networks.make_optimizer(config)
            build_optimizer(self.optimizer, self.network.trainable_variables)
        self._acting = networks.acting_network(self.network)
        networks.check_overlap(config.overlap_update, self._acting)
        self._present = copy(self._acting)  # training goes on from its own weights
        self.policy = Policy(self._actions, self._acting, seed)
        self._step: Any = None  # made by `begin`
        self.updates = 0
        self.construction_seconds = time.perf_counter() - began

    def act(self, observations: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions for observations `[N, *shape]`, or the action for one observation `[*shape]`.

        Deterministic actions are the most likely ones; the others are sampled.

        Raises:
            ValueError: The observations differ from the space in shape or kind.
        """
        parameters, _, is_single = self._outputs(observations)
        actions = self.policy.choose(parameters, deterministic)
        return actions[0] if is_single else actions

    def value(self, observations: np.ndarray) -> np.ndarray:
        """Values v `[N]` of observations `[N, *shape]`; of one observation, `[]`."""
        _, values, is_single = self._outputs(observations)
        return values[0] if is_single else values

    def _outputs(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Parameters y and values v as the network is now; whether of a single observation."""
        batch, is_single = as_batch(observations, self.observation_space)
        self._present.refresh()
        return *self._present(batch), is_single

    def settle(self) -> None:
        """Waits for an update that runs beside the caller (`overlap_update`)."""
        if isinstance(self._step, Overlapped):
            self._step.settle()

    def begin(self, num_envs: int, total_steps: int, done_steps: int = 0) -> None:
        """Makes ready to train: the rollout buffer and the compiled update."""
        config, batch = self.config, self.config.n_steps * num_envs
        shape, actions = self.observation_space.shape, self._actions
        self._rollout = Rollout(
            config.n_steps, num_envs, shape, actions.raw_shape, actions.raw_dtype
        )
        self._done_steps, self._total_steps = done_steps, total_steps
        loss = a2c_loss(distribution(actions), config.vf_coef, config.ent_coef)

        def reported(outputs, targets):
            total, metrics = loss(outputs, targets)
            rate = getattr(self.optimizer, "learning_rate", math.nan)  # MultiOptimizer has none
            return total, {**metrics, "learning_rate": rate}

        vector = tf.TensorSpec((batch,), tf.float32)
        raw = tf.TensorSpec((batch, *actions.raw_shape), actions.raw_dtype)
        with tf.device(self._device):
            step = compile_step(
                self.network,
                differentiate(reported),
                self.network.trainable_variables,
                self.optimizer,
                (tf.TensorSpec((batch, *shape), tf.float32), (raw, vector, vector, vector)),
                mirror=self._acting.variables,
            )
        self._step = Overlapped(step) if config.overlap_update else step
        self._acting.refresh()

    def explore(self, observations: np.ndarray) -> np.ndarray:
        """Samples actions `[N, ...]` and stores them in the rollout."""
        observations = np.asarray(observations, np.float32)
        actions, raw, values = self.policy.sample(observations)
        self._rollout.act(observations, raw, values)
        return actions

    def observe(self, transition: Transition) -> dict[str, Any] | None:
        """Stores what the actions led to; when the rollout is full, updates and reports."""
        rollout, config = self._rollout, self.config
        rollout.observe(transition)
        if not rollout.is_full:
            return None
        began = time.perf_counter()
        observations = np.asarray(transition.observations, np.float32)
        returns = rollout.finish(
            observations, lambda x: self._acting(x)[1], config.gamma, config.gae_lambda
        )  # [T, N]
        if not rollout.weights.any():
            return None  # nothing but dummy steps
        advantages = returns - rollout.values
        if config.normalize_advantage:
            advantages = normalized(advantages, rollout.weights)
        variance = explained_variance(rollout.values, returns, rollout.weights)
        if config.lr_schedule == "linear" and not self.own_optimizer:
            left = max(1.0 - self._done_steps / self._total_steps, 0.0)
            self.optimizer.learning_rate = left * config.learning_rate
        self._done_steps += int(rollout.weights.sum())
        ready = time.perf_counter()
        arrays = (rollout.observations, rollout.actions, advantages, returns, rollout.weights)
        observations, *targets = (a.reshape(-1, *a.shape[2:]) for a in arrays)  # [B, ...]
        metrics = self._step(observations, tuple(targets))
        self.updates += 1
        self._acting.weights = self._step.weights
        seconds = {"advantages": ready - began, "update": time.perf_counter() - ready}
        return {**metrics, "explained_variance": variance, "seconds": seconds}

    save, restore = saving.save_agent, saving.restore_agent
    load = classmethod(saving.load_agent)
