"""Environments that break during training: cut fragments, counted restarts, kept checkpoints."""

from __future__ import annotations

import json
import sys

import forks
import gymnasium as gym
import numpy as np
import pytest
from rollouts import GAMMA, LAMBDA, of_real, play
from scripted import reference
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C
from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.training import evaluate, train
from vantage.training.experience.transitions import Transitions


class Fragile(gym.Env):
    """Ends after six steps; its crash comes in certain steps, counted over all of its lives."""

    observation_space = gym.spaces.Box(0, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    crashes: frozenset = frozenset()
    calls = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.now = int(self.np_random.integers(1_000)), 0
        return self._observe(), {}

    def step(self, action):
        type(self).calls += 1
        if self.calls in self.crashes:
            raise RuntimeError("the simulator died")
        self.now += 1
        return self._observe(), self.calls % 7 / 2, self.now == 6, False, {}

    def _observe(self):
        return np.array([self.start, self.now], np.float32)


def breaking(*crashes):
    """A class of its own, with lives of its own."""
    return type("Breaking", (Fragile,), {"crashes": frozenset(crashes)})


def v(observations):
    """A different number for every state."""
    return (np.asarray(observations) @ [7.0, 131.0] % 17).astype(np.float32)


@pytest.mark.thinned
@pytest.mark.parametrize("n_steps", [1, 3, 4, 24])
@pytest.mark.parametrize("crashes", [(3,), (9, 10), (1,), (8, 20)], ids=str)
def test_a_broken_fragment_is_cut_and_bootstrapped_from_its_last_state(crashes, n_steps):
    """Per real transition the scalar reference, the crash being a truncation before its step."""
    envs = make_vec(breaking(*crashes), 1, seed=0, restart_broken_envs=True)
    arrays, transitions = play(envs, n_steps, 24 // n_steps, v=v)
    assert transitions.restarts == len(crashes)
    real = arrays["weights"][:, 0] > 0
    ended, kept = arrays["ended"][:, 0], np.flatnonzero(real)
    observations = arrays["observations"][:, 0]
    for start in range(0, 24, n_steps):
        own = kept[(kept >= start) & (kept < start + n_steps)]
        last = own[own == 23]
        own = own[own < 23]  # what follows the last slot of all is not recorded
        if not len(own) or len(last):
            continue
        following = v(observations[own + 1])
        # A step whose successor is a dummy without an end was followed by the crash.
        cut = ended[own] | ~real[own + 1]
        desired = reference(
            arrays["rewards"][own, 0],
            following,
            arrays["terminated"][own, 0],
            cut,
            GAMMA,
            LAMBDA,
        )
        np.testing.assert_allclose(arrays["returns"][own, 0], desired, 1e-5, 1e-5)
    dummies = ~real
    np.testing.assert_array_equal(arrays["advantages"][dummies, 0], 0.0)
    assert len(of_real(arrays, "rewards", 0)) == 24 - dummies.sum() == transitions.env_steps


def test_a_bootstrap_from_the_new_episode_would_give_other_numbers():
    """What the test above guards: the crash taken for an ordinary step."""
    crash = breaking(4)
    envs = make_vec(crash, 1, seed=0, restart_broken_envs=True)
    right, _ = play(envs, 12, 1, v=v)
    envs = make_vec(breaking(4), 1, seed=0, restart_broken_envs=True)
    wrong, _ = play(envs, 12, 1, lambda t: t._replace(weights=np.ones_like(t.weights)), v=v)
    assert np.abs(right["returns"] - wrong["returns"])[:3].max() > 0.1


def test_broken_episodes_are_no_episodes():
    """Neither their returns nor their lengths are counted, in training or in evaluation."""
    transitions = Transitions(make_vec(breaking(9), 1, seed=0, restart_broken_envs=True))
    transitions.reset()
    for _ in range(24):
        transitions.step(np.zeros(1, np.int64))
    assert list(transitions.recent_lengths) == [6] * transitions.episodes
    assert transitions.restarts == 1 and transitions.env_steps == 20

    class Still:
        def act(self, observations, deterministic=False):
            return np.zeros(len(observations), np.int64)

    envs = make_vec(breaking(9), 1, seed=0, restart_broken_envs=True)
    assert evaluate(Still(), envs, 4).mean_length == 6


def test_restarts_are_counted_in_tensorboard(tmp_path):
    envs = make_vec(breaking(30, 95), 2, seed=0, restart_broken_envs=True)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    train(agent, envs, 200, logdir=tmp_path / "run", log_every=20)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    counts = [event.value for event in events.Scalars("rollout/restarted_envs")]
    assert counts == sorted(counts) and (counts[0], counts[-1]) == (1.0, 2.0)


def test_a_run_ended_by_its_environment_keeps_its_last_update(tmp_path):
    envs = make_vec(breaking(100), 2, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    with pytest.raises(BrokenEnvironmentError, match="the simulator died") as caught:
        train(agent, envs, 1_000, logdir=tmp_path / "run", checkpoint_every=None)
    assert "--resume continues" in caught.value.__notes__[0]
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    manifest = json.loads((kept / "manifest.json").read_text())
    assert manifest["agent"]["updates"] == manifest["run"]["updates"] == agent.updates > 0
    assert manifest["exactness"] == "restart"  # who knows what is left of the episodes
    np.testing.assert_array_equal(
        A2C.load(kept).network.get_weights()[0], agent.network.get_weights()[0]
    )


def test_a_checkpoint_that_fails_does_not_hide_the_error(tmp_path):
    class Full(A2C):
        def get_state(self):
            raise OSError("no space left")

    envs = make_vec(breaking(100), 2, seed=0)
    agent = Full(envs.single_observation_space, envs.single_action_space)
    with pytest.raises(BrokenEnvironmentError, match="the simulator died") as caught:
        train(agent, envs, 1_000, logdir=tmp_path / "run", checkpoint_every=None)
    assert caught.value.__notes__ == ["There is no checkpoint of the last update: no space left"]


MODULE = """
import gymnasium as gym, numpy as np, os, time

class Doomed(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Discrete(2)
    lives = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Doomed.lives += 1
        if Doomed.lives == 400:
            WAY
        return np.zeros(1, np.float32), 1.0, Doomed.lives % 9 == 0, False, {}

gym.register("Doomed-v0", entry_point=Doomed)
"""
WAYS = {
    "raises": ("raise RuntimeError('the simulator died')", "RuntimeError: the simulator died"),
    "exits": ("os._exit(3)", "exited with code 3"),
    "hangs": ("time.sleep(3600)", "no answer"),
}


def command(tmp_path, way, *flags):
    (tmp_path / "doomed.py").write_text(MODULE.replace("WAY", WAYS[way][0]))
    words = ["train", "a2c", "doomed:Doomed-v0", "--num-envs", "2", "--logdir", "run", *flags]
    return forks.run(
        [sys.executable, "-m", "vantage.scripts.main", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.slow] * (w == "exits")) for w in WAYS]
)
def test_the_command_ends_with_a_checkpoint_and_a_clear_error(tmp_path, way):
    flags = ("--vectorization", "async", "--env-timeout", "6", "--total-steps", "2000")
    done = command(tmp_path, way, *flags)
    *_, last = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert last.startswith("error: An environment must not break. Received: environment ")
    assert WAYS[way][1] in last and "seed " in last and "step " in last and "--resume" in last
    assert list((tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"))


def test_the_command_goes_on_with_restarts(tmp_path):
    flags = ("--vectorization", "async", "--restart-broken-envs", "--total-steps", "2000")
    done = command(tmp_path, "exits", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] >= 2_000
