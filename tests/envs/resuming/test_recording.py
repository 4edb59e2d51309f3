"""Episodes that are recorded and simulated again, and what tells that they came out otherwise."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from resumed_envs import (
    Shifting,
    Telling,
    Wanderer,
    actions_of,
    goes_on,
    played,
    saved,
    through_a_file,
    until_an_end,
)
from specimens import KINDS, Specimen

from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.envs.common.episodes import episode_seed
from vantage.envs.resuming import recording


class Unfaithful(Wanderer):
    """Has a state that no reset starts over."""

    everywhere = 0.0

    def step(self, action):
        type(self).everywhere += 0.25
        observation, *others = super().step(action)
        return observation + np.float32(self.everywhere), *others


def test_given_seeds_and_failures_are_kept():
    envs, other = make_vec(Telling, 2), make_vec(Telling, 2)
    envs.reset(seed=[2**63, None])
    envs._failures = {1: 2}
    assert other.set_state(through_a_file(envs.get_state())) == ""
    assert other.np_random_seed == envs.np_random_seed and other._failures == {1: 2}
    assert other.run_seed == envs.run_seed and other.restarts == 0


def begins_the_next_episode(make, envs, state, why):
    """`set_state` says why, and the next episode begins: by a reset or, as well, by a step."""
    for by_reset in (True, False):
        with contextlib.closing(make()) as other:
            assert why in other.set_state(state)
            assert other.episodes.tolist() == envs.episodes.tolist()
            if by_reset:
                observations, _ = other.reset()
            else:
                observations, rewards, *_ = other.step(actions_of(other, 1)[0])
                assert not rewards.any()
            numbers = (envs.episodes + 1).tolist()
            assert other.episodes.tolist() == numbers
            seeds = [episode_seed(envs.run_seed, i, n) for i, n in enumerate(numbers)]
            assert list(other.np_random_seed) == seeds
            assert other.get_state()["exactness"] != "restart"  # and all is well again
            first = [make_first(make, seed) for seed in seeds]
            np.testing.assert_array_equal(observations, np.concatenate(first))


def make_first(make, seed):
    """The first observation [1, ...] of an episode with this seed."""
    with contextlib.closing(make(1)) as envs:
        return envs.reset(seed=[seed])[0]


def wandering(count=2, **options):
    return make_vec(Wanderer, count, max_episode_steps=100, **options)


def test_a_state_that_no_reset_starts_over_is_found_out():
    def make(count=2):
        return make_vec(Unfaithful, count)

    Unfaithful.everywhere = 0.0
    envs, state = saved(make, 4)
    assert state["exactness"] == "replay"
    other = make()
    assert "Environment 0 returned another observation" in other.set_state(state)
    assert other.reset()[0].shape == (2, 2) and other.episodes.tolist() == [1, 1]


class Counting(Wanderer):
    """Later episodes of an instance pay more; nothing that is seen tells."""

    begun = 0

    def reset(self, *, seed=None, options=None):
        self.begun += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward + self.begun, *others


class OwnReward(Wanderer):
    """Its rewards come of a generator that no reset seeds."""

    def __init__(self):
        self.own = np.random.default_rng(3)

    def step(self, action):
        observation, _, *others = super().step(action)
        return observation, float(self.own.normal()), *others


class OwnEnd(OwnReward):
    """So do its ends."""

    def step(self, action):
        observation, reward, _, *others = super().step(action)
        return observation, 0.0, bool(self.own.random() < 0.1), *others


class Worn(Wanderer):
    """An instance that was used goes another way, which shows after some steps only."""

    begun = 0

    def reset(self, *, seed=None, options=None):
        self.begun += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward + (self.begun > 3) * (self.steps > 4), *others


def rewarding(wrapper):
    return lambda: make_vec(Wanderer, 2, wrappers=[wrapper])


HIDDEN = {
    "a counter": lambda: make_vec(Counting, 2),
    "its own generator": lambda: make_vec(OwnReward, 2),
    "its own ends": lambda: make_vec(OwnEnd, 2),
    "NormalizeReward": rewarding(gym.wrappers.NormalizeReward),
    "a counter in workers": lambda: make_vec(Counting, 2, vectorization="async"),
}


@pytest.mark.thinned
@pytest.mark.parametrize("make", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("at", ["middle", "end", "begin"])
def test_what_only_rewards_and_ends_show_is_found_out(make, at):
    """Also where an episode has just ended, or begun: then the one before shows it."""
    with contextlib.closing(make()) as envs, contextlib.closing(make()) as other:
        envs.reset(seed=5)
        actions = actions_of(envs, 200)
        played(envs, actions[:40])
        if at != "middle":
            count = until_an_end(envs, actions[40:])
        if at == "begin":
            envs.step(actions[40 + count])
            assert 0 in [envs._episodes.step_of(i) for i in range(2)]
        state = through_a_file(envs.get_state())
        assert state["exactness"] == "replay"
        assert "other rewards, or ended at another step, when" in other.set_state(state)
        assert other.reset()[0].shape == (2, 2)


def test_an_instance_that_was_used_is_found_out_by_the_episode_before():
    envs = make_vec(Worn, 1, seed=5)
    actions, counts = actions_of(envs, 400), []
    for action in actions:
        envs.step(action.copy())
        counts.append((envs.episodes[0], envs._episodes.step_of(0)))
        before = envs._episodes.step_before(0)
        if envs.episodes[0] > 5 and counts[-1][1] == 2 and before > 6:
            break
    other = make_vec(Worn, 1)
    assert "other rewards" in other.set_state(through_a_file(envs.get_state()))


def test_an_episode_that_just_began_must_have_something_to_compare(monkeypatch):
    make = functools.partial(make_vec, "CartPole-v1", wrappers=[Shifting])
    envs = make(1)
    envs.reset(seed=5)
    monkeypatch.setattr(recording, "MAX_STEPS", 3)
    while not envs._ended.any():
        envs.step(np.array([0]))
    envs.step(np.array([0]))
    state = envs.get_state()
    assert (state["exactness"], state["why"]) == ("restart", "uncompared")
    envs.step(np.array([0]))
    goes_on(lambda: make(1), envs, "replay", [np.array([0])] * 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda seen: np.nextafter(seen, 9),
        lambda seen: np.where([[False], [True]], -seen, seen),
    ],
)
def test_a_last_bit_is_found_out(change):
    envs, state = saved(wandering)
    state["observations"] = change(state["observations"]).astype(np.float32)
    begins_the_next_episode(wandering, envs, state, "returned another observation")


@pytest.mark.parametrize("kind", ["dict", "tuple", "text", "own", "discrete"])
def test_a_difference_within_is_found_out(kind):
    make = functools.partial(make_vec, KINDS[kind], 1)
    envs = make()
    envs.reset(seed=5)
    state = envs.get_state()
    assert make().set_state(state) == ""
    envs.reset(seed=6)
    other = {**state, "observations": envs.get_state()["observations"]}
    assert "Environment 0 returned another observation" in make().set_state(other)


def test_an_observation_of_another_shape_is_found_out():
    class Growing(Wanderer):
        size = 2

        def _observation(self):
            return np.resize(self.position, self.size).astype(np.float32)

    envs, state = saved(lambda: make_vec(Growing, 1), 2)
    Growing.size = 3
    assert "Environment 0 returned another observation" in make_vec(Growing, 1).set_state(state)


def test_an_exception_while_it_is_simulated_again():
    class Weary(Wanderer):
        made = 0

        def __init__(self):
            Weary.made += 1
            self.number = Weary.made

        def step(self, action):
            if self.number == 4:
                raise RuntimeError("weary")
            return super().step(action)

    def make(count=2):
        return make_vec(Weary, count)

    envs, state = saved(make, 3)
    other = make()
    why = other.set_state(state)
    assert why == ("Environment 1 raised RuntimeError: weary when its episode was simulated again.")
    other.reset()
    other.step(actions_of(other, 1)[0])  # it was made anew
    assert other.episodes.tolist() == [1, 1] and Weary.made == 5


class Fragile(Telling):
    fault = None

    def _break(self, where):
        if self.fault == (where, "dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == (where, "sleeps"):
            time.sleep(60)

    def get_state(self):
        self._break("get_state")
        return super().get_state()

    def set_state(self, state):
        self._break("set_state")
        super().set_state(state)


def test_a_worker_that_breaks():
    """While its state is set, and while it gives that: then there are still the actions."""
    with contextlib.closing(make_vec(Fragile, 2, seed=5, vectorization="async")) as envs:
        played(envs, actions_of(envs, 2))
        state = envs.get_state()
        assert state["exactness"] == "state"
        envs.set_attr("fault", [None, ("set_state", "dies")])
        why = envs.set_state(state)
        assert why == "Environment 1 was killed by SIGKILL when its state was set."
        envs.reset()  # it was made anew
        assert envs.episodes.tolist() == [1, 1]
        played(envs, actions_of(envs, 2))
        envs.set_attr("fault", [("get_state", "dies"), ("get_state", "sleeps")])
        envs._timeout = 0.5
        state = envs.get_state()
        assert state["exactness"] == "replay" and all(len(one) == 2 for one in state["actions"])


def test_after_an_environment_broke_episodes_begin_anew():
    class Breaking(Wanderer):
        def step(self, action):
            if self.steps == 3:
                raise RuntimeError
            return super().step(action)

    envs = make_vec(Breaking, 2, seed=0)
    with pytest.raises(BrokenEnvironmentError):
        played(envs, actions_of(envs, 5))
    state = through_a_file(envs.get_state())
    assert (state["exactness"], state["why"]) == ("restart", "broken")
    begins_the_next_episode(lambda count=2: make_vec(Breaking, count), envs, state, "had broken")


def test_environments_that_were_made_anew_are_simulated_again():
    """Their episode began in the middle of a step."""

    class Breaking(Wanderer):
        def step(self, action):
            if self.steps == 3 and self.np_random_seed % 3:
                raise RuntimeError
            return super().step(action)

    def make():
        return make_vec(Breaking, 3, restart_broken_envs=True)

    envs = make()
    envs.reset(seed=5)
    played(envs, actions_of(envs, 9))
    assert envs.restarts
    goes_on(make, envs, "replay", actions_of(envs, 60))


@pytest.mark.parametrize("limit", [7, 20])
def test_episodes_that_are_too_long_are_not_recorded(limit, monkeypatch):
    monkeypatch.setattr(recording, "MAX_STEPS", limit)
    make = functools.partial(make_vec, "CartPole-v1", wrappers=[Shifting])
    envs = make(2)
    envs.reset(seed=5)
    for _ in range(limit):
        envs.step(np.array([0, 1]) if envs._episodes.clock % 2 else np.array([1, 0]))
    assert envs.episodes.tolist() == [0, 0]
    goes_on(functools.partial(make, 2), envs, "replay", [np.array([0, 1])] * 3)
    envs.reset(seed=5)
    for _ in range(limit + 1):
        envs.step(np.array([0, 1]) if envs._episodes.clock % 2 else np.array([1, 0]))
    state = through_a_file(envs.get_state())
    assert (state["exactness"], state["why"]) == ("restart", "long")
    begins_the_next_episode(lambda count=2: make(count), envs, state, "too long to be recorded")


def test_the_time_for_a_replay_grows_with_its_steps(monkeypatch):
    envs = make_vec("CartPole-v1", 2, seed=0, wrappers=[Shifting])
    for _ in range(2):
        played(envs, [np.array([0, 1]), np.array([1, 0])] * 5)
    asked = []
    ask = envs._ask
    monkeypatch.setattr(envs, "_ask", lambda *given: asked.append(given) or ask(*given))
    assert envs.episodes.tolist() == [0, 0]
    assert envs.set_state(envs.get_state()) == ""
    assert asked[1][0] == "replay" and asked[1][2] == 1 + 20 / 100


def test_only_what_running_episodes_need_is_kept(monkeypatch):
    monkeypatch.setattr(recording, "_LEAST_ROWS", 30)
    envs = make_vec(Wanderer, 3, seed=0)  # of at most 15 steps, of which two are kept
    most = 0
    for action in actions_of(envs, 300):
        envs.step(action)
        most = max(most, len(envs._recording._actions))
    assert most <= 2 * 31 + 1
    goes_on(lambda: make_vec(Wanderer, 3), envs, "replay", actions_of(envs, 30, seed=1))
    monkeypatch.setattr(recording, "MAX_STEPS", 40)
    envs = make_vec("CartPole-v1", 1, seed=0, wrappers=[Shifting])
    envs.envs[0].unwrapped.theta_threshold_radians = np.inf  # an episode of hundreds of steps
    for _ in range(300):
        envs.step(np.array([envs._episodes.clock % 2]))
        assert len(envs._recording._actions) <= 46
    assert envs.episodes[0] == 0


def test_nothing_is_recorded_where_states_are_known():
    envs = make_vec("CartPole-v1", 2, seed=0)
    played(envs, [np.zeros(2, int)] * 3)
    assert not envs._recording._actions and envs._recording._observations is None


def test_reset_options_are_not_recorded():
    make = functools.partial(make_vec, Wanderer, max_episode_steps=6)
    envs, state = saved(lambda: make(2), 2, options={"spread": 3.0})
    assert (state["exactness"], state["why"]) == ("restart", "unrecorded")
    begins_the_next_episode(lambda n=2: make(n), envs, state, "or its reset options, were not")
    played(envs, actions_of(envs, 9))
    assert envs.episodes.all()
    assert envs.get_state()["exactness"] == "replay"
    telling = make_vec(Telling, 2)
    telling.reset(seed=0, options={"spread": 3.0})
    assert telling.get_state()["exactness"] == "state"


@pytest.mark.parametrize(
    "actions", [[[0.1, 0.2]] * 2, (np.zeros(2, np.float32),) * 2, np.zeros((2, 2), object)]
)
def test_actions_that_are_not_recorded(actions):
    class Any(Wanderer):
        def step(self, action):
            return super().step(np.array(action, np.float32))

    envs = make_vec(Any, 2, seed=0)
    envs.step(actions)
    assert envs.get_state()["why"] == "actions"


def test_actions_of_changing_types_and_nested_ones():
    envs = make_vec(Specimen, 2, seed=0)
    envs.step(np.zeros(2, np.int64))
    envs.step(np.zeros(2, np.int32))
    assert envs.get_state()["why"] == "actions"
    nested = make_vec(KINDS["nested actions"], 2, seed=0)
    nested.step(nested.action_space.sample())
    if not nested._ended.all():
        assert nested.get_state()["why"] == "actions"
