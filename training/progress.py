"""Live progress on a terminal, and silence everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Progress:
    """A bar with the count, its speed, what the caller adds, and the time left.

    A context manager. Where standard error is no terminal it shows nothing.

    Attributes:
        is_shown: Whether there is a terminal.
    """

    def __init__(self, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.is_shown = console.is_terminal
        self._progress: Any = None
        if self.is_shown:
            self._progress = Progress(
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
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

    def show(self, env_steps: int, curves: Mapping[str, float]) -> None:
        """Shows the last point of a training run's curves: speed and mean return."""
        mean = curves.get("rollout/ep_rew_mean", float("nan"))
        self.update(env_steps, f"{curves['time/fps']:,.0f} steps/s  mean return {mean:.1f}")
