"""Generalised state-dependent exploration: noise that is a function of the state for some steps.

    u = μ(s) + φ(s)·E,   E ~ N(0, exp(log_std)²)   [L, d], drawn for each environment

Actions have the distribution N(μ(s), σ(s)²) of `StateLogStd`, but are smooth in time: between two
draws the same state gets the same noise. Source: Raffin, Kober & Stulp 2022, eqs. 6–8.

Legend: N environments, L features, d dimensions of an action. No TensorFlow in this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray


class NoiseState(TypedDict):
    """What a checkpoint stores of the noise."""

    matrices: Array  # [N, L, d]
    steps: int


class StateNoise:
    """Samples raw actions instead of a Gaussian's `sample`."""

    def __init__(self, log_std: Callable[[], Array], rollout: int, freq: int) -> None:
        """Starts without noise; the first sample draws it.

        Args:
            log_std: Reads the logarithms of the standard deviations, `[L, d]`.
            rollout: The steps of a rollout, after which the noise is always redrawn.
            freq: Redraws the noise after so many steps within a rollout; -1: only at its end.
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
                "exploration. Remove action_mask from the infos."
            )
        if self._steps % self._rollout % self._freq == 0 or len(self._matrices) != len(parameters):
            std = np.exp(self._log_std())
            shape = (len(parameters), *std.shape)
            self._matrices = std * generator.standard_normal(shape, np.float32)
        self._steps += 1
        count = self._matrices.shape[2]
        noise = np.einsum("nl,nld->nd", parameters[:, 2 * count :], self._matrices)
        raw: Array = parameters[:, :count] + noise
        return raw

    def renew(self) -> None:
        """Makes the next sample redraw the noise."""
        self._steps = 0

    def get_state(self) -> NoiseState:
        """The current noise and the number of steps taken with it."""
        return {"matrices": self._matrices.copy(), "steps": self._steps}

    def set_state(self, state: NoiseState) -> None:
        """Continues with a saved state.

        Raises:
            ValueError: The noise was saved for a network of another shape.
        """
        matrices, shape = np.asarray(state["matrices"], np.float32), self._log_std().shape
        if matrices.size and matrices.shape[1:] != shape:
            raise ValueError(
                f"Exploration noise must have the shape [N, {shape[0]}, {shape[1]}]. Received: "
                f"{list(matrices.shape)}. Resume with the network of the run."
            )
        self._matrices, self._steps = matrices, int(state["steps"])
