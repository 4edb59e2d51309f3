"""Where a run's numbers go: TensorBoard event files, or nowhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Writer(Protocol):
    """What learners need of a writer; `step` is the x-axis."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag."""

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text."""

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, channels]`."""

    def close(self) -> None:
        """Writes what is still buffered."""


class NullWriter:
    """Writes nothing: the writer of a run without a log directory."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Does nothing."""

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TensorBoardWriter:
    """Writes TensorBoard event files to `logdir`; all scalars of a step in one record."""

    def __init__(self, logdir: str | Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._events = EventFileWriter(str(logdir))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag."""
        self._add(step, [{"tag": tag, "simple_value": float(v)} for tag, v in values.items()])

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text, shown as Markdown."""
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.text.metadata import create_summary_metadata

        tensor = {
            "dtype": "DT_STRING",
            "tensor_shape": TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
            "string_val": [markdown.encode()],
        }
        metadata = create_summary_metadata(tag, "")
        self._add(step, [{"tag": tag, "tensor": tensor, "metadata": metadata}])

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, channels]`."""
        import tensorflow as tf

        height, width, channels = pixels.shape
        png = tf.io.encode_png(pixels).numpy()
        image = {
            "height": height,
            "width": width,
            "colorspace": channels,
            "encoded_image_string": png,
        }
        self._add(step, [{"tag": tag, "image": image}])

    def close(self) -> None:
        """Writes what is still buffered and closes the file."""
        self._events.close()

    def _add(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def open_writer(logdir: str | Path | None) -> Writer:
    """A TensorBoard writer for `logdir`, or without one a writer that writes nothing."""
    return NullWriter() if logdir is None else TensorBoardWriter(logdir)
