"""What agents are made of again: the states in files, and recipes for copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from ..training.runs.folder import CHECKPOINTS, required_checkpoint
from ..training.storage.checkpoint import load_checkpoint
from ..training.storage.packing import unpack
from ..training.storage.shards import SHARDS

State = dict[str, Any]


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
    """The agent that `Agent.__reduce_ex__` described: built by its class, then given the state."""
    if optimizer is not None:
        recipes, several = optimizer
        made = tuple(_made(*recipe) for recipe in recipes)
        optimizer = made if several else made[0]
    agent = cls(
        observation_space, action_space, config, network=network, optimizer=optimizer, **more
    )
    for layer, is_trainable in zip(layers_of(agent.network), trainable, strict=True):
        if layer.trainable != is_trainable:  # a layer hands it on to those in it
            layer.trainable = is_trainable
    agent.set_state(state)
    return agent


def layers_of(networks: Any) -> list[keras.Layer]:
    """All layers of one network or several, each before those in it."""
    each = networks if isinstance(networks, tuple | list) else [networks]
    return [layer for network in each for layer in network._flatten_layers()]  # noqa: SLF001


Recipe = tuple[type, dict[str, Any], dict[str, Any]]
EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
"""What `exclude_from_weight_decay` sets, by the paths of variables; Keras has no public names."""


def recipe_of(optimizer: keras.optimizers.Optimizer) -> Recipe:
    """What rebuilds an optimizer: its class, its settings, and attributes that are no settings.

    Raises:
        ValueError: It cannot be made again so.
    """
    try:
        config = optimizer.get_config()
        rate = optimizer._learning_rate  # noqa: SLF001
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            config["learning_rate"] = rate  # of any class
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


def read_state(path: str | Path) -> State:
    """What the directory of a saved agent holds, or that of a run or checkpoint.

    Raises:
        ValueError: There is no agent.
    """
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
