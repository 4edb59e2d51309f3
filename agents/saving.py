"""An agent as arrays and JSON: variables, spaces, generator, and checks when they come back."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..training import carry
from ..training.checkpoint import load_checkpoint, save_checkpoint
from ..training.overlap import Overlapped
from ..training.packing import pack, unpack
from ..training.shards import SHARDS
from .config import config_from_json
from .observations import Encoder
from .spaces import space_from_json, space_to_json

State = dict[str, Any]
PARTS = ("network", "optimizer")


def agent_state(self: Any) -> State:
    """All that the agent needs to go on bit for bit, as its method `get_state`."""
    network, optimizer = self.network.variables, self.optimizer.variables
    state: State = {
        "algorithm": self.algorithm,
        "config": dataclasses.asdict(self.config),
        "observation_space": space_to_json(self.observation_space),
        "action_space": space_to_json(self.action_space),
        "own": {"network": self.own_network, "optimizer": self.own_optimizer},
        "variables": {"network": describe(network), "optimizer": describe(optimizer)},
        "network": [np.asarray(variable.numpy()) for variable in network],
        "optimizer": [np.asarray(variable.numpy()) for variable in optimizer],
        "normalizer": {} if self.normalizer is None else self.normalizer.arrays(),
        "generator": self.policy.generator.bit_generator.state,
        "updates": self.updates,
        "done_steps": self._done_steps,
    }
    state["config"]["net_arch"] = list(self.config.net_arch)
    if isinstance(self._step, Overlapped):
        state["overlap"] = self._step.get_state()
    if self._rollout is not None:
        returns = None if self.normalizer is None else self.normalizer.returns.copy()
        state["episodes"] = {"rollout": carry.rollout_state(self._rollout), "returns": returns}
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
    parts = {name: getattr(self, name).variables for name in PARTS[: 1 if only_network else 2]}
    try:
        described = state["variables"]
        values = {n: checked(n, parts[n], described.get(n), state[n]) for n in parts}
        normalizer = state["normalizer"]
        _check_normalizer({} if self.normalizer is None else self.normalizer.arrays(), normalizer)
        np.random.default_rng().bit_generator.state = state["generator"]  # checks it
        updates, done_steps = (operator.index(state[name]) for name in ("updates", "done_steps"))
        if not only_network and self._step is not None:
            _check_config(self.config, state)
            _restore_episodes(self, state.get("overlap"), state.get("episodes"))
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
        self.policy.generator.bit_generator.state = state["generator"]
        self.updates, self._done_steps = updates, done_steps
    self._acting.refresh()
    if isinstance(self._step, Overlapped) and not only_network and "overlap" in state:
        self._acting.weights = self._step.weights


def _restore_episodes(self: Any, overlap: Any, episodes: Any) -> None:
    if isinstance(self._step, Overlapped) and overlap is not None:
        self._step.set_state(overlap)
    if episodes is not None:
        carry.restore_rollout(self._rollout, episodes["rollout"])
        if self.normalizer is not None:
            self.normalizer.returns = np.asarray(episodes["returns"], np.float64)


def save_agent(self: Any, path: str | Path) -> None:
    """Writes network, optimizer, generator and settings to the directory `path`.

    Args:
        self: The agent; this is its method `save`.
        path: A new directory, or that of a saved agent to replace.

    Raises:
        FileExistsError: `path` is something else than a saved agent.
        FloatingPointError: A weight is not finite.
    """
    arrays, packed = pack("agent", self.get_state())
    save_checkpoint(path, arrays, {"agent": packed})


def load_agent(
    cls: Any,
    path: str | Path,
    network: keras.Model | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    device: str = "cpu",
) -> Any:
    """The agent saved at `path`, which goes on as the saved one would have.

    The default network and optimizer are rebuilt from the config. Your own must be passed again;
    each variable is checked by path, shape and dtype. Nothing in the file is ever executed.

    Args:
        cls: The agent's class; this is its class method `load`.
        path: The directory: a saved agent, or a checkpoint of a run.
        network: Your own network, exactly when the saved agent had its own.
        optimizer: Your own optimizer, exactly when the saved agent had its own.
        device: Where the network lives.

    Raises:
        ValueError: There is no agent at `path`, or network or optimizer is missing or differs.
    """
    state = _read(path)
    config = _checked_config(state, cls.algorithm, cls.config_type, network, optimizer)
    observations = space_from_json(state.get("observation_space"))
    if network is None:
        _check_size(state, config, observations)
    agent = cls(
        observations,
        space_from_json(state.get("action_space")),
        config,
        network=network,
        optimizer=optimizer,
        device=device,
    )
    agent.set_state(state)
    return agent


def restore_agent(self: Any, path: str | Path, *, only_network: bool = False) -> None:
    """Takes over weights, optimizer, generator and counters of the agent saved at `path`.

    Args:
        self: The agent; this is its method `restore`.
        path: The directory.
        only_network: The weights, and the normaliser they rely on, to fine-tune them.

    Raises:
        ValueError: There is no agent at `path`, or its variables differ from this one's.
    """
    restore_state(self, _read(path), only_network=only_network)


def _read(path: str | Path) -> State:
    arrays, manifest = load_checkpoint(path)
    state = unpack(manifest.get("agent"), arrays, Path(path).parent / SHARDS)
    if not isinstance(state, dict):
        raise ValueError(
            f"A saved agent must hold its state. Received: {str(path)!r}, which has none. Pass the "
            "folder of a saved agent or a checkpoint of a run."
        )
    return state


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


def checked(
    part: str, variables: Sequence[keras.Variable], expected: Any, arrays: Any
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
                f"The {part} must have the variables that were saved. Variable {index} was saved "
                f"as {saved!r:.200}. Received: {given}. Pass one built like the saved one."
            )
    arrays = arrays if isinstance(arrays, list) else []
    for index, variable in enumerate(variables):
        array: Any = arrays[index] if index < len(arrays) else None
        fits = isinstance(array, np.ndarray) and array.shape == tuple(variable.shape)
        if not fits or array.dtype != variable.dtype:
            raise ValueError(
                f"A saved agent must hold every variable of its {part}. Received: none that fits "
                f"{variable.path}. The file is damaged; load another one."
            )
    return arrays


def _check_normalizer(own: Mapping[str, np.ndarray], saved: Any) -> None:
    """Checks the saved moments against those of the agent that takes them over.

    Raises:
        ValueError: Something else is normalised, or the file is damaged.
    """
    saved = {name: np.asarray(array) for name, array in dict(saved).items()}
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


def _checked_config(state: State, algorithm: str, config_type: type, network, optimizer) -> Any:
    """The config of a saved agent, after checking that what is own was passed.

    Raises:
        ValueError: Another algorithm saved it, the config is not readable, or one is missing.
    """
    if state.get("algorithm") != algorithm:
        raise ValueError(
            f"The directory must hold a saved {algorithm} agent. Received: one of "
            f"{state.get('algorithm')!r:.80}. Load it with that algorithm's class."
        )
    own = state.get("own")
    for name, given in (("network", network), ("optimizer", optimizer)):
        had_own = isinstance(own, dict) and bool(own.get(name))
        if had_own != (given is not None):
            rule = "its own" if had_own else "the default"
            raise ValueError(
                f"An agent saved with {rule} {name} must be loaded with it. Received: "
                f"{name}={given!r}. Pass {name}= exactly when it was passed to the saved agent."
            )
    return config_from_json(config_type, state.get("config"))


def _check_config(config: Any, state: Mapping[str, Any]) -> None:
    """Refuses to go on in the middle of a run with other settings.

    Raises:
        ValueError: They differ.
    """
    saved = config_from_json(type(config), state["config"])
    names = [field.name for field in dataclasses.fields(config)]
    changed = [f"{n}={getattr(config, n)!r}, saved as {getattr(saved, n)!r}" for n in names
               if getattr(config, n) != getattr(saved, n)]  # fmt: skip
    if changed:
        raise ValueError(
            "A resumed run must have the settings it was saved with. Received: "
            f"{'; '.join(changed)}. Leave them out, or begin a new run from its weights "
            "(--init-from)."
        )


def _check_size(state: State, config: Any, observations: Any) -> None:
    """Refuses settings that would build a network far larger than the one in the file.

    Raises:
        ValueError: They would.
    """
    arrays = state.get("network")
    shapes = [np.shape(array) for array in arrays] if isinstance(arrays, list) else []
    largest = max((size for shape in shapes for size in shape), default=0)
    numbers = math.prod(Encoder(observations).shape)
    if max(config.net_arch, default=0) > largest or numbers > 16 * max(largest, 4096):
        raise ValueError(
            "A saved agent's settings must fit the network that was saved. Received: net_arch="
            f"{config.net_arch} and {numbers:,} numbers an observation, for variables of at most "
            f"{largest:,} a side. The file is damaged; load another one."
        )
