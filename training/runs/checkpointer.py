"""The checkpoints of a run: when they are written, and what is in them.

agent         `get_state` of the agent
run           `get_state` of the run
environment   the running episodes, as exactly as their environments allow
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.console import fill_handles
from ..experience.environments import (
    EXACTNESS,
    LOST,
    are_finite,
    environment_state,
    unpacked_environment,
)
from ..monitoring.listeners import Every
from ..storage.checkpoint import versions
from ..storage.files import Tolerance
from ..storage.packing import pack, unpack
from .given_agents import state_of
from .options import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..experience.protocols import Agent, State
    from ..experience.transitions import Transitions
    from ..tensorboard.writer import Writer
    from .folder import Folder
    from .record import Record


class Saved(NamedTuple):
    """What a checkpoint holds."""

    agent: State
    run: State
    environment: State | None
    has_other_versions: bool  # wrote it


def read_saved(folder: Folder) -> Saved | None:
    """The checkpoint that a run in this folder resumes from; None if there is none.

    Raises:
        ValueError: It is damaged.
    """
    if folder.saved is None:
        return None
    _, arrays, manifest = folder.saved
    agent, run = (unpack(manifest.get(name), arrays, folder.shards) for name in ("agent", "run"))
    environment = unpacked_environment(manifest.get("environment"), arrays, folder.shards)
    return Saved(agent, run, environment, manifest["versions"] != versions())


class Checkpointer:
    """Writes checkpoints, if the run has a folder: when they are due, and at the end.

    A disk that fails is tolerated for a while, as `Tolerance` says.

    Attributes:
        exactness: How exactly the running episodes of the last checkpoint can be resumed.
    """

    def __init__(
        self,
        agent: Agent,
        transitions: Transitions,
        record: Record,
        folder: Folder | None,
        writer: Writer,
        every: int | str | None,
        state: Callable[[], State],
    ) -> None:
        """Plans the checkpoints.

        Args:
            agent: Who is saved.
            transitions: Steps the environments that are saved.
            record: Counts updates and seconds.
            folder: Where they go; None for nowhere.
            writer: Has written all points of a checkpoint before it is written.
            every: Updates between two, or seconds as "30s"; None for none but the last.
            state: Returns the state of the run.
        """
        self._agent, self._transitions, self._record = agent, transitions, record
        self._folder, self._writer, self._state = folder, writer, state
        self.exactness = EXACTNESS[0]
        self._is_open = False  # whether an error would lose something
        self._tolerance = Tolerance("Saving a checkpoint")
        self._seconds = None if every is None else seconds_of(every)
        period = self._seconds or (None if every is None else int(every))
        self._every = Every(period, self._count())

    def _count(self) -> float:
        return self._record.seconds if self._seconds else self._record.updates

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """From now on an error leaves a checkpoint; its seconds count from the run's start."""
        self._is_open = True

    def updated(self, env_steps: int) -> None:
        """Writes a checkpoint if it is due."""
        if self._every.is_due(self._count()):
            self.tolerate(self.write)

    def end(self, env_steps: int) -> None:
        """Writes the last checkpoint, and tries until the disk takes it.

        Raises:
            OSError: The disk has failed for too long.
        """
        self.insist(self.write)
        self._is_open = False

    def save_best(self) -> None:
        """Writes the agent to `checkpoints/best`.

        Raises:
            OSError: The disk has failed for too long.
        """
        self.tolerate(self._write_best)

    def tolerate(self, write: Callable[[], None]) -> bool:
        """Calls a function that writes to the disk; False if the disk failed.

        Raises:
            OSError: It has failed for too long.
        """
        try:
            write()
        except OSError as error:
            self._tolerance.failed(error)
            return False
        self._tolerance.succeeded()
        return True

    def insist(self, write: Callable[[], None]) -> None:
        """Calls a function that writes to the disk until it succeeds.

        Raises:
            OSError: The disk has failed for too long.
        """
        while not self.tolerate(write):
            self._tolerance.wait()

    def save_after(self, error: BaseException) -> None:
        """Saves a run that an error ends, such as an environment that broke, without episodes."""
        if not self._is_open:
            return
        try:
            self.write(with_episodes=False)
        except Exception as other:
            error.add_note(f"There is no checkpoint of the last update: {other}")
        else:
            if self._folder is not None:
                error.add_note(
                    f"The last update is saved: --resume continues from {self._folder.path}."
                )

    def write(self, with_episodes: bool = True) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: The disk failed; the checkpoints before are as they were.
        """
        if self._folder is None:
            return
        fill_handles()  # an environment may have closed them
        self._writer.flush()
        agent, run, transitions = state_of(self._agent), self._state(), self._transitions
        run["events"] = self._folder.events()
        arrays, environment, exactness = environment_state(transitions) if with_episodes else LOST
        running, _ = pack("episodes", agent.get("episodes"))
        if not are_finite(running):  # a rollout with a bad number in it
            arrays, environment, exactness = LOST
        if exactness == "restart":
            agent.pop("episodes", None)
            run["transitions"]["observations"] = None
        manifest: dict[str, Any] = {"environment": environment, "exactness": exactness}
        for name, part in (("agent", agent), ("run", run)):
            packed, manifest[name] = pack(name, part, self._folder.shards)
            arrays |= packed
        self._folder.save(transitions.env_steps, arrays, manifest)
        self.exactness = exactness

    def _write_best(self) -> None:
        if self._folder is not None:
            arrays, packed = pack("agent", state_of(self._agent), self._folder.shards)
            self._folder.save_best(arrays, {"agent": packed})
