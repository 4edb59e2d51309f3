"""Environments that are saved, made anew and set go on bit for bit, or say why they do not."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from specimens import KINDS, Specimen, assert_same

from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.envs.common.episodes import episode_seed
from vantage.envs.common.storable import StateError, decoded, encoded, is_same
from vantage.envs.resuming import recording
from vantage.envs.resuming.state import member_state, restore_member

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
STEPS = 200


class Wanderer(gym.Env):
    """A random walk that ends at random, with memories from before the episode; no `get_state`."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=2), 0
        self.spread = np.float32((options or {}).get("spread", 0.1))
        self.legs = (1, [2.5, np.int16(3)])
        return self._observation(), {}

    def _observation(self):
        return self.position.astype(np.float32)

    def step(self, action):
        self.steps += 1
        self.position += action * self.spread + 0.1 * self.np_random.normal(size=2)
        action[...] = 9  # it is its own
        ended = self.np_random.random() < 0.1
        return self._observation(), float(self.position[0]), ended, self.steps == 15, {}


class Telling(Wanderer):
    """One that tells its state."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed, options=options)

    def _observation(self):
        return np.array([self.position[0], self.resets], np.float32)

    def get_state(self):
        names = ("position", "steps", "spread", "legs", "resets")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state):
        assert type(state["spread"]) is np.float32 and type(state["legs"]) is tuple
        vars(self).update(state)


class Masked(Telling):
    def action_masks(self):
        return [self.steps % 2, 1]


class Shifting(gym.Wrapper):
    """A user's own wrapper, which has a state."""

    def reset(self, **keywords):
        observation, info = self.env.reset(**keywords)
        self.total = observation.copy()
        return self.total.copy(), info

    def step(self, action):
        observation, *others = self.env.step(action)
        self.total += observation
        return self.total.copy(), *others


class Unfaithful(Wanderer):
    """Has a state that no reset starts over."""

    everywhere = 0.0

    def step(self, action):
        type(self).everywhere += 0.25
        observation, *others = super().step(action)
        return observation + np.float32(self.everywhere), *others


def classic(name, **options):
    return make_vec(name, 3, max_episode_steps=15, **options)


CASES = {
    **{name: ("state", functools.partial(classic, name)) for name in CLASSIC},
    "native": ("state", functools.partial(classic, "Acrobot-v1", vectorization="native")),
    "Gymnasium's": ("state", lambda: make_vec(CartPoleVectorEnv(3, max_episode_steps=15))),
    "telling": ("state", lambda: make_vec(Telling, 3)),
    "clipped": ("state", lambda: make_vec(Telling, 3, wrappers=[gym.wrappers.ClipAction])),
    "limited": ("state", lambda: make_vec(Telling, 3, max_episode_steps=7)),
    "masked": ("state", lambda: make_vec(Masked, 3)),
    "wandering": ("replay", lambda: make_vec(Wanderer, 3)),
    "limited wandering": ("replay", lambda: make_vec(Wanderer, 3, max_episode_steps=7)),
    "wrapped": ("replay", lambda: make_vec("CartPole-v1", 3, wrappers=[Shifting])),
    **{
        kind: ("replay", functools.partial(make_vec, KINDS[kind], 3))
        for kind in ("uint8", "scalar", "discrete", "dict", "tuple", "text", "own", "multi")
    },
    "sequence": ("replay", functools.partial(make_vec, KINDS["sequence"], 3)),
}
ASYNC = {
    "CartPole": ("state", functools.partial(classic, "CartPole-v1")),
    "telling": ("state", functools.partial(make_vec, Telling, 2)),
    "dict": ("replay", functools.partial(make_vec, KINDS["dict"], 2)),
}


def through_a_file(state):
    """Arrays as such, everything else as strict JSON, which makes tuples lists."""
    arrays = {}

    def put(value):
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        if isinstance(value, dict):
            return {key: put(one) for key, one in value.items()}
        return list(map(put, value)) if isinstance(value, list | tuple) else value

    text, file = json.dumps(put(state), allow_nan=False), io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    found = np.load(file, allow_pickle=False)
    return json.loads(text, object_hook=lambda d: found[d["array"]] if list(d) == ["array"] else d)


