"""What an agent must share with the saved one that it goes on from, and what to say if not."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from .fields import config_from_json
from .observations import Encoder
from .spaces import is_saved_space


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


def check_normalizer(own: Mapping[str, np.ndarray], saved: Any) -> None:
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


class OwnPartError(ValueError):
    """A part of an agent is missing that is its user's own, or was passed to one without it.

    Attributes:
        part: "network" or "optimizer".
        had_own: Whether the saved agent had one of its own.
    """

    def __init__(self, part: str, had_own: bool, given: Any) -> None:
        rule = "its own" if had_own else "the default"
        super().__init__(
            f"An agent saved with {rule} {part} must be loaded with it. Received: "
            f"{part}={given!r:.200}. Pass {part}= exactly when it was passed to the saved agent."
        )
        self.part, self.had_own = part, had_own


def checked_config(
    state: Mapping[str, Any],
    algorithm: str,
    config_type: type,
    network: Any,
    optimizer: Any,
    only_to_act: bool = False,
) -> Any:
    """The config of a saved agent, after checking that what is own was passed.

    An agent that only acts needs no optimizer of its own.

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
        if had_own != (given is not None) and not (only_to_act and name == "optimizer"):
            raise OwnPartError(name, had_own, given)
    return config_from_json(config_type, state.get("config"))


def lost_loss(outputs: Any, targets: Any) -> Any:
    """Stands for the auxiliary loss of a loaded agent, which no file holds.

    Raises:
        ValueError: Always: the agent is trained without it.
    """
    raise ValueError(
        "An agent that was saved with an auxiliary loss must have it to be trained further. "
        "Received: a loaded agent without one. Set agent.auxiliary_loss = your_loss before train."
    )


def own_parts(self: Any) -> dict[str, bool]:
    """What of an agent is its user's own, and has to be passed again."""
    auxiliary = getattr(self, "auxiliary_loss", None) is not None
    own = {"network": self.own_network, "optimizer": self.own_optimizer}
    return own | ({"auxiliary_loss": True} if auxiliary else {})


def check_settings(self: Any, state: Mapping[str, Any]) -> None:
    """Refuses to go on in the middle of a run with other settings or spaces.

    Raises:
        ValueError: They differ.
    """
    for name in ("observation_space", "action_space"):
        if not is_saved_space(getattr(self, name), state[name]):
            raise ValueError(
                f"A resumed run must have the {name} it was saved with. Received: "
                f"{getattr(self, name)}. Pass the environments of the run."
            )
    own, had = (bool(each.get("auxiliary_loss")) for each in (own_parts(self), state["own"]))
    if own != had:
        raise ValueError(
            f"A resumed run must have been saved {'with' if own else 'without'} an auxiliary loss. "
            f"Received: one saved {'with' if had else 'without'} it. Pass auxiliary_loss= exactly "
            "when the run had one."
        )
    config, saved = self.config, config_from_json(self.config_type, state["config"])
    names = [field.name for field in dataclasses.fields(config)]
    changed = [f"{n}={getattr(config, n)!r}, saved as {getattr(saved, n)!r}" for n in names
               if getattr(config, n) != getattr(saved, n)]  # fmt: skip
    if changed:
        raise ValueError(
            "A resumed run must have the settings it was saved with. Received: "
            f"{'; '.join(changed)}. Leave them out, or begin a new run from its weights "
            "(--init-from)."
        )


def _largest_side(state: Mapping[str, Any]) -> int:
    arrays = state.get("network")
    shapes = [np.shape(array) for array in arrays] if isinstance(arrays, list) else []
    return max((size for shape in shapes for size in shape), default=0)


def most_numbers(state: Mapping[str, Any]) -> int:
    """Of an observation, for a default network as large as the saved one."""
    return 16 * max(_largest_side(state), 4096)


def check_size(state: Mapping[str, Any], config: Any, observations: Any) -> None:
    """Refuses settings that would build a network far larger than the one in the file.

    Raises:
        ValueError: They would.
    """
    largest, numbers = _largest_side(state), math.prod(Encoder(observations).shape)
    if max(config.net_arch, default=0) > largest or numbers > most_numbers(state):
        raise ValueError(
            "A saved agent's settings must fit the network that was saved. Received: net_arch="
            f"{config.net_arch} and {numbers:,} numbers an observation, for variables of at most "
            f"{largest:,} a side. The file is damaged; load another one."
        )
