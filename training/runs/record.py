"""The counts of a run, its clock, and how exactly it was resumed: what `summary.json` reports."""

from __future__ import annotations

from statistics import fmean
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any

from ..experience.environments import EXACTNESS, worse
from ..storage.checkpoint import versions

if TYPE_CHECKING:
    from ..experience.protocols import State
    from ..experience.transitions import Transitions


class Record:
    """Counts and times of a run, including those before it was resumed.

    Attributes:
        updates: Updates so far.
        bad_updates: Updates that were refused because a number was not finite.
        best: The highest mean return of an evaluation; None before the first.
        solved: Environment steps and seconds when the run was solved, or None.
        exactness: How exactly the running episodes were resumed, at worst.
        resumed_from: Environment steps at the last resume, or None.
    """

    def __init__(self, seconds: float) -> None:
        """Starts the clock.

        Args:
            seconds: What it shows already, for the agent's construction.
        """
        self._began = clock() - seconds
        self.updates = self.bad_updates = 0
        self.best: float | None = None
        self.solved: tuple[int, float] | None = None
        self.exactness = EXACTNESS[0]
        self.resumed_from: int | None = None

    @property
    def seconds(self) -> float:
        """Wall clock of the run."""
        return clock() - self._began

    def note_solved(self, env_steps: int) -> None:
        """Stores when the run was solved; the first time counts."""
        self.solved = self.solved or (env_steps, self.seconds)

    def get_state(self) -> State:
        """All of it, as JSON values."""
        return {
            "updates": self.updates,
            "bad_updates": self.bad_updates,
            "best": self.best,
            "solved": self.solved,
            "seconds": self.seconds,
            "exactness": self.exactness,
        }

    def set_state(self, state: State) -> None:
        """Restores a state; the clock adds the seconds since it started."""
        self.updates, self.bad_updates = int(state["updates"]), int(state["bad_updates"])
        self.best, self.solved = state["best"], state["solved"] and tuple(state["solved"])
        self._began -= float(state["seconds"])
        self.exactness = worse(EXACTNESS[0], state["exactness"])

    def summary(
        self, transitions: Transitions, import_seconds: float | None, sha256: str, exactness: str
    ) -> dict[str, Any]:
        """What `summary.json` holds.

        Args:
            transitions: The environments' statistics.
            import_seconds: What the caller's imports took.
            sha256: Of the weights.
            exactness: How exactly the last checkpoint's running episodes can be resumed.
        """
        seconds, returns = self.seconds, transitions.recent_returns
        solved_at_steps, solved_at_seconds = self.solved or (None, None)
        return {
            "env_steps": transitions.env_steps,
            "updates": self.updates,
            "bad_updates": self.bad_updates,
            "episodes": transitions.episodes,
            "seconds": seconds,
            "steps_per_second": transitions.env_steps / seconds,
            "mean_return_100": fmean(returns) if returns else None,
            "solved_at_steps": solved_at_steps,
            "solved_at_seconds": solved_at_seconds,
            "import_seconds": import_seconds,
            "weights_sha256": sha256,
            "exactness": worse(self.exactness, exactness),
            "resumed_from": self.resumed_from,
            "versions": versions(),
        }
