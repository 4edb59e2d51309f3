"""Advantage actor-critic (A2C): the synchronous form of Mnih et al. 2016, algorithm S3.

    explore   y, v = network(s) on the host;  a ~ π(·|y)                      [N]
    observe   after n steps: returns G and advantages A = G − v in NumPy      [T, N]
              then one compiled update of
              L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π))

Means are over real steps: the dummy steps of an autoreset have weight 0.
Legend: T time, N environments, B = T·N, P policy parameters y.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from ..training.checkpoint import load_checkpoint, save_checkpoint
from ..training.gradients import compile_step, differentiate
from ..training.returns import explained_variance
from ..training.rollout import Rollout
from ..training.transitions import Transition
from . import saving
from .config import A2CConfig
from .distributions import Distribution, distribution
from .host import host_distribution
from .networks import CompiledNetwork, actor_critic, check_actor_critic, host_network


def a2c_loss(pi: Distribution, vf_coef: float, ent_coef: float):
    """The loss of A2C on outputs (y `[B, P]`, v `[B, 1]`), as `differentiate` takes it.

    L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π)), means weighted by `weights`.
    Targets: raw actions `[B, …]`, advantages A, returns G, weights, each `[B]`.
    """

    def loss(outputs, targets):
        parameters, values = outputs
        actions, advantages, returns, weights = targets

        def mean(each: tf.Tensor) -> tf.Tensor:  # [B] -> []
            return tf.reduce_sum(weights * each) / tf.reduce_sum(weights)

        values = tf.reshape(values, tf.shape(returns))
        policy_loss = -mean(advantages * pi.log_prob(parameters, actions))
        value_loss = mean(tf.square(returns - values))
        entropy_loss = -mean(pi.entropy(parameters))
        total = policy_loss + vf_coef * value_loss + ent_coef * entropy_loss
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy_loss": entropy_loss,
        }
        return total, metrics

    return loss


class A2C:
    """An A2C agent for a Box of observations and any of the four kinds of actions.

    Attributes:
        network: The Keras model, outputs (policy parameters `[B, P]`, values `[B, 1]`). Its
            variables are the truth: set them, and acting and training go on from there.
        optimizer: The Keras optimizer.
        updates: Updates made so far.
    """

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
            ValueError: A space is not supported, or the network does not fit the spaces.
        """
        began = time.perf_counter()
        self.observation_space, self.action_space = observation_space, action_space
        self.config = config = config or A2CConfig()
        self._actions = host_distribution(action_space)
        _check_observation_space(observation_space)
        self.own_network, self.own_optimizer = network is not None, optimizer is not None
        self._device = _checked_device(device)
        with tf.device(self._device):
            self.network = network or actor_critic(
                observation_space,
                self._actions,
                net_arch=config.net_arch,
                activation=config.activation,
                share_trunk=config.share_trunk,
                log_std_init=config.log_std_init,
                seed=seed,
            )
            check_actor_critic(self.network, observation_space, self._actions)
            self._decay = keras.optimizers.schedules.PolynomialDecay(config.learning_rate, 1, 0.0)
            self.optimizer = optimizer or make_optimizer(config, self._decay)
            if not self.optimizer.built:
                self.optimizer.build(self.network.trainable_variables)
        mirrored = host_network(self.network)
        self._forward, self._mirror = mirrored or (CompiledNetwork(self.network), [])
        self._generator = np.random.default_rng(seed)
        self.updates = 0
        self.construction_seconds = time.perf_counter() - began

    def act(self, observations: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions for observations `[N, *shape]`, or the action for one observation `[*shape]`.

        Deterministic actions are the most likely ones; the others are sampled.

        Raises:
            ValueError: The observations differ from the space in shape or kind.
        """
        batch, single = self._batch(observations)
        parameters, _ = self._infer(batch)
        if deterministic:
            raw = self._actions.mode(parameters)
        else:
            raw = self._actions.sample(parameters, self._generator)
        actions = self._actions.execute(raw)
        return actions[0] if single else actions

    def value(self, observations: np.ndarray) -> np.ndarray:
        """Values v `[N]` of observations `[N, *shape]`; of one observation, `[]`."""
        batch, single = self._batch(observations)
        _, values = self._infer(batch)
        return values[0] if single else values

    def begin(self, num_envs: int, total_steps: int) -> None:
        """Makes ready to train: the rollout buffer and the compiled update."""
        config, batch = self.config, self.config.n_steps * num_envs
        shape, actions = self.observation_space.shape, self._actions
        self._rollout = Rollout(
            config.n_steps, num_envs, shape, actions.raw_shape, actions.raw_dtype
        )
        self._decay.decay_steps = max(total_steps // batch, 1)  # read when the step is traced
        loss = a2c_loss(distribution(actions), config.vf_coef, config.ent_coef)

        def reported(outputs, targets):
            total, metrics = loss(outputs, targets)
            rate = getattr(self.optimizer, "learning_rate", math.nan)  # MultiOptimizer has none
            return total, {**metrics, "learning_rate": rate}

        vector = tf.TensorSpec((batch,), tf.float32)
        raw = tf.TensorSpec((batch, *actions.raw_shape), actions.raw_dtype)
        with tf.device(self._device):
            self._step = compile_step(
                self.network,
                differentiate(reported),
                self.network.trainable_variables,
                self.optimizer,
                (tf.TensorSpec((batch, *shape), tf.float32), (raw, vector, vector, vector)),
                mirror=self._mirror,
            )
        self._refresh()

    def explore(self, observations: np.ndarray) -> np.ndarray:
        """Samples actions `[N, ...]` and stores them in the rollout."""
        observations = np.asarray(observations, np.float32)
        parameters, values = self._forward(observations)
        raw = self._actions.sample(parameters, self._generator)
        self._rollout.act(observations, raw, values)
        return self._actions.execute(raw)

    def observe(self, transition: Transition) -> dict[str, float] | None:
        """Stores what the actions led to; when the rollout is full, updates and reports."""
        rollout, config = self._rollout, self.config
        rollout.observe(transition)
        if not rollout.is_full:
            return None
        began = time.perf_counter()
        observations = np.asarray(transition.observations, np.float32)
        returns = rollout.finish(
            observations, lambda x: self._forward(x)[1], config.gamma, config.gae_lambda
        )  # [T, N]
        if not rollout.weights.any():
            return None  # nothing but dummy steps
        advantages = returns - rollout.values
        if config.normalize_advantage:
            advantages = _normalized(advantages, rollout.weights)
        variance = explained_variance(rollout.values, returns, rollout.weights)
        ready = time.perf_counter()
        flat = [
            array.reshape(-1, *array.shape[2:])  # [T, N, ...] -> [B, ...]
            for array in (rollout.actions, advantages, returns, rollout.weights)
        ]
        states = rollout.observations.reshape(-1, *rollout.observations.shape[2:])
        metrics = self._step(states, tuple(flat))
        self.updates += 1
        if self._mirror:
            self._forward.weights = self._step.weights
        metrics["explained_variance"] = variance
        metrics["advantages_seconds"] = ready - began
        metrics["update_seconds"] = time.perf_counter() - ready
        return metrics

    def save(self, path: str | Path, run: Mapping[str, Any] | None = None) -> None:
        """Writes network, optimizer, generator and settings to the directory `path`.

        Args:
            path: A new directory, or that of an agent to replace.
            run: JSON that a training run keeps beside the agent; `restore` returns it.
        """
        networks, optimizers = self.network.variables, self.optimizer.variables
        tensors = saving.pack("network", networks) | saving.pack("optimizer", optimizers)
        manifest = {
            "algorithm": "a2c",
            "config": dataclasses.asdict(self.config),
            "observation_space": saving.space_to_json(self.observation_space),
            "action_space": saving.space_to_json(self.action_space),
            "own_network": self.own_network,
            "own_optimizer": self.own_optimizer,
            "network": saving.describe(networks),
            "optimizer": saving.describe(optimizers),
            "generator": self._generator.bit_generator.state,
            "updates": self.updates,
            "run": dict(run or {}),
        }
        save_checkpoint(path, tensors, manifest)

    @classmethod
    def load(
        cls,
        path: str | Path,
        network: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        device: str = "cpu",
    ) -> A2C:
        """The agent saved at `path`, which goes on as the saved one would have.

        The default network and optimizer are rebuilt from the config. Your own must be passed
        again; each variable is checked by path, shape and dtype.

        Raises:
            ValueError: There is no agent at `path`, or network or optimizer is missing or differs.
        """
        manifest = load_checkpoint(path)[1]
        config = saving.checked_config(manifest, "a2c", A2CConfig, network, optimizer)
        agent = cls(
            saving.space_from_json(manifest["observation_space"]),
            saving.space_from_json(manifest["action_space"]),
            config,
            network=network,
            optimizer=optimizer,
            device=device,
        )
        agent.restore(path)
        return agent

    def restore(self, path: str | Path, *, only_network: bool = False) -> dict[str, Any]:
        """Takes over weights, optimizer, generator and counters of the agent saved at `path`.

        With `only_network` the weights alone, to fine-tune them.

        Returns:
            What the run kept beside it.

        Raises:
            ValueError: There is no agent at `path`, or its variables differ from this one's.
        """
        tensors, manifest = load_checkpoint(path)
        saving.restore("network", self.network.variables, manifest["network"], tensors)
        if only_network:
            return manifest["run"]
        saving.restore("optimizer", self.optimizer.variables, manifest["optimizer"], tensors)
        self._generator.bit_generator.state = manifest["generator"]
        self.updates = manifest["updates"]
        return manifest["run"]

    def _refresh(self) -> None:
        if self._mirror:
            self._forward.weights = [variable.numpy() for variable in self._mirror]

    def _infer(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._refresh()  # the model may have been set since the last update
        return self._forward(observations)

    def _batch(self, observations: np.ndarray) -> tuple[np.ndarray, bool]:
        received, shape = np.asarray(observations), self.observation_space.shape
        single = received.shape == shape
        if not (single or received.shape[1:] == shape) or not np.can_cast(
            received.dtype, self.observation_space.dtype, "same_kind"
        ):
            raise ValueError(
                f"Observations must be {self.observation_space.dtype} of shape {shape} or "
                f"[N, {', '.join(map(str, shape))}]. Received: {received.dtype} of shape "
                f"{received.shape}. Reshape them or cast them with .astype."
            )
        batch = received[None] if single else received
        return np.ascontiguousarray(batch, np.float32), single


def make_optimizer(config: A2CConfig, decay: keras.optimizers.schedules.LearningRateSchedule):
    """RMSprop or Adam as the config says, clipping by global norm."""
    learning_rate = decay if config.lr_schedule == "linear" else config.learning_rate
    if config.optimizer == "adam":
        return keras.optimizers.Adam(
            learning_rate, epsilon=1e-5, global_clipnorm=config.max_grad_norm
        )
    return keras.optimizers.RMSprop(
        learning_rate,
        rho=0.99,
        epsilon=config.rms_prop_eps**2,  # Keras: inside the square root
        global_clipnorm=config.max_grad_norm,
    )


def _checked_device(device: str) -> str:
    kind = device.partition(":")[0].upper()
    known = sorted({found.device_type for found in tf.config.list_logical_devices()})
    if kind not in known:
        raise ValueError(
            f"The device must be one that TensorFlow sees, {' or '.join(known).lower()}. "
            f"Received: device={device!r}. Leave it out for the cpu."
        )
    return device if ":" in device else f"{device}:0"


def _normalized(advantages: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(A − mean A) / (std A + 1e-8) over real steps."""
    real = advantages[weights > 0]
    return (advantages - real.mean()) / (real.std() + np.float32(1e-8))


def _check_observation_space(space: spaces.Space) -> None:
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"The observation space must be a Box. Received: {space}. Wrap the environment with "
            "gymnasium.wrappers.FlattenObservation."
        )
