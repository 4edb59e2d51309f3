"""What surrounds the loop: a run's folder, checkpoints, evaluations, bad numbers and summary."""

from __future__ import annotations

import contextlib
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import isfinite
from statistics import fmean
from time import perf_counter as clock
from typing import Any, cast

from ..common.console import fill_handles, say, surviving
from ..common.interrupts import Interrupts, UpdateCut
from ..experience.bad_numbers import BadNumbersError
from ..experience.environments import (
    COMPARED,
    EXACTNESS,
    LOST,
    are_finite,
    environment_state,
    restore_environments,
    unpacked_environment,
    worse,
)
from ..experience.evaluation import play
from ..experience.transitions import Observations, Transitions
from ..monitoring import reports
from ..monitoring.curves import Curves
from ..monitoring.monitor import Monitor
from ..monitoring.progress import Progress
from ..storage.checkpoint import versions
from ..storage.files import Tolerance, write_json
from ..storage.packing import pack, unpack, weights_sha256
from ..tensorboard.events import open_writer
from .folder import Folder
from .options import TrainOptions, recorded, seconds_of
from .schedule import Every

EVALUATION_EPISODES = 20
# Tasks whose period counts environment steps.
STEPPED = {"log", "show", "histograms", "diagnose", "evaluate", "film"}


