"""`check_env` and `vantage check`: every fault is found, and only that one."""

import os
import re
import subprocess
import sysconfig
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import SyncVectorEnv

from vantage.envs import Report, check_env

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
PATIENT = 10.0  # seconds a step may take: not what is tested here
DECLARED = spaces.Box(-1, 1, (2,), np.float32)


class Healthy(gym.Env):
    """Nothing is wrong with it; a fault replaces one of its parts."""

    observation_space, action_space = DECLARED, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.observe(), self.info()

    def step(self, action):
        self.now += 1
        observation = self.observe()
        return observation, self.reward(), self.terminated(), self.truncated(), self.info()

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def reward(self):
        return float(self.np_random.normal())

    def terminated(self):
        return bool(self.np_random.random() < 0.1)

    def truncated(self):
        return self.now >= 8

    def info(self):
        return {}


def faulty(**parts):
    return type("Faulty", (Healthy,), parts)


def with_actions(space, **parts):
    return faulty(action_space=space, **parts)


def observing(space, observe=None, **parts):
    return faulty(observation_space=space, observe=observe or of_space, **parts)


def of_space(self):
    """A sample of the observation space, from the environment's own generator."""
    self.observation_space.seed(int(self.np_random.integers(2**31)))
    return self.observation_space.sample()


def at_step(step, value, otherwise=Healthy.observe):
    """A part that is `value` in one step of an episode."""
    return lambda self: value if self.now == step else otherwise(self)


def checked(env, steps=200, **options):
    """A report; nobody sees warnings of the checked environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return check_env(env, steps=steps, **{"slow_step": PATIENT, **options})


def assert_found(report, level, name, *said):
    """One finding of that name says all this, and there is no error of another name."""
    found = [finding for finding in getattr(report, level) if finding.name == name]
    assert found, str(report)
    assert any(all(text in f.message for text in said) for f in found), (said, str(report))
    expected = {name} if level == "errors" else set()
    others = {finding.name for finding in report.errors} - {"gymnasium"}  # it says it again
    assert others == expected, str(report)
    assert name not in report.passed
    assert report.ok == (not report.errors)
    for finding in (*report.errors, *report.warnings, *report.hints):
        assert re.fullmatch(r"\S.{8,} Received: \S.*[.\])] \S.{5,}[.)]", finding.message), finding


# ---------------------------------------------------------------- nothing is wrong


def test_a_healthy_environment():
    report = checked(Healthy, steps=1_000)
    assert isinstance(report, Report)
    assert report.errors == report.warnings == report.hints == ()
    assert report.ok
    rules = "init spaces reset step shape dtype finite bounds reuse reward flags info action ends "
    assert report.passed == tuple(
        f"{rules}speed close seeding determinism gymnasium warnings".split()
    )
    assert (report.env, report.steps, report.masks) == ("Healthy", 1_000, 0)
    assert report.terminated > 20 and report.truncated > 20
    assert report.episodes == report.terminated + report.truncated
    assert (report.observation_space, report.action_space) == (DECLARED, spaces.Discrete(2))
    assert 0 < report.median_seconds <= report.slowest_seconds


def test_counts_are_those_of_the_random_actions():
    """Not of the replays, nor of Gymnasium's checker."""
    ends = [(False, True), (True, False), (True, True)]  # terminated wins

    class Counted(Healthy):
        episode = -1

        def reset(self, **keywords):
            self.episode += 1
            return super().reset(**keywords)

        def terminated(self):
            return self.now == 4 and ends[self.episode % 3][0]

        def truncated(self):
            return self.now == 4 and ends[self.episode % 3][1]

    report = checked(Counted, steps=24)
    assert (report.steps, report.terminated, report.truncated) == (24, 4, 2)


NEST = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "arm": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(3, start=-1)]),
        "flags": spaces.MultiBinary((2, 2)),
        "cards": spaces.MultiDiscrete([3, 4], start=[1, 0]),
        "angle": spaces.Box(-1, 1, (), np.float32),
    }
)