def actions_of(envs, steps, seed=0):
    envs.action_space.seed(seed)
    return [envs.action_space.sample() for _ in range(steps)]


def played(envs, actions):
    """What is seen; neither the actions nor what was returned stay as they were."""
    seen, buffer = [], np.empty_like(actions[0]) if actions else None
    for action in actions:
        np.copyto(buffer, action)
        step = envs.step(buffer)[:4]
        seen.append(tuple(one.copy() if isinstance(one, np.ndarray) else one for one in step))
        if isinstance(step[0], np.ndarray) and step[0].flags.writeable:
            step[0][...] = 0
    return seen


def until_an_end(envs, actions):
    """Plays on until an episode has ended that the next step would follow with another."""
    for count, action in enumerate(actions, start=1):
        _, _, terminated, truncated, _ = envs.step(action.copy())
        if (terminated | truncated).any():
            return count
    raise AssertionError


def goes_on(make, envs, exactness, actions):
    """What is saved of `envs`, set in new ones, leads to the same steps, starts and states."""
    state = envs.get_state()
    kept = through_a_file(state)
    assert state["exactness"] == exactness
    expected = played(envs, actions)
    assert is_same(through_a_file(state), kept)  # it is nobody else's
    with contextlib.closing(make()) as other:
        assert other.set_state(kept) == ""
        for one, another in zip(played(other, actions), expected, strict=True):
            assert_same(one, another)
        one, another = envs.get_state(), other.get_state()
        assert is_same(one, another)
        assert_same(other.reset()[0], envs.reset()[0])


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


def test_given_seeds_and_failures_are_kept():
    envs, other = make_vec(Telling, 2), make_vec(Telling, 2)
    envs.reset(seed=[2**63, None])
    envs._failures = {1: 2}
    assert other.set_state(through_a_file(envs.get_state())) == ""
    assert other.np_random_seed == envs.np_random_seed and other._failures == {1: 2}
    assert other.run_seed == envs.run_seed and other.restarts == 0


# ---------------------------------------------------------------- what cannot be restored


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


def saved(make, steps=5, **reset):
    envs = make()
    envs.reset(seed=5, **reset)
    played(envs, actions_of(envs, steps))
    return envs, through_a_file(envs.get_state())


def wandering(count=2, **options):
    return make_vec(Wanderer, count, max_episode_steps=100, **options)


def test_a_state_that_no_reset_starts_over_is_found_out():
    def make(count=2):
        return make_vec(Unfaithful, count)

    Unfaithful.everywhere = 0.0
    envs, state = saved(make, 4)
    assert state["exactness"] == "replay"
    other = make()
    assert "Environment 0 came to another observation" in other.set_state(state)
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
        assert "other rewards, or ended elsewhere, when" in other.set_state(state)
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


