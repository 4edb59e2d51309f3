"""The folder of a run: who may write to it, where it begins, and which checkpoint is the newest.

    config.json   events.out.tfevents.*   checkpoints/step-000000012345/ …   summary.json

Names that begin with a dot are being written, or were when a process died.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..storage.checkpoint import load_checkpoint, prune_shards, save_checkpoint
from ..storage.files import write_json
from ..storage.shards import SHARDS
from ..tensorboard.events import PREFIX, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..storage.tensors import Arrays

CHECKPOINTS, EVENTS, LOCK = "checkpoints", f"{PREFIX}*{SUFFIX}", ".lock"
_UNFINISHED = re.compile(r"\.(step-\d+|best)\.(\d+|old)|\.(config|summary)\.json\.\d+")


class Checkpoint(NamedTuple):
    """A checkpoint that was read and is complete."""

    path: Path
    arrays: Arrays
    manifest: dict[str, Any]


class Lock:
    """Keeps other runs out of a folder; the system frees it when the process ends, however.

    Raises:
        ValueError: Another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK  # whoever renames the folder says so here
        self._handle: int | None = _locked(self.path)
        if self._handle is None:
            owner = _owner(self.path)
            raise ValueError(
                "A run must have its folder for itself. Received: "
                f"logdir={str(folder)!r}, where {owner or 'another process'} is writing. "
                "Choose another one, or wait for its end."
            )
        with contextlib.suppress(OSError):  # a full disk: the lock then names no owner
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Lets other runs use the folder."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                if _is_at(self._handle, self.path):  # else that is the lock of another folder
                    self.path.unlink()
            os.close(self._handle)
            self._handle = None


def _locked(path: Path) -> int | None:
    """A handle that holds the lock; None if another process does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _try_lock(handle)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:  # the file system has no locks
            return handle
        if _is_at(handle, path):
            return handle
        os.close(handle)  # its owner has deleted it in the meantime


def _try_lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100]
    except OSError:
        return ""


class Folder:
    """The folder of one run, locked: new, or with a run to resume.

    Its place is that of the moment it is opened, wherever the process changes its working
    directory to, and it is followed if it is renamed.

    Attributes:
        saved: The checkpoint to resume from, or None.
    """

    def __init__(
        self,
        logdir: str | Path,
        config: Mapping[str, object],
        *,
        resume: bool = False,
        keep: int = 2,
        check: Callable[[Folder], None] | None = None,
    ) -> None:
        """Opens it.

        Args:
            logdir: Where it is.
            config: What `config.json` says of a new run.
            resume: Whether it may hold a run to resume.
            keep: How many of the newest checkpoints stay.
            check: Called with the folder once `saved` is known; what it refuses changes nothing.

        Raises:
            FileExistsError: It holds a run already, which is not to be resumed.
            ValueError: Another process writes to it, or `keep` is less than 2.
        """
        if keep < 2:
            raise ValueError(
                "keep_checkpoints must be at least 2: the newest may be damaged. "
                f"Received: {keep}. Leave it out for 2."
            )
        self._path, self._keep, self._handle = Path(logdir).absolute(), keep, None
        check_logdir(logdir, resume)
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self._path)
        try:
            self._handle = _opened(self._path)
            _tidy(self.path)
            self.saved = find_checkpoint(logdir) if resume else None
            if check is not None and resume:
                check(self)
            newer = _after(self.path, None if self.saved is None else self.saved.path)
            for path in newer:  # critical: else they would count among the newest
                path.rename(_free(path.with_name(f"damaged-{path.name}")))
            if self.saved is None:
                self._start(config, resume)
            else:
                self._rewind(self.saved.manifest)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Where it is now.

        Raises:
            OSError: It was renamed, and cannot be followed, or deleted.
        """
        if self._handle is None or _is_at(self._handle, self._path):
            return self._path
        moved = _name_of(self._handle)
        if moved is None:
            raise OSError(errno.ENOENT, "the folder of the run is gone", str(self._path))
        warnings.warn(
            f"The folder of the run was renamed: the run continues in {str(moved)!r}, no longer in "
            f"{str(self._path)!r}.",
            RuntimeWarning,
            stacklevel=2,
        )
        self._path = moved
        self._lock.path = moved / LOCK
        return moved

    @property
    def shards(self) -> Path:
        """Where `pack` and `unpack` store logs."""
        return self.path / CHECKPOINTS / SHARDS

    def _start(self, config: Mapping[str, object], resume: bool) -> None:
        if not resume:
            check_logdir(self.path)  # again: now nobody else can begin here
        for path in self.path.glob(EVENTS):  # of a run that died before its first checkpoint
            path.rename(_free(path.with_name(path.name.replace("tfevents", "abandoned"))))
        write_json(self.path / "config.json", config)

    def _rewind(self, manifest: Mapping[str, object]) -> None:
        """Cuts the curves where the checkpoint was written: the rest comes once more."""
        run = manifest.get("run")
        sizes = run.get("events") if isinstance(run, dict) else None
        if not isinstance(sizes, dict) or not sizes:
            return
        for path in self.path.glob(EVENTS):
            size = sizes.get(path.name)
            if path.is_symlink() or not path.is_file():
                continue
            if not isinstance(size, int) or size <= 0:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)

    def events(self) -> dict[str, int]:
        """The length of every event file, in bytes."""
        return {path.name: path.stat().st_size for path in self.path.glob(EVENTS)}

    def save(self, steps: int, arrays: Arrays, manifest: Mapping[str, object]) -> None:
        """Writes the checkpoint of a number of steps, and drops the oldest.

        Raises:
            OSError: The disk failed; the checkpoints before are as they were.
        """
        save_checkpoint(self.path / CHECKPOINTS / f"step-{steps:012d}", arrays, manifest)
        for old in _steps(self.path)[: -self._keep]:
            hidden = old.with_name(f".{old.name}.{os.getpid()}")
            os.rename(old, hidden)  # so that nobody reads half of it
            shutil.rmtree(hidden, ignore_errors=True)
        prune_shards(self.path / CHECKPOINTS)

    def save_best(self, arrays: Arrays, manifest: Mapping[str, object]) -> None:
        """Writes the best agent of the evaluations."""
        save_checkpoint(self.path / CHECKPOINTS / "best", arrays, manifest)

    def close(self) -> None:
        """Lets other runs use the folder."""
        self._lock.release()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _opened(folder: Path) -> int | None:
    """A handle by which the folder is known under any name, where there are such handles."""
    return None if os.name == "nt" else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _name_of(handle: int) -> Path | None:
    """Where an open folder is now, if the system knows; None if it was deleted."""
    try:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
    except OSError:
        return None
    return path if _is_at(handle, path) else None


