"""What SAC and TD3 have in common: an actor, two critics and their targets, and how they act.

    actor     s -> y `[B, P]`                  policy parameters; the layout is in `squashed.py`
    critics   (s, a) -> Q `[B, 1]` or `[B]`    two of them; the lesser one counts
    targets   clones that follow: θ' ← τ·θ + (1 − τ)·θ'

Source: Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods".
Legend: B examples, N environments, K gradient steps of M examples, d dimensions of an action.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ...training.core.optimizers import build_optimizer, learning_rate, refuse_averages
from ...training.core.turns import Turn
from ..networks.memoryless import check_memoryless
from ..networks.mirrors import acting_network
from ..networks.models import Layers, StateLogStd, features_of
from .losses import fixed_target, lifted, of_targets
from .off_policy import Examples, OffPolicyAgent

if TYPE_CHECKING:
    from ...training.core.compiled import Nest
    from ...training.core.losses import Loss
    from ...training.experience.protocols import Metrics, Observations
    from ..acting.observations import Encoder
    from ..acting.squashed import Bounded
    from ..configs.config import OffPolicyConfig
    from .agent import Networks, Optimizers
    from .inspection import Arrays


def actor_network(
    encoder: Encoder,
    config: OffPolicyConfig,
    layers: Layers,
    width: int,
    activation: str | None = None,
    log_std_init: float | None = None,
) -> keras.Model:
    """The default actor: dense layers; an image goes through convolutions first.

    Args:
        encoder: Of the observations.
        config: With the hidden layers.
        layers: Makes them.
        width: Of the output.
        activation: Of the output.
        log_std_init: Of state-dependent exploration, which it then has.
    """
    observations = keras.Input(encoder.shape, name="observations", dtype=encoder.dtype)
    features = layers.trunk(features_of(observations, encoder, layers), config, "actor")
    output = layers.dense(features, width, "policy", activation=activation)
    if log_std_init is not None:
        output = StateLogStd(log_std_init, name="log_std")(output, features)
    return keras.Model(observations, output, name="actor")


def critic_network(
    encoder: Encoder, config: OffPolicyConfig, seed: int, dimensions: int, name: str
) -> keras.Model:
    """The default critic: as the actor, but its hidden layers see the action, too."""
    layers = Layers(seed, is_orthogonal=False)
    observations = keras.Input(encoder.shape, name="observations", dtype=encoder.dtype)
    actions = keras.Input((dimensions,), name="actions")
    seen = features_of(observations, encoder, layers)
    joined = keras.layers.Concatenate(name="joined")([seen, actions])
    value = layers.dense(layers.trunk(joined, config, name), 1, "value")
    return keras.Model([observations, actions], value, name=name)


class CriticTargets(NamedTuple):
    """What a loss of the critics receives, besides their values `[2, M]`."""

    y: tf.Tensor  # [M]: the result of the target function


class NextValues(NamedTuple):
    """What a target function receives of the next states, besides the examples."""

    q: tf.Tensor  # [2, M]: Q'ᵢ(s', a') of the critics' targets
    entropy: tf.Tensor  # [M]: −α·log π(a'|s') of SAC; 0 in TD3


TargetFunction = Callable[[NextValues, Examples], tf.Tensor]
"""To the targets y `[M]` of both critics."""


def least_value(values: NextValues, examples: Examples) -> tf.Tensor:
    """The target y = r + discount·(minᵢ Q'ᵢ + entropy), `[M]`.

    Source: Fujimoto et al. 2018, eq. 10 (clipped double Q-learning).
    """
    after = tf.reduce_min(values.q, axis=0) + values.entropy
    return examples.rewards + examples.discounts * after


def q_values(
    critics: Sequence[keras.Model],
    observations: tf.Tensor,
    actions: tf.Tensor,
    training: bool = False,
) -> tf.Tensor:
    """The values of all critics, `[2, B]`."""
    values = [critic([observations, actions], training=training) for critic in critics]
    return tf.stack([tf.reshape(tf.cast(value, tf.float32), [-1]) for value in values])


class ActorCritics(OffPolicyAgent):
    """An agent with an actor, two critics and targets, and all of it but the losses.

    Attributes:
        network: (actor, critic, critic), Keras models. Your own are an actor from encoded
            observations to `[B, P]`, and two critics from [observations, actions] to `[B, 1]` or
            `[B]`, actions being in [−1, 1].
        targets: The clones that follow.
        optimizer: (the actor's, the critics').
    """

    turn_names = ("critic", "actor")
    _actions: Bounded
    _draws = 1  # standard normal numbers of an example, for each dimension of an action
    network: tuple[keras.Model, keras.Model, keras.Model]
    optimizer: tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]

    # What an algorithm adds.

    @abstractmethod
    def _make_actor(self, layers: Layers) -> keras.Model:
        """The default actor."""

    @abstractmethod
    def _make_targets(self) -> list[keras.Model]:
        """Clones of what has a target."""

    @property
    def _actor_variables(self) -> list[keras.Variable]:
        """What the actor's turn trains."""
        return list(self.network[0].trainable_variables)

    # What is common.

    def _prepare(self, network: Networks | None, optimizer: Optimizers | None, seed: int) -> None:
        """Makes and checks networks, targets and optimizers, after `_actions` is set.

        Raises:
            ValueError: The agent cannot use them.
        """
        encoder, config = self._encoder, self.config
        if network is None:
            actor, first, second = np.random.SeedSequence(seed).generate_state(3).tolist()
            dimensions = self._actions.raw_shape[0]
            network = (
                self._make_actor(Layers(actor, is_orthogonal=False)),
                critic_network(encoder, config, first, dimensions, "critic_1"),
                critic_network(encoder, config, second, dimensions, "critic_2"),
            )
        self.network = checked_networks(network, encoder, self._actions)
        self.targets = self._make_targets()
        rate = config.learning_rate
        if optimizer is None:
            adam = keras.optimizers.Adam
            optimizer = (adam(rate, epsilon=1e-8), adam(rate, epsilon=1e-8))  # PyTorch's ε
        self.optimizer = checked_optimizers(optimizer)
        refuse_averages(self.optimizer[0])
        build_optimizer(self.optimizer[0], self._actor_variables)
        refuse_averages(self.optimizer[1])
        build_optimizer(self.optimizer[1], self._critic_variables)
        self._acting = acting_network(self.network[0])

    def _critic_turn(
        self,
        next_values: Callable[[Examples], NextValues],
        loss: Callable[[tf.Tensor, CriticTargets], Any],
        optimizer: keras.optimizers.Optimizer,
    ) -> Turn:
        """The turn of the critics: Q(s, a) and y, and the loss of them, or that of the user."""
        target_function: TargetFunction = self.target_function or least_value
        critics = self.network[1:]

        def evaluate(inputs: Nest) -> Nest:
            values = next_values(inputs)
            q = q_values(critics, inputs.observations, inputs.actions, training=True)
            return q, fixed_target(target_function, values, inputs, (values.q.shape[1],))

        own = of_targets(self._losses.get("critic", loss), CriticTargets)
        return Turn(evaluate, lifted(own, lambda loss: loss), self._critic_variables, optimizer)

    def _actor_turn(
        self, forward: Callable[[Examples], Nest], loss: Loss, optimizer: keras.optimizers.Optimizer
    ) -> Turn:
        """The turn of the actor, with the loss of the algorithm or that of the user."""
        own = lifted(self._losses.get("actor", loss), lambda loss: loss)
        return Turn(forward, own, self._actor_variables, optimizer)

    def _policy_arrays(self, inputs: Examples) -> Arrays:
        parameters = self._acting(inputs.observations)[0]
        return self._actions.action_arrays(parameters, inputs.actions)

    def _scheduled_step(self, *arrays: Nest) -> Metrics:
        metrics = super()._scheduled_step(*arrays)
        return {**metrics, "learning_rate": float(learning_rate(self.optimizer[0]))}

    @property
    def _critic_variables(self) -> list[keras.Variable]:
        return [v for critic in self.network[1:] for v in critic.trainable_variables]

    def _signature(self, examples: int) -> tuple[Examples, tuple[()]]:
        """Of a step: examples, and no targets: the forward pass computes y."""
        encoder, (count,) = self._encoder, self._actions.raw_shape
        encoded = tf.TensorSpec((examples, *encoder.shape), encoder.dtype)
        vector = tf.TensorSpec((examples,), tf.float32)
        actions = tf.TensorSpec((examples, count), tf.float32)
        noise = tf.TensorSpec((examples, self._draws * count), tf.float32)
        return Examples(encoded, actions, vector, vector, encoded, noise=noise), ()

    def _minibatches(self, count: int) -> tuple[Examples, tuple[()]]:
        """The examples of `count` minibatches, one after the other, and no targets."""
        config, generator = self.config, self.generator
        examples = count * config.batch_size
        batch = self._replay.sample(examples, generator, config.n_steps, config.gamma)
        width = self._draws * self._actions.raw_shape[0]
        noise = generator.standard_normal((examples, width), np.float32)
        return Examples.of(batch, noise=noise), ()

    def _sample(self, encoded: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        return self._actions.sample(self._acting(encoded)[0], self.generator, masks)

    def _random(self, count: int, masks: np.ndarray | None) -> np.ndarray:
        return self._actions.uniform(count, self.generator, masks)

    def _choose(
        self, encoded: np.ndarray, deterministic: bool, masks: np.ndarray | None
    ) -> np.ndarray:
        (parameters,) = self._acting(encoded)
        if deterministic:
            return self._actions.mode(parameters, masks)
        return self._actions.sample(parameters, self.generator, masks)

    def value(self, observations: Observations) -> np.ndarray:
        """The lesser critic's values `[N]` of the best actions known; of a single state, `[]`.

        Raises:
            ValueError: The observations differ from the space in shape or kind.
        """
        batch, is_single = self._encoder.batch(observations)
        encoded = self._encoder.encode(batch)
        self._acting.refresh()
        actions = self._actions.mode(self._acting(encoded)[0])
        with tf.device(self._device):
            values = q_values(self.network[1:], tf.constant(encoded), tf.constant(actions))
        least: np.ndarray = values.numpy().min(axis=0)
        return least[0] if is_single else least

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All variables: those of the networks, their targets' included, and the optimizers'."""
        networks = [v for model in (*self.network, *self.targets) for v in model.variables]
        return {
            "network": networks,
            "optimizer": [v for each in self.optimizer for v in each.variables],
        }


def checked_networks(
    network: Networks, encoder: Encoder, actions: Bounded
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """(actor, critic, critic), all of them checked.

    Raises:
        ValueError: They are not three different models, or one does not fit the spaces.
    """
    is_three = isinstance(network, tuple | list) and len(network) == 3
    if not is_three or not all(isinstance(each, keras.Model) for each in network):
        raise ValueError(
            "network must be a tuple of three Keras models, (actor, critic, critic). Received: "
            f"{network!r:.200}. Pass network=(actor, critic_1, critic_2)."
        )
    for model in network:
        check_memoryless(model)
    owned = [id(v) for model in network for v in model.variables]
    if len(set(owned)) < len(owned):
        raise ValueError(
            "Actor and critics must not share variables, for each is trained by a loss of its "
            f"own. Received: {[model.name for model in network]}, which do. Build three models."
        )
    state = keras.KerasTensor((3, *encoder.shape), np.dtype(encoder.dtype).name)
    action = keras.KerasTensor((3, *actions.raw_shape), "float32")
    built_from = f"{encoder.input_in_words} (critics: also from keras.Input({actions.raw_shape}))"
    _check_output(network[0], state, "observations", [(3, actions.size)], built_from)
    for critic in network[1:]:
        _check_output(
            critic, [state, action], "[observations, actions]", [(3, 1), (3,)], built_from
        )
    return network[0], network[1], network[2]


def _check_output(
    model: keras.Model, inputs: Nest, seen: str, shapes: list[tuple[int, ...]], built_from: str
) -> None:
    """Checks that a model maps inputs, for 3 examples, to one of the shapes."""
    expected = " or ".join(str(["B", *shape[1:]]).replace("'", "") for shape in shapes)
    given = [["B", *each.shape[1:]] for each in keras.tree.flatten(inputs)]
    try:
        output = model.compute_output_spec(inputs)
        received = [tuple(each.shape) for each in keras.tree.flatten(output)]
    except Exception as error:  # whatever a user's layers raise
        raise ValueError(
            f"A network must accept {seen} of shapes {given} and return {expected}. Received: "
            f"{model.name!r}, which fails on them: {error!r:.300}. Build it from {built_from}."
        ) from error
    if len(received) != 1 or received[0] not in shapes:
        raise ValueError(
            f"A network that sees {seen} must return {expected}. Received: {model.name!r} with "
            f"outputs of shape {[['B', *shape[1:]] for shape in received]}. Give its last layer "
            f"{shapes[0][-1]} units."
        )


def checked_optimizers(
    optimizer: Optimizers,
) -> tuple[keras.optimizers.Optimizer, keras.optimizers.Optimizer]:
    """(the actor's, the critics') optimizers.

    Raises:
        ValueError: They are not two different ones.
    """
    is_two = isinstance(optimizer, tuple | list) and len(optimizer) == 2
    known = is_two and all(isinstance(o, keras.optimizers.Optimizer) for o in optimizer)
    if not known or optimizer[0] is optimizer[1]:
        raise ValueError(
            "optimizer must be a tuple of two different Keras optimizers, the actor's and the "
            f"critics'. Received: {optimizer!r:.200}. Pass optimizer=(keras.optimizers.Adam(3e-4), "
            "keras.optimizers.Adam(3e-4))."
        )
    return optimizer[0], optimizer[1]
