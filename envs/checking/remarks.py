"""Turns remarks of Gymnasium's own checker and Python warnings into findings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gymnasium.utils import env_checker

if TYPE_CHECKING:
    import warnings

    import gymnasium as gym

    from .findings import Findings

# Remarks that our own checks make in better words, and remarks on wrappers, which we do check.
IGNORED = re.compile(
    r"is different from the unwrapped|Box \w+ space m\w+ value is|we recommend using a symmetric"
    r"|^The (obs|reward) returned by|^The reward is|^Expects `(terminated|truncated)`"
)


def check_with_gymnasium(found: Findings, env: gym.Env) -> None:
    """Runs Gymnasium's own checker."""
    try:
        env_checker.check_env(env, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        text = str(error)
        if "truncates after 1 step" in text:  # a limit of one step, or NumPy's False: harmless
            return
        is_reuse = "share an object" in text
        if is_reuse and found.has("reuse"):
            return
        add = found.warn if is_reuse else found.error
        instead = "It stopped there: fix this, then check again."
        rule = "Gymnasium's own checker must pass"
        add("gymnasium", rule, f"{type(error).__name__}: {text}", instead)


def report_warning(found: Findings, warning: warnings.WarningMessage) -> None:
    """Adds a warning as a finding, unless it is ignored."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(warning.message))
    is_gymnasium = text.startswith(("WARN: ", "ERROR: "))
    text = text.removeprefix("WARN: ")
    ignored: tuple[type[Warning], ...] = (ImportWarning, PendingDeprecationWarning, ResourceWarning)
    if not is_gymnasium:
        ignored += (DeprecationWarning,)
    if issubclass(warning.category, ignored) or IGNORED.search(text):
        return
    place = "" if is_gymnasium else f" (line {warning.lineno} of {Path(warning.filename).name})"
    name = "gymnasium" if is_gymnasium else "warnings"
    rule, instead = "There should be no warning", "Fix what it is about."
    found.add("warning", name, rule, f"{warning.category.__name__}: {text}{place}", instead, text)
