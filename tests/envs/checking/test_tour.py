"""Faults of what a step returns, of seeding and of episode ends are found."""

import numpy as np
import pytest
from checked_envs import Counting, Healthy, assert_found, at_step, checked, faulty, never

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


# ---------------------------------------------------------------- seeds


def of_own_sampling(self):
    return self.observation_space.sample()  # whose generator reset(seed=…) does not seed


def chance(self):
    return np.random.uniform(-1, 1, 2).astype(np.float32)


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


@pytest.mark.parametrize(
    ("parts", "limit", "said"),
    [
        (
            {"terminated": never, "truncated": never},
            None,
            ["must end at some point", "none in 200 steps, and no time limit", "max_episode_steps"],
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
