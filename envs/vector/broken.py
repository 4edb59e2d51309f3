"""The errors of an environment that breaks."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from .fitting import MisfitError

if TYPE_CHECKING:
    from ..common.episodes import Episodes

REPAIR = (
    "Repair it (`vantage check` finds the usual mistakes), or pass restart_broken_envs=True "
    "(--restart-broken-envs) to rebuild it and continue."
)
_MOST_LINES = 100  # kept of a traceback, at its beginning and at its end


class NotAnEnvironmentError(ValueError):
    """A callable that should make an environment returned something else, the caller's mistake."""


class BrokenEnvironmentError(RuntimeError):
    """An environment raised an exception, returned a misfit, or its worker process died.

    Attributes:
        index: Index of the environment in the vector.
        call: Where it broke: "__init__", "reset", "step", "close", or another method's name.
        episode: Number of its episode, from 0; -1 before the first.
        seed: Seed of that episode; None before the first.
        step: Number of the step in the episode, from 1; 0 outside `step`.
        action: The last action; None outside `step`.
    """

    def __init__(
        self,
        message: str,
        *,
        index: int = 0,
        call: str = "",
        episode: int = -1,
        seed: int | None = None,
        step: int = 0,
        action: object = None,
    ) -> None:
        super().__init__(message)
        self.index, self.call, self.episode, self.seed = index, call, episode, seed
        self.step, self.action = step, action

    @property
    def first_line(self) -> str:
        """The message without a traceback."""
        return str(self).partition("\n")[0]


def broken(
    episodes: Episodes,
    index: int,
    problem: str,
    *,
    call: str = "",
    action: object = None,
    advice: str = REPAIR,
    traceback: str = "",
) -> BrokenEnvironmentError:
    """Builds the error of an environment; without `call`, it broke in its reset or its step."""
    step = 0 if call else episodes.step_of(index)
    call = call or ("step" if step else "reset")
    episode, seed = episodes.numbers[index], episodes.seeds[index]
    where = f"episode {episode}, seed {seed}" if seed is not None else "before its first episode"
    if step:
        where += f", step {step}, last action {_short(repr(action))}"
    return BrokenEnvironmentError(
        f"An environment must not break. Received: environment {index} {problem} in {call} "
        f"({where}). {advice}" + (f"\n\nIn its worker process:\n{traceback}" if traceback else ""),
        index=index,
        call=call,
        episode=episode,
        seed=seed,
        step=step,
        action=action if step else None,
    )


def raised(error: BaseException) -> str:
    """Says in one line that an exception was raised, or that a result does not fit."""
    if isinstance(error, MisfitError):
        return f"returned {_short(_text_of(error))}"
    return f"raised {_short(f'{type(error).__name__}: {_text_of(error)}').removesuffix(':')}"


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception, shortened if it is very long."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > 2 * _MOST_LINES:
        left_out = f"… {len(lines) - 2 * _MOST_LINES:,} lines …"
        lines = [*lines[:_MOST_LINES], left_out, *lines[-_MOST_LINES:]]
    return "\n".join(line if len(line) <= 1_000 else f"{line[:1_000]}…" for line in lines) + "\n"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # the exception's own `__str__` fails
        return "(its __str__ raises an exception itself)"


def _short(text: str) -> str:
    line = " ".join(text[:10_000].split())
    return line if len(line) <= 300 else f"{line[:300]}…"
