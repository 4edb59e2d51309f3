"""Gymnasium's own checker, and all warnings, as findings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gymnasium.utils import env_checker

if TYPE_CHECKING:
    import warnings

    import gymnasium as gym

    from .findings import Findings

# What we say better ourselves, and remarks on wrappers, which are meant to be checked as well.
OURS = re.compile(
    r"is different from the unwrapped|Box \w+ space m\w+ value is|we recommend using a symmetric"
    r"|^The (obs|reward) returned by|^The reward is|^Expects `(terminated|truncated)`"
)


def check_with_gymnasium(found: Findings, env: gym.Env) -> None:
    """What Gymnasium's own checker says of an environment."""
    try:
        env_checker.check_env(env, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        text = str(error)
        if "truncates after 1 step" in text:  # a limit of one step, or NumPy's False: no harm
            return
        is_reuse = "share an object" in text
        if is_reuse and found.has("reuse"):
            return
        add = found.warn if is_reuse else found.error
        instead = "It looked no further: check again after mending this."
        rule = "Gymnasium's own checker must pass"
        add("gymnasium", rule, f"{type(error).__name__}: {text}", instead)


def report_warning(found: Findings, warning: warnings.WarningMessage) -> None:
    """Keeps a warning that says something new."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(warning.message))
    is_gymnasium = text.startswith(("WARN: ", "ERROR: "))
    text = text.removeprefix("WARN: ")
    ignored: tuple[type[Warning], ...] = (ImportWarning, PendingDeprecationWarning, ResourceWarning)
    if not is_gymnasium:
        ignored += (DeprecationWarning,)
    if issubclass(warning.category, ignored) or OURS.search(text):
        return
    place = "" if is_gymnasium else f" (line {warning.lineno} of {Path(warning.filename).name})"
    name = "gymnasium" if is_gymnasium else "warnings"
    rule, instead = "There should be no warning", "Mend what it is about."
    found.add("warning", name, rule, f"{warning.category.__name__}: {text}{place}", instead, text)
