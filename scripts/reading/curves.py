"""The curves of a run as TensorBoard reads them from its event files, which are not trusted."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vantage.scripts.reading.run_folders import is_event_file
from vantage.training.storage.crc32c import masked_crc32c
from vantage.training.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

RETURNS, SPEED = "rollout/ep_rew_mean", "time/fps"
MOST = 1e300  # of a value that is drawn
MOST_EVENT = 2**28  # bytes
START = 1  # a status of TensorBoard's SessionLog
GAN = ("train/generator_loss", "train/discriminator_loss")


class Curve(NamedTuple):
    """The points of one tag, in the order of their steps, all finite."""

    steps: np.ndarray  # [P]
    seconds: np.ndarray  # [P], since the run began
    values: np.ndarray  # [P]


def read_curves(folder: Path, problems: list[str] | None = None) -> dict[str, Curve]:
    """All curves of a run by tag; none if there are no event files.

    Points that a resumed run wrote again appear once, as in TensorBoard. A file that ends within a
    record, or is damaged, is read up to there.

    Args:
        folder: Of the run.
        problems: Receives a sentence about each file that is damaged or not a regular file.
    """
    avoid_tensorflow()
    points = _Points()
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(filter(is_event_file, names)):
        try:
            for event in _events(folder / name):
                points.add(event)
        except (OSError, ValueError) as error:
            if problems is not None:
                reason = getattr(error, "strerror", None) or str(error)
                problems.append(f"{name} must be a readable event file. Received: {reason}.")
    tables = {}
    for tag, rows in points.rows.items():
        table = np.array(rows, float).reshape(-1, 3)
        table = table[(np.abs(table) < MOST).all(axis=1)]
        if len(table):
            tables[tag] = table[np.argsort(table[:, 0], kind="stable")]
    if not tables:
        return {}
    speed = tables.get(SPEED)
    return {
        tag: Curve(table[:, 0], _seconds(table, speed, points.began), table[:, 2])
        for tag, table in tables.items()
    }


def read_end(folder: Path) -> bool | None:
    """Whether the fit that wrote a folder's event files succeeded; None if that is unknown.

    The last entry counts: points after an end belong to a later fit, which has not ended.
    """
    avoid_tensorflow()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    ended = None
    for name in sorted(filter(is_event_file, os.listdir(folder))):
        with contextlib.suppress(OSError, ValueError, DecodeError):
            for event in _events(folder / name):
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        ended = None
                    elif value.tag == "_hparams_/session_end_info":
                        content = value.metadata.plugin_data.content
                        status = HParamsPluginData.FromString(content).session_end_info.status
                        ended = {1: True, 2: False}.get(status)  # success, failure
    return ended


class _Points:
    """Steps, times and values of every tag, as TensorBoard's reader collects them.

    Attributes:
        rows: `{tag: [(step, wall time, value), …]}`.
        began: When the first event was written.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, float, float]]] = {}
        self.began = 0.0
        self._is_empty, self._version, self._newest = True, 0.0, -1

    def add(self, event: Any) -> None:
        """Adds the scalars of an event; an event of a restart discards later points."""
        if self._is_empty:
            self.began = event.wall_time if abs(event.wall_time) < MOST else 0.0
            self._is_empty = False
        if event.HasField("file_version"):
            words = event.file_version.rpartition("brain.Event:")[2]
            with contextlib.suppress(ValueError):
                self._version = float(words)
        values = event.summary.value if event.HasField("summary") else ()
        if self._version >= 2:
            if event.HasField("session_log") and event.session_log.status == START:
                self._forget(event.step, list(self.rows))
        elif values and event.step < self._newest:  # old writers do not record restarts
            self._forget(event.step, [value.tag for value in values])
        else:
            self._newest = event.step
        for value in values:
            if value.HasField("simple_value"):
                row = event.step, event.wall_time, value.simple_value
                self.rows.setdefault(value.tag, []).append(row)

    def _forget(self, step: int, tags: Iterable[str]) -> None:
        for tag in tags:
            self.rows[tag] = [row for row in self.rows.get(tag, ()) if row[0] < step]


def _events(path: Path) -> Iterator[Any]:
    """The events of a file, up to the first incomplete record.

        record    length [8]   its checksum [4]   event [length]   its checksum [4]

    Raises:
        OSError: It is not a regular file, or cannot be read.
        ValueError: A record is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    with os.fdopen(open_regular(path, links=True), "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            left -= length + 16
            if left < 0 and masked_crc32c(head[:8]).to_bytes(4, "little") == head[8:]:
                return  # the rest is being written, or a process died while writing it
            if left < 0 or length > MOST_EVENT:
                raise ValueError(f"it is damaged before byte {file.tell():,}")
            data, checksum = file.read(length), file.read(4)
            try:
                event = Event.FromString(data)
            except DecodeError:
                checksum = b""
            if masked_crc32c(data).to_bytes(4, "little") != checksum:
                raise ValueError(f"it is damaged before byte {file.tell():,}")
            yield event


def avoid_tensorflow() -> None:
    """Makes TensorBoard use its own Python code instead of TensorFlow.

    It looks for this module, which its build without TensorFlow has. That takes a second, not ten.
    """
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))


def _seconds(table: np.ndarray, speed: np.ndarray | None, began: float) -> np.ndarray:
    """Seconds of training at every point `[P]`.

    Computed from the speed that the run recorded, if there is one: the pause before a resume does
    not count then.
    """
    if speed is None or (speed[:, 2] <= 0).any():
        return table[:, 1] - began
    spent = np.cumsum(np.diff(speed[:, 0], prepend=0.0) / speed[:, 2])
    return np.interp(table[:, 0], speed[:, 0], spent)


def default_tags(curves: Mapping[str, Curve]) -> tuple[str, ...]:
    """The main curves of a run: an agent's return, the losses of other trainings."""
    if SPEED in curves or RETURNS in curves:
        return (RETURNS,)
    if GAN[0] in curves:
        return GAN
    return ("train/loss",) if "train/loss" in curves else tuple(curves)[:1]


def unit(curves: Mapping[str, Curve]) -> str:
    """The unit of a run's steps."""
    if SPEED in curves or RETURNS in curves:
        return "environment steps"
    return "steps" if GAN[0] in curves else "epochs"


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """TensorBoard's smoothing: an exponential mean of weight w, with bias correction.

    sₖ = w sₖ₋₁ + (1 − w) xₖ, divided by 1 − wᵏ. A weight of 0 changes nothing.
    """
    if not weight:
        return values
    mean, result = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        result[index] = mean / (1 - weight ** (index + 1))
    return result
