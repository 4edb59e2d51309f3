"""What an environment returns fits its space and the interface, or is named; nothing is cast."""

import copy
import decimal
import fractions
import pickle

import gymnasium as gym
import numpy as np
import pytest

from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.envs.vector.fitting import Fit, MisfitError
from vantage.envs.vector.infos import add_info

BOX = gym.spaces.Box(-1.0, 1.0, (3, 4), np.float32)
COUNTS = gym.spaces.Box(0, 10, (4,), np.int32)
IMAGE = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
NEST = gym.spaces.Dict(
    {
        "speed": gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
        "gear": gym.spaces.Discrete(4, start=1),
        "pair": gym.spaces.Tuple([gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(2)]),
        "word": gym.spaces.Text(5),
    }
)
FITTING = {
    "speed": np.zeros(3, np.float32),
    "gear": 4,
    "pair": (np.array([1, 2]), np.array([0, 1], np.int8)),
    "word": "a",
}


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (BOX, np.zeros((3, 4))),
        (BOX, np.zeros((3, 4), int)),
        (BOX, np.zeros((3, 4)).tolist()),
        (gym.spaces.Box(-1.0, 1.0, ()), 0.5),
        (COUNTS, np.arange(4)),
        (COUNTS, [1, 2, 3, 4]),
        (IMAGE, np.full((8, 8, 3), 255)),
        (gym.spaces.Discrete(3), np.int64(2)),
        (gym.spaces.Discrete(3), np.array(2)),
        (NEST, FITTING),
        (NEST, {**FITTING, "more": object()}),
    ],
)
def test_what_fits_passes(space, value):
    """Numbers of the same meaning do, whatever holds them."""
    np.testing.assert_equal(Fit(space).observation(value), value)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        *[(BOX, np.zeros(s), f"shape {list(s)}") for s in [(), (1,), (4,), (1, 4), (1, 3, 4)]],
        (BOX, np.zeros((3, 4), complex), "complex128"),
        (BOX, np.zeros((3, 4), str), "<U1"),
        (BOX, np.full((3, 4), None), "object"),
        (BOX, None, "None"),
        (BOX, np.ma.masked_equal(np.zeros((3, 4)), 0), "an array with a mask, float64 of shape"),
        (gym.spaces.Discrete(3), np.ma.masked_equal(1, 1), "an array with a mask"),
        (BOX, {"a": 1}, "a dict with the keys ['a']"),
        (COUNTS, np.ones(4), "float64"),
        (COUNTS, np.full(4, np.nan), "float64"),
        (COUNTS, np.full(4, 2**40), "from 1099511627776"),
        (IMAGE, np.ones((8, 8, 3)), "float64"),
        (IMAGE, np.full((8, 8, 3), -1), "from -1 to -1"),
        (gym.spaces.Discrete(3), 3, "3 (int), not a whole number from 0 to 2"),
        (gym.spaces.Discrete(3), -1, "-1"),
        (gym.spaces.Discrete(3), 1.0, "1.0 (float)"),
        (gym.spaces.Discrete(3), np.array([1]), "shape [1]"),
        (gym.spaces.MultiDiscrete([2, 3]), np.array([0, 3]), "3 at [1], not a whole number from 0"),
        (gym.spaces.MultiBinary(2), np.array([0, 2]), "2 at [1]"),
        (NEST, {k: v for k, v in FITTING.items() if k != "gear"}, "'gear' is missing"),
        (NEST, {**FITTING, "speed": np.zeros(1)}, "entry 'speed' is float64 of shape [1]"),
        (NEST, {**FITTING, "pair": (np.zeros(2, int),)}, "entry 'pair' is a tuple of 1"),
        (NEST, {**FITTING, "pair": (np.zeros(2), np.zeros(2, int))}, "entry 'pair.0' is float64"),
        (NEST, np.zeros(3), "not a dict with the keys"),
    ],
)
def test_what_does_not_fit_is_named(space, value, words):
    """The entry, what it is, and what it must be."""
    with pytest.raises(MisfitError, match="does not fit its space") as error:
        Fit(space).observation(value)
    assert words in str(error.value)


