"""Output to the terminal: text that cannot control it, on streams that cannot end a run.

Names and settings of a run may come from a stranger. The reader of standard output may quit before
the run ends (`vantage train … | head`), or write to a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CONTROLS = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u200b\u2028\u2029\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen
    "\ud800-\udfff"  # surrogates, such as of file names that are not UTF-8
    "]"
)
_GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET)
"""Errors of a stream without a reader: a pipe, a closed handle, a closed terminal."""


def printable(text: object, keep: str = "", most: int | None = None) -> str:
    r"""`text` with control characters as escapes, such as \x1b; cut to its first `most` characters.

    These are C0, C1, marks of the writing direction, characters without width, and surrogates.

    Args:
        text: Any object.
        keep: Characters to leave as they are, such as newlines.
        most: The number of characters to show.
    """
    shown = text_of(text)
    if most is not None and len(shown) > most:
        shown = f"{shown[:most]}…"
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), shown)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def text_of(value: object) -> str:
    """`str(value)`, or its type if `str` raises an exception."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} without a text>"


def say(text: object = "", *, error: bool = False) -> None:
    """Prints lines on standard output or standard error, and never raises an error of the stream.

    Everything that the package prints goes through here.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        stream = Stream.around(stream)
        stream.write(printable(text, keep="\n\t") + "\n")
        stream.flush()


class Stream:
    """A text stream to which writing never fails.

    Attributes:
        lost: The error by which text was lost that has a reader, as on a full disk; None if none.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: Exception | None = None

    @classmethod
    def around(cls, stream: TextIO | Stream) -> Stream:
        """Wraps a stream, unless it is wrapped already."""
        return stream if isinstance(stream, Stream) else cls(stream)

    def write(self, text: str) -> int:
        """Writes as much as possible; reports to the caller that everything was written."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._failed(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Passes everything to the system, as far as it accepts it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def close(self) -> None:
        """Only flushes, so that an environment cannot close the stream of the run."""
        self.flush()

    def discard(self) -> None:
        """Drops text that the system refused; otherwise Python's exit code would report it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, self._stream.fileno())
            finally:
                os.close(null)
            self._stream.flush()

    def _failed(self, error: OSError | ValueError) -> None:
        if isinstance(error, ValueError) or error.errno in _GONE:
            self.discard()  # and all later text, also from other code that prints to it
        else:
            self.lost = error

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # a copy does not have it yet
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


@contextlib.contextmanager
def surviving() -> Iterator[None]:
    """Context in which printing to standard output or standard error never raises.

    This includes printing by environments and callbacks.
    """
    fill_handles()
    before = sys.stdout, sys.stderr
    ours = [None if stream is None else Stream.around(stream) for stream in before]
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        for stream in ours:
            if stream is not None:
                stream.flush()
        if sys.stdout is ours[0]:  # otherwise other code has redirected it meanwhile
            sys.stdout = before[0]
        if sys.stderr is ours[1]:
            sys.stderr = before[1]


def fill_handles() -> None:
    """Opens the handles 0, 1 and 2 if they are closed.

    critical: otherwise the next file to be opened, such as a checkpoint, would get one of them, and
    a library's output would be written into it.
    """
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free handle
