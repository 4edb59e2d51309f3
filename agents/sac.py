"""Soft actor-critic (SAC): Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications".

    explore   a ~ tanh(N(μ(s), σ(s)²)) on the host                            [N]
    observe   K minibatches of M from the replay buffer, one compiled call; each step in turn
              a' ~ π(s'),  y = r + discount·(minᵢ Q'ᵢ(s', a') − α·log π(a'|s'))
              critics   L = ½·Σᵢ mean((Qᵢ(s, a) − y)²)                         (eqs. 5, 6)
              actor     L = mean(α·log π(ã|s) − minᵢ Qᵢ(s, ã)),  ã ~ π(s)      (eq. 9)
              α         L = −log α·mean(log π(ã|s) + H),  H the target entropy (eq. 18)
              targets   θ' ← τ·θ + (1 − τ)·θ'

As Stable-Baselines3 does, the last loss has log α where the paper has α: the same sign.
Legend: N environments, K gradient steps, M examples of a minibatch, d dimensions of an action.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from ..training.core.turns import compile_turns
from .acting.exploration import StateNoise
from .acting.squashed import LEAST_LOG_STD, MOST_LOG_STD, SquashedGaussian, refuse_masks
from .base.critics import ActorCritics, CriticTargets, NextValues, actor_network, q_values
from .configs.sac import SACConfig
from .networks.models import Layers, sde_features
from .networks.targets import following, target_of

if TYPE_CHECKING:
    from ..training.core.compiled import Nest
    from ..training.core.losses import Loss
    from ..training.experience.protocols import Metrics, State
    from .base.agent import Networks, Optimizers, Update
    from .base.off_policy import Examples


def squashed(
    parameters: tf.Tensor, noise: tf.Tensor, most_mean: float = math.inf
) -> tuple[tf.Tensor, tf.Tensor]:
    """Actions a = tanh(u), u = μ + σ·ε, `[M, d]`, and their log π(a|s) `[M]`.

    log π = Σ log N(u; μ, σ²) − log(1 − tanh(u)²), over the dimensions, where

        log(1 − tanh(u)²) = 2·(log 2 − u − softplus(−2u))

    stays exact where 1 − tanh(u)² rounds to 0.

    Args:
        parameters: y = [μ, log σ, …], `[M, P]`.
        noise: ε `[M, d]`, standard normal.
        most_mean: Bound of |μ|.

    Source: Haarnoja et al. 2018, eq. 26.
    """
    count = noise.shape[1]
    mean = parameters[:, :count]
    if most_mean < math.inf:
        mean = tf.clip_by_value(mean, -most_mean, most_mean)
    log_std = parameters[:, count : 2 * count]
    log_std = tf.clip_by_value(log_std, LEAST_LOG_STD, MOST_LOG_STD)
    u = mean + tf.exp(log_std) * noise
    gaussian = -0.5 * tf.square(noise) - log_std - 0.5 * math.log(2.0 * math.pi)
    change = 2.0 * (math.log(2.0) - u - tf.nn.softplus(-2.0 * u))
    return tf.tanh(u), tf.reduce_sum(gaussian - change, axis=1)


def critic_loss(q: tf.Tensor, targets: CriticTargets) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """½·Σᵢ mean((Qᵢ − y)²) of Q(s, a) `[2, M]`, as `differentiate` takes it."""
    loss = 0.5 * tf.reduce_sum(tf.reduce_mean(tf.square(q - targets.y), axis=1))
    return loss, {"q": tf.reduce_mean(q)}


def actor_loss(target_entropy: float | None) -> Loss:
    """The loss of actor and temperature, as `differentiate` takes it.

    L = mean(α·log π − minᵢ Qᵢ) − log α·mean(log π + H): no gradient of the first part goes through
    α, none of the second through π. Without a target entropy H the second is left out.
    Outputs: Q `[2, M]`, log π(ã|s) `[M]`, log α `[]`.
    """

    def loss(outputs: Nest, _: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        q, log_prob, log_alpha = outputs
        alpha = tf.stop_gradient(tf.exp(log_alpha))
        policy_loss = tf.reduce_mean(alpha * log_prob - tf.reduce_min(q, axis=0))
        entropy = -tf.reduce_mean(log_prob)
        metrics = {"policy_loss": policy_loss, "ent_coef": alpha, "entropy": entropy}
        if target_entropy is None:
            return policy_loss, metrics
        alpha_loss = log_alpha * tf.stop_gradient(entropy - target_entropy)
        return policy_loss + alpha_loss, {**metrics, "ent_coef_loss": alpha_loss}

    return loss


METRICS = {
    "learning_rate": "learning_rate",
    "critic_loss": "critic_loss",
    "critic_q": "q",
    "critic_grad_norm": "critic_grad_norm",
    "actor_policy_loss": "actor_loss",
    "actor_ent_coef": "ent_coef",
    "actor_entropy": "entropy",
    "actor_ent_coef_loss": "ent_coef_loss",
    "actor_grad_norm": "actor_grad_norm",
}
"""From the step's names of metrics to those that are reported."""


