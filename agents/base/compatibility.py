"""Checks that an agent fits the saved agent that it continues from."""

from __future__ import annotations

import itertools
import math
import numbers
import re
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from ...training.core.optimizers import built_variables
from ..acting.observations import Encoder, image_axes
from ..acting.spaces import is_saved_space, numbers_of
from ..configs.config import hidden_widths
from ..configs.fields import brief, config_from_json
from ..networks.models import IMAGE_FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import NoReturn

    import keras
    from gymnasium import spaces

    from ..configs.config import ActorCriticConfig, OffPolicyConfig
    from ..configs.fields import Config

Saved: TypeAlias = "Mapping[str, Any]"
"""A state as it was read from a file: each entry is checked where it is used."""


class Described(TypedDict):
    """A variable, as files describe it."""

    path: str
    shape: list[int]
    dtype: str


def describe(variables: Sequence[keras.Variable]) -> list[Described]:
    """Path, shape and dtype of each variable, without the numbers that Keras adds to names."""
    return [
        {
            "path": re.sub(r"_\d+(?=[/_]|$)", "", variable.path),
            "shape": list(variable.shape),
            "dtype": variable.dtype,
        }
        for variable in variables
    ]


def checked(
    part: str, variables: Sequence[keras.Variable], expected: object, arrays: object
) -> list[np.ndarray]:
    """The saved values of the variables, each of them checked.

    Raises:
        ValueError: A variable differs from the saved one in path, shape or dtype.
    """
    described, received = expected if isinstance(expected, list) else [], describe(variables)
    values = arrays if isinstance(arrays, list) else []
    described, values = _separated(received, described, values)
    for index in range(max(len(described), len(received))):
        saved = described[index] if index < len(described) else "nothing"
        given = received[index] if index < len(received) else "nothing"
        if saved != given:
            raise ValueError(
                f"The {part} must have the variables that were saved. Variable {index} was saved "
                f"as {saved!r:.200}. Received: {given}. Pass one built like the saved one."
            )
    for index, variable in enumerate(variables):
        array: Any = values[index] if index < len(values) else None
        fits = isinstance(array, np.ndarray) and array.shape == tuple(variable.shape)
        if not fits or array.dtype != variable.dtype:
            raise ValueError(
                f"A saved agent must hold every variable of its {part}. Received: none that fits "
                f"{variable.path}. The file is damaged; load another one."
            )
    return values


def _separated(
    received: list[Described], expected: list[Any], arrays: list[Any]
) -> tuple[list[Any], list[Any]]:
    """One saved slot for each variable: older files have joined slots of small variables."""
    paths = [saved.get("path") if isinstance(saved, dict) else None for saved in expected]
    joined = [isinstance(path, str) and "/parameters_" in path for path in paths]
    if not any(joined) or len(arrays) != len(paths):
        return expected, arrays
    described, pieces, left = list[Described](), list[np.ndarray](), iter(received)
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


def check_normalizer(own: Mapping[str, np.ndarray], saved: Saved) -> None:
    """Checks saved statistics against those of the agent that will load them.

    Raises:
        ValueError: Something else is normalised, or the file is damaged.
    """
    loaded = {name: np.asarray(array) for name, array in dict(saved).items()}
    expected, received = (
        {name: (array.dtype, array.shape) for name, array in arrays.items()}
        for arrays in (own, loaded)
    )
    fits = expected == received and all(np.isfinite(array).all() for array in loaded.values())
    if fits and any((loaded[n] < 0).any() for n in loaded if n.endswith(("/variance", "/count"))):
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
    """A network or optimizer of the user's is missing, or was passed to an agent without one.

    Attributes:
        part: "network" or "optimizer".
        had_own: Whether the user had passed one to the saved agent.
    """

    def __init__(self, part: str, had_own: bool, given: object) -> None:
        rule = "its own" if had_own else "the default"
        super().__init__(
            f"An agent saved with {rule} {part} must be loaded with it. Received: "
            f"{part}={given!r:.200}. Pass {part}= exactly when it was passed to the saved agent."
        )
        self.part, self.had_own = part, had_own


def checked_generator(saved: Saved, own: np.random.Generator) -> dict[str, object]:
    """The saved state of a generator of the same kind, with each number in its range.

    Raises:
        ValueError: The state is of another kind of generator, or damaged.
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


def checked_count(name: str, saved: object) -> int:
    """A saved count.

    Raises:
        ValueError: It is not an integer from 0 to 2**63 - 1.
    """
    if type(saved) is not int or not 0 <= saved < 2**63:
        raise ValueError(
            f"A saved agent must hold {name}, an integer of at least 0. Received: {brief(saved)}. "
            "The file is damaged; load another one."
        )
    return saved


def checked_config(
    state: Saved,
    algorithm: str,
    config_type: type[Config],
    network: object,
    optimizer: object,
    only_to_act: bool = False,
) -> Config:
    """The config of a saved agent; checks that the user's network and optimizer were passed.

    An agent that only acts does not need its optimizer.

    Raises:
        ValueError: Another algorithm saved the agent, its config cannot be read, or network or
            optimizer is missing.
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
"""Functions that a user may have passed to an agent: in words, and a value for the advice."""


