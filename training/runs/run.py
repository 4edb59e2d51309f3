"""A training run: ties agent, environments, folder and listeners together."""

from __future__ import annotations

import contextlib
import signal
import warnings
from typing import TYPE_CHECKING, Any, cast

from ..common.console import say, surviving
from ..common.interrupts import Interrupts, UpdateCut
from ..experience.bad_numbers import BadNumbersError
from ..experience.environments import COMPARED, LOST, restore_environments, worse
from ..monitoring import reports
from ..monitoring.curves import Curves
from ..monitoring.monitor import Monitor
from ..monitoring.progress import Progress, RunProgress
from ..monitoring.recorder import VideoRecorder
from ..storage.files import write_json
from ..storage.packing import weights_sha256
from ..tensorboard.events import open_writer
from .checkpointer import Checkpointer, Saved, read_saved
from .evaluator import Evaluator
from .folder import Folder
from .given_agents import state_of
from .options import TrainOptions, recorded
from .record import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..experience.protocols import Actor, Agent, Metrics, Observations, State, Transition
    from ..experience.transitions import Transitions
    from ..monitoring.facts import Settings
    from ..monitoring.listeners import Listener


class Run:
    """One training run in its folder, if it has one; a context manager.

    Attributes:
        record: Its counts and its clock.
        writer: Where its curves go.
        curves: What the loop measures.
        interrupts: Whether a signal asks to stop.
    """

    def __init__(self, agent: Agent, transitions: Transitions, options: TrainOptions) -> None:
        self._agent, self._transitions, self._options = agent, transitions, options
        self.record = Record(getattr(agent, "construction_seconds", 0.0))
        self.interrupts = Interrupts("undone")
        self._bar = Progress(options.total_steps, "steps", options.progress)
        self._printing = surviving()
        self._updated_at = 0  # environment steps at the last update
        self._saved: Saved | None = None  # the checkpoint to resume from
        self._restored = LOST[-1], ""  # how exactly the running episodes are, and why not more
        self._folder: Folder | None = None
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
            if self._saved is not None:
                self.writer.resume(transitions.env_steps)
            self._listen(entries)
        except BaseException:
            self._close_folder()
            raise

    def _listen(self, entries: Settings) -> None:
        """Creates the listeners of the run; a tracker would be one more of them."""
        agent, transitions, options = self._agent, self._transitions, self._options
        actor = cast("Actor", agent)  # where there are evaluations or videos it has to be one
        folder, record = self._folder, self.record
        self.curves = curves = Curves(
            transitions, self.writer, options.callbacks, options.log_period
        )
        self._checkpointer = checkpointer = Checkpointer(
            agent,
            transitions,
            record,
            folder,
            self.writer,
            options.checkpoint_every,
            self.get_state,
        )
        evaluator = Evaluator(actor, options, curves, record, checkpointer, self._is_stopped)
        self._monitor = Monitor(
            agent,
            curves,
            entries,
            self._say,
            log_every=options.log_period,
            histograms_every=None if folder is None else options.histograms_period,
            describes=folder is not None,
            evaluates=options.evaluate_every is not None,
        )
        others: list[Listener] = [self._monitor]
        if self._bar.is_shown:
            others.append(RunProgress(self._bar, curves, options.log_period))
        video_env = options.video_env
        if options.video_every is not None and video_env is not None and folder is not None:
            others.append(
                VideoRecorder(
                    actor,
                    video_env,
                    options.video_every,
                    self.writer,
                    lambda: folder.path,
                    checkpointer.tolerate,
                    self._is_stopped,
                )
            )
        # After an update the evaluation is first, so that callbacks see it with the same point.
        # critical: the checkpoint is last, for it keeps what the others did
        self._after_update: tuple[Listener, ...] = (evaluator, curves, *others, checkpointer)
        # critical: at the end it is first, for the last point is not the run's for good
        self._at_end: tuple[Listener, ...] = (checkpointer, evaluator, *others, curves)

    def _load(self, folder: Folder) -> None:
        """Checks and restores what does not depend on the running episodes."""
        saved = read_saved(folder)
        if saved is None:
            self._say(f"nothing to resume in {folder.path}: starting afresh")
            return
        agent: Any = self._agent
        try:
            if hasattr(agent, "check_resumable"):
                agent.check_resumable(saved.agent)
            agent.set_state(saved.agent)
            self._transitions.set_state(saved.run["transitions"])
            self.record.set_state(saved.run)
            self.record.resumed_from = self._transitions.env_steps
        except (KeyError, TypeError, AttributeError) as error:
            raise _incomplete(error) from None
        self._restored = restore_environments(self._transitions.envs, saved.environment)
        self._saved = saved
        if saved.has_other_versions:
            self._say("other versions wrote the checkpoint: the run may differ in the last bits")

    def start(self) -> Observations:
        """Prepares agent and environments; returns the observations to act on next."""
        transitions, saved = self._transitions, self._saved
        with transitions.left_alone("begin"):  # a resumed run has restored them already
            reports.begin(self.curves.callbacks, self.writer)
        if saved is None:
            observations = transitions.reset()
            self._begin(0)
            return observations
        self._saved = None
        level, reason = self._restored
        self.record.exactness = worse(self.record.exactness, level)
        try:
            observations = self._resume_episodes(saved, bool(reason))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _incomplete(error) from None
        self._begin(transitions.env_steps, saved)
        how = {"state": "exactly, from their state", "replay": f"exactly, {COMPARED}"}
        self._say(
            f"resuming after {transitions.env_steps:,} steps; the running episodes "
            + (f"start anew: {reason}" if reason else f"continue {how[level]}")
        )
        update = getattr(self._agent, "resume_update", None)
        if update is not None and (metrics := self.learn(update, observations)) is not None:
            self.updated(metrics)  # of an update that a signal had cut
        return observations

    def _resume_episodes(self, saved: Saved, restarts: bool) -> Observations:
        """Restores the curves and, unless they restart, the running episodes."""
        run = saved.run
        self._updated_at = int(run["tasks_at"])
        self.curves.set_state(run["curves"])
        if "monitor" in run:  # version 0.1.0 had none
            self._monitor.set_state(run["monitor"])
        if not restarts:
            return self._transitions.resume_episodes(run["transitions"])
        saved.agent.pop("episodes", None)
        return self._transitions.reset()

    def _begin(self, done_steps: int, saved: Saved | None = None) -> None:
        agent, transitions = self._agent, self._transitions
        masked = transitions.action_masks is not None
        agent.begin(transitions.num_envs, self._options.total_steps, done_steps, masked)
        if saved is not None:
            agent.set_state(saved.agent)
        for listener in self._after_update:
            listener.begin(self._updated_at, resumed=saved is not None)

    def get_state(self) -> State:
        """What a checkpoint holds of the run, besides the agent and the environments."""
        return {
            **self.record.get_state(),
            "transitions": self._transitions.get_state(),
            "curves": self.curves.get_state(),
            "monitor": self._monitor.get_state(),
            "tasks_at": self._updated_at,
        }

    def __enter__(self) -> Run:
        self.interrupts.__enter__()
        self._printing.__enter__()
        self._bar.__enter__()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._bar.__exit__()
        self._printing.__exit__(None, None, None)
        try:
            self._agent.settle()
            # A second Ctrl-C stops at once; any other exception may be an environment's own.
            if error is not None and not self.interrupts.hurries:
                self._checkpointer.save_after(error)
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

    @property
    def stops(self) -> bool:
        """Whether a signal or a callback asked to end the run."""
        return self.curves.stop or self.interrupts.received is not None

    def _is_stopped(self) -> bool:
        return self.interrupts.received is not None

    def learn(
        self, update: Callable[[Transition], Metrics | None], seen: Transition
    ) -> Metrics | None:
        """Calls `update(seen)`; metrics if it made an update that was neither refused nor cut."""
        try:
            return update(seen)
        except FloatingPointError as error:
            self.refuse(error)
        except UpdateCut:  # the checkpoint holds what the update needs to be repeated
            pass
        return None

    def updated(self, metrics: Metrics) -> None:
        """Counts an update and calls the listeners."""
        self.record.updates += 1
        self.curves.add(metrics)
        self._updated_at = steps = self._transitions.env_steps
        for listener in self._after_update:
            listener.updated(steps)

    def refuse(self, error: FloatingPointError) -> None:
        """Continues without an update that was not finite, if the options allow it.

        Raises:
            FloatingPointError: They do not, or too many updates were refused.
        """
        options, record = self._options, self.record
        record.bad_updates += 1
        if isinstance(error, BadNumbersError):
            error.env_steps = self._transitions.env_steps
            if error.index is not None and hasattr(self._transitions.envs, "seed_of"):
                error.seed = self._transitions.envs.seed_of(error.index, error.episodes_ago)
        if options.on_bad_numbers == "raise" or record.bad_updates > options.bad_numbers_limit:
            raise error
        if options.on_bad_numbers == "warn":
            warnings.warn(f"Refused update {record.bad_updates}: {error}", stacklevel=2)

    def finish(self) -> dict[str, Any]:
        """Saves the end and writes `summary.json`; then obeys a signal if there was one."""
        for listener in self._at_end:
            listener.end(self._transitions.env_steps)
        summary = self.record.summary(
            self._transitions,
            self._options.import_seconds,
            weights_sha256(state_of(self._agent)),
            self._checkpointer.exactness,
        )
        folder = self._folder
        if folder is not None:
            self._checkpointer.insist(lambda: write_json(folder.path / "summary.json", summary))
        self._say_what_no_update_used()
        self._say_how_to_resume()
        self.interrupts.raise_received()
        return summary

    def _say_what_no_update_used(self) -> None:
        """Says whether the run made no update, or how many steps came after the last one."""
        agent = self._agent
        left = self._transitions.env_steps - self._updated_at
        if not self.record.updates:
            shortfall = getattr(agent, "shortfall", lambda *_: None)
            reason = shortfall(self._transitions.num_envs, self._options.total_steps) or ""
            self._say(f"no update was made: the agent has learned nothing. {reason}".strip())
        elif left and getattr(agent, "drops_rest", False):
            self._say(
                f"the last {left:,} steps fill no rollout: no update has learned from them, unless "
                "the run is resumed and continues"
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

    def _say(self, text: str) -> None:
        if self._options.verbose:
            say(text)


def _incomplete(error: Exception) -> ValueError:
    return ValueError(
        f"A checkpoint of a run must hold all its state. Received: one without ({error!r:.200}). "
        "Resume a run that `train` of this version has saved."
    )
