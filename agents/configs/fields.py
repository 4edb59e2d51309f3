"""Checks the fields of a config against their type hints, since a config may come from anywhere.

No TensorFlow here.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from ...training.common.descriptions import descriptions

if TYPE_CHECKING:
    from types import ModuleType

    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


class Rule(NamedTuple):
    """A condition on a value besides its type: `Annotated[float, Rule(words, holds)]`."""

    words: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Rule("greater than 0", lambda x: x > 0)]
NonNegative = Annotated[float, Rule("of at least 0", lambda x: x >= 0)]
Fraction = Annotated[float, Rule("between 0 and 1", lambda x: 0 <= x <= 1)]
Count = Annotated[int, Rule("of at least 1 and at most 10,000,000", lambda n: 1 <= n <= 10**7)]
Widths = Annotated[
    tuple[int, ...],
    Rule(
        "of at most 64 widths, each between 1 and 65,536",
        lambda widths: len(widths) <= 64 and all(1 <= width <= 65_536 for width in widths),
    ),
]


def check_fields(config: DataclassInstance) -> None:
    """Converts every field of a frozen dataclass to the type of its hint; for `__post_init__`.

    NumPy scalars become Python numbers, and integers become floats where the hint is float.

    Raises:
        ValueError: A field has another type, or breaks a `Rule` of its hint.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        advice = "Pass one."
        if field.default is not MISSING:
            advice = f"Leave it out for the default, {field.default!r}."
        if callable(getattr(config, field.name)):
            advice = _instead_of_a_schedule(field.name, [each.name for each in fields(config)])
        value = checked(field.name, getattr(config, field.name), hints[field.name], advice)
        object.__setattr__(config, field.name, value)


def _instead_of_a_schedule(name: str, names: list[str]) -> str:
    """The advice to a user who passed a function of the progress instead of a number."""
    if name == "learning_rate":
        return (
            "Set lr_schedule='linear', or pass the agent an optimizer of your own with a schedule, "
            "optimizer=keras.optimizers.Adam(keras.optimizers.schedules.…)."
        )
    if name == "clip_range" and "clip_schedule" in names:
        return "Set clip_schedule='linear' for one that falls to 0."
    return "Pass a number: this setting has no schedule."


def describe_fields(module: ModuleType) -> None:
    """Adds the descriptions of all fields to the docstrings of a module's dataclasses, for `help`.

    The text below a field describes it. Python drops that text, so it is read from the source.
    """
    kinds = [each for each in vars(module).values() if isinstance(each, type)]
    for kind in filter(is_dataclass, kinds):
        if kind.__module__ != module.__name__:
            continue
        known: dict[str, str] = {}
        for base in reversed(kind.__mro__[:-1]):
            known |= descriptions(base)
        lines = [
            f"    {field.name}: {' '.join(known[field.name].split())} Default: {field.default!r}."
            for field in fields(kind)
            if field.name in known
        ]
        summary = (kind.__doc__ or "").partition("\n\nAttributes:")[0]
        kind.__doc__ = "\n".join([summary, "", "Attributes:", *lines])


def config_from_json(config_type: type[Config], values: object) -> Config:
    """A config dataclass from its JSON, where tuples are lists.

    Raises:
        ValueError: `values` is not an object of known settings with values of their types.
    """
    known = [field.name for field in fields(config_type)]
    advice = f"Known are {', '.join(known)}."
    if not isinstance(values, Mapping):
        raise ValueError(f"A config must be a JSON object. Received: {brief(values)}. {advice}")
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(
            f"A config must hold no other settings than those of {config_type.__name__}. "
            f"Received: {brief(unknown)}. {advice}"
        )
    return config_type(**values)


def checked(name: str, value: object, hint: object, advice: str) -> Any:
    """`value`, converted to the type of a hint.

    Args:
        name: The name of the value, for the error.
        value: Anything.
        hint: float, int, bool, str, Path (passed as text) or None; a Literal, a Union,
            `tuple[hint, ...]` or, with rules, one of them in Annotated.
        advice: The last sentence of the error.

    Raises:
        ValueError: The value has another type, or breaks a `Rule`. The message is one short line.
    """
    try:
        return _fitted(value, hint)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} must be {_in_words(hint)}. Received: {name}={brief(value)}. {advice}"
        ) from None


def brief(value: object) -> str:
    """The repr of anything, shortened to one line."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # an int with more digits than Python prints
        text = f"a {type(value).__name__} that is too long to print"
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:120]}..."


def _fitted(value: Any, hint: Any) -> Any:  # noqa: C901, a branch for each kind of hint
    if isinstance(value, np.generic):
        value = value.item()
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _fitted(value, arguments[0])
        if all(rule.holds(value) for rule in arguments[1:] if isinstance(rule, Rule)):
            return value
    elif origin in (Union, UnionType):
        for option in arguments:
            try:
                return _fitted(value, option)
            except (TypeError, ValueError, OverflowError):
                continue
    elif origin is Literal:
        for choice in arguments:
            if type(value) is type(choice) and value == choice:
                return choice
    elif origin is tuple:
        if isinstance(value, tuple | list) and arguments[1:] == (...,):
            return tuple(_fitted(item, arguments[0]) for item in value)
    elif hint is float and type(value) in (int, float):
        if math.isfinite(number := float(value)):
            return number
    elif hint in (int, bool, NoneType) and type(value) is hint:
        return value
    elif hint in (str, Path) and type(value) is str:
        if value.isprintable() and len(value) <= 1_000:
            return hint(value)
    raise TypeError


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [rule.words for rule in arguments[1:] if isinstance(rule, Rule)]
        return " ".join([_in_words(arguments[0]), *rules])
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    words = {float: "a finite number", int: "an integer", bool: "True or False", NoneType: "None"}
    return "a tuple" if origin is tuple else words.get(hint, "a short text on one line")
