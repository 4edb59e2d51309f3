"""TensorBoard event files in which every record is written completely or not at all."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import socket
import struct
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.crc32c import masked_crc32c
from ..storage.files import BINARY, Tolerance, write_all
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorboard.compat.proto.event_pb2 import Event

    from .summaries import Fields

PREFIX = "events.out.tfevents."  # of every event file, for TensorBoard
SUFFIX = ".vantage"  # of our own event files

_numbers = itertools.count()


def _second(folder: Path) -> int:
    """The current second, or a later one if the folder has an event file of this second or later.

    TensorBoard reads event files in the order of their names, and the file of a resumed run must
    come last, even if the run resumes within the same second or the clock was set back.
    """
    words = (path.name.removeprefix(PREFIX).split(".")[0] for path in folder.glob(f"{PREFIX}*"))
    return max(
        [int(time.time()), *(int(word) + 1 for word in words if re.fullmatch("[0-9]{1,12}", word))]
    )


class EventFile:
    """Appends records without a buffer, so that the length of the file is always known.

    Records that a failing disk refuses are written together with the next one.
    """

    def __init__(self, logdir: str | Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        folder = Path(logdir)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{_second(folder):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        # critical: another writer in this folder may use the same name up to the last word.
        path = folder / f"{PREFIX}{name}{SUFFIX}"
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        self._size, self._pending = 0, io.BytesIO()
        self._tolerance = Tolerance("Writing the curves")
        self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, event: Event) -> None:
        """Appends a TensorBoard event.

        Raises:
            OSError: The disk has failed for too long; shorter failures are warnings.
        """
        record = event.SerializeToString()
        size = struct.pack("<Q", len(record))
        for part in (size, record):  # a TFRecord; TensorBoard's own writer is slow
            self._pending.write(part + struct.pack("<I", masked_crc32c(part)))
        try:
            self._write_pending()
        except OSError as error:
            self._tolerance.failed(error)

    def _write_pending(self) -> None:
        records = self._pending.getvalue()
        try:
            os.lseek(self._handle, self._size, os.SEEK_SET)  # overwrite the rest of a failed write
            write_all(self._handle, records)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)  # readers fail on a partial record
            raise
        self._size += len(records)
        self._pending = io.BytesIO()
        self._tolerance.succeeded()

    def flush(self) -> None:
        """Waits until all records are on the disk.

        Raises:
            OSError: The disk fails.
        """
        self._write_pending()
        os.fsync(self._handle)

    def close(self) -> None:
        """Writes pending records and closes the file; warns if the disk refuses them."""
        try:
            self._write_pending()
        except OSError as error:  # critical: do not raise and hide the error that ends the run
            text = f"The last points of the curves are lost ({error})."
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        finally:
            os.close(self._handle)


class TensorBoardWriter(Writer):
    """Writes TensorBoard event files to `logdir`."""

    def __init__(self, logdir: str | Path) -> None:
        self._events = EventFile(logdir)

    def flush(self) -> None:
        """Waits until everything is on the disk."""
        self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()

    def _add(self, step: int, make: Callable[..., Fields], *data: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._events.write(Event(wall_time=time.time(), step=step, **make(*data)))


def open_writer(logdir: str | Path | None) -> Writer:
    """A TensorBoard writer for `logdir`; without `logdir`, a writer that writes nothing."""
    return Writer() if logdir is None else TensorBoardWriter(logdir)
