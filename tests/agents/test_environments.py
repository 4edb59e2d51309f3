"""A2C on every environment that Gymnasium registers, and on one of a third party."""

from __future__ import annotations

import importlib.util
import math
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest

from vantage.agents import A2C
from vantage.envs import make_vec
from vantage.training import evaluate, train

NEEDS = {"classic_control": None, "toy_text": None, "box2d": "Box2D", "mujoco": "mujoco"}
SLOW = ("CarRacing", "Humanoid")


def newest_of_each_family():
    """`(id, family)` of the newest version of everything in the four families."""
    newest = {}
    for spec in gym.registry.values():
        found = re.match(r"gymnasium\.envs\.(\w+)", str(spec.entry_point))
        if found and found[1] in NEEDS and spec.version is not None:
            name, others = spec.name, newest.get(spec.name)
            if others is None or others[0] < spec.version:
                newest[name] = (spec.version, spec.id, found[1])
    return sorted((env_id, family) for _, env_id, family in newest.values())


def case(env_id, family):
    absent = NEEDS[family] is not None and importlib.util.find_spec(NEEDS[family]) is None
    marks = [pytest.mark.skipif(absent, reason=f"gymnasium[{family}] is not installed")]
    if env_id.startswith(SLOW) or (family == "mujoco" and not env_id.startswith("Hopper")):
        # By default one robot stands for all: their spaces are of one kind.
        marks.append(pytest.mark.slow)
    return pytest.param(env_id, marks=marks)


FOUND = newest_of_each_family()


def test_the_families_are_all_there():
    """An id that a newer Gymnasium spells in another way must not drop out unseen."""
    names = {env_id.partition("-v")[0] for env_id, _ in FOUND}
    assert {"CartPole", "Acrobot", "MountainCar", "MountainCarContinuous", "Pendulum"} <= names
    assert {"Blackjack", "FrozenLake", "Taxi", "CliffWalking"} <= names
    assert {"LunarLander", "BipedalWalker", "CarRacing"} <= names
    assert {"HalfCheetah-v5", "Ant-v5", "Humanoid-v5"} <= {env_id for env_id, _ in FOUND}


class Witness(gym.Wrapper):
    """Keeps the books of an environment's episodes by itself."""

    episodes: list[tuple[float, int]] = []

    def reset(self, **keywords):
        self.total, self.length = 0.0, 0
        return self.env.reset(**keywords)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        assert self.env.action_space.contains(action), action
        self.total, self.length = self.total + float(reward), self.length + 1
        if terminated or truncated:
            self.episodes.append((self.total, self.length))
        return observation, reward, terminated, truncated, info


def trained(env, steps, num_envs=4, wrappers=(), **options):
    """Trains, checks what can be known, and evaluates for a few episodes."""
    witness = type("Own", (Witness,), {"episodes": []})
    envs = make_vec(env, num_envs, seed=0, wrappers=[*wrappers, witness], **options)
    agent = A2C(envs.single_observation_space, envs.single_action_space, seed=0)
    seen = []
    summary = train(
        agent, envs, steps, log_every=1, callbacks=[lambda _, metrics: seen.append(metrics)]
    )
    assert steps <= summary["env_steps"] < steps + 5 * num_envs
    assert summary["episodes"] == len(witness.episodes)
    assert all(math.isfinite(value) for metrics in seen for value in metrics.values())
    assert sum("train/loss" in metrics for metrics in seen) >= summary["updates"] // 2 > 0
    if witness.episodes:
        returns = [total for total, _ in witness.episodes[-100:]]
        assert summary["mean_return_100"] == pytest.approx(np.mean(returns), rel=1e-4, abs=1e-4)
        lengths = [length for _, length in witness.episodes[-100:]]
        assert seen[-1]["rollout/ep_len_mean"] == pytest.approx(np.mean(lengths))
    for variable in agent.network.variables:
        assert np.isfinite(variable.numpy()).all()
    envs.close()
    return agent


@pytest.mark.parametrize("env_id", [case(*found) for found in FOUND])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*pkg_resources:UserWarning")
@pytest.mark.parametrize("steps", [1_000, pytest.param(2_000, marks=pytest.mark.slow)])
def test_an_agent_trains(env_id, steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log
    agent = trained(env_id, steps)
    envs = make_vec(env_id, 2, max_episode_steps=50)
    assert math.isfinite(evaluate(agent, envs, 2, seed=0).mean)
    envs.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "env_id",
    ["MiniGrid-Empty-5x5-v0", pytest.param("MiniGrid-DoorKey-5x5-v0", marks=pytest.mark.slow)],
)
def test_a_third_party_package(env_id):
    """A Dict of an image of 7 × 7 × 3, a direction, and a text, which is left out."""
    pytest.importorskip("minigrid", reason="minigrid is not installed")
    with pytest.warns(UserWarning, match="does not see these entries of the observations: mission"):
        trained(f"minigrid:{env_id}", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from minigrid.wrappers import ImgObsWrapper

        trained(f"minigrid:{env_id}", 500, wrappers=[ImgObsWrapper])  # the image alone
