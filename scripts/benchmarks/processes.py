"""Processes that `vantage benchmark` measures: our commands, and scripts for the peer's Python."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Finished:
    """Output, time and memory of a process."""

    printed: str
    seconds: float
    """Seconds from its start to its exit."""
    peak: float
    """Peak resident memory in MB (10⁶ bytes).

    The system counts from the fork on, so this is at least the peak of the parent process. The
    parent must therefore stay small, and never imports TensorFlow.
    """

    def json(self) -> dict[str, Any]:
        """The last line it printed."""
        return json.loads(self.printed.splitlines()[-1])


_running: set[subprocess.Popen] = set()


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Runs a process during the block; a signal or an error in the block ends it."""
    process = subprocess.Popen(command, **options)
    _running.add(process)
    try:
        yield process
    except BaseException:
        _end(process)
        raise
    finally:
        _running.discard(process)


def end_all() -> None:
    """Asks all processes to end, which also wakes the threads that wait for them."""
    for process in list(_running):
        process.terminate()


def _end(process: subprocess.Popen) -> None:
    """Sends SIGTERM, so that a training can write its checkpoint, and SIGKILL after a minute."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_process(*command: str) -> Finished:
    """Runs a command to its end.

    Raises:
        ValueError: It fails.
    """
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        with running(command, stdout=printed, stderr=errors) as process:
            _, status, usage = os.wait4(process.pid, 0)  # has the peak of this process alone
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        errors.seek(0)
        if process.returncode:
            raise ValueError(
                f"`{' '.join(command)}` must succeed. Received: exit code {process.returncode}, "
                f"{' '.join(errors.read().strip().splitlines()[-1:]) or 'no output'}. "
                "Run it by itself."
            )
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
        return Finished(printed.read(), seconds, usage.ru_maxrss * unit / 1e6)


def run_vantage(*arguments: str) -> Finished:
    """Runs the command `vantage`."""
    return run_process(sys.executable, "-m", "vantage.scripts.main", *arguments)


def run_measurement(name: str, **arguments: Any) -> dict[str, Any]:
    """The result of a function of measure.py, called in its own process."""
    module = ("-m", "vantage.scripts.benchmarks.measure")
    return run_process(sys.executable, *module, name, json.dumps(arguments)).json()


def run_peer(python: Path, *arguments: str, script: str = "peer_sb3.py") -> Finished:
    """Runs one of our scripts with the peer's Python."""
    return run_process(str(python), str(Path(__file__).with_name(script)), *arguments)


def check_peer(python: Path) -> dict[str, str]:
    """Refuses a Python without Stable-Baselines3; returns the versions of its packages.

    Raises:
        ValueError: The Python does not exist, or cannot import it.
    """
    code = (
        "import json, stable_baselines3, torch; print(json.dumps({'torch': torch.__version__, "
        "'stable-baselines3': stable_baselines3.__version__}))"
    )
    try:
        return run_process(str(python), "-c", code).json()
    except (OSError, ValueError):
        raise ValueError(
            f"The peer must be a Python that imports stable_baselines3. Received: {str(python)!r}. "
            "Create one: python3 -m venv peer && peer/bin/pip install stable-baselines3, then pass "
            "peer/bin/python."
        ) from None
