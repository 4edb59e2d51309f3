"""What agents that learn from a replay buffer have in common: spaces, acting, storing, saving.

    explore   a chosen on the host, at random before `learning_starts`          [N]
    observe   (s, a, r, s') into the replay buffer; every `train_freq` steps
              K minibatches of M drawn from it, and one compiled call with K gradient steps

Legend: N environments, K gradient steps, M transitions of a minibatch.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from ...training.common.interrupts import Cuttable, UpdateCut
from ...training.common.plain import flag, whole
from ...training.core.arguments import check_function
from ...training.core.losses import lift_of
from ...training.core.optimizers import assign
from ...training.core.table import NonfiniteUpdate
from ...training.experience.bad_numbers import BadNumbersError
from ...training.experience.replay import Batch, Replay
from ..acting.observations import Encoder
from ..networks import models as networks
from .agent import Agent, Networks, Optimizers, Update, steps_without_update
from .overlap import OverlappedStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from ...training.core.compiled import Nest
    from ...training.core.turns import Turn
    from ...training.experience.policy_state import PolicyState
    from ...training.experience.protocols import Metrics, Observations, Space, State
    from ...training.experience.transitions import Transition
    from ..acting.protocols import ReplayedDistribution
    from ..configs.config import OffPolicyConfig
    from .inspection import Arrays
    from .losses import AgentLoss, Losses


class Examples(NamedTuple):
    """What an update sees of its examples."""

    observations: Any  # [M, …], encoded
    actions: Any  # [M, …]: raw ones; behind the indices of discrete actions masks, if there are any
    rewards: Any  # [M]: sums of up to n discounted rewards
    discounts: Any  # [M]: γᵐ after m rewards, and 0 after a terminal step
    next_observations: Any  # [M, …]: what is seen after those rewards
    next_masks: Any = ()  # [M, A] bool: what may be done there; () without masks
    noise: Any = ()  # [M, …]: standard normal, for what draws actions; () for what draws none

    @classmethod
    def of(cls, batch: Batch, **more: Any) -> Examples:
        """Those of a batch of the replay buffer."""
        return cls(*(getattr(batch, name) for name in cls._fields[:5]), **more)


class OffPolicyAgent(Agent):
    """An agent with a replay buffer, and all of it but the update.

    Attributes:
        algorithm: Its name in files and on the command line.
        network: What acts and is trained: a Keras model, or a tuple of them. Their variables are
            the truth: acting and training continue from whatever you set them to.
        optimizer: The Keras optimizer, or a tuple of them.
        generator: Samples actions and minibatches.
        updates: Gradient steps so far.
        turns: What the compiled update differentiates, by name; `begin` creates it.
        batch: Inputs and targets of the last update.
    """

    algorithm: str
    config_type: type[Any]
    normalizer = None
    network: Any
    optimizer: Any
    _actions: ReplayedDistribution  # the host side of the action space

    def __init__(  # noqa: PLR0913  arguments that users rely on, most of them by keyword
        self,
        observation_space: Space,
        action_space: Space,
        config: OffPolicyConfig | None = None,
        *,
        network: Networks | None = None,
        optimizer: Optimizers | None = None,
        loss: AgentLoss | Losses | None = None,
        target_function: Callable[..., tf.Tensor] | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """Builds the agent.

        Args:
            observation_space: Any that holds a Box, Discrete, MultiDiscrete or MultiBinary, also
                in Dicts and Tuples; `observations.py` says what the network sees.
            action_space: Of the kind that the algorithm takes.
            config: The settings; by default those of the algorithm.
            network: One of your own, as the algorithm's class describes it.
            optimizer: One of your own; it replaces that of the config, its learning rate and
                clipping included.
            loss: A loss of your own in place of the algorithm's: a TensorFlow function
                `(outputs, targets) -> L` or `(L, metrics)`, or one on the host that `external` or
                `estimated` has lifted. SAC and TD3 take a dict of losses by turn, "critic" and
                "actor". The targets are the algorithm's NamedTuple.
            target_function: A function of your own that computes the target of the values; the
                algorithm's module describes its arguments.
            seed: Of the initial weights, the sampled actions and the minibatches.
            device: Where the network lives. Small networks are fastest on the "cpu".

        Raises:
            ValueError: A space is not supported, or the network does not fit the spaces.
        """
        began = time.perf_counter()
        self.observation_space, self.action_space = observation_space, action_space
        self.config = config or self.config_type()
        self._encoder = Encoder(observation_space)
        self._encoder.warn_of_left_out()
        self.own_network, self.own_optimizer = network is not None, optimizer is not None
        self.loss, self.target_function = loss, target_function
        self._device = networks.checked_device(device)
        seed = whole("seed", seed, 0)
        self.generator = np.random.default_rng(seed)
        with tf.device(self._device):
            self._build(network, optimizer, seed)
        self._cuttable = Cuttable()
        self._step = cast("Update", None)  # `begin` compiles it
        self._replay = cast("Replay", None)  # `begin` creates it
        self._num_envs = 1
        self._buffer_from = 0  # steps done when the replay buffer was empty
        self.turns: dict[str, Turn] = {}
        self.batch: Any = None
        self._waiting = 0  # steps of every environment since the last update
        self._nonfinite = np.zeros(1, bool)  # [N]: whether the current observation is not finite
        self._nonfinite_actions: Any = None  # [N], or None where all are finite
        self._begins = False  # nothing was seen since `begin`
        self.construction_seconds = time.perf_counter() - began

    # What an algorithm adds.

    @abstractmethod
    def _build(self, network: Networks | None, optimizer: Optimizers | None, seed: int) -> None:
        """Sets `_actions` (the host side of the action space), `network`, `optimizer`, `_acting`.

        Raises:
            ValueError: The action space is not supported, or the network does not fit.
        """

    @abstractmethod
    def _compile(self, masked: bool) -> Update:
        """The compiled update, which mirrors the variables of `_acting`."""

    @abstractmethod
    def _sample(self, encoded: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """Raw actions `[N, ...]` to learn from."""

    @abstractmethod
    def _random(self, count: int, masks: np.ndarray | None) -> np.ndarray:
        """Raw actions `[N, ...]`, uniformly at random."""

    @abstractmethod
    def _choose(
        self, encoded: np.ndarray, deterministic: bool, masks: np.ndarray | None
    ) -> np.ndarray:
        """Raw actions `[N, ...]` outside of training, as the network is now."""

    @abstractmethod
    def _learn(self) -> Metrics:
        """Draws K minibatches and takes K gradient steps; their metrics, each `[K]` or a number.

        Raises:
            FloatingPointError: A loss or gradient was not finite.
        """

    @abstractmethod
    def _policy_arrays(self, inputs: Examples) -> Arrays:
        """What the policy is where the examples were, by name, for `inspect`."""

    # What is common.

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Prepares training: the replay buffer and the compiled update.

        An agent that has been trained continues: its replay buffer stays if there are as many
        environments as before, with masks or without them as before, and its schedules count all
        its steps.
        """
        encoder, actions = self._encoder, self._actions
        raw_shape = actions.masked_shape if masked else actions.raw_shape
        before = self._replay
        fits = before is not None and before.actions.shape[1:] == (num_envs, *raw_shape)
        self._begin(total_steps, done_steps)
        if fits and not done_steps:
            before.cut()
        else:
            if before is not None and len(before) and not done_steps:
                warnings.warn(
                    "A replay buffer must be filled by as many environments, with masks or without "
                    f"them, to be trained on further. Received: {num_envs} environments after "
                    f"{before.actions.shape[1]}: the buffer starts empty, and {len(before):,} "
                    "transitions are dropped. Pass environments like the earlier ones to keep it.",
                    stacklevel=2,
                )
            # critical: two of them need not fit into the memory
            self._replay = cast("Replay", None)
            self._buffer_from = self._done_steps - done_steps
            self._replay = Replay(
                self.config.buffer_size,
                num_envs,
                encoder.shape,
                raw_shape,
                actions.raw_dtype,
                encoder.dtype,
            )
        self._num_envs = num_envs
        self._is_cuttable = self._gradient_steps > 1
        if not done_steps:
            self._warn_of_shortfall(num_envs, total_steps)
        self._waiting, self._nonfinite = 0, np.zeros(num_envs, bool)
        self._nonfinite_actions, self._begins = None, True
        with tf.device(self._device):
            self._step = self._compile(masked)
        self._acting.refresh()

    def explore(
        self, observations: Observations, action_masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Samples actions `[N, ...]` and stores them with what was seen.

        Where an observation or an action is not finite, 0 stands in its place: for the network, the
        environment and the buffer. `observe` stores that step as a dummy.
        """
        encoded = self._encoder.encode(observations)
        if self._begins:  # of the others `observe` has looked at
            self._begins, self._nonfinite = False, ~_is_finite(encoded)
        if np.count_nonzero(self._nonfinite):
            encoded = _cleared(encoded, self._nonfinite)
        if self._done_steps - self._buffer_from < self.config.learning_starts:
            raw = self._random(len(encoded), action_masks)
        else:
            raw = self._sample(encoded, action_masks)
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            self._nonfinite_actions = ~_is_finite(raw)
            raw = _cleared(raw, self._nonfinite_actions)
        self._replay.act(encoded, raw)
        return self._actions.execute(raw)

    def observe(self, transition: Transition) -> Metrics | None:
        """Stores the transition; when it is time, updates and returns metrics.

        Raises:
            FloatingPointError: A number was NaN or infinite. No update learns from it.
        """
        encoded = self._encoder.encode(transition.observations)
        if transition.final_observations is not None:
            final = self._encoder.encode(transition.final_observations)
            transition = transition._replace(final_observations=final)
        self._store(transition, encoded)
        self._done_steps += int(transition.weights.sum())
        self._waiting += 1
        return self.resume_update(transition.observations)

    def resume_update(self, observations: Observations = None) -> Metrics | None:
        """Updates if it is time, as it is after an update that a signal cut.

        Raises:
            FloatingPointError: As `observe`.
            UpdateCut: A signal ended the update; the agent is unchanged.
        """
        if self._waiting < self.config.train_freq or not len(self._replay):
            return None
        if self._done_steps - self._buffer_from <= self.config.learning_starts:
            return None
        waiting, self._waiting = self._waiting, 0
        began = time.perf_counter()
        try:
            with self._may_be_cut():
                metrics = self._learn()
        except UpdateCut:
            self._waiting = waiting
            raise
        except NonfiniteUpdate as error:
            raise BadNumbersError("loss or gradient", error.received, made=error.made) from None
        finally:  # also after gradient steps before a bad one
            self._acting.weights = self._step.weights
        seconds = time.perf_counter() - began
        self.updates += self._gradient_steps
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        return {**means, "seconds": {"update": seconds}}

    @property
    def used_settings(self) -> State:
        """The settings of the config that apply to what of it is not the user's."""
        replaced = self.config.of_target if self.target_function is not None else ()
        settings = super().used_settings
        return {name: value for name, value in settings.items() if name not in replaced}

    @property
    def target_function(self) -> Callable[..., tf.Tensor] | None:
        """What replaces the algorithm's target; it may be set before a training begins.

        Raises:
            ValueError: It is no such function, or a training runs.
        """
        return self._target_function

    @target_function.setter
    def target_function(self, function: Callable[..., tf.Tensor] | None) -> None:
        self._check_is_idle("target_function")
        if (lift := lift_of(function)) is not None:
            raise ValueError(
                "target_function must be a TensorFlow function of values and examples. Received: "
                f"one that `{lift}` has lifted, as a loss. Pass the function itself."
            )
        check_function("target_function", function, "values", "examples")
        self._target_function = function

    def shortfall(self, num_envs: int, total_steps: int) -> str | None:
        """What a run of so many steps leaves without an update."""
        starts = self.config.learning_starts - (self._earlier_steps - self._buffer_from)
        if starts >= total_steps:
            return (
                "learning_starts must be below the steps of the run for anything to be learned; "
                f"this run makes no update. Received: {self.config.learning_starts:,} of "
                f"{total_steps:,}. Lower it, or train longer."
            )
        return steps_without_update("train_freq", self.config.train_freq, num_envs, total_steps)

    def _scheduled_step(self, *arrays: Nest) -> Metrics:
        """The compiled update at the schedule's learning rate."""
        if self.config.lr_schedule == "linear" and not self.own_optimizer:
            rate = (1.0 - self._progress) * self.config.learning_rate
            for optimizer in self._optimizers:
                assign(optimizer.learning_rate.value, rate)
        return self._step(*arrays)

    @property
    def _progress(self) -> float:
        """Share of the training steps done, up to 1."""
        return min(self._done_steps / self._total_steps, 1.0)

    @property
    def _gradient_steps(self) -> int:
        """K, of one update."""
        steps: int = self.config.gradient_steps
        every: int = self.config.train_freq
        return every * self._num_envs if steps < 0 else steps

    def _store(self, transition: Transition, encoded: np.ndarray) -> None:
        """Stores a transition, as a dummy without numbers where it is not finite.

        Raises:
            BadNumbersError: It was not.
        """
        seen = {"reward": transition.rewards, "observation": encoded}
        if transition.final_observations is not None:
            seen["final observation"] = transition.final_observations
        bad = {name: ~_is_finite(array) for name, array in seen.items()}
        if self._nonfinite_actions is not None:
            bad = {"action": self._nonfinite_actions, **bad}
            self._nonfinite_actions = None
        nonfinite = self._nonfinite | np.any(list(bad.values()), axis=0)  # [N]
        self._nonfinite = bad["observation"]
        if not nonfinite.any():
            self._replay.observe(transition)
            return
        rewards = _cleared(transition.rewards, nonfinite)
        weights = (
            transition.weights * ~nonfinite
        )  # critical: the last real step of an episode stays
        self._replay.observe(transition._replace(rewards=rewards, weights=weights))
        for name, where in bad.items():
            if where.any():
                index = int(where.argmax())
                action = self._replay.actions[self._replay.stop % len(self._replay.actions), index]
                value = seen[name][index] if name in seen else None
                raise BadNumbersError(name, index=index, value=value, action=action)

    def act(
        self,
        observations: Observations,
        deterministic: bool = False,
        action_masks: ArrayLike | None = None,
        state: PolicyState | None = None,
    ) -> Any:
        """Actions for the observations of N environments, or the action for a single observation.

        Deterministic actions are the best ones known; the others explore. Action masks `[N, A]`
        (or `[A]`) are bools for every choice: what may be done. With a state, `initial_state(N)`,
        it returns the actions and the state; these policies remember nothing.

        Raises:
            ValueError: The observations differ from the space in shape or kind, or the masks do.
            FloatingPointError: An observation is NaN or infinite.
        """
        deterministic = flag("deterministic", deterministic)
        batch, is_single = self._encoder.batch(observations)
        encoded = self._encoder.encode(batch)
        masks = None if action_masks is None else np.reshape(action_masks, (len(encoded), -1))
        self._acting.refresh()
        actions = self._actions.execute(self._choose(encoded, deterministic, masks))
        self._keep_behind()
        actions = actions[0] if is_single else actions
        return actions if state is None else (actions, state)

    def _keep_behind(self) -> None:
        """Exploring continues with the weights from before an update that runs beside it."""
        if isinstance(self._step, OverlappedStep):
            self._acting.weights = self._step.weights

    def training_state(self) -> State:
        """The state that only training needs: the replay buffer and the running episodes."""
        if self._replay is None:
            return {}
        episodes = {"waiting": self._waiting, "spoilt": self._nonfinite.copy()}
        replay = {**self._replay.get_state(), "buffer_from": self._buffer_from}
        overlap = (
            {"overlap": self._step.get_state()} if isinstance(self._step, OverlappedStep) else {}
        )
        return {"replay": replay, "episodes": episodes, **overlap}

    def restore_training(self, state: State) -> None:
        """Restores it, after `begin`; episodes that are not in the state start again.

        Raises:
            ValueError: The buffer is another one's, or damaged.
        """
        if isinstance(self._step, OverlappedStep) and "overlap" in state:
            self._step.set_state(state["overlap"])
        if "replay" in state:
            self._replay.set_state(state["replay"])
            self._buffer_from = int(state["replay"].get("buffer_from", 0))
        episodes = state.get("episodes")
        if episodes is None:
            self._replay.cut()
            return
        self._waiting = int(episodes["waiting"])
        self._nonfinite = np.asarray(episodes["spoilt"], bool)

    def refresh(self) -> None:
        """Reads the network's variables, after they were set."""
        self._acting.refresh()
        self._keep_behind()

    def inspect(self) -> Arrays:
        """What the last minibatch held, by name, then weights and gradients by layer.

        `observations` and `rewards`, `action_values` Q(s, ·) of a discrete policy or the
        `action_means` (and `action_stds`) of another.
        """
        if self.batch is None:
            return {}
        inputs, _ = self._examples()
        arrays = {"observations": inputs.observations, "rewards": inputs.rewards}
        return arrays | self._policy_arrays(inputs) | self._weights_and_gradients()


def _is_finite(array: np.ndarray) -> np.ndarray:
    """Of each environment, `[N]`."""
    if array.dtype.kind != "f":
        return np.ones(len(array), bool)
    finite: np.ndarray = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return finite


def _cleared(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy with zeros for some environments, `[N]`."""
    array = array.copy()
    array[where] = 0
    return array
