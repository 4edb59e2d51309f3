"""What a fit of a GAN has done and measured so far, also before it was resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..supervised import states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..storage.packing import State
    from ..supervised.fit_callbacks import FitCallbacks


class Past:
    """The steps of a fit.

    Args:
        names: The metrics of a step.

    Attributes:
        done: Steps of this fit.
        added: What callbacks have added at each report, by name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self.done = tuple(names), 0
        self._rows: list[np.ndarray] = []  # [steps of a call, metrics] each
        self.added: dict[str, list[float]] = {}

    def add(self, done: int, metrics: dict[str, np.ndarray]) -> None:
        """Adds the steps of a call."""
        self.done = done
        self._rows.append(np.stack(list(metrics.values()), 1))

    def means(self, since: int) -> dict[str, float]:
        """Of the steps after the first ones."""
        rows = np.concatenate(self._rows)[since:].mean(0, dtype=np.float64)
        return dict(zip(self._names, rows.tolist(), strict=True))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Each metric as an array `[steps]`, and what callbacks added `[reports]`."""
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, len(self._names)))
        columns = dict(zip(self._names, rows.T, strict=True))
        return columns | {name: np.array(values) for name, values in self.added.items()}

    def get_state(self, callbacks: FitCallbacks) -> State:
        """It, with what the callbacks remember."""
        return {
            "done": self.done,
            "rows": np.concatenate(self._rows) if self._rows else np.empty((0, 0), np.float32),
            "added": {name: states.numbers(values) for name, values in self.added.items()},
            "callbacks": callbacks.get_state(),
        }

    def set_state(self, state: State) -> State:
        """Goes on from it; what the callbacks remember.

        Raises:
            ValueError: It is of other metrics.
        """
        rows = np.asarray(state["rows"])
        if len(rows) and rows.shape[1:] != (len(self._names),):
            raise ValueError(
                f"A checkpoint must hold the metrics {', '.join(self._names)}. Received: "
                f"{rows.shape[1:]} of them. Build the GAN as it was when it was saved."
            )
        self.done, self._rows = int(state["done"]), [rows] if len(rows) else []
        self.added = {name: states.as_numbers(values) for name, values in state["added"].items()}
        return state["callbacks"]