@pytest.mark.parametrize(
    "env",
    [
        observing(NEST),
        observing(NEST["camera"]),
        observing(spaces.Discrete(4)),
        with_actions(spaces.MultiDiscrete([2, 3], start=[1, 1])),
        with_actions(spaces.MultiBinary(3)),
        with_actions(spaces.Box(-1, 1, (2,))),
        faulty(truncated=lambda self: np.bool_(self.now >= 8), reward=lambda self: np.float32(1)),
        faulty(reward=lambda self: 3),
    ],
    ids="nest image discrete multi-discrete multi-binary box numpy-scalars whole-rewards".split(),
)
def test_other_healthy_ones(env):
    report = checked(env)
    assert report.errors == report.warnings == report.hints == (), str(report)


REGISTERED = [
    f"{name}-v1" for name in ("CartPole", "Acrobot", "Pendulum", "Blackjack", "CliffWalking")
]
REGISTERED += ["MountainCar-v0", "MountainCarContinuous-v0", "FrozenLake-v1", "FrozenLake8x8-v1"]
REGISTERED += ["Taxi-v4", "CliffWalkingSlippery-v1"]


@pytest.mark.parametrize("env_id", REGISTERED)
def test_gymnasiums_own_have_no_error(env_id):
    report = check_env(env_id, slow_step=PATIENT)
    assert report.ok, str(report)
    # Beside the ends that random actions do not get to, only a world without chance is remarked on.
    warned = {finding.name for finding in report.warnings} - {"ends"}
    assert warned == ({"seeding"} if env_id == "CliffWalking-v1" else set()), str(report)


def test_masks_of_taxi_are_seen():
    report = check_env("Taxi-v4", steps=300)
    assert report.masks == 300
    assert "mask" in report.passed


# ---------------------------------------------------------------- observations


def box(low=-1.0, high=1.0, dtype=np.float32):
    return np.array([low, high], dtype)


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


# ---------------------------------------------------------------- rewards, flags, infos, actions


@pytest.mark.parametrize(
    ("parts", "level", "name", "said"),
    [
        ({"reward": lambda self: np.nan}, "errors", "finite", ["reward", "nan at step 1"]),
        ({"reward": lambda self: -np.inf}, "errors", "finite", ["reward", "-inf at step 1"]),
        (
            {"reward": at_step(2, None, Healthy.reward)},
            "errors",
            "reward",
            ["None (NoneType) at s"],
        ),
        ({"reward": lambda self: 10**400}, "errors", "reward", ["a float holds", "100000"]),
        ({"reward": lambda self: 10**5000}, "errors", "reward", ["too long to print (int)"]),
        ({"reward": lambda self: 10**30}, "hints", "scale", ["up to 1e+30"]),
        ({"reward": lambda self: np.ones(1)}, "errors", "reward", ["float64 with shape [1]"]),
        ({"reward": lambda self: [1.0]}, "errors", "reward", ["a list of 1"]),
        ({"reward": lambda self: "1"}, "errors", "reward", ["1 (str)"]),
        ({"reward": lambda self: 1j}, "errors", "reward", ["1j (complex)"]),
        ({"reward": lambda self: True}, "warnings", "reward", ["True (bool)", "float(reward)"]),
        ({"reward": lambda self: np.array(1.0)}, "warnings", "reward", ["with shape []"]),
        ({"truncated": lambda self: None}, "errors", "flags", ["truncated", "None (NoneType)"]),
        ({"terminated": lambda self: 0.0}, "errors", "flags", ["terminated", "0.0 (float)"]),
        ({"terminated": lambda self: np.zeros(1, bool)}, "errors", "flags", ["an array of bool"]),
        ({"truncated": lambda self: int(self.now > 7)}, "warnings", "flags", ["0 (int) at step 1"]),
        ({"info": lambda self: None}, "errors", "info", ["None (NoneType) at reset 1"]),
        ({"info": lambda self: []}, "errors", "info", ["a list of 0 at reset 1"]),
    ],
)
def test_faults_of_what_a_step_returns(parts, level, name, said):
    assert_found(checked(faulty(**parts)), level, name, *said)


