"""A worker process, from inside: one environment, served through a pipe."""

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
    getsignal,  # `signal`'s own tries to make an enum of it, for 8 µs
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
    """Makes and runs one environment, as a worker process, until it is closed."""
    sys.stdout, sys.stderr = _output(1), _output(2)
    leave_signals_to_main()
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_obey_signals)
        # The main process held them back until now, see `processes.holding_signals`.
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
        except MisfitError as error:  # no traceback: its lines would be ours
            answer = pickle.dumps((number, raised(error), "", None))
        except BaseException as error:  # SystemExit as well
            answer = pickle.dumps((number, raised(error), traceback_of(error), None))
        leave_signals_to_main()  # again, for the environment may have its own handlers
        with contextlib.suppress(OSError):
            pipe.send_bytes(answer)


class _Handle(io.FileIO):
    """Standard output or standard error, to which writing never fails.

    Whoever reads it may have left (`vantage train … | head`), and a print is no reason for an
    environment to break.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Output(io.TextIOWrapper):
    """What an environment prints on, written at once; it cannot be closed."""

    def close(self) -> None:
        self.flush()


def _output(handle: int) -> TextIO | None:
    """The stream of a handle; None if that is closed, as Python has it."""
    try:
        raw: Any = _Handle(handle, "w", closefd=False)
    except OSError:
        return None
    return _Output(raw, errors="backslashreplace", write_through=True)


def leave_signals_to_main() -> None:
    """Lets this process survive the signals that ask the main process to end.

    Whoever ends a service, a job or a container signals all its processes at once. The main process
    saves a checkpoint then, for which it needs its environments.
    """
    for number in ENDING:
        handler = signal.SIG_IGN if number == signal.SIGINT else _leave_to_main
        if getsignal(number) is not handler:
            signal.signal(number, handler)
            if sys.platform != "win32" and handler is _leave_to_main:
                signal.siginterrupt(number, False)  # calls into C libraries do not fail with EINTR


def _leave_to_main(number: int, frame: FrameType | None) -> None:
    """Does nothing.

    critical: not SIG_IGN, which the programs would inherit that an environment starts, and then
    they could not be terminated.
    """


def _obey_signals() -> None:
    """Lets processes that an environment forks be terminated, as those that it starts can be."""
    for number in ENDING:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


def _received(pipe: connection.Connection) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):  # the main process has ended
        return pickle.dumps(("close", ()))


def _served(env: gym.Env | None, fit: Fit | None, command: str, *arguments: Any) -> Any:
    if env is None or fit is None:  # it could not be made
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
    """Ends this process, whatever its environment does, after the one that started it ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(PATIENCE)  # in which the environment is closed, if it is not busy
    os.killpg(0, signal.SIGKILL)


def _pickled(content: object) -> bytes:
    try:
        return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    except Exception:  # of classes that came by value
        return by_value(content)
