"""Runs inside a worker process: serves one environment through a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import sys
import threading
import time
from _signal import (  # type: ignore[import-not-found]
    getsignal,  # `signal.getsignal` converts its result to an enum, which takes 8 µs
)
from typing import TYPE_CHECKING, Any, TextIO

from .broken import NotAnEnvironmentError, raised, traceback_of
from .fitting import Fit, MisfitError
from .processes import ENDING, PATIENCE, by_value
from .vector import COMMANDS, called, traits

if TYPE_CHECKING:
    from multiprocessing import connection
    from types import FrameType

    import gymnasium as gym


def serve(pipe: connection.Connection) -> None:
    """Makes and runs one environment in a worker process until it is closed."""
    sys.stdout, sys.stderr = _output(1), _output(2)
    leave_signals_to_main()
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_obey_signals)
        # The main process blocked them until now, see `processes.holding_signals`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    env, fit, command, number = None, None, "", 0
    while command != "close":
        request = _received(pipe)
        number += 1
        try:
            command, arguments = pickle.loads(request)
            if command == "__init__":
                env = pickle.loads(*arguments)()
                content: Any = traits(env)
                fit = Fit(content.observation_space)
            else:
                content = _served(env, fit, command, *arguments)
            answer = _pickled((number, "", "", content))
        except NotAnEnvironmentError as error:
            answer = pickle.dumps((number, raised(error), "", error))
        except MisfitError as error:  # no traceback: it would show only our own lines
            answer = pickle.dumps((number, raised(error), "", None))
        except BaseException as error:  # including SystemExit
            answer = pickle.dumps((number, raised(error), traceback_of(error), None))
        leave_signals_to_main()  # again, since the environment may have set its own handlers
        with contextlib.suppress(OSError):
            pipe.send_bytes(answer)


class _Handle(io.FileIO):
    """Standard output or standard error; a write never fails.

    The reader may have gone (`vantage train … | head`), and a print must not break an environment.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Output(io.TextIOWrapper):
    """The stream an environment prints to; it writes at once and cannot be closed."""

    def close(self) -> None:
        self.flush()


def _output(handle: int) -> TextIO | None:
    """The stream of a handle; None if the handle is closed, as in Python itself."""
    try:
        raw: Any = _Handle(handle, "w", closefd=False)
    except OSError:
        return None
    return _Output(raw, errors="backslashreplace", write_through=True)


def leave_signals_to_main() -> None:
    """Lets this process survive the signals that ask the main process to end.

    Services, jobs and containers end by a signal to all their processes at once. The main process
    then saves a checkpoint, for which it needs its environments.
    """
    for number in ENDING:
        handler = signal.SIG_IGN if number == signal.SIGINT else _leave_to_main
        if getsignal(number) is not handler:
            signal.signal(number, handler)
            if sys.platform != "win32" and handler is _leave_to_main:
                signal.siginterrupt(number, False)  # calls into C libraries do not fail with EINTR


def _leave_to_main(number: int, frame: FrameType | None) -> None:
    """Does nothing.

    critical: not SIG_IGN. Programs that an environment starts would inherit it, and could not be
    terminated.
    """


def _obey_signals() -> None:
    """Makes sure that processes which an environment forks can be terminated."""
    for number in ENDING:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


def _received(pipe: connection.Connection) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):  # the main process has ended
        return pickle.dumps(("close", ()))


def _served(env: gym.Env | None, fit: Fit | None, command: str, *arguments: Any) -> Any:
    if env is None or fit is None:  # making it failed
        return None
    if command == "step":
        return fit.step(env.step(*arguments))
    if command == "reset":
        seed, options = arguments
        return fit.reset(env.reset(seed=seed, options=options))
    if command == "call":
        return called(env, *arguments)
    if command in COMMANDS:
        return COMMANDS[command](env, *arguments)
    return env.close()


def _leave_with(parent: int) -> None:
    """Ends this process after its parent has ended, whatever the environment is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(PATIENCE)  # time to close the environment, unless it is busy
    os.killpg(0, signal.SIGKILL)


def _pickled(content: object) -> bytes:
    try:
        return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    except Exception:  # classes that were sent by value
        return by_value(content)