def test_a_step_that_changes_its_action():
    class Clipping(Healthy):
        action_space = spaces.Box(-1, 1, (2,), np.float32)

        def step(self, action):
            np.clip(action, -0.1, 0.1, out=action)
            return super().step(action)

    assert_found(checked(Clipping), "errors", "action", "must not change the action", "out=")


@pytest.mark.parametrize(
    ("parts", "name", "said"),
    [
        ({"reset": lambda self, **_: np.zeros(2)}, "reset", ["(observation, info)", "an array"]),
        ({"reset": lambda self, **_: (1, 2, 3)}, "reset", ["a tuple of 3"]),
        ({"reset": lambda self: (1, {})}, "reset", ["TypeError", "'seed'", "seed=None, options="]),
        (
            {"reset": lambda self, seed=None: (np.zeros(2, np.float32), {})},
            "reset",
            ["TypeError", "'options'"],  # vector environments pass it
        ),
        ({"step": lambda self, _: (1, 0.0, False, {})}, "step", ["a tuple of 4", "old API"]),
        ({"step": lambda self, _: None}, "step", ["None (NoneType)"]),
        (
            {"observe": lambda self: [] + 1},
            "reset",
            ["TypeError", "line", "of test_check.py", "at r"],
        ),
        ({"reward": lambda self: 1 / (self.now - 3)}, "step", ["ZeroDivisionError", "at step 3"]),
        ({"close": lambda self: self.window.quit()}, "close", ["AttributeError", "first time"]),
        ({"__init__": lambda self: open("no such file")}, "init", ["FileNotFoundError"]),
        ({"observation_space": None}, "spaces", ["observation_space must be a gym", "None"]),
        ({"action_space": 4}, "spaces", ["action_space must be", "Received: 4"]),
    ],
)
def test_faults_that_end_the_check(parts, name, said):
    report = checked(faulty(**parts))
    assert_found(report, "errors", name, *said)
    assert [finding.name for finding in report.errors] == [name]  # said once
    assert "nan" not in str(report).split("error")[0]  # a report that can be read all the same


def test_a_close_that_may_be_called_once_only():
    class Once(Healthy):
        closed = False

        def close(self):
            if self.closed:
                raise RuntimeError("there is no window")
            self.closed = True

    assert_found(checked(Once), "errors", "close", "there is no window", "closed already")


def test_what_a_callable_must_return():
    report = checked(lambda: SyncVectorEnv([Healthy]))
    assert_found(report, "errors", "init", "must return a gymnasium.Env", "SyncVectorEnv")
    assert_found(checked(lambda: None), "errors", "init", "NoneType")


# ---------------------------------------------------------------- seeds


def of_own_sampling(self):
    return self.observation_space.sample()  # whose generator reset(seed=…) does not seed


def chance(self):
    return np.random.uniform(-1, 1, 2).astype(np.float32)


class Counting(Healthy):
    """Its state outlives a reset."""

    total = 0

    def reward(self):
        self.total += 1
        return float(self.total)


class CountingFromTheStart(Counting):
    def observe(self):
        self.total += 1
        return super().observe() * np.float32(1 / self.total)


class CountingInTheClass(Counting):
    def reward(self):
        type(self).total += 1
        return float(self.total)


