"""Advantage actor-critic (A2C): the synchronous form of Mnih et al. 2016, algorithm S3.

    explore   y, v = network(s) on the host;  a ~ π(·|y)                      [N]
    observe   after n steps: returns G and advantages A = G − v in NumPy      [T, N]
              then one compiled update of
              L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π))

Means are over real steps: the dummy steps of an autoreset have weight 0.
Legend: T time, N environments, B = T·N, P policy parameters y.
"""

import math

import numpy as np
import tensorflow as tf

from ..training.core.compiled import Nest
from ..training.core.gradients import compile_step
from ..training.core.losses import Loss
from ..training.experience.protocols import Metrics
from ..training.experience.returns import normalized
from ..training.experience.rollout import Rollout
from .base.agent import Update
from .base.on_policy import OnPolicyAgent, Targets
from .base.overlap import OverlappedStep
from .configs.a2c import A2CConfig
from .networks.distributions import Distribution, distribution


def a2c_loss(pi: Distribution, vf_coef: float, ent_coef: float) -> Loss:
    """The loss of A2C on outputs (y `[B, P]`, v `[B, 1]`), as `differentiate` takes it.

    L = −mean(A·log π(a|s)) + c_v·mean((G − v)²) − c_e·mean(H(π)), means weighted by `weights`.
    Targets: `Targets`, with advantages A and returns G.
    """

    def loss(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
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


class A2C(OnPolicyAgent):
    """An A2C agent; how it is built, acts and is saved is in `OnPolicyAgent`."""

    algorithm = "a2c"
    config_type = A2CConfig

    def _compile(self, encoded: tf.TensorSpec, raw: tf.TensorSpec, vector: tf.TensorSpec) -> Update:
        config = self.config
        loss = a2c_loss(distribution(self._actions), config.vf_coef, config.ent_coef)
        self.turns = {"": self._turn(loss)}
        signature = encoded, Targets(raw, vector, vector, vector)
        step = compile_step(*self.turns[""], signature, **self._mirrored())
        return OverlappedStep(step) if config.overlap_update else step

    def _learn(self, rollout: Rollout, advantages: np.ndarray, returns: np.ndarray) -> Metrics:
        if self.config.normalize_advantage:
            advantages = normalized(advantages, rollout.weights)
        arrays = (rollout.observations, rollout.actions, advantages, returns, rollout.weights)
        inputs, *targets = (a.reshape(-1, *a.shape[2:]) for a in arrays)  # [B, ...]
        self.batch = inputs, Targets(*targets)
        metrics = self._step(*self.batch)
        return metrics | {"clipped_updates": metrics.get("grad_norm", math.nan) > self._limit}
