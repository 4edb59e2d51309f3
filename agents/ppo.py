"""Proximal policy optimisation (PPO): the clipped surrogate of Schulman et al. 2017, eqs. 7 and 9.

    explore   as A2C                                                          [N]
    observe   after n steps: λ-returns G and advantages A in NumPy            [T, N]
              then one compiled call: E epochs of minibatches, each an update of
              r = π(a|s) / π_old(a|s)
              L = −mean(min(r·A, clip(r, 1 − ε, 1 + ε)·A)) + c_v·mean((G − v)²) − c_e·mean(H(π))

Means are over real steps: the dummy steps of an autoreset have weight 0.
Legend: T time, N environments, B = T·N, P policy parameters y, M examples of a minibatch.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ..training.core.compiled import Nest
from ..training.core.gradients import compile_step
from ..training.core.losses import Loss
from ..training.core.optimizers import assign
from ..training.experience.protocols import Metrics
from ..training.experience.rollout import Rollout
from .base.agent import Update
from .base.on_policy import OnPolicyAgent
from .base.overlap import OverlappedStep
from .configs.ppo import PPOConfig
from .networks.distributions import Distribution, distribution


class PPOTargets(NamedTuple):
    """What a loss of PPO receives of the examples of a minibatch, besides the outputs."""

    actions: tf.Tensor  # [M, …]: raw ones, as the policy sampled them
    old_log_prob: tf.Tensor  # [M]: log π_old(a|s) of the policy that sampled them
    old_values: tf.Tensor  # [M]: values v_old at that time
    advantages: tf.Tensor  # [M]
    returns: tf.Tensor  # [M]
    weights: tf.Tensor  # [M]: 1 for real steps, 0 for dummy steps


class Sampled(NamedTuple):
    """What the update receives; `prepare` computes `PPOTargets` from it, once a call."""

    actions: np.ndarray
    old_parameters: np.ndarray  # [B, P]
    old_values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    weights: np.ndarray


def ppo_loss(pi: Distribution, config: PPOConfig, clip_range: tf.Tensor) -> Loss:
    """The loss of PPO on outputs (y `[M, P]`, v `[M, 1]`), as `differentiate` takes it.

    Targets: `PPOTargets`, with log π_old(a|s), values v_old, advantages A and returns G. With
    `clip_range_vf` c the values count as
    v_old + clip(v − v_old, ±c). The metric `stop` is whether mean((r − 1) − log r), an estimate of
    KL(π_old, π), exceeds 1.5 times the target (Schulman 2020, "Approximating KL Divergence").
    """

    def loss(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        parameters, values, *_ = outputs
        actions, old_log_prob, old_values, advantages, returns, weights = targets
        count = tf.reduce_sum(weights)  # of real steps
        weights = weights / tf.maximum(count, 1.0)
        if config.normalize_advantage:  # of a single real step nothing is known
            advantages = tf.where(count > 1.0, _normalized(advantages, weights), advantages)
        log_prob, entropy = pi(parameters, actions)
        log_ratio = log_prob - old_log_prob  # [M]
        ratio = tf.exp(log_ratio)
        clipped = tf.clip_by_value(ratio, 1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -tf.minimum(ratio * advantages, clipped * advantages)
        values = tf.reshape(values, tf.shape(returns))
        if config.clip_range_vf is not None:
            limit = config.clip_range_vf
            values = old_values + tf.clip_by_value(values - old_values, -limit, limit)
        value_loss = tf.square(returns - values)
        approx_kl = (ratio - 1.0) - log_ratio
        is_clipped = tf.cast(tf.abs(ratio - 1.0) > clip_range, tf.float32)
        each = tf.stack([policy_loss, value_loss, -entropy, approx_kl, is_clipped])  # [5, M]
        means = tf.linalg.matvec(each, weights)  # [5]
        total = tf.tensordot(means[:3], tf.constant([1.0, config.vf_coef, config.ent_coef]), 1)
        losses = ("policy_gradient_loss", "value_loss", "entropy_loss")
        names = (*losses, "approx_kl", "clip_fraction")
        metrics = dict(zip(names, tf.unstack(means), strict=True))
        if config.target_kl is not None:
            metrics["stop"] = metrics["approx_kl"] > 1.5 * config.target_kl
        return total, metrics

    return loss


def _normalized(advantages: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """(A − mean A) / (std A + 1e-8), of a minibatch; the weights' sum is 1."""
    centred = advantages - tf.tensordot(weights, advantages, 1)
    std = tf.sqrt(tf.tensordot(weights, tf.square(centred), 1))
    return centred / (std + 1e-8)


