"""The processes that `vantage benchmark` measures: commands of ours, and scripts of the peer's."""

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
    """What a process printed, and what it took."""

    printed: str
    seconds: float
    """From its start to its exit."""
    peak: float
    """The most memory it had resident at once, in MB (10⁶ bytes).

    The system counts from the fork on, so this is no less than the peak of the process that asks:
    that one must stay small, and never imports TensorFlow.
    """

    def json(self) -> dict[str, Any]:
        """The last line it printed."""
        return json.loads(self.printed.splitlines()[-1])


_running: set[subprocess.Popen] = set()


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process that is waited for inside; a signal or an error there ends it."""
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
    """Asks all processes to end; whoever waits for them in another thread is woken by that."""
    for process in list(_running):
        process.terminate()


def _end(process: subprocess.Popen) -> None:
    """By SIGTERM, which lets a training write its checkpoint, and by SIGKILL after a minute."""
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
            _, status, usage = os.wait4(process.pid, 0)  # alone tells the peak of this one process
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        errors.seek(0)
        if process.returncode:
            raise ValueError(
                f"`{' '.join(command)}` must succeed. Received: exit code {process.returncode}, "
                f"{' '.join(errors.read().strip().splitlines()[-1:]) or 'without a word'}. "
                "Run it by itself."
            )
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
        return Finished(printed.read(), seconds, usage.ru_maxrss * unit / 1e6)


def run_vantage(*arguments: str) -> Finished:
    """Runs the command `vantage`."""
    return run_process(sys.executable, "-m", "vantage.scripts.main", *arguments)


def run_measurement(name: str, **arguments: Any) -> dict[str, Any]:
    """What a function of measure.py returns in a process of its own."""
    module = ("-m", "vantage.scripts.benchmarks.measure")
    return run_process(sys.executable, *module, name, json.dumps(arguments)).json()


def run_peer(python: Path, *arguments: str, script: str = "peer_sb3.py") -> Finished:
    """Runs a script of ours with the peer's Python."""
    return run_process(str(python), str(Path(__file__).with_name(script)), *arguments)


def check_peer(python: Path) -> dict[str, str]:
    """Refuses a Python without Stable-Baselines3; returns the versions of what it has.

    Raises:
        ValueError: It is missing, or cannot import it.
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
            "Make one: python3 -m venv peer && peer/bin/pip install stable-baselines3, then pass "
            "peer/bin/python."
        ) from None
