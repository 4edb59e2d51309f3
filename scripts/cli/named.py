"""What a command builds from words: arguments of an environment, and a network of your own.

Only the user's own words import something. What a file records is used where it is harmless.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vantage.agents.configs.fields import brief

MOST = 10_000
"""Characters of recorded arguments of an environment, as JSON."""


def env_kwargs_from(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of an environment from `--env-kwargs`: one JSON object, or NAME=VALUE words.

    A VALUE is read as JSON, and as text where it is none.

    Raises:
        ValueError: It is neither.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        try:
            given = json.loads(words[0])
        except ValueError as error:
            raise _unreadable(words, f" ({error})") from None
    else:
        pairs = [word.partition("=")[::2] for word in words]
        if not all("=" in word for word in words):
            raise _unreadable(words)
        given = {name: _value(text) for name, text in pairs}
        if len(given) < len(pairs):
            raise _unreadable(words, ", where a name occurs twice")
    if not all(name.isidentifier() for name in given):
        raise _unreadable(words)
    return given


def _value(text: str) -> Any:
    spelled = {"True": True, "False": False, "None": None}  # as Python spells them
    if text in spelled:
        return spelled[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unreadable(words: Sequence[str], why: str = "") -> ValueError:
    return ValueError(
        "env_kwargs must be NAME=VALUE words or one JSON object. Received: "
        f"{' '.join(words)!r:.200}{why}. Write --env-kwargs is_slippery=false map_name=8x8."
    )


def recorded_env_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the environment that a run's `config.json` records.

    They are numbers, truth values, plain words, and lists and objects of them: a path or the name
    of a module has to be typed by the user.

    Raises:
        ValueError: There are others.
    """
    found = config.get("env_kwargs")
    if found is None:
        return {}
    is_named = isinstance(found, dict) and all(str(name).isidentifier() for name in found)
    if not is_named or len(json.dumps(found)) > MOST or not _is_harmless(found):
        raise ValueError(
            "The arguments of a recorded environment must be numbers, True, False, None or plain "
            f"words to be used. Received: env_kwargs={brief(found)} in config.json. Pass "
            "--env-kwargs NAME=VALUE yourself if you trust them."
        )
    return found


def _is_harmless(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_harmless, [*value, *value.values()]))
    if isinstance(value, list):
        return all(map(_is_harmless, value))
    if isinstance(value, str):
        return re.fullmatch(r"[\w .+-]{0,200}", value) is not None and ".." not in value
    return value is None or isinstance(value, bool | int | float)


def network_flag(config: Mapping[str, Any]) -> str | None:
    """The flag that a run with a network of its own needs, by its `config.json`; None for others.

    Only what is harmless to paste is suggested.
    """
    name, settings = config.get("network"), config.get("config")
    # A run with its own network records no net_arch. With one, the entry is a note of the user.
    if name is None or not isinstance(settings, Mapping) or "net_arch" in settings:
        return None
    is_named = isinstance(name, str) and re.fullmatch(r"[\w.]{1,200}:\w{1,200}", name)
    return f"--network {name if is_named else 'module:function'}"


def network_from(name: str, observation_space: Any, action_space: Any) -> Any:
    """What the function `module:function` returns: a Keras model, or a tuple of them.

    The function takes no arguments, or the observation space and the action space. The module is
    looked up in the user's folder as well.

    Raises:
        ValueError: There is no such function.
    """
    from vantage.envs.make import names_near  # here: flags are read without Gymnasium

    module, _, attribute = name.partition(":")
    received, advice = "", "my_module:my_function, in the folder that holds my_module.py"
    function: Any = None
    sys.path.insert(0, "")
    try:
        imported = importlib.import_module(module) if module else None
    except ImportError as error:
        imported, received = None, f" ({type(error).__name__}: {error})"
    if imported is not None:
        function = getattr(imported, attribute, None)
        received = f", but module {module!r} has no function {attribute!r}"
        if near := names_near(attribute, imported):
            advice = " or ".join(f"{module}:{each}" for each in near)
    if not callable(function):
        raise ValueError(
            "network must be module:function, a function that returns the network. Received: "
            f"{name!r:.200}{received:.400}. Write --network {advice}."
        )
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return function(observation_space, action_space) if len(needed) == 2 else function()
