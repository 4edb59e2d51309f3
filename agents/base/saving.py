"""Rebuilds agents: reads the states in files, and makes copies of agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import keras

from ...training.runs.folder import CHECKPOINTS, required_checkpoint
from ...training.storage.checkpoint import load_checkpoint
from ...training.storage.packing import unpack
from ...training.storage.shards import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gymnasium import spaces

State: TypeAlias = dict[str, Any]
"""What `get_state` returns: nested dicts and lists of arrays and JSON values."""

Recipe: TypeAlias = tuple[type[keras.optimizers.Optimizer], dict[str, Any], dict[str, Any]]
"""What rebuilds an optimizer: its class, its settings, and attributes that are not settings."""

EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
"""What `exclude_from_weight_decay` sets, by the paths of variables; Keras has no public names."""


class Rebuildable(Protocol):
    """What `rebuilt` needs of an agent."""

    network: keras.Model | tuple[keras.Model, ...]

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state."""


Rebuilt = TypeVar("Rebuilt", bound=Rebuildable)


def rebuilt(
    cls: Callable[..., Rebuilt],
    arguments: tuple[spaces.Space[object], spaces.Space[object], object],
    network: keras.Model | tuple[keras.Model, ...] | None,
    optimizer: tuple[list[Recipe], bool] | None,
    more: Mapping[str, object],
    trainable: list[bool],
    state: State,
) -> Rebuilt:
    """The agent that `Agent.__reduce_ex__` described, built by its class and set to the state.

    Args:
        cls: The class.
        arguments: Observation space, action space and config.
        network: The user's network, if there is one.
        optimizer: Recipes of the user's optimizers, if there are any, and whether it is a tuple.
        more: Further arguments by name.
        trainable: Whether each layer is trained.
        state: What `set_state` receives.
    """
    optimizers: Any = None
    if optimizer is not None:
        recipes, several = optimizer
        built = tuple(_built(*recipe) for recipe in recipes)
        optimizers = built if several else built[0]
    agent = cls(*arguments, network=network, optimizer=optimizers, **more)
    for layer, is_trainable in zip(layers_of(agent.network), trainable, strict=True):
        if layer.trainable != is_trainable:  # setting it also sets the layers inside
            layer.trainable = is_trainable
    agent.set_state(state)
    return agent


def layers_of(networks: keras.Model | tuple[keras.Model, ...]) -> list[keras.layers.Layer]:
    """All layers of one network or several, each before the layers inside it."""
    each = networks if isinstance(networks, tuple) else (networks,)
    return [layer for network in each for layer in network._flatten_layers()]  # noqa: SLF001


def recipe_of(optimizer: keras.optimizers.Optimizer) -> Recipe:
    """What rebuilds an optimizer.

    Raises:
        ValueError: Its class cannot rebuild it from its settings.
    """
    try:
        config = optimizer.get_config()
        rate = optimizer._learning_rate  # noqa: SLF001
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            config["learning_rate"] = rate  # a schedule of any class
        more = {name: each for name, each in vars(optimizer).items() if name in EXCLUSIONS}
        recipe = type(optimizer), config, more
        _built(*recipe)
    except Exception as error:  # whatever a class of the user's raises
        raise ValueError(
            "To copy or pickle an agent, from_config must rebuild its optimizer from get_config. "
            f"Received: {type(optimizer).__name__}, which raised "
            f"{type(error).__name__}: {str(error)[:200]} Save the agent, and load it with "
            "optimizer=."
        ) from error
    return recipe


def _built(
    kind: type[keras.optimizers.Optimizer], config: dict[str, Any], more: dict[str, Any]
) -> keras.optimizers.Optimizer:
    optimizer = kind.from_config(dict(config))
    vars(optimizer).update(more)
    return optimizer


def read_state(path: str | Path) -> State:
    """The state in the directory of a saved agent, a run or a checkpoint.

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
