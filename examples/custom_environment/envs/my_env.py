"""An environment of your own: copy this file and change the parts marked (1) to (4).

A robot in a corridor of 11 cells must go to a door, and every step costs 1. The best policy goes
straight to the door: its return is minus the distance, on average −4.
"""

import gymnasium as gym
import numpy as np

CELLS = 11
LEFT, WAIT, RIGHT = range(3)
BEST_RETURN = -(CELLS + 1) / 3  # the mean distance of two different cells


class MyEnv(gym.Env):
    """The corridor. Observations are float32; actions, one of three numbers."""

    def __init__(self) -> None:
        # (1) What the agent sees, and what it can do.
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        """Starts an episode: a robot and a door, in different cells."""
        super().reset(seed=seed)  # seeds self.np_random: use no other generator
        # (2) How an episode begins.
        self._robot, self._door = self.np_random.choice(CELLS, 2, replace=False).tolist()
        return self._observation(), {}

    def step(self, action):
        """Moves the robot; the episode ends at the door."""
        # (3) What an action does, and its reward.
        self._robot = min(max(self._robot + int(action) - WAIT, 0), CELLS - 1)
        terminated = self._robot == self._door  # the task is over: no more rewards
        truncated = False  # max_episode_steps sets it: running out of time does not end the task
        return self._observation(), -1.0, terminated, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.array([self._robot, self._door], np.float32) / (CELLS - 1) * 2 - 1


# (4) A name, for `vantage train a2c envs.my_env:MyEnv-v0` in the folder above this one.
gym.register("MyEnv-v0", entry_point=MyEnv, max_episode_steps=50)
