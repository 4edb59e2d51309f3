"""When something is due: a period of steps, updates or seconds."""

from collections.abc import Callable
from typing import Any


class Every:
    """Does something when a counter has passed a multiple of a period since the last call.

    Attributes:
        passed: How many multiples it had passed at the last call.
    """

    def __init__(
        self, period: int | float, counter: Callable[[], float], do: Callable[[], Any]
    ) -> None:
        self._period, self._counter, self._do = period, counter, do
        self.passed = counter() // period

    def __call__(self) -> None:
        """Does it if it is due."""
        passed = self._counter() // self._period
        if passed > self.passed:
            self.passed = passed
            self._do()
