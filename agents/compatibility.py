"""What an agent must share with the saved one that it goes on from, and what to say if not."""

from __future__ import annotations

import itertools
import math
import numbers
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from gymnasium import spaces

from ..training.core.optimizers import built_variables
from .acting.observations import Encoder, image_axes
from .acting.spaces import is_saved_space, numbers_of
from .configs.config import hidden_widths
from .configs.fields import brief, config_from_json
from .networks.models import IMAGE_FEATURES


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
    expected, arrays = _taken_apart(received, expected, arrays)
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


def _taken_apart(received: list[dict], expected: list, arrays: Any) -> tuple[list, Any]:
    """The saved variables with a slot for each variable; before, small ones had joined slots."""
    paths = [saved.get("path") if isinstance(saved, dict) else None for saved in expected]
    is_whole = isinstance(arrays, list) and len(arrays) == len(paths)
    joined = [isinstance(path, str) and "/parameters_" in path for path in paths]
    if not any(joined) or not is_whole:
        return expected, arrays
    described, pieces, left = list[dict](), list[Any](), iter(received)
    for index in range(len(paths)):
        if not joined[index]:
            described.append(expected[index])
            pieces.append(arrays[index])
            next(left, None)
        elif index == 0 or not joined[index - 1]:  # the slots of one optimizer
            end = next((k for k in range(index, len(paths)) if not joined[k]), len(paths))
            kinds = [str(each).split("/parameters_")[1] for each in paths[index:end]]
            flat = dict(zip(kinds, (np.ravel(array) for array in arrays[index:end]), strict=True))
            while any(array.size for array in flat.values()) and (own := next(left, None)):
                ends = [k for k in flat if own["path"].endswith(f"_{k}")]
                size = math.prod(own["shape"])
                if not ends or flat[ends[0]].size < size:
                    return expected, arrays
                described.append(own)
                pieces.append(flat[ends[0]][:size].reshape(own["shape"]))
                flat[ends[0]] = flat[ends[0]][size:]
    return described, pieces


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
    fits = expected == received and all(np.isfinite(array).all() for array in saved.values())
    if fits and any((saved[n] < 0).any() for n in saved if n.endswith(("/variance", "/count"))):
        raise ValueError(
            "A saved agent's normaliser must have variances and a count of at least 0. Received: "
            "one with a negative number. The file is damaged; load another one."
        )
    if not fits:
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


def checked_generator(saved: Any, own: np.random.Generator) -> dict[str, Any]:
    """The saved state of a generator of the same kind, every number of it in its range.

    Raises:
        ValueError: It is another kind's, or damaged.
    """
    kind = own.bit_generator.state["bit_generator"]
    try:
        inner, rest = saved["state"], (saved["has_uint32"], saved["uinteger"])
        limits = {"state": 2**128, "inc": 2**128}
        fits = saved["bit_generator"] == kind and set(inner) == set(limits)
        fits = fits and all(type(inner[n]) is int and 0 <= inner[n] < limits[n] for n in limits)
        fits = fits and all(type(one) is int for one in rest)
        fits = fits and rest[0] in (0, 1) and 0 <= rest[1] < 2**32
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            f"A saved agent must hold the state of a {kind} generator. Received: {brief(saved)}. "
            "The file is damaged; load another one."
        )
    return {name: saved[name] for name in ("bit_generator", "state", "has_uint32", "uinteger")}


def checked_count(name: str, saved: Any) -> int:
    """A saved count.

    Raises:
        ValueError: It is no whole number from 0 to 2**63 - 1.
    """
    if type(saved) is not int or not 0 <= saved < 2**63:
        raise ValueError(
            f"A saved agent must hold {name}, a whole number from 0 on. Received: {brief(saved)}. "
            "The file is damaged; load another one."
        )
    return saved


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


OWN_FUNCTIONS = {
    "auxiliary_loss": ("an auxiliary loss", "your_loss"),
    "loss": ("its own loss", "your_loss"),
    "target_function": ("its own target function", "your_function"),
}
"""Functions of the user's that an agent may have, in words, and what to set them to."""


class Lost:
    """Stands for a function of a loaded agent, which no file holds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """Raises a ValueError: the agent is trained without it."""
        what, value = OWN_FUNCTIONS[self._name]
        raise ValueError(
            f"An agent that was saved with {what} must have it to be trained further. "
            f"Received: a loaded agent without one. Set agent.{self._name} = {value} before train."
        )


def lost_functions(own: Mapping[str, Any], turns: Sequence[str]) -> dict[str, Any]:
    """Arguments of an agent's class in place of the functions that a saved agent had.

    Args:
        own: What of the saved agent was its user's.
        turns: The names of the agent's turns, of which each may have a loss.
    """
    lost: dict[str, Any] = {name: Lost(name) for name in OWN_FUNCTIONS if own.get(name)}
    if "loss" in lost and list(turns) != [""]:
        saved = own["loss"] if isinstance(own["loss"], list) else []
        lost["loss"] = {name: lost["loss"] for name in turns if name in saved}
    return lost


def settings_of(optimizer: keras.optimizers.Optimizer) -> dict[str, str]:
    """The settings of an optimizer, as texts by name.

    Those that are objects or variables (learning rates) are left out.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a learning rate that is a lambda
            config = optimizer.get_config()
    except Exception:  # whatever a class of the user's raises
        return {}
    found = {
        name: str(value if isinstance(value, bool | str | None) else float(value))
        for name, value in config.items()
        if isinstance(value, str | numbers.Real | None) and name not in ("name", "learning_rate")
    }
    if getattr(optimizer, "weight_decay", None):  # without, nothing is excluded from it
        variables = built_variables(optimizer)
        excluded = [v for v in variables if not optimizer._use_weight_decay(v)]  # noqa: SLF001
        found["exclude_from_weight_decay"] = str([each["path"] for each in describe(excluded)])
    return found


