"""What surrounds the loop: a run's folder, evaluations, checkpoints and summary."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from time import perf_counter as clock
from typing import Any

from . import checkpoint
from .evaluation import evaluate
from .interrupts import Interrupts
from .transitions import Transitions
from .writer import open_writer

EVALUATION_EPISODES = 20
RECENT = ("recent_returns", "recent_lengths")


class Run:
    """One training run in its folder, if it has one; a context manager.

    Attributes:
        writer: Where its curves go.
        updates: Updates made so far; the loop counts them.
        interrupts: Whether a signal asks to stop.
    """

    def __init__(
        self,
        agent: Any,
        transitions: Transitions,
        logdir: str | Path | None,
        resume: bool,
        config: Mapping[str, Any],
    ) -> None:
        self._agent, self._transitions = agent, transitions
        self._began = clock() - getattr(agent, "construction_seconds", 0.0)
        self._best: float | None = None
        self._solved: tuple[int, float] | None = None
        self.updates = 0
        newest = checkpoint.newest_checkpoint(logdir) if resume and logdir is not None else None
        if newest is not None:
            self._load(newest)
            self._folder: Path | None = Path(str(logdir))
        elif logdir is not None:
            settings = getattr(agent, "config", None)
            entries = {
                "algorithm": type(agent).__name__.lower(),
                "config": asdict(settings) if is_dataclass(settings) else None,  # type: ignore[arg-type]
                "num_envs": transitions.num_envs,
            }
            self._folder = checkpoint.start_run(logdir, {**entries, **config}, resume)
        else:
            self._folder = None
        self.writer = open_writer(self._folder)
        self.interrupts = Interrupts()

    def __enter__(self) -> Run:
        self.interrupts.__enter__()
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        self._agent.settle()
        try:
            if isinstance(error, Exception) and self.updates:
                self._save_after(error)
        finally:
            self.interrupts.__exit__()
            self.writer.close()

    def _save_after(self, error: Exception) -> None:
        """A checkpoint of a run that an error ends, such as an environment that broke."""
        try:
            self.save()
        except Exception as other:
            error.add_note(f"There is no checkpoint of the last update: {other}")
        else:
            if self._folder is not None:
                error.add_note(f"The last update is kept: --resume goes on from {self._folder}.")

    def note_solved(self) -> None:
        """Keeps when the run was solved."""
        self._solved = (self._transitions.env_steps, clock() - self._began)

    def evaluate(self, envs: Any) -> None:
        """Evaluates the agent, deterministically; the best one so far is kept."""
        result = evaluate(self._agent, envs, EVALUATION_EPISODES, seed=0)
        values = {"eval/mean_reward": result.mean, "eval/mean_ep_length": result.mean_length}
        self.writer.scalars(self._transitions.env_steps, values)
        if self._best is None or result.mean > self._best:
            self._best = result.mean
            if self._folder is not None:
                self._agent.save(self._folder / "checkpoints" / "best")

    def save(self) -> None:
        """Writes a checkpoint; the two newest are kept."""
        if self._folder is None:
            return
        folder, steps = self._folder / "checkpoints", self._transitions.env_steps
        state = {
            "updates": self.updates,
            "best": self._best,
            "seconds": clock() - self._began,
            **{name: getattr(self._transitions, name) for name in ("env_steps", "episodes")},
            **{name: list(getattr(self._transitions, name)) for name in RECENT},
        }
        self._agent.save(folder / f"step-{steps:012d}", state)
        for old in sorted(folder.glob("step-*"))[:-2]:
            shutil.rmtree(old, ignore_errors=True)

    def _load(self, path: Path) -> None:
        state, transitions = self._agent.restore(path), self._transitions
        transitions.env_steps, transitions.episodes = state["env_steps"], state["episodes"]
        for name in RECENT:
            getattr(transitions, name).extend(state[name])
        self.updates, self._best = state["updates"], state["best"]
        self._began -= state["seconds"]

    def finish(self, import_seconds: float | None) -> dict[str, Any]:
        """Saves the end and writes `summary.json`; then obeys a signal if there was one."""
        self.save()
        transitions, seconds = self._transitions, clock() - self._began
        returns = transitions.recent_returns
        solved_at_steps, solved_at_seconds = self._solved or (None, None)
        summary = {
            "env_steps": transitions.env_steps,
            "updates": self.updates,
            "episodes": transitions.episodes,
            "seconds": seconds,
            "steps_per_second": transitions.env_steps / seconds,
            "mean_return_100": fmean(returns) if returns else None,
            "solved_at_steps": solved_at_steps,
            "solved_at_seconds": solved_at_seconds,
            "import_seconds": import_seconds,
            "versions": versions(),
        }
        if self._folder is not None:
            checkpoint.write_json(self._folder / "summary.json", summary)
        self.interrupts.raise_received()
        return summary


def check_periods(
    total_steps: int, log_every: int, evaluate_every: int | None, checkpoint_every: int | None
) -> None:
    """Refuses periods below 1."""
    periods: dict[str, int | None] = {"total_steps": total_steps, "log_every": log_every}
    periods |= {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every}
    for name, period in periods.items():
        if period is not None and period < 1:
            raise ValueError(f"{name} must be at least 1. Received: {period}.")


def check_evaluation(evaluate_every: int | None, envs: Any) -> None:
    """Refuses evaluation without environments of its own."""
    if evaluate_every is not None and envs is None:
        raise ValueError(
            "evaluate_every needs environments of its own, so that training is not disturbed. "
            "Received: evaluation_envs=None. Pass evaluation_envs=make_vec(...)."
        )


def versions() -> dict[str, str]:
    """The versions of Python, of Vantage and of what its results depend on."""
    names = ("vantage-rl", "tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