class OwnGenerator(Healthy):
    """Seeded, but always by the same number where none is given."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=0 if seed is None else seed)
        self.now = 0
        return self.observe(), {}


@pytest.mark.parametrize(
    ("env", "level", "name", "said"),
    [
        (
            faulty(observe=chance),
            "errors",
            "seeding",
            ["The same seed must give the same first observation", "at reset 1", "self.np_random"],
        ),
        (faulty(observe=of_own_sampling), "errors", "seeding", ["at reset 1"]),
        (
            faulty(reward=at_step(3, 0.0, lambda self: float(np.random.random()))),
            "errors",
            "determinism",
            ["same episodes. Received: reward is", ", then ", "at step 1"],
        ),
        (
            faulty(terminated=lambda self: bool(np.random.random() < 0.3)),
            "errors",
            "determinism",
            ["Received: terminated is"],
        ),
        (CountingInTheClass, "errors", "determinism", ["reward is 1.0, then", "in a new instance"]),
        (
            Counting,
            "warnings",
            "determinism",
            [
                "reward is 1.0, then 201.0 at step 1",
                "in the same instance, though not in a new one",
            ],
        ),
        (
            CountingFromTheStart,  # which episode comes first should not matter
            "errors",
            "seeding",
            ["at reset 1", "in the same instance, though not in a new one"],
        ),
        (OwnGenerator, "warnings", "seeding", ["without a seed should differ", "10 times"]),
        (
            faulty(
                observe=lambda self: np.float32([self.now / 9, 0]),
                reward=lambda self: 1.0,
                terminated=lambda self: self.now == 7,
            ),
            "warnings",
            "seeding",
            ["Another seed", "the same 200 resets and steps from 0 and 1"],
        ),
    ],
)
def test_faults_of_seeding(env, level, name, said):
    assert_found(checked(env), level, name, *said)


def test_chance_after_the_start_is_enough():
    """Always the same first observation: what follows tells the seeds apart."""

    def observe(self):
        return Healthy.observe(self) if self.now else np.zeros(2, np.float32)

    report = checked(faulty(observe=observe))
    assert report.errors == report.warnings == ()


def test_registered_as_nondeterministic(registered):
    registered(faulty(reward=lambda self: float(np.random.random())), nondeterministic=True)
    report = checked("Own-v0")
    assert_found(report, "warnings", "determinism", "reward is")
    assert report.ok


@pytest.fixture
def registered():
    """Registers an environment as Own-v0."""

    def register(env, **options):
        gym.register("Own-v0", entry_point=env, **options)

    yield register
    gym.registry.pop("Own-v0", None)


# ---------------------------------------------------------------- ends, speed, magnitudes, warnings


def never(self):
    return False


@pytest.mark.parametrize(
    ("parts", "limit", "said"),
    [
        (
            {"terminated": never, "truncated": never},
            None,
            ["must end some time", "none in 200 steps, and no time limit", "max_episode_steps"],
        ),
        ({"terminated": never}, None, ["should terminate", "25 truncated, no time limit"]),
        ({"terminated": never, "truncated": never}, 300, ["0 truncated, a time limit of 300"]),
        ({"truncated": never}, None, ["should be truncated", "none in 200 steps, "]),
        ({"truncated": never}, 300, None),  # the limit counts, seen or not
        ({}, None, None),
    ],
)
def test_ends_that_never_come(parts, limit, said):
    report = checked(faulty(**parts), max_episode_steps=limit)
    if said is None:
        assert report.errors == report.warnings == ()
    else:
        assert_found(report, "warnings", "ends", *said)


def test_a_registered_time_limit_counts(registered):
    registered(faulty(truncated=never), max_episode_steps=10_000)
    assert checked("Own-v0").warnings == ()


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
    assert said[1].startswith('observation["a"] is learnt best near [-1, 1]')
    assert 'observation["b"]' in said[2] and "from 5000 to 5000" in said[2]
    assert "up to 2000" in said[3]


def test_an_unbounded_box_of_actions():
    env = with_actions(spaces.Box(-np.inf, np.inf, (1,)))
    assert_found(checked(env), "warnings", "spaces", "should be bounded", "Box(-inf, inf")


def test_warnings_of_the_environment():
    def warned(self):
        warnings.warn("that is old", DeprecationWarning, stacklevel=1)  # Python hides these as well
        return float(np.log(np.zeros(1))[0] < 0)

    report = checked(faulty(reward=warned))
    assert_found(report, "warnings", "warnings", "RuntimeWarning: divide by zero", "of test_check")
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


def test_an_episode_of_one_step_is_no_error():
    """Gymnasium's checker would say that something has gone very wrong."""
    report = checked(Healthy, max_episode_steps=1)
    assert report.errors == report.warnings == ()
    assert report.episodes == 200


# ---------------------------------------------------------------- spaces


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


# ---------------------------------------------------------------- masks


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


# ---------------------------------------------------------------- what may be passed


