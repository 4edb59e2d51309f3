"""Faults of observations are found, and only they."""

import numpy as np
import pytest
from checked_envs import (
    DECLARED,
    NEST,
    Healthy,
    assert_found,
    at_step,
    box,
    checked,
    faulty,
    observing,
    of_space,
)
from gymnasium import spaces


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        (
            faulty(observe=at_step(3, box(np.nan))),
            "finite",
            ["observation must be finite", "nan ([0], 1 of 2 entries) at step 3"],
        ),
        (faulty(observe=at_step(0, box(-np.inf))), "finite", ["-inf ([0]", "at reset 1"]),
        (
            observing(spaces.Box(-np.inf, np.inf, (2,)), at_step(2, box(np.inf))),
            "finite",
            ["inf ([0], 1 of 2 entries)"],  # within its space, and still wrong
        ),
        (
            faulty(observe=at_step(3, box(-1.5))),
            "bounds",
            ["not be below its space", "-1.5, the bound is -1.0 ([0], 1 of 2 entries) at step 3"],
        ),
        (faulty(observe=at_step(2, box(2.0, 3.0))), "bounds", ["above", "2.0", "2 of 2 entries"]),
        (
            faulty(observe=lambda self: Healthy.observe(self).astype(np.float64)),
            "dtype",
            ["must be float32", "float64 at reset 1", ".astype(np.float32)", "dtype=np.float64"],
        ),
        (
            observing(spaces.Box(-1, 1, (2,), np.float64), Healthy.observe),
            "dtype",
            ["must be float64", "Received: float32"],
        ),
        (
            observing(NEST["camera"], lambda self: of_space(self).astype(np.int64)),
            "dtype",
            ["must be uint8", "int64"],
        ),
        (faulty(observe=at_step(1, box()[None])), "shape", ["the shape [2]", "[1, 2] at step 1"]),
        (faulty(observe=at_step(1, None)), "dtype", ["must hold numbers", "None (NoneType)"]),
        (
            faulty(observe=at_step(1, {"a": 1})),
            "dtype",
            ["must hold numbers"],
        ),
        (
            observing(spaces.Discrete(3), lambda self: 1.0),
            "dtype",
            ["whole numbers", "1.0 (float)"],
        ),
        (
            observing(spaces.Discrete(3, start=2), at_step(1, 1, lambda self: 2)),
            "bounds",
            ["below", "1, the bound is 2 at step 1"],
        ),
        (observing(spaces.Discrete(3), at_step(1, 3, lambda self: 2)), "bounds", ["above", "3,"]),
        (
            observing(spaces.MultiBinary(2), lambda self: np.array([0, 2], np.int8)),
            "bounds",
            ["2, the bound is 1 ([1]"],
        ),
        (
            observing(spaces.MultiDiscrete([2, 3]), lambda self: np.array([1, 3])),
            "bounds",
            ["3, the bound is 2 ([1], 1 of 2 entries)"],
        ),
        (observing(NEST, lambda self: {**of_space(self), "x": 1}), "shape", ["'camera'", "'x'"]),
        (observing(NEST, lambda self: tuple(of_space(self))), "shape", ["a dict", "a tuple of 5"]),
        (
            observing(NEST, lambda self: {**of_space(self), "arm": (box(dtype=np.float64),)}),
            "shape",
            ['observation["arm"] must be a tuple of 2', "a tuple of 1"],
        ),
        (
            observing(NEST, lambda self: {**of_space(self), "arm": (box(), 1)}),
            "dtype",
            ['observation["arm"][0] must be float64', "float32 at reset 1"],
        ),
        (
            observing(NEST, lambda self: {**of_space(self), "angle": np.float32(np.nan)}),
            "finite",
            ['observation["angle"] must be finite', "nan at reset 1"],
        ),
        (
            observing(spaces.Dict({"a": spaces.Text(3), "b": DECLARED}), lambda self: LONG_TEXT),
            "bounds",
            ['observation["a"] must be in its space', "too long at reset 1"],
        ),
    ],
)
def test_faults_of_observations(env, name, said):
    assert_found(checked(env), "errors", name, *said)


LONG_TEXT = {"a": "too long", "b": np.zeros(2, np.float32)}


def test_a_list_is_no_array():
    report = checked(faulty(observe=lambda self: Healthy.observe(self).tolist()))
    assert_found(report, "warnings", "dtype", "should be a NumPy array", "a list of 2 at reset 1")


class Overwriting(Healthy):
    """One buffer for all observations."""

    def observe(self):
        if not hasattr(self, "buffer"):
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = super().observe()
        return self.buffer


class OverwritingByViews(Overwriting):
    def observe(self):
        return super().observe()[:]


class OverwritingAtTimes(Overwriting):
    """The same values in every second step: the same memory all the same."""

    def observe(self):
        return self.buffer if self.now % 2 else super().observe()


class OverwritingANest(Overwriting):
    """One dict and one array in it; the other parts are new."""

    observation_space = spaces.Dict({"old": DECLARED, "new": DECLARED})

    def observe(self):
        return {"old": super().observe(), "new": Healthy.observe(self)}


class OverwritingADict(Healthy):
    observation_space = spaces.Dict({"old": DECLARED})

    def observe(self):
        if not hasattr(self, "buffer"):
            self.buffer = {}
        self.buffer["old"] = super().observe()
        return self.buffer


@pytest.mark.parametrize(
    ("env", "path"),
    [
        (Overwriting, "observation must"),
        (OverwritingByViews, "observation must"),
        (OverwritingAtTimes, "observation must"),
        (OverwritingANest, 'observation["old"] must'),
        (OverwritingADict, 'observation["old"] must'),
    ],
    ids=["array", "view", "at-times", "nest", "dict"],
)
def test_an_observation_that_changes_after_it_was_returned(env, path):
    report = checked(env)
    assert_found(report, "errors", "reuse", path, "which overwrote", ".copy()")
    found = [*report.errors, *report.warnings]
    assert len([f for f in found if f.name == "reuse"]) == 1  # not the new part, nor less of it
    assert [f.name for f in report.errors] == ["reuse"]  # nor once more by Gymnasium's checker


def test_an_array_that_is_returned_again_unchanged():
    goal = np.ones(2, np.float32)
    space = spaces.Dict({"goal": DECLARED, "own": DECLARED})
    env = observing(space, lambda self: {"goal": goal, "own": Healthy.observe(self)})
    report = checked(env)
    assert_found(report, "warnings", "reuse", 'observation["goal"] should be a new array')
    assert [f.name for f in report.warnings] == ["reuse"]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Sequence(spaces.Box(-1, 1, (2,)), stack=True),
        spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
        spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_observations_that_no_network_takes(space):
    left_out = checked(observing(spaces.Dict({"a": DECLARED, "b": spaces.Tuple([space])})))
    assert_found(left_out, "warnings", "spaces", 'observation["b"][0] is left out', str(space)[:99])
    assert [finding.name for finding in left_out.warnings] == ["spaces"]
    nothing_left = checked(observing(space))
    assert_found(nothing_left, "errors", "spaces", "must hold a Box, ", "TransformObservation")