class PPO(OnPolicyAgent):
    """A PPO agent: it acts and stores as A2C does, and learns from every rollout several times."""

    algorithm = "ppo"
    config_type = PPOConfig
    _is_cuttable = True
    _reserved = OnPolicyAgent._reserved - {"stop"}  # noqa: SLF001  which ends the epochs

    @property
    def curves(self) -> set[str]:
        """The names of the metrics that it reports."""
        return super().curves | {"approx_kl", "clip_fraction"}

    def _compile(self, encoded: tf.TensorSpec, raw: tf.TensorSpec, vector: tf.TensorSpec) -> Update:
        config, batch = self.config, vector.shape[0]
        if batch % config.batch_size:
            raise ValueError(
                "batch_size must divide the rollout, n_steps times the environments. Received: "
                f"batch_size={config.batch_size} for {batch} steps. Pass one that does."
            )
        self._clip_range = tf.Variable(config.clip_range)
        self._updates: int | tuple[int, int] = config.n_epochs
        if config.batch_size < batch:  # otherwise there is nothing to shuffle
            self._updates = config.n_epochs * (batch // config.batch_size), config.batch_size
        pi = distribution(self._actions)
        loss = ppo_loss(pi, config, self._clip_range)

        def prepare(inputs: Nest, targets: Nest) -> tuple[Nest, Nest]:
            # log π_old(a|s) is the same in all epochs.
            actions, old_parameters, *others = targets
            return inputs, PPOTargets(actions, pi(old_parameters, actions)[0], *others)

        parameters = tf.TensorSpec((batch, self._actions.size), tf.float32)
        self.turns = {"": self._turn(loss)}
        step = compile_step(
            *self.turns[""],
            (encoded, Sampled(raw, parameters, vector, vector, vector, vector)),
            updates=self._updates,
            prepare=prepare,
            **self._mirrored(),
        )
        return OverlappedStep(step) if config.overlap_update else step

    def _learn(self, rollout: Rollout, advantages: np.ndarray, returns: np.ndarray) -> Metrics:
        clip_range = self.config.clip_range
        if self.config.clip_schedule == "linear":
            clip_range *= self._left
            assign(self._clip_range, clip_range)
        arrays = [rollout.observations, rollout.actions, rollout.parameters, rollout.values]
        arrays += [advantages, returns, rollout.weights]
        inputs, *targets = (a.reshape(-1, *a.shape[2:]) for a in arrays)  # [B, ...]
        self.batch = inputs, Sampled(*targets)
        rows = self._rows(len(inputs))
        metrics = self._step(inputs, Sampled(*targets), rows)  # [K] of the updates that were done
        made = np.size(metrics.pop("stop", metrics["loss"]))
        metrics["clipped_updates"] = np.greater(metrics.get("grad_norm", math.nan), self._limit)
        # A loss of the user's may stop at the first minibatch: then there is nothing to report.
        means = {name: float(np.mean(values)) for name, values in metrics.items() if made}
        clipped = {"clip_range": clip_range} if self.loss is None else {}
        return {**means, **clipped, "gradient_steps": made}

    def _rows(self, count: int) -> np.ndarray | None:
        """The examples of each minibatch, shuffled in each epoch; None if one holds them all."""
        if isinstance(self._updates, int):
            return None
        epochs = [self.generator.permutation(count) for _ in range(self.config.n_epochs)]
        return np.concatenate(epochs).astype(np.int32).reshape(self._updates)  # [K, M]
