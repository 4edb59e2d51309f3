"""The curves of a training run: means between two points, written and shown to callbacks."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import isfinite
from time import perf_counter as clock

import numpy as np

from ..experience.protocols import Metrics, State
from ..experience.transitions import Transitions
from ..tensorboard.writer import Writer
from .callbacks import Callback, asks_to_stop, name_of
from .listeners import Every

PARTS = ("acting", "environments", "update")


class Curves:
    """Collects what the loop measures; every so many steps it becomes one point of every curve.

    Attributes:
        transitions: Step the environments and keep their statistics.
        writer: Where the points go.
        callbacks: Who sees them.
        values: The last point, by TensorBoard tag.
        at: The environment step of the last point.
        sums: Of the metrics of the updates since then that are finite, and how many those are.
        stop: Whether a callback has returned False.
        ended: Whether the training has ended, after which callbacks may close its environments.
    """

    def __init__(
        self,
        transitions: Transitions,
        writer: Writer,
        callbacks: Sequence[Callback],
        period: int,
    ) -> None:
        self.transitions, self.writer, self.callbacks = transitions, writer, callbacks
        self._every = Every(period)
        self.sums: dict[str, tuple[float, int]] = {}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = (clock(), transitions.env_steps)
        self.at = transitions.env_steps
        self.values: dict[str, float] = {}
        self._evaluation: dict[str, float] = {}  # that no callback has seen yet
        self.stop = self.ended = False

    def time(self, acting: float, environments: float) -> None:
        """Adds the seconds of one step."""
        self._seconds["acting"] += acting
        self._seconds["environments"] += environments

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one update, `seconds` of its parts among them.

        Raises:
            ValueError: They are no dict of numbers.
        """
        if not isinstance(metrics, dict):
            raise ValueError(
                "An agent's observe must return a dict of metrics after an update, and None after "
                f"other steps. Received: {type(metrics).__name__}. Return {{}} for no metrics."
            )
        for part, seconds in metrics.pop("seconds", {}).items():
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds
        for name, value in metrics.items():
            if isinstance(value, np.ndarray):  # one number for each example
                value = value.mean()
            if not isinstance(value, float | int | np.number | np.bool_):
                raise ValueError(
                    "The metrics of an update must be numbers or arrays of them. Received: "
                    f"{name}={value!r:.60}. Convert it, or leave it out."
                )
            if isfinite(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = total + float(value), count + 1

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Counts from the last update on."""
        self._every.counted = env_steps

    def updated(self, env_steps: int) -> None:
        """Writes a point if it is due, and shows callbacks an evaluation that came without one."""
        if self._every.is_due(env_steps):
            self.write()
        self.report()

    def end(self, env_steps: int) -> None:
        """Writes the last point; callbacks may close the environments by now."""
        self.ended = True
        self.write()
        self.report()

    def write(self) -> None:
        """Writes the means since the last point, at the current environment step."""
        now, steps = clock(), self.transitions.env_steps
        if steps == self.at:
            return  # there is a point already
        elapsed, before = max(now - self._since[0], 1e-9), self._since[1]
        self.values = values = {"time/fps": (steps - before) / elapsed}
        values |= {f"time/{part}": seconds / elapsed for part, seconds in self._seconds.items()}
        values |= {f"rollout/{name}": number for name, number in self.transitions.means().items()}
        for name, (total, count) in self.sums.items():
            values[name if "/" in name else f"train/{name}"] = total / count
        self.sums, self.at, self._since = {}, steps, (now, steps)
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self.writer.scalars(steps, values)
        self._report()

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Writes what an evaluation gave; the next point or `report` shows it to callbacks."""
        self.writer.scalars(self.transitions.env_steps, values)
        self._evaluation = dict(values)

    def report(self) -> None:
        """Shows callbacks an evaluation that came without a point, beside the last point."""
        if self._evaluation:
            self._report()

    def _report(self) -> None:
        metrics, self._evaluation = self.values | self._evaluation, {}
        transitions = self.transitions
        for callback in self.callbacks:
            watched = nullcontext() if self.ended else transitions.left_alone(name_of(callback))
            with watched:
                answer = callback(transitions.env_steps, {**metrics})
            self.stop |= asks_to_stop(answer)

    def get_state(self) -> State:
        """The sums since the last point, and that point, which callbacks see with an evaluation."""
        sums = {name: list(each) for name, each in self.sums.items()}
        values = {name: float(value) for name, value in self.values.items()}
        return {"sums": sums, "at": self.at, "values": values}

    def set_state(self, state: State) -> None:
        """Restores sums and point."""
        self.sums = {str(name): (float(s), int(n)) for name, (s, n) in state["sums"].items()}
        self.at = int(state["at"])
        self.values = {str(name): float(each) for name, each in state.get("values", {}).items()}