def check_logdir(logdir: str | Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything; with `resume`, that of a run will do.

    Raises:
        FileExistsError: It does.
    """
    folder = Path(logdir)
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if resume and newest_checkpoint(folder) is not None:
        return
    ours: tuple[str, ...] = (LOCK,)
    kept = {path.name for path in folder.glob(f"{CHECKPOINTS}/[!.]*")} - {SHARDS}
    if resume and not kept:  # it died early: nothing to lose
        ours += ("config.json", ".config.json", CHECKPOINTS, "events.")
    held = [name for name in held if not name.startswith(ours)]
    if held or folder.is_file():
        raise FileExistsError(
            "A log directory must be new or empty, so that no run is overwritten. Received: "
            f"logdir={str(logdir)!r}, which holds {', '.join(held[:3]) or 'a file'}. "
            + (
                "Pass --resume (resume=True) to continue that run, or choose another folder."
                if newest_checkpoint(folder) is not None
                else "Choose another one, or move that one away."
            )
        )


def _steps(folder: Path) -> list[Path]:
    """The checkpoints, oldest first; links are ignored."""
    found = (folder / CHECKPOINTS).glob("step-*")
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _after(folder: Path, path: Path | None) -> list[Path]:
    return [other for other in _steps(folder) if path is None or other.name > path.name]


def _free(path: Path) -> Path:
    """The path, or a longer one that does not exist yet."""
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free


def _tidy(folder: Path) -> None:
    """Removes what a process left behind when it died while writing."""
    for old in (folder / CHECKPOINTS).glob(".*.old"):
        path = old.with_name(old.name[1 : -len(".old")])
        if not path.exists():
            os.rename(old, path)
    for path in [*(folder / CHECKPOINTS).glob(".*"), *folder.glob(".*.json.*")]:
        if not _UNFINISHED.fullmatch(path.name):  # somebody else's
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def newest_checkpoint(logdir: str | Path) -> Path | None:
    """The newest checkpoint of a run by name, complete or not; None if there is none."""
    replaced = (Path(logdir) / CHECKPOINTS).glob(".step-*.old")  # by one that was cut short
    return max(
        [*_steps(Path(logdir)), *replaced], key=lambda path: path.name.lstrip("."), default=None
    )


def find_checkpoint(logdir: str | Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None; a warning says why newer ones are not complete."""
    reasons = []
    for path in reversed(_steps(Path(logdir))):
        try:
            found = Checkpoint(path, *load_checkpoint(path))
        except ValueError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        break
    else:
        found = None
    if reasons:
        goes_on = "starting afresh" if found is None else f"going on from {found.path.name}"
        warnings.warn(
            f"Damaged checkpoints in {str(logdir)!r}, {goes_on}: {' '.join(reasons)}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def required_checkpoint(logdir: str | Path) -> Path:
    """The newest complete checkpoint of a run.

    Raises:
        ValueError: There is none.
    """
    if newest_checkpoint(logdir) is None:
        raise ValueError(
            f"A run must hold a checkpoint. Received: {str(logdir)!r}, which has none under "
            "checkpoints/. Pass the folder of a run that was trained with a log directory."
        )
    found = find_checkpoint(logdir)
    if found is None:
        raise ValueError(
            f"A run must hold a checkpoint that is whole. Received: {str(logdir)!r}, whose "
            "checkpoints are all damaged. Train it again."
        )
    return found.path
