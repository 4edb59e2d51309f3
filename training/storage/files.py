"""Files written completely or not at all, and read without trusting them. No TensorFlow here.

A file may come from a stranger or from a failed disk. It is opened only if it is a regular file (no
link, no pipe), read only up to a limit, and never executed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_JSON = 2**22  # bytes
MOST_ITEMS = 2**18  # lists, objects and their entries; each takes up to 72 bytes of memory
FAILURES_IN_A_ROW = 3
PATIENCE = 10.0  # seconds that a disk may fail before it is an error
BINARY = getattr(os, "O_BINARY", 0)  # exists on Windows only


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a new file and waits until it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
    try:
        for part in parts:
            write_all(handle, part)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, part: bytes | memoryview) -> None:
    """Writes all of a part to an open file, in as many calls as needed."""
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if os.name == "nt":  # Windows has no handles of folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Writes `data` to `path`; readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_file(temporary, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_regular(path: Path, *, links: bool = False) -> int:
    """Opens a regular file for reading, without waiting for a pipe or touching a device.

    Args:
        path: The path of the file.
        links: Whether `path` may be a link to it.

    Raises:
        OSError: The file is missing or not a regular file.
    """
    if not stat.S_ISREG(os.stat(path, follow_symlinks=links).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    flags = getattr(os, "O_NONBLOCK", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
    handle = os.open(path, os.O_RDONLY | flags | BINARY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # it has been replaced meanwhile
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return handle


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file that is not a link.

    Raises:
        OSError: The file is missing, not a regular file, or longer than `most` bytes.
    """
    handle = open_regular(path)
    try:
        size = os.fstat(handle).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"longer than {most:,} bytes", str(path))
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(size)
    finally:
        os.close(handle)


def check_items(data: bytes, most: int = MOST_ITEMS) -> None:
    """Refuses JSON whose lists and objects would take much more memory than its text.

    Raises:
        ValueError: The JSON has too many items.
    """
    items = sum(map(data.count, (b",", b"[", b"{")))  # counts those inside strings as well
    if items > most:
        raise ValueError(f"{items:,} items, more than {most:,}")


def parse_json(data: bytes, most_items: int = MOST_ITEMS) -> Any:
    """Parses strict JSON: no NaN, no Infinity.

    Raises:
        ValueError: The data is not strict JSON, is nested too deeply, or has too many items.
    """
    check_items(data, most_items)

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: The file is missing or is not a JSON object.
    """
    try:
        data = parse_json(read_file(path, MOST_JSON))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} must be a readable JSON file. Received: {str(path)!r} ({error}). "
            "Pass the folder of a run or of a saved agent."
        ) from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path.name} must hold a JSON object. Received: {str(path)!r}, which holds a "
            f"{type(data).__name__}. Pass the folder of a run or of a saved agent."
        )
    return data


class Tolerance:
    """Turns failures of the disk into warnings, and into an error if they last.

    Three failures in a row over at least `PATIENCE` seconds are an error: a fast run tries again
    within milliseconds, and must not end because the disk is full for a moment.

    Attributes:
        failures: The number of failures in a row so far.
    """

    def __init__(self, what: str) -> None:
        self._what, self.failures, self._since = what, 0, 0.0

    def succeeded(self) -> None:
        """Forgets the failures."""
        self.failures = 0

    def wait(self) -> None:
        """Waits a moment before the next try, where there is nothing else to do."""
        time.sleep(min(0.5, PATIENCE))

    def failed(self, error: OSError) -> None:
        """Warns about a failure; after many in a row only about some of them.

        Raises:
            OSError: The disk has failed for too long.
        """
        now = time.monotonic()
        self._since = self._since if self.failures else now
        self.failures += 1
        if self.failures >= FAILURES_IN_A_ROW and now - self._since >= PATIENCE:
            raise OSError(
                error.errno or errno.EIO,
                f"{self._what} must not fail {FAILURES_IN_A_ROW} times in a row. Received: "
                f"{error.strerror or error}, {self.failures} times within "
                f"{now - self._since:.0f} s. Make room on the disk or allow writing, then --resume",
                error.filename,
            ) from error
        if self.failures & (self.failures - 1) == 0:
            warnings.warn(
                f"{self._what} failed ({error}); training continues, and it will be tried again.",
                RuntimeWarning,
                stacklevel=3,
            )