ROW = {"observation": np.zeros((3, 4), np.float32), "reward": 1.0, "over": False, "cut": False}


@pytest.mark.parametrize("reward", [1, 1.5, np.float32(2), np.array(3.0), True, decimal.Decimal(2)])
def test_a_reward_is_one_number(reward):
    """Of any type."""
    row = Fit(BOX).step((ROW["observation"], reward, False, np.bool_(True), {}))
    assert float(row[1]) == float(reward)


@pytest.mark.parametrize("reward", [None, "1.5", np.ones(1), np.ones(2), 1j, [1.0]])
def test_another_reward_is_refused(reward):
    """None became NaN, and a text a number."""
    with pytest.raises(MisfitError, match="as its reward, which must be one number"):
        Fit(BOX).step((ROW["observation"], reward, False, False, {}))


LARGEST = int(np.finfo(np.float64).max)


@pytest.mark.thinned
@pytest.mark.parametrize(
    "reward",
    [10**400, -(10**400), 10**5000, fractions.Fraction(10**400)],
    ids=["large", "negative", "too long to print", "fraction"],
)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_reward_that_no_float_holds_is_refused(way, reward):
    """It was an OverflowError that named no rule."""
    envs = make_vec(Rewarding, 2, seed=0, env_kwargs={"reward": reward}, vectorization=way)
    rule = "returned .* as its reward, which must be a number that a float holds in step"
    with pytest.raises(BrokenEnvironmentError, match=rule) as error:
        envs.step(np.zeros(2, int))
    assert f"seed {envs.seed_of(0)}, step 1" in error.value.first_line
    envs.close()


def test_the_largest_reward_is_one():
    """A whole number is compared with the largest float exactly."""
    envs = make_vec(Rewarding, 1, seed=0, env_kwargs={"reward": LARGEST})
    assert envs.step(np.zeros(1, int))[1] == [float(LARGEST)]


@pytest.mark.parametrize("flag", [None, "False", np.nan, 2, np.array([True]), [], 0.0])
def test_a_flag_is_true_or_false(flag):
    """Any text was an end."""
    with pytest.raises(MisfitError, match="as terminated, which must be True or False"):
        Fit(BOX).step((ROW["observation"], 1.0, flag, False, {}))
    with pytest.raises(MisfitError, match="as truncated"):
        Fit(BOX).step((ROW["observation"], 1.0, False, flag, {}))


@pytest.mark.parametrize(
    "result",
    [None, ROW["observation"], (ROW["observation"], 1.0, False, {}), (1, 2, 3, 4, 5, 6), [0] * 5],
)
def test_a_step_is_a_tuple_of_five(result):
    """And nothing that can be unpacked into five."""
    with pytest.raises(MisfitError, match="observation, reward, terminated, truncated, info"):
        Fit(BOX).step(result)


def test_a_bare_observation_is_no_reset():
    """Two numbers were unpacked into an observation and an info."""
    for space, bare in [
        (gym.spaces.Box(-1.0, 1.0, (2,)), np.zeros(2, np.float32)),
        (gym.spaces.Tuple([BOX, gym.spaces.Dict({"a": BOX})]), (np.zeros((3, 4)), {"a": 1})),
    ]:
        with pytest.raises(MisfitError):
            Fit(space).reset(bare)
    with pytest.raises(MisfitError, match="None as its info"):
        Fit(BOX).reset((ROW["observation"], None))


