"""Live progress on a terminal; lines elsewhere, if they are wanted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..common.console import say
from .listeners import Every

if TYPE_CHECKING:
    from .curves import Curves

LINES = 20
"""Of a whole run, where there is no terminal."""


class Progress:
    """A bar with the count, its speed, what the caller adds, and the time left.

    A context manager. Where standard error is no terminal it prints some `LINES` lines to standard
    output if they are wanted, and else shows nothing.

    Attributes:
        is_shown: Whether there is something to show.
    """

    def __init__(self, total: int, unit: str, wanted: bool | None = None) -> None:
        """Begins at 0.

        Args:
            total: How much there is to do.
            unit: Of what.
            wanted: True for lines where there is no terminal, False for nothing at all.
        """
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.is_shown = bool(wanted) or (wanted is None and console.is_terminal)
        self._total, self._unit, self._printed = total, unit, 0
        self._progress: Any = None
        if self.is_shown and console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                # Else what is printed would go to the terminal instead of its file or pipe.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )
            self._task = self._progress.add_task("", total=total, note="")

    def __enter__(self) -> Progress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, completed: int, note: str = "") -> None:
        """Shows how much is done, and a note such as the speed or the loss."""
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, note=note)
        elif self.is_shown and completed * LINES // self._total > self._printed:
            self._printed = completed * LINES // self._total
            say(f"{completed:,}/{self._total:,} {self._unit}  {note}")


class RunProgress:
    """Shows the last point of a training run's curves: speed and mean return."""

    def __init__(self, bar: Progress, curves: Curves, period: int) -> None:
        self._bar, self._curves, self._every = bar, curves, Every(period)

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Counts from the last update on."""
        self._every.counted = env_steps

    def updated(self, env_steps: int) -> None:
        """Shows the point if it is due."""
        point = self._curves.values
        if self._every.is_due(env_steps) and "time/fps" in point:
            mean = point.get("rollout/ep_rew_mean")
            known = "no episode has ended yet" if mean is None else f"mean return {mean:.1f}"
            self._bar.update(env_steps, f"{point['time/fps']:,.0f} steps/s  {known}")

    def end(self, env_steps: int) -> None:
        """Shows nothing more."""
