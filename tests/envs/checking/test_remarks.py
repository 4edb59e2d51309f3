"""Warnings and hints, and what Gymnasium's own checker has to say."""

import time
import warnings

import numpy as np
from checked_envs import DECLARED, Healthy, assert_found, checked, faulty, observing, of_space
from gymnasium import spaces


def test_a_slow_step():
    def sleep(self):
        time.sleep(0.003)
        return 0.0

    report = checked(faulty(reward=sleep), steps=30, slow_step=0.002)
    assert_found(
        report, "warnings", "speed", "at most 2 ms", "ms (median)", "--vectorization async"
    )
    assert 0.003 <= report.median_seconds <= report.slowest_seconds


def test_it_is_the_median_that_counts():
    def reward(self):
        time.sleep(0.03 * (self.now == 1))
        return 0.0

    report = checked(faulty(reward=reward), steps=40, slow_step=0.02)
    assert report.warnings == ()
    assert report.slowest_seconds > 0.02 > report.median_seconds


def test_hints_are_neither_errors_nor_warnings():
    wide = spaces.Dict(
        {"a": spaces.Box(-1e7, 1, (2,)), "b": spaces.Box(0, np.inf, (1,)), "c": DECLARED}
    )
    own = np.float32([5000])
    parts = {"reward": lambda self: -2e3, "action_space": spaces.Box(-2, 2, (1,))}
    env = observing(wide, lambda self: {**of_space(self), "b": own.copy()}, **parts)
    report = checked(env)
    assert report.errors == report.warnings == ()
    said = [finding.message for finding in report.hints]
    assert {finding.name for finding in report.hints} == {"scale"}
    assert len(said) == 4
    assert "--rescale-actions" in said[0]
    assert said[1].startswith('observation["a"] should be near [-1, 1]')
    assert 'observation["b"]' in said[2] and "from 5000 to 5000" in said[2]
    assert "up to 2000" in said[3]


def test_warnings_of_the_environment():
    def warned(self):
        warnings.warn("that is old", DeprecationWarning, stacklevel=1)  # Python hides these as well
        return float(np.log(np.zeros(1))[0] < 0)

    report = checked(faulty(reward=warned))
    assert_found(
        report, "warnings", "warnings", "RuntimeWarning: divide by zero", "of test_remarks"
    )
    assert len(report.warnings) == 1  # not one for every step


def test_gymnasiums_checker_has_its_say():
    class OwnRandom(Healthy):
        def reset(self, *, seed=None, options=None):
            if seed is not None or not hasattr(self, "generator"):
                self.generator = np.random.default_rng(seed)
            self.now = 0
            return self.observe(), {}

        def step(self, action):
            self.now += 1
            return self.observe(), 0.0, self.now == 5, self.now == 4 + self.heads(), {}

        def heads(self):
            return int(self.generator.integers(2))

        def observe(self):
            return self.generator.uniform(-1, 1, 2).astype(np.float32)

    report = checked(OwnRandom)
    assert [finding.name for finding in report.errors] == ["gymnasium"]
    assert "AssertionError: " in report.errors[0].message

    def reset(self, *, seed=3, options=None):
        return Healthy.reset(self, seed=seed)

    said = [finding.message for finding in checked(faulty(reset=reset)).warnings]
    assert any("default seed argument in reset should be `None`" in message for message in said)
    assert not any("\x1b" in message for message in said)


def test_gymnasiums_remarks_on_every_step_are_not_repeated(registered):
    """`gymnasium.make` puts a checker around the environment, which would raise."""
    registered(faulty(info=lambda self: None))
    assert_found(checked("Own-v0"), "errors", "info", "None (NoneType) at reset 1")
