"""The folder of a fit: its settings, its curves, and checkpoints to resume from.

    config.json   events.out.tfevents.*   checkpoints/step-000000012345/ …

The checkpoints are those of runs: written completely or not at all, verified when they are read,
and nothing in them is executed.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.folder import Folder
from ..runs.options import seconds_of
from ..storage.files import Tolerance
from ..storage.packing import pack, unpack
from ..tensorboard.events import open_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..storage.packing import State

FIT = "fit"  # the entry of a checkpoint's manifest


class FitFolder:
    """The folder of one fit, or none.

    Attributes:
        saved: The state to resume from, or None.
        is_new: Whether it has no curves yet.
        writer: Where the curves go.

    Raises:
        FileExistsError: It holds something else, or a fit that is not to be resumed.
        ValueError: There is nothing to resume in, or another process writes to it.
    """

    def __init__(
        self,
        logdir: str | Path | None,
        own: set[Path],
        config: Mapping[str, object],
        *,
        resume: bool = False,
        every: int | str | None = "30s",
        check: Callable[[State], None] = lambda state: None,
    ) -> None:
        """Opens it.

        Args:
            logdir: Where it is; None for nothing on the disk.
            own: The folders of earlier fits of the same trainer, to which this one is added.
            config: What `config.json` says of it.
            resume: Whether to read the newest whole checkpoint.
            every: Calls between two checkpoints, or seconds as "30s"; None for the last one alone.
            check: Refuses a state that cannot be resumed from, before anything changes.
        """
        self._every, self._seconds = every, None if every is None else seconds_of(every)
        if resume and logdir is None:
            raise ValueError(
                "resume needs the folder of the fit. Received: resume=True with logdir=None. Pass "
                "logdir=, or leave resume out."
            )
        self.saved: State | None = None
        self._folder: Folder | None = None
        if logdir is not None:
            path = Path(logdir).absolute()
            self.is_new = path not in own

            def load(folder: Folder) -> None:
                if resume and folder.saved is not None:
                    _, arrays, manifest = folder.saved
                    self.saved = unpack(manifest.get(FIT), arrays, folder.shards)
                    check(self.saved)

            self._folder = Folder(
                path, _as_json(config), resume=resume or not self.is_new, check=load
            )
            own.add(path)
        self.is_new = self._folder is not None and self.is_new and self.saved is None
        self.writer = open_writer(None if self._folder is None else self._folder.path)
        self._tolerance = Tolerance("Saving a checkpoint")
        self._calls, self._at = 0, time.perf_counter()

    def save_if_due(self, steps: int, state: Callable[[], State]) -> None:
        """Writes a checkpoint if it is due; a disk that fails is tolerated for a while.

        Raises:
            OSError: The disk has failed for too long.
        """
        if self._folder is None or self._every is None:
            return
        self._calls += 1
        if self._seconds is None:
            is_due = self._calls >= int(self._every)
        else:
            is_due = time.perf_counter() - self._at >= self._seconds
        if is_due:
            self._tolerate(steps, state)

    def save(self, steps: int, state: Callable[[], State]) -> None:
        """Writes the last checkpoint, and tries until the disk takes it.

        Raises:
            OSError: The disk has failed for too long.
        """
        while not self._tolerate(steps, state):
            self._tolerance.wait()

    def _tolerate(self, steps: int, state: Callable[[], State]) -> bool:
        try:
            self._write(steps, state())
        except OSError as error:
            self._tolerance.failed(error)
            return False
        self._tolerance.succeeded()
        self._calls, self._at = 0, time.perf_counter()
        return True

    def _write(self, steps: int, state: State) -> None:
        if self._folder is None:
            return
        self.writer.flush()
        arrays, packed = pack(FIT, state, self._folder.shards)
        events = {"events": self._folder.events()}
        self._folder.save(steps, arrays, {FIT: packed, "run": events})

    def close(self) -> None:
        """Lets others use the folder; the curves are closed before."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.close()


def _as_json(config: Mapping[str, object]) -> dict[str, object]:
    """Settings as JSON values; what JSON has no word for, such as a schedule, as a text."""
    found: dict[str, object] = json.loads(json.dumps(config, default=str))
    return found
