"""Reads and checks the flags in the `config.json` of a run, which is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from vantage.agents.configs.fields import Rule, brief, checked

NOT_RECORDED = ("config", "logdir", "resume", "init_from", "network", "env_kwargs")
"""Fields that no file decides: config and env_kwargs have their own readers, and only the user
decides what is read, written or imported."""

COUNT = Rule("of at least 1 and at most 10**15", lambda n: 1 <= n <= 10**15)
"""Rule for integers that are not listed below."""
RULES = {
    "seed": Rule("of at least 0 and less than 2**128", lambda n: 0 <= n < 2**128),
    "num_envs": Rule("of at least 1 and at most 65,536", lambda n: 1 <= n <= 65_536),
    "env_timeout": Rule("greater than 0 and at most a million", lambda x: 0 < x <= 1e6),
}


def recorded_flags(flags_type: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a run's `config.json` that are fields of a dataclass of flags.

    Args:
        flags_type: The dataclass; its type hints say what an entry must be.
        saved: The JSON object. Entries that are no fields, or are in `NOT_RECORDED`, are left out.

    Raises:
        ValueError: `saved` is not an object, or an entry has the wrong type or is out of range.
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
