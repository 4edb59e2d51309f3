"""Findings of `check_env`, and the report."""

from __future__ import annotations

import contextlib
import textwrap
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..common.types import Space


@dataclass(frozen=True)
class Finding:
    """A rule that an environment breaks.

    Attributes:
        name: Name of the rule, one word.
        message: The rule, what was received the first time, and what to do instead.
        times: How often the rule was broken.
    """

    name: str
    message: str
    times: int = 1


@dataclass(frozen=True)
class Report:
    """The findings and figures of `check_env`; `str(report)` is text to read.

    Attributes:
        env: Name of the environment.
        errors: Findings that break training.
        warnings: Findings that may break training.
        hints: Suggestions that may make training easier.
        passed: Names of the rules without an error or a warning.
        observation_space: Observation space; None if the environment could not be made.
        action_space: Action space; None if the environment could not be made.
        steps: Random steps played.
        terminated: Episodes that terminated in these steps, including those also truncated.
        truncated: Episodes that were truncated and not terminated.
        masks: States that came with a mask of allowed actions.
        median_seconds: Median time of a step; NaN if there was none.
        slowest_seconds: Longest time of a step; NaN if there was none.
    """

    env: str
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    hints: tuple[Finding, ...]
    passed: tuple[str, ...]
    observation_space: Space | None
    action_space: Space | None
    steps: int
    terminated: int
    truncated: int
    masks: int
    median_seconds: float
    slowest_seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def episodes(self) -> int:
        """Episodes that ended."""
        return self.terminated + self.truncated

    def __str__(self) -> str:
        sections = {
            "errors": (self.errors, "training goes wrong"),
            "warnings": (self.warnings, "training may go wrong"),
            "hints": (self.hints, "training may be easier"),
        }
        counts = [_count(len(found), title[:-1]) for title, (found, _) in sections.items()]
        ends = f"{self.terminated:,} terminated, {self.truncated:,} truncated"
        played = f"{self.steps:,} random steps, {self.episodes:,} episodes ended ({ends})"
        if self.masks:
            played += f", {self.masks:,} action masks"
        lines = [f"{self.env}: {', '.join(counts)}"]
        if self.observation_space is not None:
            lines.append(_table_row("observation", shortened(self.observation_space, 300)))
            lines += [
                _table_row("action", shortened(self.action_space, 300)),
                _table_row("played", played),
            ]
        if self.steps:
            times = duration_of(self.median_seconds), duration_of(self.slowest_seconds)
            lines.append(_table_row("one step", f"{times[0]} (median), at most {times[1]}"))
        for title, (found, meaning) in sections.items():
            if found:
                lines += ["", f"{title}: {meaning}"]
            for finding in found:
                times_ = f" [{finding.times:,} times]" if finding.times > 1 else ""
                lines.append(_table_row(finding.name, finding.message + times_))
        return "\n".join([*lines, "", _table_row("passed", ", ".join(self.passed) or "nothing")])


class Stop(Exception):
    """A finding makes further checks impossible."""


class Findings:
    """Collects findings, equal ones once, and the names of the rules examined."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Finding] = {}
        self.examined: list[str] = []

    def add(
        self, level: str, name: str, rule: str, received: object, instead: str, kind: str = ""
    ) -> None:
        """Adds a finding; only the first of those with equal level, name, rule and kind remains."""
        key = (level, name, rule, kind)
        message = f"{rule}. Received: {shortened(received).rstrip('.')}. {instead}"
        known = self._found.get(key, Finding(name, message, 0))
        self._found[key] = replace(known, times=known.times + 1)

    def error(self, name: str, rule: str, received: object, instead: str) -> None:
        """Adds a finding that breaks training."""
        self.add("error", name, rule, received, instead)

    def warn(self, name: str, rule: str, received: object, instead: str) -> None:
        """Adds a finding that may break training."""
        self.add("warning", name, rule, received, instead)

    def hint(self, name: str, rule: str, received: object, instead: str) -> None:
        """Adds a suggestion that may make training easier."""
        self.add("hint", name, rule, received, instead)

    def stop(self, name: str, rule: str, received: object, instead: str) -> NoReturn:
        """Adds an error and ends the checks."""
        self.error(name, rule, received, instead)
        raise Stop

    @contextlib.contextmanager
    def running(self, name: str, where: str, instead: str) -> Iterator[None]:
        """Surrounds a call of the user's code: an exception is an error and ends the checks."""
        try:
            yield
        except Exception as error:
            received = f"{type(error).__name__}: {shortened(error, 150)} ({_place(error)}{where})"
            self.error(name, f"{name} must not raise", received, instead)
            raise Stop from None

    def of(self, level: str) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for key, finding in self._found.items() if key[0] == level)

    def has(self, name: str) -> bool:
        """Whether a rule was broken."""
        return any(key[1] == name for key in self._found)

    def passed(self) -> tuple[str, ...]:
        """The rules that were examined and not broken."""
        failed = {key[1] for key in self._found if key[0] != "hint"}
        return tuple(name for name in self.examined if name not in failed)


def _place(error: Exception) -> str:
    """The last line of the user's code that led to an exception; "" if there was none."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our call
    files = [(Path(frame.filename), frame.lineno) for frame in frames]
    lines = [
        f"line {line} of {path.name}, "
        for path, line in files
        if "site-packages" not in path.parts and path.parent != Path(__file__).parent
    ]
    return lines[-1] if lines else ""


def described(value: object) -> str:
    """Describes a value and its type in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{shortened(value, 60)} ({type(value).__name__})"


def shortened(value: object, width: int = 240) -> str:
    """The text of a value, on one line."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # an int with more digits than Python prints
        text = "a number that is too long to print"
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _table_row(name: str, text: str) -> str:
    return textwrap.fill(
        f"{name:<12} {text}",
        100,
        initial_indent="  ",
        subsequent_indent=" " * 15,
        break_long_words=False,
        break_on_hyphens=False,
    )


def duration_of(seconds: float) -> str:
    """Seconds in words."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