class Closing(Healthy):
    """Counts how often one was made, and which ones were closed."""

    made, closed = 0, set()

    def __init__(self):
        type(self).made += 1
        self.number = self.made

    def close(self):
        self.closed.add(self.number)


def test_what_is_made_is_closed_and_what_is_passed_is_not():
    assert checked(Closing).ok
    assert Closing.made > 1
    assert Closing.closed == set(range(1, Closing.made + 1))
    Closing.closed.clear()
    ready = Closing()
    assert "close" not in checked(ready).passed
    assert Closing.closed == set()


def test_what_is_made_is_closed_after_an_error_too():
    made = []

    class Broken(Closing):
        closed = set()

        def step(self, action):
            made.append(self.number)
            raise OSError("no connection")

    assert not checked(Broken).ok
    assert Broken.closed == set(made) != set()


def test_a_ready_environment_is_replayed_itself():
    report = checked(Counting())
    assert_found(report, "errors", "determinism", "then 201.0 at step 1", "when reset and played")
    report = checked(CartPoleEnv(), max_episode_steps=30)
    assert report.errors == report.warnings == ()
    assert report.env == "CartPoleEnv"
    assert report.truncated


def test_arguments_reach_the_environment():
    class Sized(Healthy):
        def __init__(self, size):
            self.size = size

        def reward(self):
            return float(self.size)

    wrappers = [
        lambda env: gym.wrappers.TransformReward(env, lambda reward: 2 * reward),
        lambda env: gym.wrappers.TransformReward(env, lambda reward: reward + 1e6),
    ]
    report = checked(Sized, env_kwargs={"size": 1e6}, wrappers=wrappers)
    assert "up to 3e+06" in report.hints[0].message
    assert report.env == "Sized"
    assert_found(checked(Sized), "errors", "init", "TypeError", "'size'", "env_kwargs")


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ("CartPole-v9", {}, "registered Gymnasium id. Received: 'CartPole-v9'"),
        (3, {}, "Received: 3"),
        (SyncVectorEnv([CartPoleEnv]), {}, r"single environment.*VectorEnv.*envs\.envs\[0\]"),
        (CartPoleEnv(), {"env_kwargs": {"a": 1}}, "env_kwargs must be left out"),
        (CartPoleEnv, {"steps": 0}, "steps must be at least 1. Received: 0"),
        (CartPoleEnv, {"seed": -1}, "seed must be at least 0. Received: -1"),
        (CartPoleEnv, {"max_episode_steps": 0}, "max_episode_steps must be at least 1"),
        (CartPoleEnv, {"slow_step": 0.0}, "slow_step must be a positive number"),
        (CartPoleEnv, {"slow_step": np.nan}, "slow_step must be a positive number"),
    ],
)
def test_what_is_refused(env, options, said):
    with pytest.raises(ValueError, match=said):
        checked(env, **options)


def test_the_seed_is_that_of_the_first_reset_and_of_the_actions():
    seen = []

    class Recorded(Healthy):
        def step(self, action):
            seen.append((self.np_random_seed, int(action)))
            return super().step(action)

    first = []
    for seed in (5, 5, 6):
        seen.clear()
        checked(Recorded, seed=seed)
        first.append(seen[:50])
    assert first[0] == first[1] != first[2]
    assert first[0][0][0] == 5


# ---------------------------------------------------------------- the report and the command

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


def test_the_report_in_full():
    """Rows of at most 100 columns, a finding once with its count, what passed in one row."""
    text = str(checked(faulty(observe=at_step(3, box(-1.5)), truncated=never), steps=100))
    head, errors, warned, passed = text.split("\n\n")
    assert head.startswith(
        "Faulty: 1 error, 1 warning, no hints\n  observation  Box(-1.0, 1.0, (2,)"
    )
    assert errors.startswith("errors: training goes wrong\n  bounds       observation must not be")
    assert re.search(r"\[\d+\s+times\]", errors)
    assert warned.startswith("warnings: training may go wrong\n  ends         Long episodes")
    assert passed.startswith(
        "  passed       init, spaces, reset, step, shape, dtype, finite, reuse"
    )
    assert max(map(len, text.splitlines())) <= 100
