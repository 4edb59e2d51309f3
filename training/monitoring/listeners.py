"""When something is due: a period of steps, updates or seconds."""

from collections.abc import Callable
from typing import Any


class Every:
    """Does something when a counter has passed a multiple of a period since the last call.

    Attributes:
        counted: The counter at the last call.
    """

    def __init__(
        self, period: int | float, counter: Callable[[], float], do: Callable[[], Any]
    ) -> None:
        self._period, self._counter, self._do = period, counter, do
        self.counted = counter()

    def __call__(self) -> None:
        """Does it if it is due."""
        before, self.counted = self.counted, self._counter()
        if self.counted // self._period > before // self._period:
            self._do()
