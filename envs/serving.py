"""A worker process, from inside: one environment, served through a pipe."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
from multiprocessing import connection
from typing import Any

import gymnasium as gym

from .broken import raised
from .processes import PATIENCE, by_value
from .resuming import COMMANDS
from .vector import called, traits


def serve(pipe: connection.Connection) -> None:
    """Makes and runs one environment, as a worker process, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    env, command, number = None, "", 0
    while command != "close":
        request = _received(pipe)
        number += 1
        try:
            command, arguments = pickle.loads(request)
            if command == "__init__":
                env = pickle.loads(*arguments)()
                content: Any = traits(env)
            else:
                content = _served(env, command, *arguments)
            answer = _pickled((number, "", "", content))
        except BaseException as error:  # SystemExit as well
            answer = pickle.dumps((number, raised(error), traceback.format_exc(), None))
        with contextlib.suppress(OSError):
            pipe.send_bytes(answer)


def _received(pipe: connection.Connection) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):  # the main process has ended
        return pickle.dumps(("close", ()))


def _served(env: gym.Env | None, command: str, *arguments: Any) -> Any:
    if env is None:  # it could not be made
        return None
    if command == "step":
        return env.step(*arguments)
    if command == "reset":
        seed, options = arguments
        observation, info = env.reset(seed=seed, options=options)
        return observation, 0.0, False, False, info
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


def _pickled(content: Any) -> bytes:
    try:
        return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    except Exception:  # of classes that came by value
        return by_value(content)
