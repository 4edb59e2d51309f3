"""What agents that learn from rollouts have in common: spaces, acting, storing, saving.

    explore   y, v = network(s) on the host;  a ~ π(·|y)                      [N]
    observe   after n steps: returns G and advantages A = G − v in NumPy      [T, N]
              then one compiled call, the algorithm's update

Legend: T time, N environments, B = T·N, P policy parameters y.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf

from ...training.common.interrupts import Cuttable, UpdateCut
from ...training.common.plain import flag, whole
from ...training.core import checks
from ...training.core.losses import Loss, LossGradient, must_align, unpacked
from ...training.core.optimizers import (
    assign,
    build_optimizer,
    clip_limit,
    learning_rate,
    refuse_averages,
)
from ...training.core.table import NonfiniteUpdate
from ...training.core.turns import Turn
from ...training.experience.bad_numbers import BadNumbersError, explain
from ...training.experience.policy_state import PolicyState, joined
from ...training.experience.returns import return_metrics
from ...training.experience.rollout import Rollout
from ..acting.exploration import StateNoise
from ..acting.host import Network, Policy
from ..acting.observations import Encoder
from ..acting.spaces import host_distribution
from ..networks import models as networks
from ..networks.mirrors import acting_network, check_overlap
from .agent import Agent, Update, steps_without_update
from .losses import AgentLoss, Losses, checked_function, is_on_host, lifted, refuse_host, reserving
from .overlap import OverlappedStep

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ...training.core.compiled import Nest
    from ...training.experience.protocols import Metrics, Observations, Space, State
    from ...training.experience.transitions import Transition
    from ..configs.config import ActorCriticConfig
    from .inspection import Arrays


class Targets(NamedTuple):
    """What a loss of A2C, and an auxiliary loss, receives of the examples besides the outputs."""

    actions: tf.Tensor  # [B, …]: raw ones, as the policy sampled them
    advantages: tf.Tensor  # [B]
    returns: tf.Tensor  # [B]
    weights: tf.Tensor  # [B]: 1 for real steps, 0 for dummy steps


ADDED = ("advantage_std", "auxiliary_loss", "clip_range", "gradient_steps", "seconds")
"""What an update reports besides the metrics of its loss and the agent's `curves`."""

AuxiliaryLoss = Callable[[tuple[tf.Tensor, ...], Targets], Any]