class Run:
    """One training run in its folder, if it has one; a context manager.

    Attributes:
        writer: Where its curves go.
        updates: Updates made so far; the loop counts them.
        bad_updates: Updates that were refused because a number was not finite.
        interrupts: Whether a signal asks to stop.
    """

    def __init__(self, agent: Any, transitions: Transitions, options: TrainOptions) -> None:
        self._agent, self._transitions, self._options = agent, transitions, options
        self._began = clock() - getattr(agent, "construction_seconds", 0.0)
        self._best: float | None = None
        self._solved: tuple[int, float] | None = None
        self._exactness = self._offered = "state"  # of the resumes so far; of the last checkpoint
        self._resumed_from: int | None = None
        self._trains = self._ended = False  # whether it began, and whether its end is saved
        self._tolerance = Tolerance("Saving a checkpoint")
        self.updates = self.bad_updates = 0
        self._curves = cast(Curves, None)  # until `tasks`
        self._tasks: dict[str, Every] = {}
        self.interrupts = Interrupts("undone")
        self._progress = Progress(options.total_steps, "steps", options.progress)
        self._printing = surviving()
        self._folder: Folder | None = None
        self._state: dict[str, Any] = {}  # what to go on from
        self._restored = LOST[-1], ""  # how exactly the running episodes are, and why not more
        entries = recorded(agent, transitions.num_envs, options)
        if options.logdir is not None:
            # critical: all checks of a resume come before anything in the folder changes
            self._folder = Folder(
                options.logdir,
                entries,
                resume=options.resume,
                keep=options.keep_checkpoints,
                check=self._load,
            )
        try:
            self.writer = open_writer(None if self._folder is None else self._folder.path)
            if self._state:
                self.writer.resume(transitions.env_steps)
            self.monitor = Monitor(agent, transitions, self.writer, entries, self._say)
        except BaseException:
            self._close_folder()
            raise

    def _load(self, folder: Folder) -> None:
        if folder.saved is None:
            self._say(f"nothing to resume in {folder.path}: starting afresh")
            return
        _, arrays, manifest = folder.saved
        parts = ("agent", "run")
        self._state = {n: unpack(manifest.get(n), arrays, folder.shards) for n in parts}
        environment = unpacked_environment(manifest.get("environment"), arrays, folder.shards)
        try:
            if hasattr(self._agent, "check_resumable"):
                self._agent.check_resumable(self._state["agent"])
            self._agent.set_state(self._state["agent"])
            run = self._state["run"]
            self._transitions.set_state(run["transitions"])
            self.updates, self.bad_updates = int(run["updates"]), int(run["bad_updates"])
            self._best, self._solved = run["best"], run["solved"] and tuple(run["solved"])
            self._began -= float(run["seconds"])
            self._resumed_from = self._transitions.env_steps
            self._exactness = worse(EXACTNESS[0], run["exactness"])
        except (KeyError, TypeError, AttributeError) as error:
            raise _incomplete(error) from None
        self._restored = restore_environments(self._transitions.envs, environment)
        if manifest["versions"] != versions():
            self._say("other versions wrote the checkpoint: the run may differ in the last bits")

    def tasks(self, curves: Curves) -> None:
        """Plans what `report` calls after every update."""
        options, transitions, tasks = self._options, self._transitions, self._tasks
        self._curves, log_every = curves, options.log_period
        with transitions.left_alone("begin"):  # a resumed run has restored them already
            reports.begin(curves.callbacks, self.writer)
        steps = partial(getattr, transitions, "env_steps")
        if options.evaluate_every is not None:  # first: callbacks see it with the same point
            evaluate = partial(self.evaluate, options.evaluation_envs)
            tasks["evaluate"] = Every(options.evaluate_every, steps, evaluate)
        tasks["log"] = Every(log_every, steps, curves.write)
        tasks["report"] = Every(1, steps, curves.report)
        if options.histograms_period and self._folder is not None:
            tasks["histograms"] = Every(options.histograms_period, steps, self.monitor.histograms)
        tasks["diagnose"] = Every(log_every, steps, lambda: self.monitor.look(curves))
        if self._progress.is_shown:
            show = self._progress.show
            tasks["show"] = Every(log_every, steps, lambda: show(steps(), curves.values))
        if options.video_every is not None and self._folder is not None:
            film = partial(self._film, self._folder, options.video_env)
            tasks["film"] = Every(options.video_every, steps, lambda: self._tolerated(film))
        # critical: last, for a checkpoint keeps what the others did
        if options.checkpoint_every is not None:
            seconds = seconds_of(options.checkpoint_every)
            since = (lambda: self._seconds) if seconds else (lambda: self.updates)
            tasks["checkpoint"] = Every(seconds or int(options.checkpoint_every), since, self.save)

    def start(self) -> Observations:
        """Makes agent and environments ready; the observations from where acting goes on."""
        transitions, agent = self._transitions, self._agent
        state, self._state = self._state, {}
        if not state:
            observations = transitions.reset()
            masked = transitions.action_masks is not None
            agent.begin(transitions.num_envs, self._options.total_steps, 0, masked)
            if self._folder is not None:
                self.monitor.begin("evaluate" in self._tasks)
            self._trains = True
            return observations
        level, reason = self._restored
        self._exactness = worse(self._exactness, level)
        try:
            observations = self._go_on(state, bool(reason))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _incomplete(error) from None
        masked = transitions.action_masks is not None
        agent.begin(transitions.num_envs, self._options.total_steps, transitions.env_steps, masked)
        agent.set_state(state["agent"])
        self._trains = True
        how = {"state": "exactly, from their state", "replay": f"exactly, {COMPARED}"}
        self._say(
            f"resuming after {transitions.env_steps:,} steps; the running episodes "
            + (f"start anew: {reason}" if reason else f"go on {how[level]}")
        )
        update = getattr(agent, "resume_update", None)
        if update is not None and (metrics := self.learn(update, observations)) is not None:
            self.report(metrics)  # of an update that a signal had cut
        return observations

    def _go_on(self, state: dict[str, Any], restarts: bool) -> Observations:
        """Takes over statistics, curves and, unless they restart, the running episodes."""
        run = state["run"]
        for name in STEPPED & set(self._tasks):
            self._tasks[name].counted = int(run["tasks_at"])
        self._curves.set_state(run["curves"])
        if "monitor" in run:  # version 0.1.0 had none
            self.monitor.set_state(run["monitor"])
        if not restarts:
            return self._transitions.resume_episodes(run["transitions"])
        state["agent"].pop("episodes", None)
        return self._transitions.reset()

    def __enter__(self) -> Run:
        self.interrupts.__enter__()
        self._printing.__enter__()
        self._progress.__enter__()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._progress.__exit__()
        self._printing.__exit__(None, None, None)
        try:
            self._agent.settle()
            # A second Ctrl-C stops at once; any other exception may be an environment's own.
            may_save = self._trains and not self._ended and not self.interrupts.hurries
            if error is not None and may_save:
                self._save_after(error)
        finally:
            self.interrupts.__exit__()
            try:
                # After the last checkpoint, so that a resumed run forgets how this one ended.
                with contextlib.suppress(OSError):  # the file says so as well when it is closed
                    self.writer.hparams_end("success" if error is None else "failure")
                self.writer.close()
            finally:
                self._close_folder()

    def _close_folder(self) -> None:
        if self._folder is not None:
            self._folder.close()

    def _save_after(self, error: BaseException) -> None:
        """A checkpoint of a run that an error ends, such as an environment that broke."""
        try:
            self._write(with_episodes=False)
        except Exception as other:
            error.add_note(f"There is no checkpoint of the last update: {other}")
        else:
            if self._folder is not None:
                error.add_note(
                    f"The last update is kept: --resume goes on from {self._folder.path}."
                )

    @property
    def _seconds(self) -> float:
        """Wall clock of the run, that of before it was resumed included."""
        return clock() - self._began

    def note_solved(self) -> None:
        """Keeps when the run was solved."""
        self._solved = self._solved or (self._transitions.env_steps, self._seconds)

    def evaluate(self, envs: Any) -> None:
        """Evaluates the agent, deterministically; the best one so far is kept."""
        result = None
        with self._warning_of_bad_numbers("evaluation"):
            result = play(
                *(self._agent, envs, EVALUATION_EPISODES, True, 0),
                give_up=lambda: self.interrupts.received is not None,
            )
        if result is None:
            return
        values = {"eval/mean_reward": result.mean, "eval/mean_ep_length": result.mean_length}
        values |= zip(("eval/ci95_low", "eval/ci95_high"), result.ci95, strict=True)
        self._curves.evaluated(values)
        if not isfinite(result.mean) or (self._best is not None and result.mean <= self._best):
            return
        self._best = result.mean
        self._tolerated(self._keep_best)

    def _film(self, folder: Folder, env: Any) -> None:
        with self._warning_of_bad_numbers("video"):
            self.monitor.film(env, folder.path / "videos")

    @contextlib.contextmanager
    def _warning_of_bad_numbers(self, what: str) -> Iterator[None]:
        """Leaves out what comes upon NaN or infinity: no weight is learnt from it."""
        try:
            yield
        except FloatingPointError as error:
            steps = self._transitions.env_steps
            warnings.warn(
                f"The {what} after {steps:,} steps is left out: {error}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _keep_best(self) -> None:
        if self._folder is not None:
            arrays, packed = pack("agent", self._agent.get_state(), self._folder.shards)
            self._folder.save_best(arrays, {"agent": packed})

    @property
    def stops(self) -> bool:
        """Whether a signal or a callback asked to end the run."""
        return self._curves.stop or self.interrupts.received is not None

    def learn(
        self, update: Callable[[Any], dict[str, Any] | None], seen: Any
    ) -> dict[str, Any] | None:
        """What `update(seen)` returns: metrics if it made an update that was not refused or cut."""
        try:
            return update(seen)
        except FloatingPointError as error:
            return self.refuse(error)
        except UpdateCut:  # the checkpoint holds what it needs to be made anew
            return None

    def report(self, metrics: dict[str, Any]) -> None:
        """Counts an update and does what is due after it."""
        self.updates += 1
        self._curves.add(metrics)
        for task in self._tasks.values():
            task()

    def refuse(self, error: FloatingPointError) -> dict[str, Any] | None:
        """Goes on without an update that was not finite, if it may.

        Raises:
            FloatingPointError: It may not, or too many were so.
        """
        self.bad_updates += 1
        if isinstance(error, BadNumbersError):
            error.env_steps = self._transitions.env_steps
            if error.index is not None and hasattr(self._transitions.envs, "seed_of"):
                error.seed = self._transitions.envs.seed_of(error.index, error.episodes_ago)
        options = self._options
        if options.on_bad_numbers == "raise" or self.bad_updates > options.bad_numbers_limit:
            raise error
        if options.on_bad_numbers == "warn":
            warnings.warn(f"Refused update {self.bad_updates}: {error}", stacklevel=2)
        return None

    def save(self) -> bool:
        """Writes a checkpoint, if there is a folder for it; False if the disk failed.

        Raises:
            OSError: It has failed for too long, as `Tolerance` says.
        """
        return self._tolerated(self._write)

    def _tolerated(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except OSError as error:
            self._tolerance.failed(error)
            return False
        self._tolerance.succeeded()
        return True

    def _write(self, with_episodes: bool = True) -> None:
        if self._folder is None:
            return
        fill_handles()  # an environment may have closed them
        self.writer.flush()
        agent, transitions = self._agent.get_state(), self._transitions
        run: dict[str, Any] = {
            "updates": self.updates,
            "bad_updates": self.bad_updates,
            "best": self._best,
            "solved": self._solved,
            "seconds": self._seconds,
            "exactness": self._exactness,
            "transitions": transitions.get_state(),
            "curves": self._curves.get_state(),
            "monitor": self.monitor.get_state(),
            "tasks_at": self._tasks["log"].counted,
            "events": self._folder.events(),
        }
        arrays, environment, exactness = environment_state(transitions) if with_episodes else LOST
        running, _ = pack("episodes", agent.get("episodes"))
        if not are_finite(running):  # a rollout with a bad number in it
            arrays, environment, exactness = LOST
        if exactness == "restart":
            agent.pop("episodes", None)
            run["transitions"]["observations"] = None
        manifest: dict[str, Any] = {"environment": environment, "exactness": exactness}
        for name, part in (("agent", agent), ("run", run)):
            own, manifest[name] = pack(name, part, self._folder.shards)
            arrays |= own
        self._folder.save(transitions.env_steps, arrays, manifest)
        self._offered = exactness

    def finish(self) -> dict[str, Any]:
        """Saves the end and writes `summary.json`; then obeys a signal if there was one."""
        # critical: before the last point, which is not the run's for good
        while not self.save():
            self._tolerance.wait()
        self._ended = self._curves.ended = True
        for name in ("evaluate", "film"):  # the end may lie inside a rollout
            if name in self._tasks and self.interrupts.received is None:
                self._tasks[name]()
        self._curves.write()
        self._curves.report()
        transitions, seconds = self._transitions, self._seconds
        returns = transitions.recent_returns
        solved_at_steps, solved_at_seconds = self._solved or (None, None)
        summary = {
            "env_steps": transitions.env_steps,
            "updates": self.updates,
            "bad_updates": self.bad_updates,
            "episodes": transitions.episodes,
            "seconds": seconds,
            "steps_per_second": transitions.env_steps / seconds,
            "mean_return_100": fmean(returns) if returns else None,
            "solved_at_steps": solved_at_steps,
            "solved_at_seconds": solved_at_seconds,
            "import_seconds": self._options.import_seconds,
            "weights_sha256": weights_sha256(self._agent.get_state()),
            "exactness": worse(self._exactness, self._offered),
            "resumed_from": self._resumed_from,
            "versions": versions(),
        }
        if self._folder is not None:
            while not self._tolerated(partial(self._summarise, self._folder, summary)):
                self._tolerance.wait()
        self._say_what_no_update_used()
        self._say_how_to_resume()
        self.interrupts.raise_received()
        return summary

    def _say_what_no_update_used(self) -> None:
        """Says whether the run made no update, or how many steps came after the last one."""
        agent, steps = self._agent, self._transitions.env_steps
        left = steps - int(self._tasks["log"].counted)
        if not self.updates:
            shortfall = getattr(agent, "shortfall", lambda *_: None)
            reason = shortfall(self._transitions.num_envs, self._options.total_steps) or ""
            self._say(f"no update was made: the agent has learned nothing. {reason}".strip())
        elif left and getattr(agent, "drops_rest", False):
            self._say(
                f"the last {left:,} steps fill no rollout: no update has learned from them, unless "
                "the run is resumed and goes on"
            )

    def _say_how_to_resume(self) -> None:
        if self.interrupts.received is not None:
            name = signal.Signals(self.interrupts.received).name
            stopped = f"stopped by {name} after {self._transitions.env_steps:,} steps"
            if self._folder is None:
                self._say(f"{stopped}; nothing is saved, for the run has no log directory")
            else:
                self._say(
                    f"{stopped}; a checkpoint is written. To continue, pass --logdir "
                    f"{self._folder.path} --resume (resume=True in a script)"
                )

    def _summarise(self, folder: Folder, summary: Mapping[str, Any]) -> None:
        write_json(folder.path / "summary.json", summary)

    def _say(self, text: str) -> None:
        if self._options.verbose:
            say(text)


def _incomplete(error: Exception) -> ValueError:
    return ValueError(
        f"A checkpoint of a run must hold all its state. Received: one without ({error!r:.200}). "
        "Resume a run that `train` of this version has saved."
    )
