"""An agent as arrays and JSON: variables by name, spaces, and checks when they come back."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..training.checkpoint import load_checkpoint, save_checkpoint
from .config import config_from_json
from .spaces import space_from_json, space_to_json


def save_agent(self: Any, path: str | Path, run: Mapping[str, Any] | None = None) -> None:
    """Writes network, optimizer, generator and settings to the directory `path`.

    Args:
        self: The agent; this is its method `save`.
        path: A new directory, or that of a saved agent to replace.
        run: JSON that a training run keeps beside the agent; `restore` returns it.

    Raises:
        FileExistsError: `path` is something else than a saved agent.
    """
    networks, optimizers = self.network.variables, self.optimizer.variables
    manifest = {
        "algorithm": self.algorithm,
        "config": dataclasses.asdict(self.config),
        "observation_space": space_to_json(self.observation_space),
        "action_space": space_to_json(self.action_space),
        "own_network": self.own_network,
        "own_optimizer": self.own_optimizer,
        "network": describe(networks),
        "optimizer": describe(optimizers),
        "generator": self.policy.generator.bit_generator.state,
        "updates": self.updates,
        "run": dict(run or {}),
    }
    tensors = pack("network", networks) | pack("optimizer", optimizers)
    if self.normalizer is not None:
        tensors |= self.normalizer.arrays()
    save_checkpoint(path, tensors, manifest)


def load_agent(
    cls: Any,
    path: str | Path,
    network: keras.Model | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    device: str = "cpu",
) -> Any:
    """The agent saved at `path`, which goes on as the saved one would have.

    The default network and optimizer are rebuilt from the config. Your own must be passed again;
    each variable is checked by path, shape and dtype.

    Args:
        cls: The agent's class; this is its class method `load`.
        path: The directory.
        network: Your own network, exactly when the saved agent had its own.
        optimizer: Your own optimizer, exactly when the saved agent had its own.
        device: Where the network lives.

    Raises:
        ValueError: There is no agent at `path`, or network or optimizer is missing or differs.
    """
    manifest = load_checkpoint(path)[1]
    agent = cls(
        space_from_json(manifest.get("observation_space", {})),
        space_from_json(manifest.get("action_space", {})),
        _checked_config(manifest, cls.algorithm, cls.config_type, network, optimizer),
        network=network,
        optimizer=optimizer,
        device=device,
    )
    agent.restore(path)
    return agent


def restore_agent(self: Any, path: str | Path, *, only_network: bool = False) -> dict[str, Any]:
    """Takes over weights, optimizer, generator and counters of the agent saved at `path`.

    Args:
        self: The agent; this is its method `restore`.
        path: The directory.
        only_network: The weights, and the normaliser they rely on, to fine-tune them.

    Returns:
        What the run kept beside it.

    Raises:
        ValueError: There is no agent at `path`, or its variables differ from this one's.
    """
    tensors, manifest = load_checkpoint(path)
    parts = {"network": self.network.variables}
    if not only_network:
        parts["optimizer"] = self.optimizer.variables
    values = {name: checked(name, parts[name], manifest.get(name), tensors) for name in parts}
    _check_normalizer({} if self.normalizer is None else self.normalizer.arrays(), tensors)
    try:
        np.random.default_rng().bit_generator.state = manifest["generator"]  # checks it
        updates, run = operator.index(manifest["updates"]), dict(manifest["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "A saved agent must hold its generator, its updates and its run. Received: "
            f"{str(path)!r} ({error!r}). The file is damaged; load another one."
        ) from None
    for name, variables in parts.items():  # critical: nothing is changed before all is checked
        for variable, array in zip(variables, values[name], strict=True):
            variable.assign(array)
    if self.normalizer is not None:
        self.normalizer.load(tensors)
    if not only_network:
        self.policy.generator.bit_generator.state = manifest["generator"]
        self.updates = updates
    return run


def describe(variables: Sequence[keras.Variable]) -> list[dict[str, Any]]:
    """Path, shape and dtype of each variable; numbers that Keras adds to names left out."""
    return [
        {
            "path": re.sub(r"_\d+(?=[/_]|$)", "", variable.path),
            "shape": list(variable.shape),
            "dtype": variable.dtype,
        }
        for variable in variables
    ]


def pack(prefix: str, variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' values under `prefix/index`."""
    return {f"{prefix}/{index}": variable.numpy() for index, variable in enumerate(variables)}


def checked(
    prefix: str,
    variables: Sequence[keras.Variable],
    expected: Any,
    tensors: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """The saved values of the variables, every one of them checked.

    Raises:
        ValueError: A variable differs from the saved one in path, shape or dtype.
    """
    received, expected = describe(variables), expected if isinstance(expected, list) else []
    for index in range(max(len(expected), len(received))):
        saved = expected[index] if index < len(expected) else "nothing"
        given = received[index] if index < len(received) else "nothing"
        if saved != given:
            raise ValueError(
                f"The {prefix} must have the variables that were saved. Variable {index} was saved "
                f"as {saved}. Received: {given}. Pass one built like the saved one."
            )
    arrays = []
    for index, variable in enumerate(variables):
        array = tensors.get(f"{prefix}/{index}")
        if array is None or array.shape != tuple(variable.shape) or array.dtype != variable.dtype:
            raise ValueError(
                f"A saved agent must hold every variable of its {prefix}. Received: none that fits "
                f"{variable.path}. The file is damaged; load another one."
            )
        arrays.append(array)
    return arrays


def _check_normalizer(own: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> None:
    """Checks the saved moments against those of the agent that takes them over.

    Raises:
        ValueError: Something else is normalised, or the file is damaged.
    """
    saved = {name: array for name, array in tensors.items() if name.startswith("normalizer/")}
    expected, received = (
        {name: (array.dtype, array.shape) for name, array in arrays.items()}
        for arrays in (own, saved)
    )
    if expected != received or not all(np.isfinite(array).all() for array in saved.values()):
        raise ValueError(
            "A saved agent must normalise what this one does (normalize_observations, "
            f"normalize_rewards): {sorted(expected) or 'nothing'}. Received: "
            f"{sorted(received) or 'nothing'}. Pass the same settings, or load another file."
        )


def _checked_config(manifest, algorithm: str, config_type: type, network, optimizer) -> Any:
    """The config in a saved agent's manifest, after checking that what is own was passed.

    Raises:
        ValueError: Another algorithm saved it, the config is not readable, or one is missing.
    """
    if manifest.get("algorithm") != algorithm:
        raise ValueError(
            f"The directory must hold a saved {algorithm} agent. Received: one of "
            f"{manifest.get('algorithm')!r}. Load it with that algorithm's class."
        )
    for name, own in (("network", network), ("optimizer", optimizer)):
        if bool(manifest.get(f"own_{name}")) != (own is not None):
            rule = "its own" if manifest.get(f"own_{name}") else "the default"
            raise ValueError(
                f"An agent saved with {rule} {name} must be loaded with it. Received: "
                f"{name}={own!r}. Pass {name}= exactly when it was passed to the saved agent."
            )
    try:
        return config_from_json(config_type, manifest["config"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"A saved agent's config must be readable. Received: {error}.") from None
