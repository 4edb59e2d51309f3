"""What a run does besides learning: objects that are called when it begins, updates and ends."""

from typing import Protocol


class Listener(Protocol):
    """Follows a run: the evaluator, the curves, the monitor. A tracker is one more of them."""

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Agent and environments are ready; a resumed run made its last update at `env_steps`."""

    def updated(self, env_steps: int) -> None:
        """The agent has made an update; does what is due."""

    def end(self, env_steps: int) -> None:
        """The last step has been made, which may lie inside a rollout."""


class Every:
    """When something is due: once a counter has passed a multiple of a period.

    Args:
        period: In units of the counter; None or 0 for never.
        counted: Where the counter is now.

    Attributes:
        counted: The counter at the last call.
    """

    def __init__(self, period: float | None, counted: float = 0) -> None:
        self._period, self.counted = period, counted

    def is_due(self, count: float) -> bool:
        """Whether the counter has passed a multiple since the last call."""
        before, self.counted = self.counted, count
        if not self._period:
            return False
        return count // self._period > before // self._period
