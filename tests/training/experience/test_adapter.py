"""Environments of another library behind an adapter, a class with `VectorEnvironment`'s members."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from vantage.agents import A2C, A2CConfig
from vantage.training import evaluate, train

N = 4


class Islands:
    """Somebody's simulation of N walkers at once, with an interface of its own.

    A walker stands somewhere on a line of eleven places and goes to its middle; every move costs 1.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.places = np.zeros(count, np.int64)
        self.moves = np.zeros(count, np.int64)

    def scatter(self, which: np.ndarray) -> None:
        self.places[which] = self.random.integers(-5, 6, np.count_nonzero(which))
        self.moves[which] = 0

    def advance(self, directions: np.ndarray) -> None:
        self.places = np.clip(self.places + directions, -5, 5)
        self.moves += 1


class Adapter:
    """All that training needs of them."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    single_observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self.num_envs, self._islands = num_envs, Islands(num_envs, seed)
        self._ended = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._islands = Islands(self.num_envs, seed)
        self._islands.scatter(np.ones(self.num_envs, bool))
        self._ended[:] = False
        return self._seen(), {}

    def step(self, actions):
        islands, resets = self._islands, self._ended
        islands.advance(np.where(resets, 0, 2 * np.asarray(actions) - 1))
        islands.scatter(resets)  # NEXT_STEP: in the step after the end
        terminated = (islands.places == 0) & ~resets
        truncated = (islands.moves >= 30) & ~resets
        self._ended = terminated | truncated
        return self._seen(), np.where(resets, 0.0, -1.0), terminated, truncated, {}

    def _seen(self):
        return (self._islands.places[:, None] / 5).astype(np.float32)


class Resumable(Adapter):
    """Its running episodes are in the checkpoints as well."""

    def get_state(self):
        islands = self._islands
        return {
            "random": islands.random.bit_generator.state,
            "places": islands.places.copy(),
            "moves": islands.moves.copy(),
            "ended": self._ended.copy(),
        }

    def set_state(self, state):
        islands = self._islands
        islands.random.bit_generator.state = state["random"]
        islands.places, islands.moves = state["places"].copy(), state["moves"].copy()
        self._ended = state["ended"].copy()


class Forgetful(Resumable):
    """Its state lacks the generator."""

    def get_state(self):
        return super().get_state() | {"random": np.random.default_rng(9).bit_generator.state}


def run(kind, folder, steps, resume=False):
    envs = kind(N, seed=3)
    config = A2CConfig(net_arch=(16,), learning_rate=0.02, optimizer="adam")
    agent = A2C(envs.single_observation_space, envs.single_action_space, config)
    return train(agent, envs, steps, logdir=folder, resume=resume), agent


def test_a2c_learns_what_is_best_there(tmp_path):
    _, agent = run(Adapter, tmp_path / "run", 4_000)
    envs = Adapter(10, seed=1)
    assert evaluate(agent, envs, 200, seed=1).mean > -3.5  # the best is -32/11
    assert evaluate(run(Adapter, None, 20)[1], Adapter(10), 200, seed=1).mean < -3.5


@pytest.mark.parametrize(
    ("kind", "exactness", "is_same"),
    [(Resumable, "state", True), (Forgetful, "state", False), (Adapter, "restart", False)],
)
def test_a_run_is_resumed_to_the_bit_if_its_state_is_all(kind, exactness, is_same, tmp_path):
    undisturbed, _ = run(kind, tmp_path / "whole", 500)
    stopped, _ = run(kind, tmp_path / "run", 211)  # in the middle of a rollout, and of episodes
    resumed, _ = run(kind, tmp_path / "run", 500, resume=True)
    assert resumed["resumed_from"] == stopped["env_steps"] and resumed["exactness"] == exactness
    names = ("weights_sha256", "episodes", "mean_return_100", "updates")
    assert ([resumed[name] for name in names] == [undisturbed[name] for name in names]) == is_same
