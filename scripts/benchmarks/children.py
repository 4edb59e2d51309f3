"""Processes that run side by side and are stopped together, so that each can save its work."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SIGNALLED = (129, 130, 143)
"""Exit codes of commands that a signal ended."""


class StoppedError(Exception):
    """A process was stopped by `Children.stop`, or not started after it."""


class Children:
    """Our commands as processes, each in its own session.

    A Ctrl-C at the terminal thus reaches only the parent, which passes it on once: a second SIGINT
    would end a training run before its checkpoint.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stop = threading.Event()

    def run_vantage(self, log: Path, *arguments: str) -> None:
        """Runs the command `vantage` to its end; may be called from several threads.

        Args:
            log: The file that its output is appended to.
            arguments: Of the command.

        Raises:
            ValueError: The command fails; the message is the last line of its error.
            StoppedError: `stop` was called.
        """
        with log.open("a+", encoding="utf-8", errors="replace") as output:
            begin = output.seek(0, 2)
            command = [sys.executable, "-m", "vantage.scripts.main", *arguments]
            with self._lock:
                if self._stop.is_set():
                    raise StoppedError
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
            # A signal to a whole job or service also reaches this process, in a moment.
            if code and (self._stop.is_set() or (code in SIGNALLED and self._stop.wait(1.0))):
                raise StoppedError
            if code:
                output.seek(begin)
                raise ValueError(_last_error(output.read(), code))

    def stop(self) -> bool:
        """Sends SIGTERM to all and starts no new ones; returns whether this is the first call."""
        first = not self._stop.is_set()
        if first:
            self._signal(signal.SIGTERM)
        return first

    def kill(self) -> None:
        """Kills all of them immediately."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _signal(self, number: int) -> None:
        with self._lock:
            self._stop.set()
            for process in self._running:
                process.send_signal(number)


def _last_error(output: str, code: int) -> str:
    """The last line of an error of ours; without one, the last line of all."""
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in output.splitlines() if line.strip()] or [f"exit code {code}"]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1]
