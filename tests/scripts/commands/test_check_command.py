"""The command `vantage check`."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from checked_envs import PATIENT

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
MODULE = """
import atexit, sys
import gymnasium as gym
import numpy as np

class Corridor(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(4))
        return self.observe(), {}

    def step(self, action):
        self.cell = max(self.cell + (1 if action == 1 else -1), 0)
        return self.observe(), -1.0, self.cell == 5, False, {}

    def observe(self):
        return np.array([self.cell / 5], np.float32)

class Wrong(Corridor):
    def observe(self):
        return np.array([self.cell / 4])

gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=20)
gym.register("Wrong-v0", entry_point=Wrong)
atexit.register(lambda: print("tensorflow:", "tensorflow" in sys.modules))
"""


@pytest.fixture
def command(tmp_path):
    """Runs `vantage check …` in a user's folder."""
    (tmp_path / "corridors.py").write_text(MODULE)

    def run(*arguments):
        environment = os.environ | {"PYTHONWARNINGS": "error", "COLUMNS": "200"}
        line = [VANTAGE, "check", *arguments]
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_command_on_a_healthy_environment(command):
    patient = ("--slow-step", str(PATIENT))
    code, out, err = command("corridors:Corridor-v0", *patient)
    assert (code, err) == (0, "")
    assert out.startswith("corridors:Corridor-v0: no errors, no warnings, no hints\n")
    assert "1,000 random steps" in out
    assert out.endswith("tensorflow: False\n")


def test_the_command_on_a_faulty_environment(command):
    code, out, err = command("corridors:Wrong-v0", "--steps", "40", "--slow-step", str(PATIENT))
    assert (code, err) == (1, "")
    errors, warned = out.split("\nwarnings: ")
    assert "errors: " in errors and "dtype " in errors and "bounds " in errors
    assert "Long episodes" in warned and "dtype " not in warned.split("passed")[0]
    assert " 40 random steps" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_flags_of_the_command(command):
    options = ("--steps", "150", "--max-episode-steps", "1", "--slow-step", "1e-9")
    code, out, _ = command("corridors:Corridor-v0", *options)
    assert code == 0  # a warning is no error
    assert ": no errors, 2 warnings," in out
    out = " ".join(out.split())
    assert " speed " in out and "--vectorization async" in out and "a time limit of 1." in out
    assert "150 random steps, 150 episodes ended" in out
    played = [played_row(command("corridors:Corridor-v0", "--seed", seed)[1]) for seed in "334"]
    assert played[0] == played[1] != played[2]
    assert command("--help")[0] == 0


def played_row(out):
    return re.search("^  played .*$", out, re.M)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("CartPole-v9",), "Received: 'CartPole-v9'"),
        (("no_such_module:Corridor-v0",), "no_such_module"),
        (("corridors:Corridor-v1",), "Corridor-v1"),
        (("CartPole-v1", "--steps", "0"), "steps must be at least 1. Received: 0"),
        (("CartPole-v1", "--slow-step", "-1"), "slow_step must be a positive"),
        (("CartPole-v1", "--what"), "Flags must be known ones"),
        ((), "Flags must be known ones"),
    ],
)
def test_bad_usage_of_the_command(command, arguments, said):
    code, _, err = command(*arguments)
    last = err.rstrip("\n").splitlines()[-1]
    assert code == 2
    assert re.fullmatch(r"error: .{15,} Received: .+[.)] \S.{8,}", last), last
    assert said in last
