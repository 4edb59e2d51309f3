"""What surrounds the loop: a run's folder, curves, evaluations, checkpoints, and its end."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import numpy as np

from . import checkpoint
from .evaluation import evaluate
from .interrupts import Interrupts
from .progress import Progress
from .transitions import Transition, Transitions
from .writer import open_writer

Callback = Callable[[int, Mapping[str, float]], bool | None]

EVALUATION_EPISODES = 20


class Run:
    """One training run, a context manager; `train` documents its arguments.

    Attributes:
        goes_on: Whether the loop should take another step.
    """

    def __init__(
        self,
        agent: Any,
        transitions: Transitions,
        total_steps: int,
        *,
        logdir: str | Path | None,
        resume: bool,
        callbacks: Sequence[Callback],
        log_every: int,
        evaluate_every: int | None,
        evaluation_envs: Any,
        checkpoint_every: int | None,
        stop_at_return: float | None,
        config: Mapping[str, Any],
    ) -> None:
        positive = {"total_steps": total_steps, "log_every": log_every}
        positive |= {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every}
        for name, value in positive.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {value}.")
        if evaluate_every is not None and evaluation_envs is None:
            raise ValueError(
                "evaluate_every needs environments of its own, so that training is not disturbed. "
                "Received: evaluation_envs=None. Pass evaluation_envs=make_vec(...)."
            )
        self._agent, self._transitions, self._total_steps = agent, transitions, total_steps
        self._callbacks, self._stop_at_return = callbacks, stop_at_return
        self._log_every, self._checkpoint_every = log_every, checkpoint_every
        self._evaluate_every, self._evaluation_envs = evaluate_every, evaluation_envs
        self._next_log, self._next_checkpoint = log_every, checkpoint_every
        self._next_evaluation = evaluate_every
        self._best = -np.inf
        self._began = clock() - getattr(agent, "construction_seconds", 0.0)
        self._updates, self._solved = 0, None
        self._recent: list[dict[str, float]] = []  # metrics since the last point of the curves
        self._seconds = np.zeros(4)  # acting, environments, advantages, update; since then
        self._point = (clock(), 0)  # when and at which step that was
        self.goes_on = True
        self._folder = self._open(logdir, resume, config)
        self._writer = open_writer(self._folder)
        self._interrupts, self._progress = Interrupts(), Progress(total_steps, "steps")

    def _open(self, logdir: str | Path | None, resume: bool, config: Mapping[str, Any]):
        if logdir is None:
            return None
        newest = checkpoint.newest_checkpoint(logdir) if resume else None
        if newest is not None:
            self._load(newest)
            return Path(logdir)
        settings = getattr(self._agent, "config", None)
        entries = {
            "algorithm": type(self._agent).__name__.lower(),
            "config": asdict(settings) if is_dataclass(settings) else None,
            "num_envs": self._transitions.num_envs,
            "total_steps": self._total_steps,
            **config,
        }
        return checkpoint.start_run(logdir, entries)

    def __enter__(self) -> Run:
        self._interrupts.__enter__()
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()
        self._interrupts.__exit__()
        self._writer.close()

    def count(
        self,
        act_seconds: float,
        env_seconds: float,
        transition: Transition,
        metrics: dict[str, float] | None,
    ) -> None:
        """Takes note of a step, and after an update does what is due."""
        transitions = self._transitions
        self._seconds[0] += act_seconds
        self._seconds[1] += env_seconds
        if transition.ended.any():
            self._check_solved()
        if metrics is not None:
            self._updates += 1
            self._seconds[2] += metrics.pop("advantages_seconds", 0.0)
            self._seconds[3] += metrics.pop("update_seconds", 0.0)
            self._recent.append(metrics)
            self._do_what_is_due(transitions.env_steps)
            self.goes_on &= self._interrupts.received is None
        self.goes_on &= transitions.env_steps < self._total_steps

    def _do_what_is_due(self, steps: int) -> None:
        if steps >= self._next_log:
            self._next_log = steps + self._log_every
            self._log(steps)
        if self._next_evaluation is not None and steps >= self._next_evaluation:
            self._next_evaluation = steps + self._evaluate_every
            self._evaluate(steps)
        if self._next_checkpoint is not None and self._updates >= self._next_checkpoint:
            self._next_checkpoint = self._updates + self._checkpoint_every
            self._save()

    def _check_solved(self) -> None:
        returns = self._transitions.recent_returns
        if self._stop_at_return is None or len(returns) < 100:
            return
        if sum(returns) / len(returns) >= self._stop_at_return:
            self._solved = (self._transitions.env_steps, clock() - self._began)
            self.goes_on = False

    def _log(self, steps: int) -> None:
        """One point of every curve: means since the last point."""
        now, (then, before) = clock(), self._point
        self._point = (now, steps)
        transitions, elapsed = self._transitions, max(now - then, 1e-9)
        values = {"time/fps": (steps - before) / elapsed}
        parts = ("acting", "environments", "advantages", "update")
        values |= {
            f"time/{part}": share
            for part, share in zip(parts, (self._seconds / elapsed).tolist(), strict=True)
        }
        self._seconds[:] = 0.0
        if transitions.recent_returns:
            values["rollout/ep_rew_mean"] = float(np.mean(transitions.recent_returns))
            values["rollout/ep_len_mean"] = float(np.mean(transitions.recent_lengths))
        if self._recent:
            table = np.array([list(metrics.values()) for metrics in self._recent])
            finite = np.isfinite(table)
            means = np.where(finite, table, 0.0).sum(0) / np.maximum(finite.sum(0), 1)
            counts = zip(self._recent[0], means.tolist(), finite.any(0), strict=True)
            values |= {f"train/{name}": mean for name, mean, known in counts if known}
            self._recent.clear()
        self._writer.scalars(steps, values)
        note = f"{values['time/fps']:,.0f} steps/s  mean return {self._mean_return() or 0:.1f}"
        self._progress.update(steps, note)
        for callback in self._callbacks:
            if callback(steps, values) is False:
                self.goes_on = False

    def _evaluate(self, steps: int) -> None:
        result = evaluate(self._agent, self._evaluation_envs, EVALUATION_EPISODES, seed=0)
        values = {"eval/mean_reward": result.mean, "eval/mean_ep_length": result.mean_length}
        self._writer.scalars(steps, values)
        if result.mean > self._best:
            self._best = result.mean
            if self._folder is not None:
                self._agent.save(self._folder / "checkpoints" / "best")

    def _save(self) -> None:
        """A checkpoint; the two newest are kept."""
        if self._folder is None:
            return
        transitions, folder = self._transitions, self._folder / "checkpoints"
        state = {"updates": self._updates, "best": None if self._best < -1e300 else self._best}
        run = {**state, "transitions": transitions.state()}
        self._agent.save(folder / f"step-{transitions.env_steps:012d}", run)
        for old in sorted(folder.glob("step-*"))[:-2]:
            checkpoint.remove(old)

    def _load(self, path: Path) -> None:
        state = self._agent.restore(path)
        self._transitions.restore(state["transitions"])
        self._updates, steps = state["updates"], self._transitions.env_steps
        self._best = -np.inf if state["best"] is None else state["best"]
        self._point, self._next_log = (clock(), steps), steps + self._log_every
        self._next_evaluation = self._evaluate_every and steps + self._evaluate_every
        self._next_checkpoint = self._checkpoint_every and self._updates + self._checkpoint_every
        self.goes_on = steps < self._total_steps

    def _mean_return(self) -> float | None:
        returns = self._transitions.recent_returns
        return float(np.mean(returns)) if returns else None

    def finish(self, import_seconds: float | None) -> dict[str, Any]:
        """Logs and saves the end, writes `summary.json`; then obeys a signal if there was one."""
        transitions = self._transitions
        if self._recent:
            self._log(transitions.env_steps)
        self._save()
        seconds = clock() - self._began
        steps, at = self._solved or (None, None)
        summary = {
            "env_steps": transitions.env_steps,
            "updates": self._updates,
            "episodes": transitions.episodes,
            "seconds": seconds,
            "steps_per_second": transitions.env_steps / seconds,
            "mean_return_100": self._mean_return(),
            "solved_at_steps": steps,
            "solved_at_seconds": at,
            "import_seconds": import_seconds,
            "versions": versions(),
        }
        if self._folder is not None:
            checkpoint.write_json(self._folder / "summary.json", summary)
        self._interrupts.raise_received()
        return summary


def versions() -> dict[str, str]:
    """The versions of Python, of Vantage and of what its results depend on."""
    names = ("vantage-rl", "tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
