"""States that are malformed, or of other environments, are refused."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest
from resumed_envs import CASES, Wanderer, actions_of, played, saved
from specimens import assert_same

from vantage.envs import make_vec
from vantage.envs.common.storable import StateError

JUNK = [None, True, -2, 2**2000, 1.5, float("nan"), "x", "\x1b[31m" * 99, [], {}, [[]], b"x"]
JUNK += [np.zeros(3), np.zeros((10**6, 0)), np.array(None), np.array(["x"]), {"dict": {}}]
JUNK += [{"scalar": np.zeros(2)}, functools.reduce(lambda inner, _: [inner], range(9_000), 0)]


def places(value, path=()):
    """The path to everything within."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for key, one in enumerate(value[:2]):
            yield from places(one, (*path, key))


def replaced(value, path, junk):
    if not path:
        return junk
    value = value.copy()
    value[path[0]] = replaced(value[path[0]], path[1:], junk)
    return value


OWN = {"state", "resets", "legs", "position", "steps", "spread"}
REFUSED = ["CartPole-v1", "MountainCar-v0", "Pendulum-v1", "native", "Gymnasium's", "telling"]
REFUSED += ["wandering", "dict"]


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_states_are_refused(name):
    """Whatever is put wherever: a ValueError, or a reason, or it happens to be well formed."""
    make = CASES[name][1]
    envs = make()
    envs.reset(seed=5)
    played(envs, actions_of(envs, 3))
    state, other, refused = envs.get_state(), make(), 0
    for path in places(state):
        for junk in JUNK:
            try:
                other.set_state(replaced(state, path, junk))
            except ValueError as error:
                assert " must " in str(error) and "Received: " in str(error), error
                assert len(str(error)) < 500 and "\x1b" not in str(error)
                refused += 1
    assert refused > 100
    assert other.set_state(state) == ""
    actions = actions_of(envs, 30)
    assert_same(tuple(played(envs, actions)[-1]), tuple(played(other, actions)[-1]))


@pytest.mark.parametrize("name", [*REFUSED])
def test_states_of_others_are_refused(name):
    envs = CASES[name][1]()
    envs.reset(seed=0)
    state = envs.get_state()
    wrong = [{}, None, [state], {**state, "more": 1}, {**state, "num_envs": 4}]
    wrong += [{**state, "kind": "Other"}, {**state, "exactness": "exact"}]
    wrong += [{key: one for key, one in state.items() if key != left} for left in state]
    wrong.append(make_vec("Acrobot-v1", 3, seed=0).get_state())
    for other in wrong:
        with pytest.raises(ValueError, match=r" must .*Received: .*Pass what get_state returned"):
            envs.set_state(other)


def test_states_of_workers_are_refused():
    make = functools.partial(make_vec, "CartPole-v1", 1, vectorization="async", seed=0)
    with contextlib.closing(make()) as envs:
        state = envs.get_state()
        acrobot = make_vec("Acrobot-v1", 1, seed=0).get_state()["members"]
        for wrong in ([None], [{}], acrobot):
            with pytest.raises(StateError, match="Received.*Pass what get_state returned"):
                envs.set_state({**state, "members": wrong})
        assert envs.set_state(state) == ""


def test_no_large_array_is_made_of_small_ones():
    """Of the actions of one environment and the number of all."""
    envs, state = saved(lambda: make_vec(Wanderer, 3))
    length = 10**6
    state["episodes"]["clock"] = length
    state["episodes"]["begun"] = [0, length, length]
    state["actions"] = [np.zeros((length, 2), np.float32), None, None]
    with pytest.raises(StateError, match="at most 100000 actions"):
        envs.set_state(state)
