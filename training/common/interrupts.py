"""SIGINT, SIGTERM and SIGHUP: stop after the current update, or between its minibatches."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from _signal import (  # type: ignore[import-not-found]
    getsignal,  # that of `signal` takes 8 µs more, to return an enum
)
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    import keras

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end a run: from a user, a service manager or scheduler, a closed terminal."""

LONG = 0.5  # seconds; an update may be cut if the one before it took longer
PATIENCE = 20.0  # seconds of a first update before a message appears
ANSWER = 1.0  # seconds for the main thread to respond to a second SIGINT
_running: list[Interrupts] = []  # active in the main thread, the innermost last


class UpdateCut(Exception):
    """A signal ended a call of many updates between two of them."""


class Interrupts:
    """A context manager that records SIGINT, SIGTERM and SIGHUP; a second SIGINT stops at once.

    SIGHUP stays ignored if it was ignored before, as under nohup. Outside the main thread, where
    Python allows no handlers, it records nothing.

    Args:
        cuts: Whether a signal may end a call of many updates between two of them: "never";
            "always", which ends the program; or "undone", only in a call that can be undone
            (`Cuttable`), which raises `UpdateCut`.

    Attributes:
        received: The number of the first signal, or None.
        undoes: Whether calls that can be undone may be cut.
        cuts: Whether the current call may be cut.
    """

    def __init__(self, cuts: Literal["never", "always", "undone"] = "never") -> None:
        self.received: int | None = None
        self.undoes, self.cuts = cuts == "undone", cuts == "always"
        self._sigints = 0
        self._watch: _Watch | None = None
        self._before: dict[int, Any] = {}
        self._handler = self._note  # one object, for the comparison in `renew`

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = getsignal(number)
                if number == signal.SIGINT or before != signal.SIG_IGN:
                    self._before[number] = before
            self.renew()
            if not _running:
                self._watch = _Watch()
            _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in _running:
            _running.remove(self)
        if self._watch is not None:
            self._watch.close()
        for number, handler in self._before.items():
            # None means that the handler was not installed by Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @property
    def hurries(self) -> bool:
        """Whether a second SIGINT asked to stop at once."""
        return self._sigints > 1

    def renew(self) -> None:
        """Reinstalls the handlers that other code, such as an environment, has replaced."""
        for number in self._before:
            if getsignal(number) is not self._handler:
                signal.signal(number, self._handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        if number == signal.SIGINT:
            watch = _running[0]._watch if _running else None  # noqa: SLF001, of this file
            # Python calls a handler only once for all signals during one compiled call.
            self._sigints = max(self._sigints + 1, watch.count if watch is not None else 0)
            if self._sigints > 1:
                if watch is not None:
                    watch.answered.set()
                raise KeyboardInterrupt

    def raise_received(self) -> None:
        """Ends the program as the signal would have: exit code 130, 143 or 129.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: With code 143 after SIGTERM, 129 after SIGHUP.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)


class _Watch:
    """Ends the process at a second SIGINT to which the main thread does not respond.

    Python runs signal handlers in the main thread, between two steps of the interpreter, but a
    compilation or a compiled call is one step and may last minutes. The interpreter immediately
    writes the number of each signal to a socket, where a thread reads it.

    Attributes:
        count: The number of SIGINTs so far.
        answered: An event that is set once the main thread has responded.
    """

    def __init__(self) -> None:
        self.count, self.answered = 0, threading.Event()
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        if self._before != -1:  # an event loop needs it
            signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while numbers := self._ours.recv(64):
            self.count += numbers.count(signal.SIGINT)
            if self.count > 1 and not self.answered.wait(ANSWER):
                console.say(
                    "stopped at once; everything after the last checkpoint is lost", error=True
                )
                os._exit(128 + signal.SIGINT)
        self._ours.close()

    def close(self) -> None:
        """Ends the thread."""
        self.answered.set()
        if self._before == -1:
            signal.set_wakeup_fd(-1)
        self._theirs.close()


def current() -> Interrupts | None:
    """The innermost active `Interrupts` of the calling thread, or None."""
    if not _running or threading.current_thread() is not threading.main_thread():
        return None
    return _running[-1]


def notice() -> None:
    """Responds to a signal between two pieces of a long update.

    Raises:
        UpdateCut: A signal was received, and the update can be undone.
        KeyboardInterrupt, SystemExit: A signal was received, and updates may always be cut.
    """
    noting = current()
    if noting is None or noting.received is None or not noting.cuts:
        return
    if not noting.undoes:
        noting.raise_received()
    raise UpdateCut("A signal ended an update between two of its minibatches.")


class Cuttable:
    """An update that a signal may end halfway; it is then undone.

    The variables are copied before an update that may take long: the first one, and one after an
    update of more than half a second. Whether an update is cut depends on timing; the results of
    the training do not.
    """

    def __init__(self) -> None:
        self._seconds = math.inf  # duration of the last update

    @contextlib.contextmanager
    def __call__(
        self, variables: Callable[[], Iterable[keras.Variable]], generator: np.random.Generator
    ) -> Iterator[None]:
        """Context for an update that changes nothing but Keras variables and a generator.

        Keras takes time to list its variables, so `variables` is called only before a copy.

        Raises:
            UpdateCut: A signal ended the update, and all of them are restored.
        """
        noting, began = current(), time.perf_counter()
        may_cut = noting is not None and noting.undoes and self._seconds > LONG
        before = [(v, np.array(v.numpy())) for v in variables()] if may_cut else []
        state = generator.bit_generator.state if may_cut else {}
        try:
            if noting is not None:
                noting.cuts = may_cut
            yield
        except UpdateCut:
            for variable, value in before:
                variable.assign(value)
            generator.bit_generator.state = state
            raise
        finally:
            if noting is not None:
                noting.cuts = False
            self._seconds = time.perf_counter() - began


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Context for a first update; if it takes long, standard error says that it is running."""
    began = time.perf_counter()

    def say() -> None:
        seconds = time.perf_counter() - began
        console.say(
            f"the first update has been running for {seconds:.0f} s, including compilation",
            error=True,
        )

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