class OnPolicyAgent(Agent):
    """An agent with one network for policy and value, and all of it but the update.

    Attributes:
        algorithm: Its name in files and on the command line.
        network: The Keras model, outputs (policy parameters `[B, P]`, values `[B, 1]`). Its
            variables are the truth: acting and training continue from whatever you set them to.
        optimizer: The Keras optimizer.
        normalizer: What is known of observations and rewards, if the config normalises them.
        policy: What acts on the host; a rollout worker needs no more.
        generator: That of the policy.
        updates: Updates so far.
        turns: What the compiled update differentiates, by name; `begin` creates it.
        batch: Inputs and targets of the last update.
    """

    algorithm: str
    config_type: type[ActorCriticConfig]
    drops_rest = True
    _reserved = frozenset(
        {"std", "learning_rate", "clipped_updates", *ADDED}
        | {"explained_variance", "return_mean", "return_std", "stop"}
    )
    """Metrics that a loss of the user's must not report."""
    network: keras.Model
    optimizer: keras.optimizers.Optimizer

    @property
    def curves(self) -> set[str]:
        """The names of the metrics that it reports, for the layout of TensorBoard."""
        names = {"entropy_loss", "explained_variance", "value_loss", "loss", "return_mean"}
        names |= {"return_std", "grad_norm", "clipped_updates", "learning_rate"}
        return names | ({"std"} if self._actions.log_stds else set())

    def __init__(  # noqa: PLR0913  arguments that users rely on, most of them by keyword
        self,
        observation_space: Space,
        action_space: Space,
        config: ActorCriticConfig | None = None,
        *,
        network: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        loss: AgentLoss | Losses | None = None,
        auxiliary_loss: AuxiliaryLoss | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """Builds the agent.

        Args:
            observation_space: Any that holds a Box, Discrete, MultiDiscrete or MultiBinary, also
                in Dicts and Tuples; `observations.py` says what the network sees.
            action_space: Discrete, MultiDiscrete, MultiBinary or a Box of floats.
            config: The settings; by default those of the algorithm.
            network: A model of your own with outputs (policy parameters, values), its input being
                an encoded observation; with an auxiliary loss it may have more outputs.
            optimizer: Any Keras optimizer; it replaces the one of the config, its learning rate,
                schedule and clipping included.
            loss: A loss of your own in place of the algorithm's: a TensorFlow function
                `(outputs, targets) -> L` or `(L, metrics)`, or one on the host that `external` or
                `estimated` has lifted. Outputs are (policy parameters `[B, P]`, values `[B]`) and
                what your network has besides; targets are the algorithm's NamedTuple.
            auxiliary_loss: A loss of your own that is added to the algorithm's, a TensorFlow
                function of the network's outputs and `Targets` that returns a scalar, or a scalar
                and metrics. It is reported as `auxiliary_loss`.
            seed: Of the initial weights and of the sampled actions.
            device: Where the network lives. Small networks are fastest on the "cpu".

        Raises:
            ValueError: A space is not supported, or the network does not fit the spaces or the
                config.
        """
        began = time.perf_counter()
        self.observation_space, self.action_space = observation_space, action_space
        self.config: Any = config or self.config_type()
        config, seed = self.config, whole("seed", seed, 0)
        self._encoder = encoder = Encoder(observation_space, config.normalize_observations)
        encoder.warn_of_left_out()
        self.normalizer = normalizer = networks.make_normalizer(config, encoder)
        self._encode: Callable[[Any], np.ndarray] = encoder.encode
        if normalizer is not None:
            self._encode = lambda observations: normalizer(encoder.encode(observations))
        features = networks.sde_features(config, network is not None, encoder.is_image)
        self._actions = host_distribution(action_space, config.rescale_actions, features)
        self.own_network, self.own_optimizer = network is not None, optimizer is not None
        self.loss = loss
        self.auxiliary_loss = auxiliary_loss
        self._check_losses()
        self._device = networks.checked_device(device)
        with tf.device(self._device):
            self.network = network or networks.actor_critic(encoder, self._actions, config, seed)
            more = auxiliary_loss is not None or loss is not None
            networks.check_actor_critic(self.network, encoder, self._actions, more)
            self.optimizer = optimizer or networks.make_optimizer(config)
            refuse_averages(self.optimizer)
            build_optimizer(self.optimizer, self.network.trainable_variables)
        self._limit = clip_limit(self.optimizer)
        self._acting = self._make_acting()
        check_overlap(config.overlap_update, self._acting)
        self._present = copy(self._acting)  # training continues from its own weights
        self.policy = Policy(self._actions, self._acting, seed)
        self.generator = self.policy.generator
        self._noise: StateNoise | None = None
        if features:
            log_std = self.network.get_layer("log_std").log_std
            read = self._acting.reader(log_std)
            self._noise = StateNoise(read, config.n_steps, config.sde_sample_freq)
            self.policy.sampler = self._noise.sample
        self._cuttable = Cuttable()
        self._step = cast("Update", None)  # `begin` compiles it
        self._rollout = cast("Rollout", None)  # `begin` creates it
        self.turns: dict[str, Turn] = {}
        self.batch: Any = None
        self.gradients: np.ndarray | None = None  # [P], of the last update that was reported
        self.construction_seconds = time.perf_counter() - began

    # What an algorithm adds.

    def _make_acting(self) -> Network:
        """The network as acting sees it, which may remember what it saw in the episode."""
        return acting_network(self.network)

    @abstractmethod
    def _compile(self, encoded: tf.TensorSpec, raw: tf.TensorSpec, vector: tf.TensorSpec) -> Update:
        """The compiled update, for encoded observations, raw actions and numbers of a rollout."""

    @abstractmethod
    def _learn(self, rollout: Rollout, advantages: np.ndarray, returns: np.ndarray) -> Metrics:
        """Makes the update of a rollout; its metrics.

        Raises:
            FloatingPointError: A loss or gradient was not finite.
        """

    # What is common.

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Prepares training: the rollout buffer and the compiled update.

        An agent that has been trained continues; its schedules count all its steps.
        """
        if not done_steps:
            self._warn_of_shortfall(num_envs, total_steps)
        n_steps, encoder, actions = self.config.n_steps, self._encoder, self._actions
        batch, raw_shape = n_steps * num_envs, actions.masked_shape if masked else actions.raw_shape
        shapes = (encoder.shape, raw_shape, actions.raw_dtype, encoder.dtype, actions.size)
        self._rollout = Rollout(n_steps, num_envs, *shapes, self.initial_state(num_envs))
        if self.normalizer is not None:
            self.normalizer.restart()
        self._begin(total_steps, done_steps)
        vector = tf.TensorSpec((batch,), tf.float32)
        raw = tf.TensorSpec((batch, *raw_shape), actions.raw_dtype)
        encoded = tf.TensorSpec((batch, *encoder.shape), encoder.dtype)
        with tf.device(self._device):
            self._step = self._compile(encoded, raw, vector)
        self._acting.refresh()

    def _mirrored(self) -> dict[str, Any]:
        """What comes back with the metrics: the weights for acting, the gradients for a look."""
        size = sum(math.prod(variable.shape) for variable in self.network.trainable_variables)
        gradients = keras.Variable(np.zeros(size, np.float32))
        return {"mirror": [*self._acting.variables, gradients], "gradients": gradients}

    def explore(
        self, observations: Observations, action_masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Samples actions `[N, ...]` and stores them in the rollout."""
        encoded = self._encoder.encode(observations)
        if self.normalizer is not None:
            encoded = self.normalizer.explore(encoded)
        rollout = self._rollout
        actions, *stored = self.policy.step(encoded, action_masks, rollout.state)
        rollout.act(encoded, *stored)
        return actions

    def observe(self, transition: Transition) -> Metrics | None:
        """Stores the transition; when the rollout is full, updates and returns metrics.

        Raises:
            FloatingPointError: A number was NaN or infinite; the update was refused, and the
                rollout discarded.
        """
        rollout = self._rollout
        if self.normalizer is not None:
            try:
                transition = self.normalizer.observe(transition)
            except FloatingPointError:
                rollout.skip(transition)
                self.normalizer.restart()
                raise
        if transition.final_observations is not None:
            final = self._encode(transition.final_observations)
            transition = transition._replace(final_observations=final)
        rollout.observe(transition)
        return self.resume_update(transition.observations) if rollout.is_full else None

    def resume_update(self, observations: Observations) -> Metrics | None:
        """Updates if the rollout is full, as it is after an update that a signal cut.

        Args:
            observations: Those that follow the rollout.

        Raises:
            FloatingPointError: As `observe`.
            UpdateCut: A signal ended the update; agent and rollout are unchanged.
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
    def _update(self, rollout: Rollout, observations: np.ndarray) -> Metrics | None:
        config, began = self.config, time.perf_counter()
        returns = rollout.finish(
            observations, self._values, config.gamma, config.gae_lambda
        )  # [T, N]
        if not rollout.weights.any():
            return None  # nothing but dummy steps
        statistics = return_metrics(rollout.values, returns, rollout.weights)
        ready = time.perf_counter()
        if config.lr_schedule == "linear" and not self.own_optimizer:
            assign(self.optimizer.learning_rate.value, self._left * config.learning_rate)
        try:
            with self._may_be_cut(), reserving(self._losses.get(""), self._reserved):
                metrics = self._learn(rollout, returns - rollout.values, returns)
        except NonfiniteUpdate as error:
            raise self._explained(error, rollout) from None
        self._done_steps += int(rollout.weights.sum())
        self.updates += 1
        *self._acting.weights, self.gradients = self._step.weights
        if is_on_host(self.loss):
            metrics["learning_rate"] = float(learning_rate(self.optimizer))
        seconds = {"advantages": ready - began, "update": time.perf_counter() - ready}
        return {**metrics, **statistics, "seconds": seconds}

    def _values(self, encoded: np.ndarray, state: PolicyState = ()) -> np.ndarray:
        """Values `[M]` of observations and what the policy remembers there."""
        return self._acting.step(encoded, state)[0][1]

    def _explained(self, error: NonfiniteUpdate, rollout: Rollout) -> BadNumbersError:
        """The error that names the first number that was not finite, and where it was.

        An overlapped step reports the rollout before this one, and stored less of it.
        """
        count, num_envs = rollout.rewards.shape
        overlaps = isinstance(self._step, OverlappedStep)
        observations, actions, rewards = rollout.observations, rollout.actions, rollout.rewards
        weights, after = rollout.weights, rollout.before if overlaps else rollout.after
        if isinstance(self._step, OverlappedStep):
            flat, (acted, *_, returned, weighed) = self._step.batch
            observations, actions, rewards, before = (
                array.reshape(count, num_envs, *array.shape[1:])
                for array in (flat, acted, returned, weighed)
            )
            weights = np.concatenate([before, weights])
        observations = np.concatenate([observations, after[None]])
        with np.errstate(all="ignore"):
            flat = observations.reshape(-1, *observations.shape[2:])
            state = self.initial_state(len(flat))  # of the rollout before nothing else is known
            if not overlaps:
                state = joined([*rollout.states, rollout.state])
            outputs, values = self._acting.step(flat, state)[0]
        seen = {
            "observation": observations,
            "policy output": outputs.reshape(count + 1, num_envs, -1),
            "value": values.reshape(count + 1, num_envs),
            "action": actions,
            "return" if overlaps else "reward": rewards,
        }
        return explain(error.received, seen, actions, weights, error.made)

    def act(
        self,
        observations: Observations,
        deterministic: bool = False,
        action_masks: ArrayLike | None = None,
        state: PolicyState | None = None,
    ) -> Any:
        """Actions for the observations of N environments, or the action for a single observation.

        Deterministic actions are the most likely ones; the others are sampled. Action masks
        `[N, A]` (or `[A]`) are bools for every choice of every component: what may be done.

        With a state, which is `initial_state(N)` at first, it returns the actions and the state
        for the next step. Without one the policy acts as at the beginning of an episode.

        Raises:
            ValueError: The observations differ from the space in shape or kind, or the masks do.
            FloatingPointError: An observation is NaN or infinite.
        """
        deterministic = flag("deterministic", deterministic)
        parameters, values, is_single, after = self._outputs(observations, state)
        masks = None if action_masks is None else np.reshape(action_masks, (len(values), -1))
        actions = self.policy.choose(parameters, deterministic, masks)
        actions = actions[0] if is_single else actions
        return actions if state is None else (actions, after)

    def value(self, observations: Observations) -> np.ndarray:
        """Values v `[N]` of the observations of N environments; of a single one, `[]`."""
        _, values, is_single, _ = self._outputs(observations, None)
        return values[0] if is_single else values

    def _outputs(
        self, observations: Observations, state: PolicyState | None
    ) -> tuple[np.ndarray, np.ndarray, bool, PolicyState]:
        """Parameters y and values v as the network is now; whether of a single observation."""
        batch, is_single = self._encoder.batch(observations)
        self._present.refresh()
        encoded = self._encode(batch)
        state = self.initial_state(len(encoded)) if state is None else state
        (parameters, values), state = self._present.step(encoded, state)
        return parameters, values, is_single, state

    @property
    def parts(self) -> dict[str, list[keras.Variable]]:
        """All variables, those of the network and those of the optimizer."""
        return {"network": self.network.variables, "optimizer": self.optimizer.variables}

    @property
    def max_entropy(self) -> float | None:
        """The entropy of the uniform policy, in nats; None where actions are continuous."""
        return self._actions.max_entropy

    @property
    def auxiliary_loss(self) -> AuxiliaryLoss | None:
        """What is added to the algorithm's loss; it may be set before a training begins.

        Raises:
            ValueError: It is no such function, or a training runs.
        """
        return self._auxiliary_loss

    @auxiliary_loss.setter
    def auxiliary_loss(self, loss: AuxiliaryLoss | None) -> None:
        self._check_is_idle("auxiliary_loss")
        self._auxiliary_loss = None if loss is None else checked_function(loss, "auxiliary_loss")

    def shortfall(self, num_envs: int, total_steps: int) -> str | None:
        """What a run of so many steps leaves without an update: updates need whole rollouts."""
        return steps_without_update("n_steps", self.config.n_steps, num_envs, total_steps)

    def _check_losses(self) -> None:
        """Refuses an auxiliary loss beside a loss of your own, and a host loss that overlaps.

        Raises:
            ValueError: There is such a pair.
        """
        own = self._losses.get("")
        if own is None:
            return
        if self.auxiliary_loss is not None:
            raise ValueError(
                "An auxiliary loss is added to the loss of the algorithm. Received: loss= and "
                "auxiliary_loss=. Add it within your loss, and pass loss= alone."
            )
        if self.config.overlap_update:
            refuse_host(own, "overlap_update")

    def _turn(self, loss: Loss) -> Turn:
        """What the update differentiates: the loss of the algorithm, or that of the user."""
        self._check_losses()  # the attributes may have been set
        variables, own = self.network.trainable_variables, self._losses.get("")
        if own is None:
            loss_gradient: LossGradient = lifted(loss, self._completed)
            return Turn(self.network, loss_gradient, variables, self.optimizer)
        return Turn(self._rows_of_values, lifted(own, self._completed), variables, self.optimizer)

    def _rows_of_values(self, inputs: Nest) -> Nest:
        """The network's outputs, with values `[B]`."""
        parameters, values, *others = self.network(inputs, training=True)
        return parameters, tf.reshape(values, [-1]), *others

    @property
    def _left(self) -> float:
        """The share of the training that is left, for schedules."""
        return max(1.0 - self._done_steps / self._total_steps, 0.0)

    def _completed(self, loss: Loss) -> Loss:
        """The loss, the auxiliary one added; it also reports the learning rate."""
        optimizer, auxiliary = self.optimizer, self.auxiliary_loss
        log_stds = self._actions.log_stds

        def completed(outputs: Nest, targets: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            total, metrics = unpacked(loss(outputs, targets))
            if self.loss is not None:
                checks.check_names(metrics, self._reserved, "the agent")
            if auxiliary is not None:
                seen = tuple(outputs), Targets(targets[0], *targets[-3:])
                must_align(auxiliary, *seen)  # refuses values [B, 1] minus returns [B]
                added, more = unpacked(auxiliary(*seen))
                checks.check_names(more, {*metrics, *self.curves, *ADDED}, "the agent")
                total, metrics = total + added, {**metrics, "auxiliary_loss": added, **more}
            if log_stds:
                columns = [outputs[0][:, each] for each in log_stds]
                log_std = columns[0] if len(columns) == 1 else tf.concat(columns, axis=1)
                metrics = {**metrics, "std": tf.reduce_mean(tf.exp(log_std))}
            return total, {**metrics, "learning_rate": learning_rate(optimizer)}

        return completed

    def training_state(self) -> State:
        """The state that only training needs: an update in progress, and the running episodes."""
        state: dict[str, Any] = {}
        if isinstance(self._step, OverlappedStep):
            state["overlap"] = self._step.get_state()
        if self._rollout is not None:
            returns = None if self.normalizer is None else self.normalizer.returns.copy()
            state["episodes"] = {"rollout": self._rollout.get_state(), "returns": returns}
            if self._noise is not None:
                state["episodes"]["noise"] = self._noise.get_state()
        return state

    def restore_training(self, state: State) -> None:
        """Restores them, after `begin`; episodes that are not in the state start again."""
        overlap, episodes = state.get("overlap"), state.get("episodes")
        if isinstance(self._step, OverlappedStep) and overlap is not None:
            self._step.set_state(overlap)
        if episodes is None:
            return
        self._rollout.set_state(episodes["rollout"])
        if self.normalizer is not None:
            self.normalizer.returns = np.asarray(episodes["returns"], np.float64)
        if self._noise is not None:
            self._noise.set_state(episodes["noise"])

    def refresh(self) -> None:
        """Reads the network's variables, after they were set."""
        self._acting.refresh()
        if isinstance(self._step, OverlappedStep):
            *self._acting.weights, self.gradients = self._step.weights

    def inspect(self) -> Arrays:
        """Arrays of the last update by name, then weights and gradients by layer.

        `observations` as the network sees them, `rewards`, `values`, `returns` and `advantages` of
        the rollout's real steps, and what the policy was: probabilities of the actions taken, or
        means and standard deviations. Of an update that runs beside the acting nothing is known
        yet: weights and gradients are then those of the one before.
        """
        if self.batch is None:
            return {}
        rollout = self._rollout
        real = rollout.weights.ravel() > 0
        rows = ("observations", "rewards", "values")
        arrays = {
            n: getattr(rollout, n).reshape(len(real), *getattr(rollout, n).shape[2:]) for n in rows
        }
        arrays["returns"] = self.batch[1].returns
        arrays["advantages"] = arrays["returns"] - arrays["values"]
        parameters, actions = (
            array.reshape(len(real), -1) for array in (rollout.parameters, rollout.actions)
        )
        arrays |= self._actions.action_arrays(parameters, actions)
        return {name: array[real] for name, array in arrays.items()} | self._weights_and_gradients()
