"""The flags that a run has recorded in its `config.json`, checked: the file may be anyone's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from vantage.agents.configs.fields import Rule, brief, checked

NOT_RECORDED = ("config", "logdir", "resume", "init_from", "network", "env_kwargs")
"""Fields that no file decides: config and env_kwargs have their own readers, and what is read,
written or imported is for the user to say."""

COUNT = Rule("of at least 1 and at most 10**15", lambda n: 1 <= n <= 10**15)
"""Of any integer that is not named below."""
RULES = {
    "seed": Rule("of at least 0 and less than 2**128", lambda n: 0 <= n < 2**128),
    "num_envs": Rule("of at least 1 and at most 65,536", lambda n: 1 <= n <= 65_536),
    "env_timeout": Rule("greater than 0 and at most a million", lambda x: 0 < x <= 1e6),
}


def recorded_flags(flags_type: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a run's `config.json` that are fields of a dataclass of flags.

    Args:
        flags_type: The dataclass; its type hints say what an entry must be.
        saved: The JSON object. What is no field, or is in `NOT_RECORDED`, is left out.

    Raises:
        ValueError: `saved` is no object, or an entry is of another type or out of range.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"A run's config.json must hold an object. Received: {brief(saved)}. "
            "Pass the folder of a run."
        )
    hints = get_type_hints(flags_type, include_extras=True)
    names = [field.name for field in fields(flags_type) if field.name not in NOT_RECORDED]
    return {
        name: checked(name, saved[name], _ruled(name, hints[name]), "Correct it in config.json.")
        for name in names
        if name in saved
    }


def _ruled(name: str, hint: Any) -> Any:
    """The type hint with the rule for its numbers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_ruled(name, arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(_ruled(name, option) for option in arguments)]  # noqa: UP007
    if hint is int or (hint is float and name in RULES):
        return Annotated[hint, RULES.get(name, COUNT)]
    return hint
