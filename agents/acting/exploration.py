"""Generalised state-dependent exploration: noise that is a function of the state for some steps.

    u = μ(s) + φ(s)·E,   E ~ N(0, exp(log_std)²)   [L, d], drawn anew for each environment

It makes the Gaussian N(μ(s), σ(s)²) of `StateLogStd`, but smooth in time: between two draws the
same state gets the same noise. Source: Raffin, Kober & Stulp 2022, eqs. 6–8.

Legend: N environments, L features, d dimensions of an action. No TensorFlow in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray


class StateNoise:
    """Samples raw actions in place of a Gaussian's own `sample`."""

    def __init__(self, log_std: Callable[[], Array], rollout: int, freq: int) -> None:
        """Begins with no noise; the first sample draws it.

        Args:
            log_std: Reads the logarithms of the standard deviations, `[L, d]`.
            rollout: Steps after which the noise is drawn anew in any case.
            freq: Steps of a rollout after which it is drawn anew; -1 for not before its end.
        """
        self._log_std, self._rollout = log_std, rollout
        self._freq = rollout if freq < 0 else freq
        self._steps = 0
        self._matrices = np.zeros((0, 0, 0), np.float32)  # [N, L, d]

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Raw actions `[N, d]` for parameters `[N, 2d + L]`.

        Raises:
            ValueError: There are masks.
        """
        if masks is not None:
            raise ValueError(
                "Action masks are for discrete actions. Received: masks for state-dependent "
                "exploration. Take action_mask out of the infos."
            )
        if self._steps % self._rollout % self._freq == 0 or len(self._matrices) != len(parameters):
            std = np.exp(self._log_std())
            shape = (len(parameters), *std.shape)
            self._matrices = std * generator.standard_normal(shape, np.float32)
        self._steps += 1
        count = self._matrices.shape[2]
        noise = np.einsum("nl,nld->nd", parameters[:, 2 * count :], self._matrices)
        return parameters[:, :count] + noise

    def renew(self) -> None:
        """Lets the next sample draw."""
        self._steps = 0

    def get_state(self) -> dict[str, Any]:
        """The noise in use, and for how long it has been."""
        return {"matrices": self._matrices.copy(), "steps": self._steps}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with it.

        Raises:
            ValueError: It is of another network.
        """
        matrices, shape = np.asarray(state["matrices"], np.float32), self._log_std().shape
        if matrices.size and matrices.shape[1:] != shape:
            raise ValueError(
                f"Exploration noise must have the shape [N, {shape[0]}, {shape[1]}]. Received: "
                f"{list(matrices.shape)}. Resume with the network of the run."
            )
        self._matrices, self._steps = matrices, int(state["steps"])