class Rewarding(gym.Env):
    """Gives the same reward at every step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, reward):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.reward, False, False, {}


class Odd(gym.Env):
    """Returns another observation in its third step, if this is the first instance."""

    observation_space = NEST
    action_space = gym.spaces.Discrete(2)
    made = 0

    def __init__(self, change=None):
        Odd.made += 1
        self.change = change if Odd.made <= 2 else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return FITTING, {}

    def step(self, action):
        self.t += 1
        return {**FITTING, **(self.change if self.t == 3 else {})}, 1.0, self.t == 9, False, {}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_environment_is_named_or_rebuilt(way):
    """Past neither the error's seed and step nor the restarts."""
    Odd.made = 0
    keywords = {"change": {"gear": 9}}
    envs = make_vec(Odd, 2, seed=0, env_kwargs=keywords, vectorization=way)
    with pytest.raises(BrokenEnvironmentError, match="'gear' is 9") as error:
        for _ in range(3):
            envs.step(np.zeros(2, int))
    assert (error.value.index, error.value.step, error.value.call) == (0, 3, "step")
    assert f"seed {envs.seed_of(0)}, step 3" in error.value.first_line
    envs.close()
    Odd.made = 0
    envs = make_vec(
        Odd, 2, seed=0, env_kwargs=keywords, vectorization=way, restart_broken_envs=True
    )
    for _ in range(3):
        *_, infos = envs.step(np.zeros(2, int))
    assert envs.restarted.all() and infos["restarted"].all() and "'gear'" in infos["broken"][1]
    envs.close()


def joined(*infos):
    """The infos of so many environments."""
    result = {}
    for index, info in enumerate(infos):
        add_info(result, info, index, len(infos))
    return result


def test_infos_of_different_types_are_joined():
    """Nothing is cut, and nothing raises."""
    assert joined({"a": 0}, {"a": 0.75})["a"].tolist() == [0, 0.75]
    assert joined({"a": True}, {"a": 2})["a"].tolist() == [1, 2]
    assert joined({"a": 1}, {"a": None})["a"].tolist() == [1, None]
    assert joined({"a": None}, {"a": 1})["a"].tolist() == [None, 1]
    assert joined({"a": 2**70}, {"a": 1})["a"].tolist() == [2**70, 1]
    assert joined({"a": {"b": 1}}, {"a": None})["a"].tolist() == [{"b": 1}, None]
    arrays = joined({"a": np.arange(2)}, {}, {"a": np.arange(3)})
    assert [None if x is None else len(x) for x in arrays["a"]] == [2, None, 3]
    assert arrays["_a"].tolist() == [True, False, True]
    named = joined({"x": 1, "_x": "mine"}, {})
    assert named["_x"].tolist() == [True, False] and named["x"].tolist() == [1, 0]


def test_infos_are_joined_as_gymnasium_does():
    """Where it can."""
    infos = [
        {"a": 1, "b": np.arange(3.0), "c": "text", "d": {"e": 2.0}, "final_obs": np.zeros(2)},
        {"b": np.ones(3), "d": {"e": 3.0, "f": [1]}, 4: np.float32(2)},
    ]
    reference = {}
    envs = gym.vector.VectorEnv()
    envs.num_envs = 2
    for index, info in enumerate(infos):
        reference = envs._add_info(reference, info, index)
    found = joined(*infos)
    assert str(found) == str(reference) and list(found) == list(reference)


class One(gym.Env):
    """Nothing in it matters."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)


def test_every_slot_has_an_environment_of_its_own():
    """The same one, also inside wrappers or when it broke, would be stepped twice."""
    one = One()
    for make in (lambda: one, lambda: gym.wrappers.TimeLimit(one, 5)):
        with pytest.raises(ValueError, match="instance of its own.*environment 1 as for envir"):
            make_vec(make, 4)
        assert make_vec(make, 1).num_envs == 1
    with pytest.raises(ValueError, match="as before it broke"):
        make_vec(lambda: one, 1, restart_broken_envs=True, seed=0)  # it has no reset


def test_copies_of_vectors_step_nothing_twice():
    """A native one's views are made again; a shallow copy of others is refused."""
    envs = make_vec("CartPole-v1", 3, vectorization="native", seed=0)
    rng = np.random.default_rng(0)
    for other in (copy.copy(envs), copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))):
        actions = rng.integers(0, 2, (20, 3))
        reference = copy.deepcopy(envs)
        before = envs.get_state()
        seen = [other.step(each)[0] for each in actions]
        np.testing.assert_equal(envs.get_state(), before)
        np.testing.assert_array_equal(seen, [reference.step(each)[0] for each in actions])
        assert len(np.unique(np.array(seen)[:, 0], axis=0)) > 10
    with pytest.raises(ValueError, match="copy.copy"):
        copy.copy(make_vec("CartPole-v1", 2))
