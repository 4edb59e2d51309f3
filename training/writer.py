"""Where a run's numbers go: TensorBoard event files, or nowhere."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .events import EventFile
from .summaries import image_value, text_value

Callback = Callable[[int, dict[str, float]], bool | None]
"""Called with the step and the metrics of a report; returning False stops the training."""


class Writer:
    """Writes nothing: the writer of a run without a log directory, and every writer's interface.

    `step` is the x-axis: environment steps, epochs or training steps.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag."""

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text, shown as Markdown."""

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, channels]`."""

    def resume(self, step: int) -> None:
        """Tells readers that the points after `step` come once more."""

    def flush(self) -> None:
        """Waits until the disk has everything.

        Raises:
            OSError: It fails.
        """

    def close(self) -> None:
        """Ends the writing."""


class TensorBoardWriter(Writer):
    """Writes TensorBoard event files to `logdir`; all scalars of a step in one record."""

    def __init__(self, logdir: str | Path) -> None:
        self._events = EventFile(logdir)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag."""
        self._add(step, [{"tag": tag, "simple_value": float(v)} for tag, v in values.items()])

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text, shown as Markdown."""
        self._add(step, [{"tag": tag, **text_value(markdown)}])

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, channels]`."""
        self._add(step, [{"tag": tag, **image_value(pixels)}])

    def resume(self, step: int) -> None:
        """Tells a TensorBoard that is watching to forget the points after `step`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._events.write(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def flush(self) -> None:
        """Waits until the disk has everything."""
        self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()

    def _add(self, step: int, values: list[dict]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._events.write(Event(wall_time=time.time(), step=step, summary=summary))


def open_writer(logdir: str | Path | None) -> Writer:
    """A TensorBoard writer for `logdir`, or without one a writer that writes nothing."""
    return Writer() if logdir is None else TensorBoardWriter(logdir)