class SAC(ActorCritics):
    """A SAC agent for Box actions; how it is built, acts and is saved is in `OffPolicyAgent`.

    Attributes:
        log_alpha: log α, a Keras variable; trained if `ent_coef` is "auto".
    """

    config: SACConfig
    _actions: SquashedGaussian
    algorithm = "sac"
    config_type = SACConfig
    curves = frozenset(METRICS.values())
    _draws = 2  # ε of a' and of ã

    def _build(self, network: Networks | None, optimizer: Optimizers | None, seed: int) -> None:
        config = self.config
        self._actions = SquashedGaussian(
            self.action_space, sde_features(config, network is not None)
        )
        self._is_trained = config.ent_coef == "auto"
        alpha = config.ent_coef_init if config.ent_coef == "auto" else config.ent_coef
        # critical: exp(log α) must be exactly 0 without an entropy bonus, and finite otherwise.
        log_alpha = math.log(alpha) if alpha > 0 else -1e9
        self.log_alpha = keras.Variable(log_alpha, dtype="float32", name="log_alpha")
        self._prepare(network, optimizer, seed)
        self._noise: StateNoise | None = None
        if config.use_sde:
            read = self._acting.reader(self.network[0].get_layer("log_std").log_std)
            self._noise = StateNoise(read, config.train_freq, config.sde_sample_freq)

    def _make_actor(self, layers: Layers) -> keras.Model:
        config, (count,) = self.config, self._actions.raw_shape
        if config.use_sde:
            log_std_init = config.log_std_init
            return actor_network(self._encoder, config, layers, count, log_std_init=log_std_init)
        return actor_network(self._encoder, config, layers, 2 * count)

    def _make_targets(self) -> list[keras.Model]:
        return [target_of(critic) for critic in self.network[1:]]

    @property
    def _actor_variables(self) -> list[keras.Variable]:
        alpha = [self.log_alpha] if self._is_trained else []
        return [*self.network[0].trainable_variables, *alpha]

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All variables: those of networks, targets and temperature, and the optimizers'."""
        parts = super().parts
        return {**parts, "network": [*parts["network"], self.log_alpha]}

    def _compile(self, masked: bool) -> Update:
        config, (count,) = self.config, self._actions.raw_shape
        steps, size = self._gradient_steps, config.batch_size
        actor, *critics = self.network
        targets, log_alpha, most_mean = self.targets, self.log_alpha, self._actions.most_mean

        def next_values(inputs: Examples) -> NextValues:
            parameters = actor(inputs.next_observations, training=False)
            next_actions, log_prob = squashed(parameters, inputs.noise[:, :count], most_mean)
            next_q = q_values(targets, inputs.next_observations, next_actions)
            return NextValues(next_q, -tf.exp(log_alpha.value) * log_prob)

        def act(inputs: Examples) -> Nest:
            parameters = actor(inputs.observations, training=True)
            actions, log_prob = squashed(parameters, inputs.noise[:, count:], most_mean)
            q = q_values(critics, inputs.observations, actions)
            return q, log_prob, tf.convert_to_tensor(log_alpha.value)

        target: float | None = None
        if self._is_trained:
            is_auto = config.target_entropy == "auto"
            target = -float(count) if is_auto else float(config.target_entropy)
        of_actor, of_critics = self.optimizer
        self.turns = {
            "critic": self._critic_turn(next_values, critic_loss, of_critics),
            "actor": self._actor_turn(act, actor_loss(target), of_actor),
        }
        self._rows = np.arange(steps * size, dtype=np.int32).reshape(steps, size)
        return compile_turns(
            self.turns,
            self._signature(steps * size),
            averages=following(targets, critics, config.tau),
            updates=(steps, size) if steps > 1 else None,
            mirror=self._acting.variables,
        )

    def _learn(self) -> Metrics:
        self.batch = self._minibatches(self._gradient_steps)
        rows = (self._rows,) if self._gradient_steps > 1 else ()
        metrics = self._scheduled_step(*self.batch, *rows)
        if self._noise is not None:
            self._noise.renew()
        named = {name: metrics[key] for key, name in METRICS.items() if key in metrics}
        # Those of the user's losses; of the algorithm's the rest is of no use.
        own = [key for key in metrics if key not in METRICS and key.split("_")[0] in self._losses]
        return named | {key: metrics[key] for key in own}

    def _sample(self, encoded: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        if self._noise is None:
            return super()._sample(encoded, masks)
        refuse_masks(masks)
        (parameters,) = self._acting(encoded)
        mean, _ = self._actions.clipped(parameters)
        parameters = np.concatenate([mean, parameters[:, mean.shape[1] :]], axis=1)
        raw: np.ndarray = np.tanh(self._noise.sample(parameters, self.generator))
        return raw

    def training_state(self) -> State:
        """The replay buffer, and of the running episodes also the noise that explores."""
        state = super().training_state()
        if state and self._noise is not None:
            state["episodes"]["noise"] = self._noise.get_state()
        return state

    def restore_training(self, state: State) -> None:
        """Restores it, after `begin`.

        Raises:
            ValueError: Buffer or noise do not fit, or are damaged.
        """
        super().restore_training(state)
        if self._noise is not None and state.get("episodes") is not None:
            self._noise.set_state(state["episodes"]["noise"])
