"""Gymnasium's `SyncVectorEnv` without what a step of simple spaces does not need."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class LeanSyncVectorEnv(SyncVectorEnv):
    """Steps environments one after another, results equal to `SyncVectorEnv`'s.

    Box observations are written once, into a new array; Gymnasium collects them in a list, joins
    them and copies the result. Other observations, other actions than Discrete and Box, and other
    modes than NEXT_STEP take Gymnasium's own way.
    """

    _autoreset_envs: np.ndarray  # [N]: whose episode ended in the last step

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._is_lean = (
            self.autoreset_mode == AutoresetMode.NEXT_STEP
            and isinstance(self.single_observation_space, spaces.Box)
            and isinstance(self.single_action_space, spaces.Discrete | spaces.Box)
        )

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Steps every environment; one whose episode had ended is reset instead."""
        if not self._is_lean:
            return super().step(actions)
        observations = np.empty_like(self._observations)  # [N, ...]
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        begins = self._autoreset_envs.tolist()
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if begins[i]:
                observations[i], info = env.reset()
            else:
                observations[i], rewards[i], terminated[i], truncated[i], info = env.step(action)
            if info:
                infos = self._add_info(infos, info, i)
        self._autoreset_envs = terminated | truncated
        return observations, rewards, terminated, truncated, infos
