"""What all agents have in common: how they count their steps, and are saved, loaded and copied.

d   steps of earlier calls of `train`, 0 at first           `_earlier_steps`
t   steps of this call, of T                                `begin(…, total_steps=T)`
schedules are functions of (d + t) / (d + T)
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ...training.common.plain import flag
from ...training.core.forward import differentiated
from ...training.core.step import Step
from ...training.storage.checkpoint import save_checkpoint
from ...training.storage.packing import pack
from ..acting.spaces import MAX_NUMBERS, space_from_json, space_to_json
from ..configs.config import used_settings
from ..configs.fields import config_from_json
from .compatibility import (
    OWN_FUNCTIONS,
    changed_settings,
    check_config,
    check_normalizer,
    check_own_functions,
    check_size,
    check_space,
    checked,
    checked_config,
    checked_count,
    checked_generator,
    describe,
    lost_functions,
    most_numbers,
    settings_of,
)
from .inspection import Arrays, free_path
from .losses import AgentLoss, Losses, NotTaken, checked_losses
from .overlap import OverlappedStep
from .saving import layers_of, read_state, rebuilt, recipe_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...training.common.interrupts import Cuttable
    from ...training.core.compiled import Nest
    from ...training.core.turns import Turn
    from ...training.experience.policy_state import PolicyState
    from ...training.experience.protocols import Space, State
    from ..acting.host import Network

Networks: TypeAlias = keras.Model | tuple[keras.Model, ...]
Optimizers: TypeAlias = keras.optimizers.Optimizer | tuple[keras.optimizers.Optimizer, ...]
Update: TypeAlias = Step | OverlappedStep
"""The compiled update of an agent."""

LARGE_SHARE = 0.1
"""Of the steps of a run: so many without an update are worth a warning before it starts."""
MANY_STEPS = 500
"""Fewer without an update are not: every short trial would warn."""


FOREIGN_NAMES = {
    "learn": "train an agent with vantage.training.train(agent, envs, total_steps)",
    "fit": "train an agent with vantage.training.train(agent, envs, total_steps)",
    "predict": "act with agent.act(observations, deterministic=True), which returns the actions",
    "policy_kwargs": "networks are settings (net_arch, activation) or your own: network=",
    "get_env": "an agent holds no environment; pass it to train and evaluate",
    "set_env": "an agent holds no environment; pass it to train and evaluate",
    "env": "an agent holds no environment; pass it to train and evaluate",
    "num_timesteps": "train returns env_steps, and callbacks receive it",
    "replay_buffer": "it stays between calls of train, and a run's checkpoints hold it",
    "save_replay_buffer": "a run's checkpoints hold the replay buffer: train(…, logdir=…)",
    "load_replay_buffer": "a run's checkpoints hold the replay buffer: train(…, resume=True)",
    "get_parameters": "the weights are agent.network.get_weights()",
    "set_parameters": "set the weights with agent.network.set_weights(…)",
}
"""Names of Stable-Baselines3's models and Keras's, and where ours is."""
FOREIGN_SETTINGS = {
    *("verbose", "tensorboard_log", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs"),
    *("stats_window_size", "env", "total_timesteps", "policy"),
}


def _built(cls: type[Agent]) -> str:
    return (
        f"Write {cls.__name__}(envs.single_observation_space, envs.single_action_space, "
        f"{cls.config_type.__name__}(…)) with envs = make_vec(…); see docs/coming-from.md."
    )


class Agent(ABC):
    """An agent, and all of it but acting and learning.

    Attributes:
        updates: Updates so far.
        drops_rest: Whether steps after the last update of a training are never learned from.
    """

    algorithm: str
    config_type: type[Any]
    drops_rest = False
    _is_training = False  # from `begin` to `settle`
    _is_cuttable = False  # whether an update has several steps, between which a signal may end it
    _done_steps = _earlier_steps = updates = 0
    _total_steps = 1
    config: Any
    own_network = own_optimizer = False
    auxiliary_loss: Any = NotTaken("A2C and PPO take one")
    target_function: Any = NotTaken("agents with a replay buffer take one")
    turn_names: tuple[str, ...] = ("",)
    """Of the updates of one call, each of which may have a loss of the user's."""
    observation_space: Space
    action_space: Space
    normalizer: Any
    network: Networks
    optimizer: Optimizers
    turns: Mapping[str, Turn]
    batch: Any
    gradients: np.ndarray | None = None  # [P], of the last update, if they came with it
    _device: str
    _acting: Network
    generator: np.random.Generator
    _cuttable: Cuttable
    _step: Update  # compiled by `begin`, None before
    _losses: Losses

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Refuses the arguments of other toolkits before a missing one is complained of."""
        if (arguments and isinstance(arguments[0], str)) or "policy" in keywords:
            given = arguments[0] if arguments else keywords["policy"]
            raise ValueError(
                f"{cls.__name__} must be built from an observation space and an action space. "
                f"Received: {given!r:.80}. {_built(cls)}"
            )
        ours = inspect.signature(cls.__init__).parameters
        known = {field.name for field in dataclasses.fields(cls.config_type)} | FOREIGN_SETTINGS
        wrong = [name for name in keywords if name in known and name not in ours]
        if wrong:
            raise TypeError(
                f"Settings of {cls.__name__} must be fields of {cls.config_type.__name__}. "
                f"Received: {', '.join(wrong)} as arguments of the agent. {_built(cls)}"
            )
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        """Of names that do not exist, those of other toolkits lead to ours."""
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name in FOREIGN_NAMES:
            message += f": {FOREIGN_NAMES[name]}"
        raise AttributeError(message, name=name, obj=self)

    @property
    def loss(self) -> AgentLoss | Losses | None:
        """The user's loss, or a dict of them by turn; None where all are the algorithm's.

        It may be set before a training begins, as after `load`: no file holds it.

        Raises:
            ValueError: It is no loss that the agent can take, or a training runs.
        """
        return (self._losses or None) if self._has_turns() else self._losses.get("")

    @loss.setter
    def loss(self, loss: AgentLoss | Losses | None) -> None:
        self._check_is_idle("loss")
        self._losses = checked_losses(loss, self.turn_names)

    def _check_is_idle(self, name: str) -> None:
        """Refuses to set what the update of a running training was compiled from.

        Raises:
            ValueError: A training runs.
        """
        if self._is_training:
            raise ValueError(
                f"{name} must be set before a training begins: the update is compiled then. "
                "Received: another one while a training runs. Set it when `train` has returned "
                "(in a loop of your own, after `agent.settle()`), and train further."
            )

    @classmethod
    def _has_turns(cls) -> bool:
        return cls.turn_names != ("",)

    @property
    def used_settings(self) -> State:
        """The settings of the config that apply to its network and optimizer."""
        own = self.own_network, self.own_optimizer, self.loss is not None
        return used_settings(self.config, *own)

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, list[keras.Variable]]:
        """All variables, under `network` and `optimizer`."""

    def initial_state(self, count: int) -> PolicyState:
        """What the policy remembers at the beginning of an episode, in so many environments.

        It is `()` for a policy without memory.
        """
        return self._acting.initial_state(count)

    def settle(self) -> None:
        """Ends a training: waits for an update that runs beside the caller (`overlap_update`)."""
        self._is_training = False
        if isinstance(self._step, OverlappedStep):
            self._step.settle()

    def _may_be_cut(self) -> AbstractContextManager[None]:
        """Around an update; a single one, or one that runs beside the acting, is finished."""
        if isinstance(self._step, OverlappedStep) or not self._is_cuttable:
            return nullcontext()
        return self._cuttable(self._variables, self.generator)

    def _variables(self) -> list[keras.Variable]:
        return [variable for part in self.parts.values() for variable in part]

    @abstractmethod
    def shortfall(self, num_envs: int, total_steps: int) -> str | None:
        """What a run of so many steps leaves without an update, in a sentence; None if little."""

    def _warn_of_shortfall(self, num_envs: int, total_steps: int) -> None:
        text = self.shortfall(num_envs, total_steps)
        if text:
            warnings.warn(text, stacklevel=3)

    def check_resumable(self, state: State) -> None:
        """Refuses a state that a run with these settings and spaces cannot resume from.

        Warns of an optimizer with other settings.

        Raises:
            ValueError: They differ.
        """
        self._check_settings(state)
        self._warn_of_optimizer(state)

    def _begin(self, total_steps: int, done_steps: int) -> None:
        """Begins a training, which counts on from what earlier ones have done.

        Args:
            total_steps: T, of this training.
            done_steps: t; more than 0 for a resumed run, whose d is in the agent's state.
        """
        self._is_training = True
        if not done_steps:
            self._earlier_steps = self._done_steps
        self._done_steps = self._earlier_steps + done_steps
        self._total_steps = self._earlier_steps + total_steps

    # A look inside, which changes nothing: no generator is drawn from, no variable assigned.

    def _examples(self) -> tuple[Nest, Nest]:
        """Inputs and targets of the last update, of one minibatch of it if there were several."""
        count = getattr(self.config, "batch_size", None)
        inputs, targets = tf.nest.map_structure(lambda array: array[:count], self.batch)
        return inputs, targets

    def _weights_and_gradients(self) -> Arrays:
        """`weights/…` and `gradients/…` (before clipping) of every trained variable.

        Weights are those that acting sees, where it mirrors them: reading a variable costs a call.
        Layers of one name, as two critics may have them, get a number each.
        """
        acting, arrays = self._acting, dict[str, np.ndarray]()
        mirrored = {
            id(v): weight for v, weight in zip(acting.variables, acting.weights, strict=True)
        }
        with tf.device(self._device):
            for name, turn in self.turns.items():
                for variable, gradient in zip(
                    turn.variables, self._gradients_of(turn), strict=True
                ):
                    path = free_path("/".join(filter(None, (name, variable.path))), arrays)
                    weight = mirrored.get(id(variable))
                    weight = variable.value.numpy() if weight is None else weight
                    arrays[f"weights/{path}"] = weight.copy()  # no view
                    arrays[f"gradients/{path}"] = gradient
        return arrays

    def _gradients_of(self, turn: Turn) -> list[np.ndarray]:
        """Gradients of the last update, where they came with it: then a look costs nothing.

        Otherwise of the last update's examples at the weights as they are now, computed here.
        """
        if self.gradients is None:
            tensors = tf.nest.map_structure(tf.constant, self._examples())
            return [gradient.numpy() for gradient in differentiated(*turn, *tensors)[-1]]
        shapes = [tuple(variable.shape) for variable in turn.variables]
        cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        parts = np.split(self.gradients.copy(), cuts)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    # Its state, in files and copies.

    def get_state(self) -> State:
        """All that it needs to continue bit for bit."""
        return self._learned_state() | self.training_state()

    def _learned_state(self) -> State:
        """The same without replay buffer and running episodes, which only training needs."""
        config, parts = dataclasses.asdict(self.config), self.parts
        state: State = {
            "algorithm": self.algorithm,
            "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "own": self._own_parts(),
            "variables": {name: describe(variables) for name, variables in parts.items()},
            **{name: [np.asarray(v.numpy()) for v in each] for name, each in parts.items()},
            "normalizer": {} if self.normalizer is None else self.normalizer.arrays(),
            "generator": self.generator.bit_generator.state,
            "updates": self.updates,
            "done_steps": self._done_steps,
            "earlier_steps": self._earlier_steps,
        }
        if self.own_optimizer:
            state["optimizer_settings"] = self._optimizer_settings()
        return state

    @abstractmethod
    def training_state(self) -> State:
        """What only a training needs: buffers, and under `episodes` the running episodes."""

    @abstractmethod
    def restore_training(self, state: State) -> None:
        """Restores them, after `begin`; episodes that are not in the state start again."""

    @abstractmethod
    def refresh(self) -> None:
        """Reads the network's variables, after they were set."""

    def set_state(self, state: State, *, only_network: bool = False) -> None:
        """Goes on from a state; changes nothing if it does not fit.

        Args:
            state: What `get_state` returned. What belongs to running episodes is taken over by an
                agent that has begun to train.
            only_network: The weights, and the normaliser they rely on, to fine-tune them.

        Raises:
            ValueError: It is another agent's, or damaged.
        """
        only_network = flag("only_network", only_network)
        parts = {"network": self.parts["network"]} if only_network else self.parts
        try:
            described = state["variables"]
            values = {n: checked(n, parts[n], described.get(n), state[n]) for n in parts}
            own, normalizer = self.normalizer, state["normalizer"]
            check_normalizer({} if own is None else own.arrays(), normalizer)
            generator = checked_generator(state["generator"], self.generator)
            counts = {name: state[name] for name in ("updates", "done_steps")}
            counts["earlier_steps"] = state.get("earlier_steps", 0)
            counts = {name: checked_count(name, count) for name, count in counts.items()}
            if not only_network and self._step is not None:
                self._check_settings(state)
                self.restore_training(state)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                "A saved agent must hold its variables, its generator and its counters. Received: "
                f"one without ({error!r:.200}). The file is damaged; load another one."
            ) from None
        for name, variables in parts.items():  # critical: nothing is changed before all is checked
            for variable, array in zip(variables, values[name], strict=True):
                variable.assign(array)
        if self.normalizer is not None:
            self.normalizer.load(normalizer)
        if not only_network:
            self.generator.bit_generator.state = generator
            self.updates, self._done_steps = counts["updates"], counts["done_steps"]
            self._earlier_steps = counts["earlier_steps"]
        self.refresh()

    def save(self, path: str | Path) -> None:
        """Writes network, optimizer, generator and settings to the directory `path`.

        Replay buffers are in the checkpoints of a run only.

        Args:
            path: A new directory, or that of a saved agent to replace.

        Raises:
            FileExistsError: `path` is something else than a saved agent.
            FloatingPointError: A weight is not finite.
        """
        state = self.get_state()
        state.pop("replay", None)  # a run's checkpoints keep it
        arrays, packed = pack("agent", state)
        save_checkpoint(path, arrays, {"agent": packed})

    @classmethod
    def load(
        cls,
        path: str | Path,
        network: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        device: str = "cpu",
        *,
        only_to_act: bool = False,
    ) -> Self:
        """Loads the agent saved at `path`; it acts and trains on as the saved one would have.

        The default network and optimizer are rebuilt from the config. Your own must be passed
        again; each variable is checked by path, shape and dtype. Nothing in the file is ever
        executed.

        Args:
            path: The directory: a saved agent, a run (its newest whole checkpoint), or one of a
                run's checkpoints, such as `checkpoints/best`.
            network: Your own network, exactly when the saved agent had its own.
            optimizer: Your own optimizer, exactly when the saved agent had its own.
            device: Where the network lives.
            only_to_act: An agent with an optimizer of its own is loaded without it, not to be
                trained.

        Warns:
            UserWarning: Your optimizer has other settings than the saved agent's.

        Raises:
            ValueError: There is no agent at `path`, or network or optimizer is missing or differs.
        """
        only_to_act, state = flag("only_to_act", only_to_act), read_state(path)
        config = checked_config(
            state, cls.algorithm, cls.config_type, network, optimizer, only_to_act
        )
        most = MAX_NUMBERS if network is not None else most_numbers(state)
        observations = space_from_json(state.get("observation_space"), most)
        own = state["own"] if isinstance(state.get("own"), dict) else {}
        actions = space_from_json(state.get("action_space"), most)
        if network is None:
            check_size(state, config, observations, actions)
        agent = cls(
            observations,
            actions,
            config,
            network=network,
            optimizer=optimizer,
            device=device,
            **lost_functions(own, cls.turn_names),
        )
        only_network = only_to_act and bool(own.get("optimizer"))
        agent.set_state(state, only_network=only_network)
        if not only_network:
            agent._warn_of_optimizer(state)
        return agent

    def restore(self, path: str | Path, *, only_network: bool = False) -> None:
        """Takes over weights, optimizer, generator and counters of the agent saved at `path`.

        Args:
            path: The directory, as for `load`.
            only_network: The weights, and the normaliser they rely on, to fine-tune them.

        Raises:
            ValueError: There is no agent at `path`, or its variables differ from this one's.
        """
        state = read_state(path)
        self.set_state(state, only_network=only_network)
        if not only_network:
            self._warn_of_optimizer(state)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """What `copy` and `pickle` make another agent from, as a loaded one would be.

        It has the weights, optimizer, generator and counters, but no replay buffer and no episodes.
        A copy of the attributes would act with its own variables and train the original's, whose
        they are in the compiled functions.
        """
        # critical: `copy.copy` hands this network itself to the other agent
        network = copy.deepcopy(self.network) if self.own_network else None
        optimizer = None
        if self.own_optimizer:
            several = isinstance(self.optimizer, tuple)
            optimizer = [recipe_of(one) for one in self._optimizers], several
        functions = {name: getattr(self, name) for name in OWN_FUNCTIONS}
        more = {name: each for name, each in functions.items() if each is not None}
        more["device"] = self._device
        return rebuilt, (
            type(self),
            (self.observation_space, self.action_space, self.config),
            network,
            optimizer,
            more,
            [layer.trainable for layer in layers_of(self.network)],
            self._learned_state(),
        )

    @property
    def _optimizers(self) -> tuple[keras.optimizers.Optimizer, ...]:
        return self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)

    def _own_parts(self) -> State:
        """What of an agent is its user's own, and has to be passed again."""
        own = {"network": self.own_network, "optimizer": self.own_optimizer}
        functions: dict[str, Any] = {"loss": sorted(self._losses)}
        for name in ("auxiliary_loss", "target_function"):
            functions[name] = getattr(self, name) is not None
        return own | {name: each for name, each in functions.items() if each}

    def _optimizer_settings(self) -> list[dict[str, str]]:
        """The settings of each optimizer that is the user's own, as texts by name.

        Those that are objects or variables (learning rates) are left out.
        """
        return [settings_of(each) for each in self._optimizers] if self.own_optimizer else []

    def _warn_of_optimizer(self, state: State) -> None:
        """Warns of an optimizer of the user's own with other settings than the saved one's."""
        changed = changed_settings(self._optimizer_settings(), state.get("optimizer_settings"))
        if changed:
            warnings.warn(changed, stacklevel=3)

    def _check_settings(self, state: State) -> None:
        """Refuses to resume a run with other settings or spaces.

        Raises:
            ValueError: They differ.
        """
        for name in ("observation_space", "action_space"):
            check_space(name, getattr(self, name), state[name])
        check_own_functions(self._own_parts(), state["own"])
        saved = config_from_json(self.config_type, state["config"])
        check_config(self.config, saved, self.used_settings)


