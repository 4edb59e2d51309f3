"""Environments that are saved, made anew and resumed bit for bit, or say why they are not."""

from __future__ import annotations

import contextlib
import functools

import gymnasium as gym
import numpy as np
import pytest
from resumed_envs import (
    CASES,
    CLASSIC,
    Shifting,
    Telling,
    Wanderer,
    actions_of,
    classic,
    goes_on,
    played,
    through_a_file,
    until_an_end,
)
from specimens import KINDS, Specimen, assert_same

from vantage.envs import make_vec
from vantage.envs.common.episodes import episode_seed
from vantage.envs.resuming.state import member_state, restore_member

STEPS = 200
ASYNC = {
    "CartPole": ("state", functools.partial(classic, "CartPole-v1")),
    "telling": ("state", functools.partial(make_vec, Telling, 2)),
    "dict": ("replay", functools.partial(make_vec, KINDS["dict"], 2)),
}


@pytest.mark.thinned
@pytest.mark.parametrize(("exactness", "make"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_goes_on_bit_for_bit(exactness, make, at):
    with contextlib.closing(make()) as envs:
        envs.reset(seed=5)
        actions = actions_of(envs, STEPS + 60)
        if at != "start":
            played(envs, actions[:23])
        if at == "end":
            until_an_end(envs, actions[23:])
        goes_on(make, envs, exactness, actions[60:])


@pytest.mark.parametrize(("exactness", "make"), ASYNC.values(), ids=ASYNC)
def test_goes_on_in_worker_processes(exactness, make):
    make = functools.partial(make, vectorization="async")
    with contextlib.closing(make()) as envs:
        envs.reset(seed=5)
        actions = actions_of(envs, STEPS + 60)
        played(envs, actions[:23])
        until_an_end(envs, actions[23:])
        goes_on(make, envs, exactness, actions[60:])


@pytest.mark.parametrize("name", ["CartPole-v1", "wandering", "Gymnasium's", "native"])
def test_without_their_state_they_do_not(name):
    """The negative control."""
    make = CASES[name][1]
    envs, other = make(), make()
    actions = actions_of(envs, 60)
    envs.reset(seed=5), other.reset(seed=5)
    played(envs, actions[:23])
    one, another = played(envs, actions[23:]), played(other, actions[23:])
    assert not np.array_equal(one[0][0], another[0][0])
    assert not np.array_equal(one[-1][0], another[-1][0])


def test_saved_again_after_it_went_on():
    """Several generations of a run that is killed ever again are one uninterrupted run."""
    envs = make_vec(Wanderer, 3, seed=1)
    actions = actions_of(envs, 120)
    expected = played(make_vec(Wanderer, 3, seed=1), actions)
    seen = []
    for begin in range(0, 120, 4):  # several times within an episode
        seen += played(envs, actions[begin : begin + 4])
        state = through_a_file(envs.get_state())
        envs = make_vec(Wanderer, 3)
        assert envs.set_state(state) == ""
    for one, another in zip(seen, expected, strict=True):
        assert_same(one, another)


def test_before_the_first_reset():
    for make in (CASES["CartPole-v1"][1], CASES["wandering"][1], CASES["Gymnasium's"][1]):
        envs, other = make(), make()
        assert other.set_state(through_a_file(envs.get_state())) == ""
        if hasattr(envs, "run_seed"):
            assert other.run_seed == envs.run_seed
            assert_same(other.reset()[0], envs.reset()[0])


# ---------------------------------------------------------------- seeds


def test_the_seed_of_an_episode():
    envs = make_vec(Specimen, 2, seed=3)
    played(envs, [np.zeros(2, int)] * 30)
    for i, number in enumerate(envs.episodes.tolist()):
        for back in range(number + 1):
            assert envs.seed_of(i, back) == episode_seed(3, i, number - back)
        assert envs.seed_of(i) == envs.np_random_seed[i]
        assert envs.seed_of(i, number + 1) is None
    assert make_vec(Specimen, 2).seed_of(0) is None
    envs.reset(seed=[7, 8])
    assert (envs.seed_of(0), envs.seed_of(1)) == (7, 8)
    assert make_vec("CartPole-v1", 2, seed=4, vectorization="native").seed_of(1, 3) == 4


# ---------------------------------------------------------------- members


@pytest.mark.thinned
@pytest.mark.parametrize("steps", [0, 1, 2, 40])
@pytest.mark.parametrize("name", CLASSIC)
def test_a_single_environment(name, steps):
    """Types too: of what `state` is after a reset and after a step, and of numbers beside it."""
    env, other = gym.make(name), gym.make(name)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(90)]
    env.reset(seed=0)
    for action in actions[:steps]:
        if env.step(action)[2]:
            env.reset()
    restore_member(other, through_a_file(member_state(env)))
    assert type(other.unwrapped.state) is type(env.unwrapped.state)
    for one, another in zip(env.unwrapped.state, other.unwrapped.state, strict=True):
        assert type(one) is type(another)
    for action in actions[steps:]:
        one, another = env.step(action), other.step(action)
        assert_same(one, another)
        if one[2]:
            assert_same(env.reset(), other.reset())
    assert env.unwrapped.np_random_seed == other.unwrapped.np_random_seed
    assert env.np_random.random() == other.np_random.random()
    assert_same(env.reset(seed=1), other.reset(seed=1))


@pytest.mark.parametrize(
    "state",
    [
        {"x": np.array([1.0, np.nan])},
        {"x": float("inf")},
        {"x": np.float32("nan")},
        {"x": object()},
        {"x": np.array([object()])},
        {"x": {1, 2}},
        {1: 2},
        {"x": np.array(["a"])},
        {"x": 1j},
        functools.reduce(lambda inner, _: [inner], range(99), 0),
        RuntimeError,
        SystemExit,
    ],
)
def test_a_state_that_is_not_of_arrays_and_numbers_is_none(state):
    class Odd(Wanderer):
        def get_state(self):
            if isinstance(state, type):
                raise state("it went wrong")
            return state

        def set_state(self, state):
            raise AssertionError

    env = Odd()
    env.reset(seed=0)
    assert member_state(env) is None
    envs = make_vec(Odd, 2, seed=0)
    played(envs, actions_of(envs, 2))
    goes_on(lambda: make_vec(Odd, 2), envs, "replay", actions_of(envs, 20))


def test_methods_of_the_same_name_that_take_something_else():
    """As MuJoCo's."""

    class Physics(Wanderer):
        def get_state(self):
            return 1

        def set_state(self, positions, velocities):
            raise AssertionError

    assert member_state(Physics()) is None


def test_who_knows_no_state():
    class Mine(gym.envs.classic_control.CartPoleEnv):
        pass

    class Limit(gym.wrappers.TimeLimit):
        pass

    cart = gym.envs.classic_control.CartPoleEnv
    strange = cart()
    strange.np_random = np.random.Generator(np.random.PCG64DXSM(0))
    unknown = [Mine(), Shifting(cart()), Limit(cart(), 9), strange]
    unknown.append(gym.wrappers.RecordEpisodeStatistics(cart()))
    for env in unknown:
        env.reset()
        assert member_state(env) is None
    assert member_state(gym.make("CartPole-v1")) is not None


def test_an_own_set_state_that_fails():
    class Failing(Telling):
        def set_state(self, state):
            raise ValueError("no")

    envs = make_vec(Failing, 2, seed=0)
    why = envs.set_state(envs.get_state())
    assert why == "Environment 0 raised ValueError: no when its state was set."
    envs.reset()
    assert envs.episodes.tolist() == [1, 1]
