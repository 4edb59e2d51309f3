"""Faults of actions and of masks are found; only allowed actions are played."""

import numpy as np
import pytest
from checked_envs import Healthy, assert_found, at_step, checked, faulty, with_actions
from gymnasium import spaces

from vantage.envs import check_env


def test_masks_of_taxi_are_seen():
    report = check_env("Taxi-v4", steps=300)
    assert report.masks == 300
    assert "mask" in report.passed


def test_a_step_that_changes_its_action():
    class Clipping(Healthy):
        action_space = spaces.Box(-1, 1, (2,), np.float32)

        def step(self, action):
            np.clip(action, -0.1, 0.1, out=action)
            return super().step(action)

    assert_found(checked(Clipping), "errors", "action", "must not change the action", "out=")


def test_an_unbounded_box_of_actions():
    env = with_actions(spaces.Box(-np.inf, np.inf, (1,)))
    assert_found(checked(env), "warnings", "spaces", "should be bounded", "Box(-inf, inf")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(3),
        spaces.Box(0, 3, (2,), np.int32),
    ],
    ids=lambda space: type(space).__name__,
)
def test_actions_that_no_agent_takes(space):
    report = checked(with_actions(space))
    assert_found(report, "errors", "spaces", "must be Discrete, MultiDiscrete, ", str(space))
    (finding,) = report.errors
    assert "gymnasium.wrappers.TransformAction" in finding.message
    assert "\n" not in finding.message


class Masked(Healthy):
    """An action that the mask forbids is an exception."""

    action_space = spaces.Discrete(4, start=1)

    def allowed(self):
        return np.arange(4) % 3 == self.now % 3  # one or two

    def info(self):
        return {"action_mask": self.allowed().astype(np.int8)}

    def step(self, action):
        assert self.allowed()[action - 1], "forbidden"
        return super().step(action)


class MaskedInParts(Masked):
    """Two components, 2 + 3 choices; by a method, as others have it."""

    action_space = spaces.MultiDiscrete([2, 3])

    def info(self):
        return {}

    def action_masks(self):
        return np.arange(5) % 2 == self.now % 2

    def step(self, action):
        mask = self.action_masks()
        assert mask[action[0]] and mask[2 + action[1]], "forbidden"
        return Healthy.step(self, action)


@pytest.mark.parametrize("env", [Masked, MaskedInParts])
def test_only_allowed_actions_are_played(env):
    report = checked(env)
    assert report.errors == report.warnings == ()
    assert report.masks == 200
    assert "mask" in report.passed


def test_every_allowed_action_is_played():
    played = set()

    class Recorded(Masked):
        def step(self, action):
            played.add((self.now % 3, int(action)))
            return super().step(action)

    assert checked(Recorded).ok
    assert played == {(0, 1), (0, 4), (1, 2), (2, 3)}


def masked(mask, space=None):
    space = space or Masked.action_space
    return with_actions(space, info=lambda self: {"action_mask": mask(self)})


@pytest.mark.parametrize(
    ("env", "level", "said"),
    [
        (masked(lambda self: np.ones(3)), "errors", ["flat array of 4", "shape [3] after reset 1"]),
        (masked(lambda self: np.full(4, 2)), "errors", ["True or False"]),
        (masked(lambda self: "all"), "errors", ["all (str) after reset 1"]),
        (
            masked(at_step(2, np.zeros(4), lambda self: np.ones(4, bool))),
            "errors",
            ["at least one action", "[0 0 0 0] after step 2"],
        ),
        (
            masked(lambda self: [1, 1, 0, 0, 0], spaces.MultiDiscrete([2, 3])),
            "errors",
            ["of every component", "[1 1 0 0 0]"],
        ),
        (
            masked(at_step(2, None, lambda self: np.ones(4, bool))),
            "warnings",
            ["Every state should come with a mask", "masks for 200 states"],
        ),
        (
            masked(lambda self: np.ones(4), spaces.Box(-1, 1, (2,))),
            "warnings",
            ["Only discrete actions are masked"],
        ),
        (
            masked(lambda self: np.ones(2), spaces.MultiBinary(2)),
            "errors",
            ["flat array of 4 times"],
        ),
        (
            faulty(action_masks=lambda self: np.ones(3)),
            "errors",
            ["action_masks() returns, must be a flat array of 2 times"],
        ),
    ],
)
def test_faults_of_masks(env, level, said):
    assert_found(checked(env), level, "mask", *said)


def test_the_masks_of_bits():
    """Of every bit: may it be 0, may it be 1?"""
    env = masked(lambda self: np.array([1, 0, 1, 1], bool), spaces.MultiBinary(2))
    report = checked(env)
    assert "mask" in report.passed and report.ok


def test_the_last_state_of_an_episode_needs_no_mask():
    class Over(Masked):
        def terminated(self):
            return False

        def info(self):
            return {"action_mask": self.allowed() & (self.now < 8)}

    report = checked(Over)
    assert "mask" in report.passed
    assert report.ok
