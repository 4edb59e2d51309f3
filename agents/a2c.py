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
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..training.common.interrupts import UpdateCut
from ..training.core.gradients import compile_step
from ..training.core.lifts import differentiate
from ..training.core.overlap import Overlapped, assign
from ..training.core.table import NonfiniteUpdate
from ..training.core.turns import Turn
from ..training.experience.returns import normalized, return_metrics
from ..training.experience.rollout import Rollout
from ..training.experience.transitions import Transition
from .actor_critic import ActorCritic
from .bad_updates import explained
from .configs.config import A2CConfig, ActorCriticConfig
from .networks.distributions import Distribution, distribution


def a2c_loss(pi: Distribution, vf_coef: float, ent_coef: float):
    """The loss of A2C on outputs (y `[B, P]`, v `[B, 1]`), as `differentiate` takes it.

    L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π)), means weighted by `weights`.
    Targets: raw actions `[B, …]`, advantages A, returns G, weights, each `[B]`.
    """

    def loss(outputs, targets):
        parameters, values, *_ = outputs
        actions, advantages, returns, weights = targets
        values = tf.reshape(values, tf.shape(returns))
        log_prob, entropy = pi(parameters, actions)  # [B]
        value_loss = tf.square(returns - values)
        each = tf.stack([-advantages * log_prob, value_loss, -entropy])  # [3, B]
        means = tf.linalg.matvec(each, weights / tf.reduce_sum(weights))  # [3]
        total = tf.tensordot(means, tf.constant([1.0, vf_coef, ent_coef]), 1)
        names = ("policy_loss", "value_loss", "entropy_loss")
        return total, dict(zip(names, tf.unstack(means), strict=True))

    return loss


class A2C(ActorCritic):
    """An A2C agent; how it is built, acts and is saved is in `ActorCritic`."""

    algorithm = "a2c"
    config_type: type[ActorCriticConfig] = A2CConfig

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Makes ready to train: the rollout buffer and the compiled update.

        An agent that was trained before is trained further; its schedules count all its steps.
        """
        if not done_steps:
            self._warn_of_shortfall(num_envs, total_steps)
        n_steps, encoder, actions = self.config.n_steps, self._encoder, self._actions
        batch, raw_shape = n_steps * num_envs, actions.masked_shape if masked else actions.raw_shape
        shapes = (encoder.shape, raw_shape, actions.raw_dtype, encoder.dtype, actions.size)
        self._rollout = Rollout(n_steps, num_envs, *shapes)
        if self.normalizer is not None:
            self.normalizer.restart()
        self._count_steps(total_steps, done_steps)
        vector = tf.TensorSpec((batch,), tf.float32)
        raw = tf.TensorSpec((batch, *raw_shape), actions.raw_dtype)
        encoded = tf.TensorSpec((batch, *encoder.shape), encoder.dtype)
        with tf.device(self._device):
            self._step = self._compile(encoded, raw, vector)
        self._acting.refresh()

    def _compile(self, encoded: tf.TensorSpec, raw: tf.TensorSpec, vector: tf.TensorSpec) -> Any:
        config = self.config
        loss = a2c_loss(distribution(self._actions), config.vf_coef, config.ent_coef)
        loss_gradient = differentiate(self._completed(loss))
        variables = self.network.trainable_variables
        self.turns = {"": Turn(self.network, loss_gradient, variables, self.optimizer)}
        signature = encoded, (raw, vector, vector, vector)
        step = compile_step(*self.turns[""], signature, **self._told())
        return Overlapped(step) if config.overlap_update else step

    def _told(self) -> dict[str, Any]:
        """What comes back with the metrics: the weights for acting, the gradients for a look."""
        size = sum(math.prod(variable.shape) for variable in self.network.trainable_variables)
        gradients = keras.Variable(np.zeros(size, np.float32))
        return {"mirror": [*self._acting.variables, gradients], "gradients": gradients}

    def explore(self, observations: Any, action_masks: np.ndarray | None = None) -> np.ndarray:
        """Samples actions `[N, ...]` and stores them in the rollout."""
        encoded = self._encoder.encode(observations)
        if self.normalizer is not None:
            encoded = self.normalizer.explore(encoded)
        actions, raw, values, parameters = self.policy.sample(encoded, action_masks)
        self._rollout.act(encoded, raw, values, parameters)
        return actions

    def observe(self, transition: Transition) -> dict[str, Any] | None:
        """Stores what the actions led to; when the rollout is full, updates and reports.

        Raises:
            FloatingPointError: A number went bad; the update was refused, the rollout forgotten.
        """
        rollout = self._rollout
        if self.normalizer is not None:
            try:
                transition = self.normalizer.observe(transition)
            except FloatingPointError:
                rollout.clear()
                self.normalizer.restart()
                raise
        if transition.final_observations is not None:
            final = self._encode(transition.final_observations)
            transition = transition._replace(final_observations=final)
        rollout.observe(transition)
        return self.resume_update(transition.observations) if rollout.is_full else None

    def resume_update(self, observations: Any) -> dict[str, Any] | None:
        """Updates if the rollout is full, as it is after an update that a signal cut.

        Args:
            observations: Those that follow the rollout.

        Raises:
            FloatingPointError: As `observe`.
            UpdateCut: A signal ended the update; agent and rollout are as they were before it.
        """
        rollout = self._rollout
        if not rollout.is_full:
            return None
        steps, final = rollout.steps, rollout.final
        try:
            return self._update(rollout, self._encode(observations))
        except UpdateCut:
            rollout.steps, rollout.final = steps, final
            raise

    @np.errstate(all="ignore")  # the gate of the update notices, and says more
    def _update(self, rollout: Rollout, observations: np.ndarray) -> dict[str, Any] | None:
        config, began = self.config, time.perf_counter()
        returns = rollout.finish(
            observations, lambda x: self._acting(x)[1], config.gamma, config.gae_lambda
        )  # [T, N]
        if not rollout.weights.any():
            return None  # nothing but dummy steps
        told = return_metrics(rollout.values, returns, rollout.weights)
        ready = time.perf_counter()
        if config.lr_schedule == "linear" and not self.own_optimizer:
            assign(self.optimizer.learning_rate.value, self._left * config.learning_rate)
        try:
            with self._may_be_cut():
                metrics = self._learn(rollout, returns - rollout.values, returns)
        except NonfiniteUpdate as error:
            raise explained(error, self._step, rollout, self._acting) from None
        self._done_steps += int(rollout.weights.sum())
        self.updates += 1
        *self._acting.weights, self.gradients = self._step.weights
        seconds = {"advantages": ready - began, "update": time.perf_counter() - ready}
        return {**metrics, **told, "seconds": seconds}

    def _learn(self, rollout: Rollout, advantages: np.ndarray, returns: np.ndarray) -> dict:
        if self.config.normalize_advantage:
            advantages = normalized(advantages, rollout.weights)
        arrays = (rollout.observations, rollout.actions, advantages, returns, rollout.weights)
        inputs, *targets = (a.reshape(-1, *a.shape[2:]) for a in arrays)  # [B, ...]
        self.batch = inputs, tuple(targets)
        metrics = self._step(*self.batch)
        return metrics | {"clipped_updates": metrics.get("grad_norm", math.nan) > self._limit}
