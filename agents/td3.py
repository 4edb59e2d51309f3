"""Twin delayed deterministic policy gradient (TD3): Fujimoto et al. 2018, algorithm 1.

    explore   a = clip(μ(s) + noise, −1, 1) on the host                       [N]
    observe   K minibatches of M from the replay buffer, a compiled call each
              a' = clip(μ'(s') + clip(σ·ε, −c, c), −1, 1)
              y = r + discount·minᵢ Q'ᵢ(s', a')
              critics   L = Σᵢ mean((Qᵢ(s, a) − y)²)
              and every `policy_delay` gradient steps
              actor     L = −mean(Q₁(s, μ(s)))
              targets   θ' ← τ·θ + (1 − τ)·θ', the actor's too

Legend: N environments, K gradient steps, M examples of a minibatch, d dimensions of an action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from ..training.common import interrupts
from ..training.core.turns import compile_turns
from .acting.squashed import Bounded
from .base.critics import ActorCritics, CriticTargets, NextValues, actor_network, q_values
from .configs.td3 import TD3Config
from .networks.targets import following, target_of

if TYPE_CHECKING:
    import keras

    from ..training.core.compiled import Nest
    from ..training.experience.protocols import Metrics
    from .base.agent import Networks, Optimizers, Update
    from .base.off_policy import Examples
    from .networks.models import Layers


def smoothed(actions: tf.Tensor, noise: tf.Tensor, std: float, limit: float) -> tf.Tensor:
    """clip(a + clip(σ·ε, −c, c), −1, 1), of actions and standard normal noise ε, `[M, d]`.

    Source: Fujimoto et al. 2018, eq. 14.
    """
    return tf.clip_by_value(actions + tf.clip_by_value(std * noise, -limit, limit), -1.0, 1.0)


def critic_loss(q: tf.Tensor, targets: CriticTargets) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Σᵢ mean((Qᵢ − y)²) of Q(s, a) `[2, M]`, as `differentiate` takes it."""
    loss = tf.reduce_sum(tf.reduce_mean(tf.square(q - targets.y), axis=1))
    return loss, {"q": tf.reduce_mean(q)}


def actor_loss(q: tf.Tensor, _: Nest) -> tf.Tensor:
    """−mean(Q₁) of the outputs Q₁ `[1, M]`, as `differentiate` takes it."""
    return -tf.reduce_mean(q)


class TD3(ActorCritics):
    """A TD3 agent for Box actions; how it is built, acts and is saved is in `OffPolicyAgent`."""

    config: TD3Config
    algorithm = "td3"
    config_type = TD3Config
    curves = frozenset({"critic_loss", "q", "critic_grad_norm", "learning_rate"})

    def _build(self, network: Networks | None, optimizer: Optimizers | None, seed: int) -> None:
        self._actions = Bounded(self.action_space, self.config.action_noise)
        self._prepare(network, optimizer, seed)

    def _make_actor(self, layers: Layers) -> keras.Model:
        return actor_network(self._encoder, self.config, layers, self._actions.size, "tanh")

    def _make_targets(self) -> list[keras.Model]:
        return [target_of(model) for model in self.network]

    def _compile(self, masked: bool) -> Update:
        config = self.config
        actor, *critics = self.network
        next_actor, *next_critics = self.targets

        def next_values(inputs: Examples) -> NextValues:
            next_actions = smoothed(
                next_actor(inputs.next_observations, training=False),
                inputs.noise,
                config.target_policy_noise,
                config.target_noise_clip,
            )
            next_q = q_values(next_critics, inputs.next_observations, next_actions)
            return NextValues(next_q, tf.zeros_like(next_q[0]))

        def act(inputs: Examples) -> tf.Tensor:
            observations = inputs.observations
            return q_values(critics[:1], observations, actor(observations, training=True))

        of_actor, of_critics = self.optimizer
        critic = self._critic_turn(next_values, critic_loss, of_critics)
        self.turns = {"critic": critic, "actor": self._actor_turn(act, actor_loss, of_actor)}
        signature, mirror = self._signature(config.batch_size), self._acting.variables
        self._critic_step = compile_turns({"critic": critic}, signature, mirror=mirror)
        self._both_step = compile_turns(
            self.turns,
            signature,
            averages=following(self.targets, self.network, config.tau),
            mirror=mirror,
        )
        return self._both_step

    def _learn(self) -> Metrics:
        made: dict[str, list[float]] = {}
        for count in range(self.updates + 1, self.updates + 1 + self._gradient_steps):
            # critical: `_step` is the last one called; acting continues with its weights.
            is_due = count % self.config.policy_delay == 0
            self._step = self._both_step if is_due else self._critic_step
            if made:
                interrupts.notice()
            self.batch = self._minibatches(1)
            for name, value in self._scheduled_step(*self.batch).items():
                made.setdefault("q" if name == "critic_q" else name, []).append(value)
        return made
