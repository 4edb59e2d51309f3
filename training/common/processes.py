"""Worker processes that evaluate one function: started, asked, waited for, and ended.

A worker is a fresh interpreter with the main process's `sys.path`. It never runs the main script:
what that script defines is sent by value (cloudpickle). A worker imports nothing of this package
but this file, and ends when its pipe does.

    request    arguments of the function
    answer     (result, None), or (None, exception)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing import connection

_START = f"""
import sys
from multiprocessing import connection
pipe = getattr(connection, "PipeConnection", connection.Connection)(int(sys.argv[1]))
sys.path[:] = pipe.recv()
from {__name__} import serve
serve(pipe)
"""
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")
}
PATIENCE = 1.0  # seconds for a process to end by itself, and to disappear after SIGKILL


class WorkerError(RuntimeError):
    """A worker process died, or gave no answer in time."""


class Workers:
    """W processes that evaluate one function; started by the first call, again after one died.

    Args:
        function: What they evaluate.
        count: W.
        timeout: Seconds in which each must answer.
        what: What the function is called in messages.

    Raises:
        ValueError: The function cannot be sent to a process.
    """

    def __init__(
        self, function: Callable[..., object], count: int, timeout: float, what: str
    ) -> None:
        self._count, self._timeout, self._what = count, timeout, what
        self._function = _packed(function, what)
        self._running: list[_Process] = []
        # A thread for each, so that even a request that is never read ends with the timeout.
        self._threads: ThreadPoolExecutor | None = None
        self._owner = os.getpid()
        self.close = weakref.finalize(self, _end, self._running, self._owner)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuses copies and pickles: processes serve one main process."""
        raise ValueError(
            f"{self._what} with worker processes cannot be copied or pickled. Received: copy, "
            "deepcopy or pickle. Make another one."
        )

    def __call__(self, requests: Sequence[tuple[object, ...]]) -> list[Any]:
        """The results for the arguments of each request, of worker k for request k.

        Raises:
            WorkerError: A worker died or was silent for too long. All of them have been ended, and
                the next call starts new ones.
            Exception: The function raised it; of several workers, the one with the lowest index.
        """
        deadline = time.monotonic() + self._timeout
        try:
            if not self._running or self._owner != os.getpid():
                self._start()
            packed = [pickle.dumps(request, pickle.HIGHEST_PROTOCOL) for request in requests]
            answers = self._asked(packed, deadline)
        except BaseException:  # an answer that still comes must not be taken for the next one
            _end(self._running, self._owner)
            raise
        for k, (_, error) in enumerate(answers):
            if error is not None:
                exception, trace = error
                exception.add_note(f"In worker process {k} of {self._count}:\n{trace}")
                raise exception
        return [result for result, _ in answers]

    def _start(self) -> None:
        if self._owner != os.getpid():  # a fork of the main process: the workers are not its own
            self._owner, self._threads = os.getpid(), None
            self._running = []
            self.close = weakref.finalize(self, _end, self._running, self._owner)
        for _ in range(self._count):
            self._running.append(_Process(self._function))
        self._threads = self._threads or ThreadPoolExecutor(self._count)

    def _asked(self, requests: Sequence[bytes], deadline: float) -> list[tuple[Any, Any]]:
        assert self._threads is not None
        pairs = list(zip(self._running, requests, strict=False))
        futures = [self._threads.submit(worker.ask, r, deadline) for worker, r in pairs]
        answers: list[tuple[Any, Any]] = []
        for k, future in enumerate(futures):
            try:
                answers.append(future.result(max(0.0, deadline - time.monotonic()) + PATIENCE))
            except TimeoutError:
                problem = f"gave no answer within timeout={self._timeout:g} s"
            except (EOFError, OSError):
                problem = self._running[k].death()
            else:
                continue
            raise WorkerError(
                f"{self._what} must return in its worker process. Received: worker {k} of "
                f"{self._count} {problem}. Find the cause without `workers`, or pass a longer "
                "timeout."
            )
        return answers


class _Process:
    """One worker process and the pipe to it."""

    def __init__(self, function: bytes) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = _started(theirs)
        theirs.close()
        self._first = [pickle.dumps(sys.path), function]

    def ask(self, request: bytes, deadline: float) -> tuple[Any, Any]:
        """Sends a request and waits for the answer.

        Raises:
            TimeoutError: There is none before the deadline.
            EOFError, OSError: The process has ended.
        """
        for message in (*self._first, request):
            self.pipe.send_bytes(message)
        self._first = []
        # Now and then it looks at the process, whose pipe a process that it started may hold.
        while not self.pipe.poll(max(0.0, min(1.0, deadline - time.monotonic()))):
            if self.process.poll() is not None:
                raise EOFError
            if time.monotonic() >= deadline:
                raise TimeoutError
        answer: tuple[Any, Any] = pickle.loads(self.pipe.recv_bytes())
        return answer

    def death(self) -> str:
        """How the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        code = self.process.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def kill(self) -> None:
        """Kills the process and what it started."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)


def _packed(function: Callable[..., object], what: str) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise ValueError(
            f"{what} must be picklable by cloudpickle to be evaluated in worker processes: a "
            f"function or an object of plain data. Received: {function!r:.80} "
            f"({type(error).__name__}: {error!s:.120}). Open files, connections and devices inside "
            "it, at its first call."
        ) from error
    return packed


def _started(pipe: connection.Connection) -> subprocess.Popen[bytes]:
    handle = pipe.fileno()
    options: dict[str, Any] = {"pass_fds": [handle], "process_group": 0}
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        options = {"startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})}
    return subprocess.Popen(
        # -P: no modules from the working directory, unless the main process has it in sys.path
        [sys.executable, "-P", "-u", "-X", "faulthandler", "-c", _START, str(handle)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **_ONE_THREAD},
        **options,
    )


def _end(processes: list[_Process], owner: int) -> None:
    """Ends the processes; runs also when their owner is collected, and when the program ends."""
    if os.getpid() != owner:
        return  # a fork of the main process, which does not own them
    for each in processes:
        each.kill()
    for each in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.process.wait(PATIENCE)
        each.pipe.close()
    processes.clear()


# --- in a worker process --------------------------------------------------------------------------


def serve(pipe: connection.Connection) -> None:
    """Evaluates requests until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    function = None
    with contextlib.suppress(EOFError, OSError):
        packed = pipe.recv_bytes()
        while True:
            arguments = pickle.loads(pipe.recv_bytes())
            try:
                function = pickle.loads(packed) if function is None else function
                answer = _dumped((function(*arguments), None))
            except BaseException as error:  # including SystemExit
                answer = _dumped((None, _carried(error)))
            pipe.send_bytes(answer)


def _dumped(answer: tuple[object, object]) -> bytes:
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception:  # classes that were sent by value
        packed: bytes = cloudpickle.dumps(answer)
        return packed


def _carried(error: BaseException) -> tuple[BaseException, str]:
    """An exception that can be unpickled, and its traceback."""
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(_dumped((None, error)))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}"), trace
    return error, trace


def _leave_with(parent: int) -> None:
    """Ends this process after its parent has ended, whatever the function is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)