class Lost:
    """A placeholder for a function of a loaded agent: files do not contain functions."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, outputs: object, targets: object) -> NoReturn:
        """Raises a ValueError: the agent cannot be trained without its function."""
        what, value = OWN_FUNCTIONS[self._name]
        raise ValueError(
            f"An agent that was saved with {what} must have it to be trained further. "
            f"Received: a loaded agent without one. Set agent.{self._name} = {value} before train."
        )


def lost_functions(own: Saved, turns: Sequence[str]) -> dict[str, Lost | dict[str, Lost]]:
    """Placeholders, as arguments of the agent's class, for the functions of a saved agent.

    Args:
        own: The parts that the user had passed to the saved agent.
        turns: The names of the agent's turns, each of which may have a loss.
    """
    lost: dict[str, Lost | dict[str, Lost]] = {
        name: Lost(name) for name in OWN_FUNCTIONS if own.get(name)
    }
    if "loss" in lost and list(turns) != [""]:
        saved = own["loss"] if isinstance(own["loss"], list) else []
        lost["loss"] = {name: Lost("loss") for name in turns if name in saved}
    return lost


def settings_of(optimizer: keras.optimizers.Optimizer) -> dict[str, str]:
    """The settings of an optimizer, as texts by name.

    Settings that are objects or variables (learning rates) are left out.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a learning rate that is a lambda
            config = optimizer.get_config()
    except Exception:  # whatever a class of the user's raises
        return {}
    found = {
        name: str(value if isinstance(value, bool | str | None) else float(value))
        for name, value in config.items()
        if isinstance(value, str | numbers.Real | None) and name not in ("name", "learning_rate")
    }
    if getattr(optimizer, "weight_decay", None):  # otherwise nothing is excluded from it
        variables = built_variables(optimizer)
        excluded = [v for v in variables if not optimizer._use_weight_decay(v)]  # noqa: SLF001
        found["exclude_from_weight_decay"] = str([each["path"] for each in describe(excluded)])
    return found


def changed_settings(own: list[dict[str, str]], saved: object) -> str:
    """A warning if optimizers have other settings than the saved ones, otherwise empty."""
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


def check_space(name: str, space: spaces.Space[object], saved: object) -> None:
    """Refuses to resume a run with another space."""
    if not is_saved_space(space, saved):
        raise ValueError(
            f"A resumed run must have the {name} it was saved with. Received: {space}. Pass the "
            "environments of the run."
        )


def check_own_functions(now: Mapping[str, object], saved: Saved) -> None:
    """Refuses to resume a run with other functions of the user's than it was saved with."""
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


def check_config(config: object, saved: object, names: Iterable[str]) -> None:
    """Refuses to resume a run if one of the named settings differs."""
    changed = [
        f"{name}={getattr(config, name)!r}, saved as {getattr(saved, name)!r}"
        for name in names
        if getattr(config, name) != getattr(saved, name)
    ]
    if changed:
        raise ValueError(
            "A resumed run must have the settings it was saved with. Received: "
            f"{'; '.join(changed)}. Leave them out, or start a new run from its weights "
            "(--init-from)."
        )


def _saved_shapes(state: Saved) -> list[tuple[int, ...]]:
    """The shapes of the saved network's arrays, without empty ones, which no network has."""
    arrays = state.get("network")
    found = arrays if isinstance(arrays, list) else []
    return [array.shape for array in found if isinstance(array, np.ndarray) and array.size]


def _largest_side(state: Saved) -> int:
    return max((size for shape in _saved_shapes(state) for size in shape), default=0)


def most_numbers(state: Saved) -> int:
    """The most numbers of a space, for a default network as large as the saved one."""
    return 16 * max(_largest_side(state), 4096)


def check_size(
    state: Saved,
    config: ActorCriticConfig | OffPolicyConfig,
    observations: spaces.Space[object],
    actions: spaces.Space[object],
) -> None:
    """Refuses settings that would build a larger network than the one in the file.

    Raises:
        ValueError: The network would be larger, or there is none in the file.
    """
    saved = sum(map(math.prod, _saved_shapes(state)))
    numbers, choices = numbers_of(observations), numbers_of(actions) * config.outputs_per_action
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


def _least_parameters(
    config: ActorCriticConfig | OffPolicyConfig, observations: spaces.Space[object], choices: int
) -> int:
    """A lower bound on the parameters of a default network: one trunk, no biases.

    Σ of widthᵢ·widthᵢ₊₁ from the inputs over the hidden layers to the actions. The inputs of an
    image are the features of a layer that sees 64 channels of at least an eighth of each side.
    """
    encoder = Encoder(observations)
    images = [entry.image for entry in encoder.entries if entry.image is not None]
    width = IMAGE_FEATURES if encoder.is_image else 256
    seen = sum(entry.size for entry in encoder.entries if entry.image is None)
    seen, least = seen + width * len(images), 0
    for image in images:
        height, breadth, *_ = (image.shape[axis] for axis in image_axes(image) or ())
        if min(height, breadth) < 36:
            cells = math.ceil(height / 2) * math.ceil(breadth / 2)
        else:
            cells = math.prod(
                (((side - 8) // 4 + 1 - 4) // 2 + 1) - 2 for side in (height, breadth)
            )
        least += 64 * cells * width
    widths = [seen, *hidden_widths(config, encoder.is_image), choices]
    return least + sum(map(math.prod, itertools.pairwise(widths)))
