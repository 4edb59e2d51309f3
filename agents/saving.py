"""An agent as arrays and JSON: variables, spaces, generator, and checks when they come back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..training.common.plain import flag
from ..training.runs.folder import CHECKPOINTS, required_checkpoint
from ..training.storage.checkpoint import load_checkpoint, save_checkpoint
from ..training.storage.packing import pack, unpack
from ..training.storage.shards import SHARDS
from .acting.spaces import MAX_NUMBERS, space_from_json, space_to_json
from .compatibility import (
    check_normalizer,
    check_settings,
    check_size,
    checked,
    checked_config,
    checked_count,
    checked_generator,
    describe,
    lost_loss,
    most_numbers,
    optimizer_settings,
    own_parts,
    warn_of_optimizer,
)

State = dict[str, Any]


def agent_state(self: Any) -> State:
    """All that the agent needs to go on bit for bit, as its method `get_state`."""
    return learned_state(self) | self.training_state()


def learned_state(self: Any) -> State:
    """The same without what only a training needs: replay buffer and running episodes."""
    config, parts = dataclasses.asdict(self.config), self.parts
    state: State = {
        "algorithm": self.algorithm,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
        "observation_space": space_to_json(self.observation_space),
        "action_space": space_to_json(self.action_space),
        "own": own_parts(self),
        "variables": {name: describe(variables) for name, variables in parts.items()},
        **{n: [np.asarray(each.numpy()) for each in variables] for n, variables in parts.items()},
        "normalizer": {} if self.normalizer is None else self.normalizer.arrays(),
        "generator": self.generator.bit_generator.state,
        "updates": self.updates,
        "done_steps": self._done_steps,
        "earlier_steps": self._earlier_steps,
    }
    if self.own_optimizer:
        state["optimizer_settings"] = optimizer_settings(self)
    return state


def restore_state(self: Any, state: Mapping[str, Any], *, only_network: bool = False) -> None:
    """Goes on from a state, as the agent's method `set_state`; changes nothing if it does not fit.

    Args:
        self: The agent.
        state: What `get_state` returned. What belongs to running episodes is taken over by an agent
            that has begun to train.
        only_network: The weights, and the normaliser they rely on, to fine-tune them.

    Raises:
        ValueError: It is another agent's, or damaged.
    """
    only_network = flag("only_network", only_network)
    parts = {"network": self.parts["network"]} if only_network else self.parts
    try:
        described = state["variables"]
        values = {n: checked(n, parts[n], described.get(n), state[n]) for n in parts}
        normalizer = state["normalizer"]
        check_normalizer({} if self.normalizer is None else self.normalizer.arrays(), normalizer)
        generator = checked_generator(state["generator"], self.generator)
        counts = {name: state[name] for name in ("updates", "done_steps")}
        counts["earlier_steps"] = state.get("earlier_steps", 0)
        counts = {name: checked_count(name, count) for name, count in counts.items()}
        if not only_network and self._step is not None:
            check_settings(self, state)
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


def reduced(self: Any) -> tuple[Any, ...]:
    """What `copy` and `pickle` make another agent from, as a loaded one would be.

    It has the weights, optimizer, generator and counters, but no replay buffer and no episodes. A
    copy of the attributes would act with its own variables and train the original's, whose they are
    in the compiled functions.
    """
    # critical: `copy.copy` hands this network itself to the other agent
    network = copy.deepcopy(self.network) if self.own_network else None
    optimizer = None
    if self.own_optimizer:
        several = isinstance(self.optimizer, tuple)
        each = self.optimizer if several else (self.optimizer,)
        optimizer = [_recipe(one) for one in each], several
    more = {"device": self._device}
    if getattr(self, "auxiliary_loss", None) is not None:
        more["auxiliary_loss"] = self.auxiliary_loss
    spaces = self.observation_space, self.action_space
    return rebuilt, (
        type(self),
        *spaces,
        self.config,
        network,
        optimizer,
        more,
        [layer.trainable for layer in _layers(self.network)],
        learned_state(self),
    )


def rebuilt(
    cls: Any,
    observation_space: Any,
    action_space: Any,
    config: Any,
    network: Any,
    optimizer: Any,
    more: Mapping[str, Any],
    trainable: list[bool],
    state: State,
) -> Any:
    """The agent that `reduced` described: built by its class, then given the state."""
    if optimizer is not None:
        recipes, several = optimizer
        made = tuple(_made(*recipe) for recipe in recipes)
        optimizer = made if several else made[0]
    agent = cls(
        observation_space, action_space, config, network=network, optimizer=optimizer, **more
    )
    for layer, is_trainable in zip(_layers(agent.network), trainable, strict=True):
        if layer.trainable != is_trainable:  # a layer hands it on to those in it
            layer.trainable = is_trainable
    agent.set_state(state)
    return agent


def _layers(networks: Any) -> list[keras.Layer]:
    """All layers of one network or several, each before those in it."""
    each = networks if isinstance(networks, tuple | list) else [networks]
    return [layer for network in each for layer in network._flatten_layers()]  # no public name


Recipe = tuple[type, dict[str, Any], dict[str, Any]]
EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
"""What `exclude_from_weight_decay` sets, by the paths of variables; Keras has no public names."""


def _recipe(optimizer: keras.optimizers.Optimizer) -> Recipe:
    """What rebuilds an optimizer: its class, its settings, and attributes that are no settings.

    Raises:
        ValueError: It cannot be made again so.
    """
    try:
        config = optimizer.get_config()
        if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            config["learning_rate"] = optimizer._learning_rate  # of any class
        more = {name: each for name, each in vars(optimizer).items() if name in EXCLUSIONS}
        recipe = type(optimizer), config, more
        _made(*recipe)
    except Exception as error:  # whatever a class of the user's raises
        raise ValueError(
            "The optimizer of an agent that is copied or pickled must be one that from_config "
            f"makes of get_config. Received: {type(optimizer).__name__}, which raised "
            f"{type(error).__name__}: {str(error)[:200]} Save the agent, and load it with "
            "optimizer=."
        ) from error
    return recipe


def _made(kind: Any, config: dict[str, Any], more: dict[str, Any]) -> keras.optimizers.Optimizer:
    optimizer = kind.from_config(dict(config))
    vars(optimizer).update(more)
    return optimizer


def save_agent(self: Any, path: str | Path) -> None:
    """Writes network, optimizer, generator and settings to the directory `path`; no replay buffer.

    Args:
        self: The agent; this is its method `save`.
        path: A new directory, or that of a saved agent to replace.

    Raises:
        FileExistsError: `path` is something else than a saved agent.
        FloatingPointError: A weight is not finite.
    """
    state = self.get_state()
    state.pop("replay", None)  # a run's checkpoints keep it
    arrays, packed = pack("agent", state)
    save_checkpoint(path, arrays, {"agent": packed})


def load_agent(
    cls: Any,
    path: str | Path,
    network: keras.Model | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    device: str = "cpu",
    *,
    only_to_act: bool = False,
) -> Any:
    """The agent saved at `path`, which goes on as the saved one would have.

    The default network and optimizer are rebuilt from the config. Your own must be passed again;
    each variable is checked by path, shape and dtype. Nothing in the file is ever executed.

    Args:
        cls: The agent's class; this is its class method `load`.
        path: The directory: a saved agent, a run (its newest whole checkpoint), or one of a run's
            checkpoints, such as `checkpoints/best`.
        network: Your own network, exactly when the saved agent had its own.
        optimizer: Your own optimizer, exactly when the saved agent had its own.
        device: Where the network lives.
        only_to_act: An agent with an optimizer of its own is loaded without it, not to be trained.

    Warns:
        UserWarning: Your optimizer has other settings than the saved agent's.

    Raises:
        ValueError: There is no agent at `path`, or network or optimizer is missing or differs.
    """
    only_to_act, state = flag("only_to_act", only_to_act), _read(path)
    config = checked_config(state, cls.algorithm, cls.config_type, network, optimizer, only_to_act)
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
        **({"auxiliary_loss": lost_loss} if own.get("auxiliary_loss") else {}),
    )
    only_network = only_to_act and bool(own.get("optimizer"))
    agent.set_state(state, only_network=only_network)
    if not only_network:
        warn_of_optimizer(agent, state)
    return agent


def restore_agent(self: Any, path: str | Path, *, only_network: bool = False) -> None:
    """Takes over weights, optimizer, generator and counters of the agent saved at `path`.

    Args:
        self: The agent; this is its method `restore`.
        path: The directory, as for `load`.
        only_network: The weights, and the normaliser they rely on, to fine-tune them.

    Raises:
        ValueError: There is no agent at `path`, or its variables differ from this one's.
    """
    state = _read(path)
    restore_state(self, state, only_network=only_network)
    if not only_network:
        warn_of_optimizer(self, state)


def _read(path: str | Path) -> State:
    if (Path(path) / CHECKPOINTS).is_dir():  # a run
        path = required_checkpoint(path)
    arrays, manifest = load_checkpoint(path)
    state = unpack(manifest.get("agent"), arrays, Path(path).parent / SHARDS)
    if not isinstance(state, dict):
        raise ValueError(
            f"A saved agent must hold its state. Received: {str(path)!r}, which has none. Pass the "
            "folder of a saved agent or a checkpoint of a run."
        )
    return state