def changed_settings(own: list[dict[str, str]], saved: Any) -> str:
    """What to warn of where optimizers have other settings than the saved ones; else nothing."""
    both = zip(own, saved if isinstance(saved, list) else [], strict=False)
    changed = [
        f"{name}={now[name]:.200}, saved as {had[name]!s:.200}"
        for now, had in both
        for name in now
        if isinstance(had, dict) and had.get(name, now[name]) != now[name]
    ]
    if not changed:
        return ""
    return (
        "The optimizer of a saved agent should have the settings it was saved with. Received: "
        f"{'; '.join(changed)}. Training continues with the settings received; to continue as the "
        "saved agent would have, pass an optimizer made like the saved one."
    )


def check_space(name: str, space: spaces.Space, saved: Any) -> None:
    """Refuses to go on in the middle of a run with another space."""
    if not is_saved_space(space, saved):
        raise ValueError(
            f"A resumed run must have the {name} it was saved with. Received: {space}. Pass the "
            "environments of the run."
        )


def check_own_functions(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuses to resume with a function of the user's where there was none, or without it."""
    for name, (what, _) in OWN_FUNCTIONS.items():
        own, had = now.get(name), saved.get(name)
        if bool(own) != bool(had):
            raise ValueError(
                f"A resumed run must have been saved {'with' if own else 'without'} {what}. "
                f"Received: one saved {'with' if had else 'without'} it. Pass {name}= exactly "
                "when the run had one."
            )
        if own and own != had:
            raise ValueError(
                f"A resumed run must have losses of the same names. Received: {own}, saved with "
                f"{brief(had)}. Pass those of the run."
            )


def check_config(config: Any, saved: Any, names: Iterable[str]) -> None:
    """Refuses to go on with other settings, of those of these names."""
    changed = [f"{n}={getattr(config, n)!r}, saved as {getattr(saved, n)!r}" for n in names
               if getattr(config, n) != getattr(saved, n)]  # fmt: skip
    if changed:
        raise ValueError(
            "A resumed run must have the settings it was saved with. Received: "
            f"{'; '.join(changed)}. Leave them out, or begin a new run from its weights "
            "(--init-from)."
        )


def _saved_shapes(state: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Of the saved network's arrays; empty ones hold nothing that a network could have."""
    arrays = state.get("network")
    found = arrays if isinstance(arrays, list) else []
    return [array.shape for array in found if isinstance(array, np.ndarray) and array.size]


def _largest_side(state: Mapping[str, Any]) -> int:
    return max((size for shape in _saved_shapes(state) for size in shape), default=0)


def most_numbers(state: Mapping[str, Any]) -> int:
    """Of a space, for a default network as large as the saved one."""
    return 16 * max(_largest_side(state), 4096)


def check_size(
    state: Mapping[str, Any], config: Any, observations: spaces.Space, actions: spaces.Space
) -> None:
    """Refuses settings that would build a network larger than the one in the file.

    Raises:
        ValueError: They would, or there is none in the file.
    """
    saved = sum(map(math.prod, _saved_shapes(state)))
    numbers, choices = numbers_of(observations), numbers_of(actions)
    largest = max(config.net_arch, default=0), _largest_side(state)
    fits = largest[0] <= largest[1] and max(numbers, choices) <= most_numbers(state)
    if not fits or (least := _least_parameters(config, observations, choices)) > saved:
        built = f"at least {least:,} variables" if fits else f"widths of up to {largest[0]:,}"
        raise ValueError(
            "A saved agent's settings must fit the network that was saved. Received: net_arch="
            f"{brief(config.net_arch)}, {numbers:,} numbers an observation and {choices:,} an "
            f"action, which need {built}, for {saved:,} saved ones of at most {largest[1]:,} a "
            "side. The file is damaged; load another one."
        )


def _least_parameters(config: Any, observations: spaces.Space, choices: int) -> int:
    """No default network of these settings has fewer variables: its layers, one trunk, no biases.

    Σ of widthᵢ·widthᵢ₊₁ from what is seen over the hidden layers to the actions. An image is seen
    as the features of a layer whose inputs are 64 channels of at least an eighth of each side.
    """
    encoder = Encoder(observations)
    images = [entry for entry in encoder.entries if entry.image is not None]
    width = IMAGE_FEATURES if encoder.is_image else 256
    seen = sum(entry.size for entry in encoder.entries if entry.image is None)
    seen, least = seen + width * len(images), 0
    for entry in images:
        height, breadth, *_ = (entry.space.shape[axis] for axis in image_axes(entry.space) or ())
        if min(height, breadth) < 36:
            cells = math.ceil(height / 2) * math.ceil(breadth / 2)
        else:
            cells = math.prod(
                (((side - 8) // 4 + 1 - 4) // 2 + 1) - 2 for side in (height, breadth)
            )
        least += 64 * cells * width
    widths = [seen, *hidden_widths(config, encoder.is_image), choices]
    return least + sum(map(math.prod, itertools.pairwise(widths)))
