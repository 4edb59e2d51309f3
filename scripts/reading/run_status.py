"""The status of a run, from its folder alone, even if that is damaged. No TensorFlow here."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vantage.scripts.reading.run_folders import is_event_file, kind, read_config
from vantage.training.common.console import text_of
from vantage.training.runs.folder import CHECKPOINTS, LOCK, newest_checkpoint
from vantage.training.storage.files import open_regular, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

Status = Literal["running", "finished", "interrupted", "crashed", "unfinished", "damaged"]


@dataclass
class Row:
    """The status of a run; None for unknown values."""

    path: str
    algorithm: str | None = None
    environment: str | None = None
    seed: int | None = None
    status: Status = "unfinished"
    """running: a process holds its folder; finished: it reached its end; interrupted: a signal or a
    callback stopped it; crashed: it was killed or an error ended it; unfinished: a run
    without checkpoints whose end is not recorded; damaged: a file cannot be read."""
    steps: int | None = None
    """Environment steps; epochs of a regression, steps of a GAN."""
    total_steps: int | None = None
    mean_return: float | None = None
    """Mean of the last 100 training episodes."""
    evaluation: float | None = None
    """Mean return of the last `vantage evaluate`."""
    loss: float | None = None
    """Last loss of a regression, or of a GAN's generator."""
    seconds: float | None = None
    """Of training."""
    modified: float = 0.0
    """Time of the last change in its folder, in seconds since 1970."""
    error: str | None = None
    """Description of the damage."""


def describe(path: Path) -> Row:
    """The row of a run; any damage is described in the row."""
    row = Row(str(path))
    for part in (_add_config, _add_progress, _add_evaluation):
        try:
            part(path, row)
        except Exception as error:
            text = " ".join(text_of(error)[:2_000].split()) or type(error).__name__
            row.error = row.error or text
    if row.error is not None:
        row.status = "damaged"
    return row


def _add_config(path: Path, row: Row) -> None:
    row.modified = _modified(path)
    config = read_config(path)
    row.algorithm, row.environment = kind(config)
    row.seed = _integer(config.get("seed"))
    row.total_steps = _first(_integer, config, ("total_steps", "epochs", "steps"))


def _add_progress(path: Path, row: Row) -> None:
    newest = newest_checkpoint(path)
    saved = None if newest is None else _integer_of(newest.name)
    locked = os.path.lexists(path / LOCK)
    if locked and is_locked(path):
        row.status = "running"
        return _add_latest(path, row, saved)
    summary = read_json(path / "summary.json") if os.path.lexists(path / "summary.json") else None
    steps = _first(_integer, summary or {}, ("env_steps", "epochs", "steps"))
    # A run that was resumed and then killed has more steps than its summary says.
    if summary is None or locked or (saved or 0) > (steps or 0):
        has_checkpoints = (
            newest is not None or locked or row.algorithm not in ("regression", "gan", None)
        )
        row.status = "crashed" if has_checkpoints else "unfinished"
        _add_latest(path, row, saved)
        if not has_checkpoints and row.steps is not None:
            from vantage.scripts.reading import curves

            ended = curves.read_end(path)
            row.status = {True: "finished", False: "crashed", None: row.status}[ended]
        return
    row.steps, row.seconds = steps, _number(summary.get("seconds"))
    row.mean_return = _number(summary.get("mean_return_100"))
    row.loss = _first(_number, summary, ("final_loss", "final_generator_loss"))
    ended = (steps or 0) >= (row.total_steps or 0) or summary.get("solved_at_steps") is not None
    row.status = "finished" if ended else "interrupted"


def _add_latest(path: Path, row: Row, saved: int | None) -> None:
    """The last points of the curves of a run that has no summary yet."""
    row.steps = saved
    if not any(is_event_file(name) for name in os.listdir(path)):
        return
    from vantage.scripts.reading import curves

    problems: list[str] = []
    found = curves.read_curves(path, problems)
    row.error = row.error or (" ".join(problems) or None)
    if found:
        row.steps = max(saved or 0, *(int(curve.steps[-1]) for curve in found.values()))
        row.seconds = float(max(curve.seconds[-1] for curve in found.values()))
    if curves.RETURNS in found:
        row.mean_return = float(found[curves.RETURNS].values[-1])
    for tag in ("train/loss", curves.GAN[0]):
        if tag in found and curves.SPEED not in found:
            row.loss = float(found[tag].values[-1])


def _add_evaluation(path: Path, row: Row) -> None:
    if os.path.lexists(path / "evaluation.json"):
        row.evaluation = _number(read_json(path / "evaluation.json").get("mean"))


def is_locked(folder: Path) -> bool:
    """Whether a process is writing to a run's folder, by its lock.

    A lock is left alone if its owner was a process on this machine that is gone: taking it would
    make a run that starts at this moment fail.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the owner of the lock deletes it at its end
        return True
    with os.fdopen(open_regular(folder / LOCK), "rb") as file:
        words = file.read(300).decode("utf-8", "replace").split()
        if len(words) == 4 and _is_number(words[1]) and words[3] == socket.gethostname():
            if not _is_alive(int(words[1])):
                return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks: only the owner is known
            return True
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _modified(path: Path) -> float:
    folders = [folder for folder in (path, path / CHECKPOINTS) if folder.is_dir()]
    times = [
        entry.stat(follow_symlinks=False).st_mtime
        for folder in folders
        for entry in os.scandir(folder)
    ]
    return max(times, default=0.0)


def _first(read: Callable[[Any], Any], entries: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of some entries that exists and is a number."""
    found = (read(entries.get(name)) for name in names)
    return next((value for value in found if value is not None), None)


def _integer(value: Any) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if abs(value) >= 2**128:
        raise ValueError("A number must be less than 2**128. Received: a larger one.")
    return value


def _integer_of(name: str) -> int | None:
    digits = name.rpartition("step-")[2].partition(".")[0]
    return int(digits) if _is_number(digits) else None


def _is_number(word: str) -> bool:
    """Whether `int` accepts an untrusted word: `²` is a digit as well."""
    return word.isascii() and word.isdigit() and len(word) < 20


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not math.isfinite(value):  # such as of 1e999
        raise ValueError("A number must be finite. Received: one that is not.")
    return float(value)