class Level(Wanderer):
    """What a curriculum sets decides how far an action reaches, and where episodes begin."""

    level, legs_of = 1.0, (1, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.position += self.level
        return self._observation(), {}

    def step(self, action):
        self.position += 0.01 * self.level * action
        return super().step(action)


class TellingLevel(Level):
    def get_state(self):
        return {name: getattr(self, name) for name in ("position", "steps", "spread", "legs")}

    def set_state(self, state):
        vars(self).update(state)


class Quiet(gym.Wrapper):
    level = 2.0


@pytest.mark.parametrize("kind", ["sync", "async", "wrapped", "telling", "rebuilt"])
def test_what_set_attr_has_set_is_set_again_at_its_place(kind):
    def make():
        wrappers = [Quiet] if kind == "wrapped" else ()
        options = {"vectorization": "async"} if kind == "async" else {}
        env = TellingLevel if kind == "telling" else Level
        return make_vec(env, 2, wrappers=wrappers, **options)

    with contextlib.closing(make()) as envs:
        envs.set_attr("level", 7.0)
        envs.reset(seed=5)
        for k, action in enumerate(actions_of(envs, 90)):
            if k % 4 == 1:
                envs.set_attr("level", [float(k), np.float32(k / 2)])
            if k % 11 == 3:
                envs.set_attr("legs_of", [(k, 1), (k, 2)])
            envs.step(action)
            if k in (0, 2, 30, 60, 89):
                exactness = "state" if kind == "telling" else "replay"
                state = through_a_file(envs.get_state())
                assert state["exactness"] == exactness
                with contextlib.closing(make()) as other:
                    assert other.set_state(state) == ""
                    assert other.get_attr("level") == envs.get_attr("level")
                    assert other.get_attr("legs_of") == envs.get_attr("legs_of")
        goes_on(make, envs, exactness, actions_of(envs, 60, seed=2))
        assert all(len(made) < 60 for made in envs.get_state()["changes"])


def test_what_set_attr_has_set_outlives_a_restart_of_episodes_and_of_instances():
    class Breaking(Level):
        def step(self, action):
            if self.steps == 3 and self.np_random_seed % 2:
                raise RuntimeError
            return super().step(action)

    envs = make_vec(Breaking, 2, restart_broken_envs=True, seed=0)
    envs.set_attr("level", 5.0)
    played(envs, actions_of(envs, 30))
    assert envs.restarts and envs.get_attr("level") == (5.0, 5.0)
    other, state = make_vec(Level, 2), envs.get_state()
    for name in ("actions", "outcomes", "before", "observations"):
        state.pop(name, None)
    state |= {"exactness": "restart", "why": "broken"}
    assert other.set_state(state) and other.get_attr("level") == (5.0, 5.0)


@pytest.mark.parametrize(
    ("name", "value"), [("level", object()), ("level", lambda: 0), ("_elapsed", 3)]
)
def test_what_cannot_be_set_again_is_told(name, value):
    envs = make_vec(Level, 2, seed=0)
    envs.set_attr(name, value)
    state = through_a_file(envs.get_state())
    assert (state["exactness"], state["why"]) == ("restart", "changes")
    assert "set_attr" in make_vec(Level, 2).set_state(state)


def test_a_forged_change_is_refused():
    envs = make_vec(Level, 2, seed=0)
    envs.set_attr("level", 2.0)
    state = envs.get_state()
    for forged in ([1], [0, 0, "__class__", 1.0], [0, 0, "_x", 1.0], [-3, 0, "level", 1.0]):
        with pytest.raises(StateError, match="Received"):
            make_vec(Level, 2).set_state({**state, "changes": [[forged], []]})


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
    begins_the_next_episode(wandering, envs, state, "came to another observation")


@pytest.mark.parametrize("kind", ["dict", "tuple", "text", "own", "discrete"])
def test_a_difference_within_is_found_out(kind):
    make = functools.partial(make_vec, KINDS[kind], 1)
    envs = make()
    envs.reset(seed=5)
    state = envs.get_state()
    assert make().set_state(state) == ""
    envs.reset(seed=6)
    other = {**state, "observations": envs.get_state()["observations"]}
    assert "Environment 0 came to another observation" in make().set_state(other)


def test_an_observation_of_another_shape_is_found_out():
    class Growing(Wanderer):
        size = 2

        def _observation(self):
            return np.resize(self.position, self.size).astype(np.float32)

    envs, state = saved(lambda: make_vec(Growing, 1), 2)
    Growing.size = 3
    assert "Environment 0 came to another observation" in make_vec(Growing, 1).set_state(state)


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


# ---------------------------------------------------------------- members


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


# ---------------------------------------------------------------- what is encoded


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, [2.5, None, True], "x"), "tuple": {}, "dict": [], "scalar": ()},
        np.float32(0.1),
        np.bool_(True),
        2**200,
        float("nan"),
        np.zeros((0, 3), np.int8),
        np.array(5.0),
    ],
)
def test_what_is_encoded_comes_back(value):
    there = encoded(value)
    back = decoded(through_a_file({"value": there})["value"])
    assert is_same(there, encoded(back))
    assert isinstance(value, float) or type(back) is type(value)


def test_what_is_the_same():
    nan, other_nan = np.array([np.nan]), np.array([np.nan]).view(np.int64) + 1
    assert is_same(nan, other_nan.view(np.float64))
    for one, other in [
        (np.zeros(2), -np.zeros(2)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros(2), np.zeros((2, 1))),
        (1, True),
        (1, 1.0),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
        ("a", "b"),
        (np.zeros(1), None),
    ]:
        assert is_same(one, one) and not is_same(one, other) and not is_same(other, one)


# ---------------------------------------------------------------- states that are refused

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
