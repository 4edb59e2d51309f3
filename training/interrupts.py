"""SIGINT, SIGTERM and SIGHUP as a request to stop after the current update."""

from __future__ import annotations

import signal
import threading
from _signal import getsignal  # `signal`'s own tries to make an enum of it, for 8 µs
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Those that ask a run to end: a user, a service manager or scheduler, a closed terminal."""


class Interrupts:
    """A context manager that notes SIGINT, SIGTERM and SIGHUP; a second SIGINT stops at once.

    SIGHUP stays ignored where it was ignored before, as under nohup. Outside the main thread, where
    Python allows no handlers, it notes nothing.

    Attributes:
        received: The number of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._sigints = 0
        self._before: dict[int, Any] = {}
        self._handler = self._note  # one object, which `renew` compares

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = getsignal(number)
                if number == signal.SIGINT or before != signal.SIG_IGN:
                    self._before[number] = before
            self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: something that is not Python had installed it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @property
    def hurries(self) -> bool:
        """Whether a second SIGINT asked to stop at once."""
        return self._sigints > 1

    def renew(self) -> None:
        """Installs the handlers again where other code, such as an environment, replaced them."""
        for number in self._before:
            if getsignal(number) is not self._handler:
                signal.signal(number, self._handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        if number == signal.SIGINT:
            self._sigints += 1
            if self._sigints > 1:
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
