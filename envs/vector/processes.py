"""Starts worker processes, sends them requests, waits for answers and ends them.

A worker is a fresh interpreter with the main process's `sys.path`. It never runs the main script:
what that script defines is sent by value (cloudpickle). Each worker has one pipe and no shared
memory, so a killed process leaves nothing behind, and a worker ends when its pipe does.

    request    (command, arguments)                                     one at a time
    answer     (number of the request, problem, traceback, content)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle  # type: ignore[import-untyped]

from .broken import raised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_START = f"""
import sys
from multiprocessing import connection
pipe = getattr(connection, "PipeConnection", connection.Connection)(int(sys.argv[1]))
sys.path[:] = pipe.recv()
from {__package__}.serving import serve
serve(pipe)
"""
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")
}
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask the main process to end; its workers live as long as it does."""
PATIENCE = 2.0  # seconds for a process to end by itself, and again to disappear after SIGKILL
GRACE = 0.2  # seconds between SIGTERM, for programs that an environment started, and SIGKILL


class Answer(NamedTuple):
    """The answer of a worker, or what takes its place if there is none."""

    problem: str  # "" if there is none
    traceback: str = ""
    content: Any = None


class Worker:
    """A process that will make an environment when asked to `__init__`.

    Attributes:
        action: Action of the last request; None if it was not a step.
        is_over: Whether the process has ended.
    """

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = _started(theirs)
        theirs.close()
        self.requests = self.answered = 0
        self.action: object = None
        self.is_over = False
        self._send(pickle.dumps(sys.path))

    def ask(self, command: str, *arguments: object) -> None:
        """Sends a request; its answer must be awaited (`wait`) before the next one."""
        dumps = pickle.dumps if command == "step" else by_value  # pickle is faster
        self.requests += 1
        self.action = arguments[0] if command == "step" else None
        self._send(dumps((command, arguments)))

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died: `wait` will report that
            self.pipe.send_bytes(message)

    def wait(self, deadline: float) -> Answer | None:
        """The answer to the last request, or how the process ended; None after the deadline."""
        if self.is_over:
            return Answer("had broken before")
        while True:
            left = deadline - time.monotonic()
            try:
                if self.pipe.poll(max(0.0, min(left, 1.0))):
                    self.answered, *answer = pickle.loads(self.pipe.recv_bytes())
                    if self.answered == self.requests:  # or else it belongs to an interrupted one
                        return Answer(*answer)
                elif self.process.poll() is not None:  # a process that it forked holds the pipe
                    return self._death()
                elif left <= 0:
                    return None
            except (EOFError, OSError):
                return self._death()
            except Exception as error:
                return Answer(f"sent an answer that cannot be read here ({raised(error)})")

    def _death(self) -> Answer:
        """Ends the process if it still runs, and says how it ended."""
        _end([self], PATIENCE)
        code = self.process.returncode
        if code is None or code >= 0:
            return Answer(f"exited with code {code}")
        with contextlib.suppress(ValueError):
            return Answer(f"was killed by {signal.Signals(-code).name}")
        return Answer(f"was killed by signal {-code}")

    def send_signal(self, number: int) -> None:
        """Signals the process and the programs that its environment started."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, number)


def by_value(content: object) -> bytes:
    """Pickles a value together with classes and functions that the other process cannot import."""
    pickled: bytes = cloudpickle.dumps(content)
    return pickled


def _started(pipe: connection.Connection) -> subprocess.Popen[bytes]:
    handle = pipe.fileno()
    options: dict[str, Any] = {"pass_fds": [handle], "process_group": 0}
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        inherited = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        options = {"startupinfo": inherited}
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    flags += ["-P", "-u", "-X", "faulthandler"]  # -P: no modules from the working directory
    with holding_signals():
        return subprocess.Popen(
            [sys.executable, *flags, "-c", _START, str(handle)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
            **options,
        )


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Blocks the signals in `ENDING`; a process that is started meanwhile inherits this.

    They would kill a worker that has no handlers yet.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def collect(workers: Sequence[Worker], timeout: float) -> dict[Worker, Answer]:
    """Waits for the answers to the last requests; ends workers that are silent for too long."""
    deadline = time.monotonic() + timeout
    # In turn, not as they arrive, so that this process wakes up less often.
    arrived = {worker: worker.wait(deadline) for worker in workers}
    _end([worker for worker, answer in arrived.items() if answer is None], 0.0)
    silence = Answer(f"gave no answer within the timeout of {timeout:g} s (--env-timeout)")
    return {worker: answer or silence for worker, answer in arrived.items()}


def dismiss(workers: Iterable[Worker], patience: float) -> dict[Worker, Answer]:
    """Lets workers close their environments, ends them, and returns their last answers."""
    present = [worker for worker in workers if not worker.is_over]
    for worker in present:
        worker.ask("close")
    answers = collect(present, patience)
    _end(present, PATIENCE)
    return answers


def _end(workers: Sequence[Worker], patience: float) -> None:
    """Gives processes some seconds to exit by themselves, then terminates and kills them."""
    workers = [worker for worker in workers if not worker.is_over]
    for number in (None, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        grace = GRACE if number == signal.SIGTERM else PATIENCE
        deadline = time.monotonic() + (grace if number else patience)
        for worker in workers:
            if number:
                worker.send_signal(number)
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        worker.pipe.close()
        worker.is_over = True


def shut(workers: Sequence[Worker], timeout: float, owner: int) -> None:
    """Ends all workers; runs also when the vector environment is collected or the program ends."""
    if os.getpid() != owner:
        return  # a fork of the main process, which does not own the workers
    is_idle = all(worker.is_over or worker.requests == worker.answered for worker in workers)
    answers = dismiss(workers, timeout if is_idle else PATIENCE)
    for index, worker in enumerate(workers):
        if worker in answers and answers[worker].problem:
            problem, trace, _ = answers[worker]
            warnings.warn(
                f"Environment {index} {problem} in close; its process has ended.\n{trace}",
                stacklevel=2,
            )