def steps_without_update(setting: str, period: int, num_envs: int, total_steps: int) -> str | None:
    """A sentence on the steps of a run that no update learns from; None if they are few.

    Args:
        setting: The name of what decides on the period.
        period: Steps of every environment between two updates.
        num_envs: How many environments.
        total_steps: Of the run.
    """
    steps, size = math.ceil(total_steps / num_envs), period * num_envs  # steps of every environment
    left = total_steps - steps // period * size
    if steps >= period and left < max(LARGE_SHARE * total_steps, MANY_STEPS):
        return None
    environments = f"{num_envs} environment{'s' if num_envs > 1 else ''}"
    received = (
        f"Received: total_steps={total_steps:,} with {setting}={period:,} in {environments}, an "
        f"update every {size:,} steps. "
    )
    if steps < period:  # dummy steps of an autoreset fill rollouts too: at most every other one
        may = "makes" if 2 * steps < period else "may make"
        return (
            "A run must have the steps of one update for anything to be learned; this run "
            f"{may} no update. {received}Pass total_steps={size:_} or more, or lower {setting} or "
            "num_envs."
        )
    return (
        f"The steps of a run should be a multiple of those of an update; the last {left:,} steps "
        f"of this run fill no rollout and are not learned from. {received}"
        f"Pass total_steps={total_steps - left:_} or {total_steps - left + size:_}, or lower "
        f"{setting} or num_envs."
    )
