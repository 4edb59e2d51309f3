"""Our NumPy environments against Gymnasium's own: steps, starts, ends, seeds and what is saved."""

import functools
import io
import itertools
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from scripted import ScriptedVector

from vantage.envs import make_vec
from vantage.envs.native.classic_control import (
    NATIVE,
    Acrobot,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
)
from vantage.envs.native.native import _next
from vantage.training.experience.transitions import Transitions

PI = np.pi
LIMITS = {
    "CartPole-v0": 200,
    "CartPole-v1": 500,
    "Acrobot-v1": 500,
    "MountainCar-v0": 200,
    "MountainCarContinuous-v0": 999,
    "Pendulum-v1": 200,
}
IDS = [name for name in LIMITS if name != "CartPole-v0"]
every_id = pytest.mark.parametrize("name", IDS)


def native(name, num_envs=4, **options):
    return make_vec(name, num_envs, vectorization="native", **options)


def sync(name, num_envs=4, **options):
    return make_vec(name, num_envs, **options)


def actions_of(envs, random, steps):
    """Random actions [steps, N]; Box ones half as far out again as their bounds."""
    space, count = envs.single_action_space, (steps, envs.num_envs)
    if isinstance(space, gym.spaces.Discrete):
        return random.integers(space.n, size=count)
    return (1.5 * space.high * random.uniform(-1, 1, (*count, 1))).astype(np.float32)


def played(envs, actions):
    """Everything that `actions` [T, N, ...] lead to: five arrays [T, N, ...], infos left out."""
    seen = [envs.step(action)[:4] for action in actions]
    return [np.stack(arrays) for arrays in zip(*seen, strict=True)]


# ---------------------------------------------------------------- one step, from many states

# Of each component: its range, and the edges at which something happens.
CART = [(2.6, (-2.4, 2.4)), (4, (0,)), (0.25, (-PI / 15, PI / 15)), (4, (0,))]
LINKS = [(PI, (-PI, 0, PI)), (PI, (-PI, 0, PI)), (4 * PI, (-4 * PI, 4 * PI))]
LINKS += [(9 * PI, (-9 * PI, 9 * PI))]
HILL = [(1.2, (-1.2, 0.45, 0.5, 0.6)), (0.07, (-0.07, 0, 0.07))]
SWING = [(7 * PI, (-2 * PI, -PI, 0, PI, 2 * PI, 3 * PI)), (8, (-8, 0, 8))]
CASES = [
    ("CartPole-v1", CART, {}),
    ("CartPole-v1", CART, {"sutton_barto_reward": True}),
    ("Acrobot-v1", LINKS, {}),
    ("MountainCar-v0", HILL, {}),
    ("MountainCar-v0", HILL, {"goal_velocity": 0.07}),
    ("MountainCarContinuous-v0", HILL, {}),
    ("MountainCarContinuous-v0", HILL, {"goal_velocity": 0.07}),
    ("Pendulum-v1", SWING, {}),
    ("Pendulum-v1", SWING, {"g": 9.81}),
]


def near(random, reach, edges, count):
    """Numbers in ±reach, half of them at an edge, a rounding error beside it or close to it."""
    numbers = random.uniform(-reach, reach, count)
    at = random.choice(edges, count)
    offsets = random.choice([0, 1e-16, -1e-16, 4e-16, -4e-16, 1e-3, -1e-3], count)
    offsets *= np.where(np.abs(offsets) == 1e-3, random.uniform(0, 10, count), 1 + np.abs(at))
    return np.where(random.random(count) < 0.5, numbers, at + offsets)


def edge_actions(envs, random):
    """Random actions [N]; of the Box ones a quarter exactly at a bound or 0."""
    actions = actions_of(envs, random, 1)[0]
    if actions.ndim == 2:
        at = random.choice(np.array([-1, 0, 1], np.float32), len(actions))
        at_bound = random.random(len(actions)) < 0.25
        actions[at_bound, 0] = (at * envs.single_action_space.high)[at_bound]
    return actions


def stepped_alone(name, states, actions, keywords):
    """Gymnasium's single environment from each state [C, N]: what `stepped_together` returns."""
    env = gym.make(name, **keywords).unwrapped
    results = []
    for state, action in zip(np.ascontiguousarray(states.T), actions, strict=True):
        env.state, env.steps_beyond_terminated = state, None
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        results.append((env.state, observation, reward, terminated))
    physics, observations, rewards, terminated = zip(*results, strict=True)
    return np.array(physics).T, np.array(observations), np.array(rewards), np.array(terminated)


def stepped_together(envs, states, actions):
    """States [C, N], observations [N, ...], rewards [N] and terminated [N] after one step."""
    envs.reset(seed=0)
    envs.set_state({**envs.get_state(), "physics": states})
    observations, rewards, terminated, truncated, _ = envs.step(actions)
    assert not truncated.any()
    return envs.get_state()["physics"], observations, rewards, terminated


def at_random(name, ranges, count, keywords):
    """An environment, states [C, N] and actions for it."""
    random = np.random.default_rng(0)
    envs = native(name, count, env_kwargs=keywords)
    states = np.stack([near(random, *component, count) for component in ranges])
    if ranges is HILL:  # which ends at 0.6 on the right
        states[0] -= 1.8 * (states[0] > 0.6)
        states[0] += 1.8 * (states[0] < -1.2)
    if name == "MountainCarContinuous-v0":
        states = states.astype(np.float32)
    return envs, states, edge_actions(envs, random)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "ranges", "keywords"), CASES)
def test_a_step_is_gymnasiums(name, ranges, count, keywords):
    """Bit for bit, but for the following.

    Gymnasium's scalar**2 calls `pow`, which is once in a thousand a last bit away from the square
    of an array. It matters in Acrobot's equations, which amplify it, and in Pendulum's reward, in
    float32 for the torque. MountainCar calls libm's cosine; elsewhere it may not be NumPy's.
    """
    envs, states, actions = at_random(name, ranges, count, keywords)
    physics, observations, rewards, terminated = stepped_together(envs, states, actions)
    desired = stepped_alone(name, states, actions, keywords)
    np.testing.assert_allclose(physics, desired[0], 1e-12, 1e-13 if name == "Acrobot-v1" else 0)
    same = {"Acrobot-v1": 0.998, "MountainCar-v0": 0.9}.get(name, 1)
    assert (physics == desired[0]).mean() >= same
    assert observations.dtype == desired[1].dtype == np.float32
    np.testing.assert_allclose(observations, desired[1], 0 if same == 1 else 1e-7)
    assert (observations == desired[1]).mean() > 0.9999
    precise = np.ones(count, bool)
    if name == "Pendulum-v1":
        np.testing.assert_allclose(rewards, desired[2], 0, 5e-10)  # a last bit of 0.001·2²
        torques = actions[:, 0].clip(-2, 2)
        precise = np.array([torque**2 for torque in torques]) == np.square(torques)
        assert precise.mean() > 0.99
    np.testing.assert_allclose(rewards[precise], desired[2][precise], 1e-12)
    np.testing.assert_array_equal(terminated, desired[3])
    assert 0.02 < terminated.mean() < 0.9 or name == "Pendulum-v1"  # not only one of the two


def test_a_car_exactly_at_the_goal_is_there():
    """x with x + 0.001 − 0.0025·cos 3x = 0.5, and its neighbours."""
    x = 0.5
    for _ in range(50):
        x = 0.5 - (0.001 - 0.0025 * np.cos(3 * x))
    xs = x + np.spacing(x) * np.arange(-3, 4)
    states, actions = np.array([xs, np.zeros(7)]), np.full(7, 2)
    physics, _, _, terminated = stepped_together(native("MountainCar-v0", 7), states, actions)
    desired = stepped_alone("MountainCar-v0", states, actions, {})
    assert 0.5 in physics[0] and set(terminated) == {False, True}
    np.testing.assert_array_equal(terminated, physics[0] >= 0.5)
    np.testing.assert_array_equal(terminated, desired[3])


@every_id
def test_whole_episodes_are_gymnasiums(name):
    """In step with SyncVectorEnv, whose states are set to ours wherever an episode begins."""
    steps, limit = 400, 70
    envs, theirs = native(name, 3, max_episode_steps=limit), sync(name, 3, max_episode_steps=limit)
    envs.reset(seed=1), theirs.reset(seed=1)

    def put(index):
        state = envs.get_state()["physics"][:, index]
        theirs.envs[index].unwrapped.state = state.copy()

    for index in range(3):
        put(index)
    ended, ends = np.zeros(3, bool), np.zeros(2, int)
    for action in actions_of(envs, np.random.default_rng(0), steps):
        ours, desired = envs.step(action), theirs.step(action)
        for one, other in zip(ours[1:4], desired[1:4], strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(one, other, 1e-9)
        np.testing.assert_allclose(ours[0][~ended], desired[0][~ended], 1e-5, 1e-6)
        assert ours[4] == desired[4] == {}
        for index in np.flatnonzero(ended):
            assert not ours[1][index] and not ours[2][index] and not ours[3][index]
            put(index)
        ended = ours[2] | ours[3]
        ends += ours[2].sum(), ours[3].sum()
    assert ends.sum() >= 3 * (steps // (limit + 1))
    assert ends[0] > 30 or name != "CartPole-v1"
    theirs.close()


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_the_registered_time_limit(name, limit):
    """A pendulum, cart or car that is put where nothing ends it."""
    assert gym.spec(name).max_episode_steps == limit
    envs = native(name, 2, seed=0)
    assert envs.max_episode_steps == limit
    state = envs.get_state()
    envs.set_state({**state, "steps": np.array([limit - 1, limit - 2])})
    action = actions_of(envs, np.random.default_rng(0), 1)[0]
    assert envs.step(action)[3].tolist() == [True, False]
    _, rewards, _, truncated, _ = envs.step(action)
    assert truncated.tolist() == [False, True] and rewards[0] == 0
    assert envs.get_state()["steps"].tolist() == [0, limit]


@every_id
def test_the_action_after_an_end_changes_nothing(name):
    envs = native(name, 2, max_episode_steps=1, seed=0)
    one, other = actions_of(envs, np.random.default_rng(0), 2)
    assert (one != other).any()
    envs.step(one)
    state = envs.get_state()
    begun = envs.step(one)[0]
    envs.set_state(state)
    np.testing.assert_array_equal(envs.step(other)[0], begun)
    np.testing.assert_array_equal(begun, np.stack([start(name, 0, i, 1) for i in range(2)]))


def start(name, seed, index, episode):
    """The first observation of an episode, by nothing but resets."""
    envs = native(name, index + 1, seed=seed)
    for _ in range(episode - 1):
        envs.reset()
    return envs.reset()[0][index] if episode else envs.reset(seed=seed)[0][index]


# ---------------------------------------------------------------- the face of a vector environment


@every_id
def test_spaces_modes_and_types_are_those_of_sync(name):
    envs, theirs = native(name), sync(name)
    for attribute in ("observation_space", "action_space"):
        for prefix in ("", "single_"):
            assert getattr(envs, prefix + attribute) == getattr(theirs, prefix + attribute)
    assert envs.num_envs == theirs.num_envs == 4
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for own in ("metadata", "single_action_space", "single_observation_space"):
        assert getattr(envs, own) is not getattr(native(name), own)
    ours, desired = envs.reset(seed=3), theirs.reset(seed=3)
    assert ours[0].shape == desired[0].shape and ours[0].dtype == desired[0].dtype
    assert ours[1] == desired[1] == {}
    assert envs.np_random_seed == 3
    for _ in range(30):
        action = envs.action_space.sample()
        ours, desired = envs.step(action), theirs.step(action)
        assert ours[0] in envs.observation_space
        assert ours[0].flags.c_contiguous
        for one, other in zip(ours[:4], desired[:4], strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
    theirs.close()
    envs.close()
    assert envs.closed


@every_id
def test_what_was_returned_is_the_callers(name):
    envs = native(name, max_episode_steps=7)
    results = [[envs.reset(seed=0)[0]]]
    copies = [[results[0][0].copy()]]
    for action in actions_of(envs, np.random.default_rng(0), 40):
        results.append(list(envs.step(action)[:4]))
        copies.append([array.copy() for array in results[-1]])
    for array, copy in zip(itertools.chain(*results), itertools.chain(*copies), strict=True):
        np.testing.assert_array_equal(array, copy)
        array[...] = 1  # and it may write into it
    again = native(name, max_episode_steps=7)
    again.reset(seed=0)
    for action in actions_of(envs, np.random.default_rng(0), 40):
        again.step(action)
    assert equal(envs.get_state(), again.get_state())


@every_id
def test_under_transitions(name):
    """Real steps, dummies, returns and lengths as of Gymnasium's own."""
    envs = native(name, max_episode_steps=20)
    transitions = Transitions(envs, seed=0)
    transitions.reset()
    seen = [transitions.step(a) for a in actions_of(envs, np.random.default_rng(0), 90)]
    weights = np.stack([step.weights for step in seen])
    ended = np.stack([step.ended for step in seen])
    rewards = np.stack([step.rewards for step in seen])
    np.testing.assert_array_equal(weights[1:] == 0, ended[:-1])
    assert not rewards[weights == 0].any()
    assert transitions.env_steps == weights.sum() < 90 * 4
    assert transitions.episodes == ended.sum() == len(transitions.recent_lengths) >= 16
    assert max(transitions.recent_lengths) == 20
    assert name == "CartPole-v1" or min(transitions.recent_lengths) == 20


@pytest.mark.parametrize("wrapper", ["RecordEpisodeStatistics", "NormalizeObservation"])
def test_under_gymnasiums_vector_wrappers(wrapper):
    envs = getattr(gym.wrappers.vector, wrapper)(native("CartPole-v1"))
    envs.reset(seed=0)
    *_, infos = zip(*(envs.step(envs.action_space.sample()) for _ in range(60)), strict=True)
    assert wrapper == "NormalizeObservation" or any("episode" in info for info in infos)


# ---------------------------------------------------------------- starts and seeds


def test_splitmix64():
    """The first outputs for the seed 1234567: the known answers of Vigna's splitmix64.c."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    outputs = _next(np.array([1234567], np.uint64), np.arange(4))
    assert outputs.tolist() == known


def starts(name, seeds=1, num_envs=500, episodes=4):
    """Start states [seeds, episodes, C, N]."""
    envs = native(name, num_envs)
    found = []
    for seed in range(seeds):
        envs.reset(seed=seed)
        for _ in range(episodes):
            found.append(envs.get_state()["physics"])
            envs.reset()
    return np.array(found).reshape(seeds, episodes, -1, num_envs)


@every_id
def test_starts_are_distributed_as_gymnasiums(name):
    """Each component: its bounds, its moments, and Kolmogorov and Smirnov's test."""
    stats = pytest.importorskip("scipy.stats")
    env = gym.make(name).unwrapped
    env.reset(seed=0)
    theirs = np.array([(env.reset(), env.state)[1] for _ in range(2000)]).T  # [C, 2000]
    ours = np.concatenate(starts(name, seeds=3).reshape(12, -1, 500), axis=1)  # [C, 6000]
    assert ours.shape == (len(theirs), 6000)
    for one, other in zip(ours, theirs, strict=True):
        if not other.any():  # MountainCar's velocity
            assert not one.any()
            continue
        width = np.ptp(other)
        assert stats.ks_2samp(one, other).pvalue > 1e-3
        np.testing.assert_allclose(one.min(), other.min(), 0, 0.005 * width)
        np.testing.assert_allclose(one.max(), other.max(), 0, 0.005 * width)
        np.testing.assert_allclose(one.mean(), other.mean(), 0, 0.03 * width)
        np.testing.assert_allclose(one.std(), width / 12**0.5, 0.03)


def test_starts_do_not_depend_on_their_neighbours():
    """Along seeds, episodes, components and environments: correlations as of independent ones."""
    found = starts("CartPole-v1", seeds=30, num_envs=50, episodes=10)
    assert len(np.unique(found)) == found.size
    for axis in range(found.ndim):
        one, other = np.moveaxis(found, axis, 0)[:-1], np.moveaxis(found, axis, 0)[1:]
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / one.size**0.5


@every_id
def test_a_start_is_a_function_of_seed_environment_and_episode(name):
    """Whatever the number of environments, and whenever the episodes before it ended."""
    by_resets = starts(name, 1, 3, 6)[0]  # [episodes, C, N]
    assert (by_resets[:, 0, 0] != by_resets[:, 0, 1]).all()
    np.testing.assert_array_equal(starts(name, 1, 7, 6)[0][..., :3], by_resets)
    envs = native(name, 3, max_episode_steps=10, seed=0)
    envs.set_state({**envs.get_state(), "steps": np.array([0, 3, 8])})  # they end at other times
    for action in actions_of(envs, np.random.default_rng(0), 50):
        ended = envs.get_state()["ended"]
        envs.step(action)
        state = envs.get_state()
        for index in np.flatnonzero(ended):
            desired = by_resets[state["episodes"][index]][:, index]
            np.testing.assert_array_equal(state["physics"][:, index], desired)
    assert state["episodes"].min() >= 4 and len(set(state["steps"])) == 3


def test_a_reset_without_a_seed_goes_on_and_with_one_starts_over():
    envs = native("CartPole-v1", seed=5)
    first = envs.get_state()["physics"]
    second = envs.reset()[0]
    assert (second != first.T).all()
    envs.reset()
    assert envs.get_state()["episodes"].tolist() == [2] * 4
    np.testing.assert_array_equal(envs.reset(seed=5)[0], first.T.astype(np.float32))
    np.testing.assert_array_equal(envs.reset()[0], second)
    np.testing.assert_array_equal(envs.reset(seed=np.int64(5))[0], first.T.astype(np.float32))
    unseeded = [native("CartPole-v1").reset()[0] for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).all()


def test_a_reset_forgets_ends_and_steps():
    envs = native("CartPole-v1", max_episode_steps=2, seed=0)
    left = np.zeros(4, int)
    envs.step(left), envs.step(left)
    assert envs.get_state()["ended"].all()
    envs.reset()
    _, rewards, _, truncated, _ = envs.step(left)
    assert rewards.all() and not truncated.any()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", [1, 2, 3, 4]])
def test_seeds_that_are_refused(seed):
    with pytest.raises(ValueError, match=r"one whole number from 0 to 2\*\*64 - 1. Received"):
        native("CartPole-v1").reset(seed=seed)


@pytest.mark.parametrize("options", [{"low": 0.0}, {"reset_mask": np.ones(4, bool)}])
def test_options_that_are_refused(options):
    envs = native("CartPole-v1")
    with pytest.raises(ValueError, match="reset all together.*Received: options=.*'sync'"):
        envs.reset(options=options)
    envs.reset(options={})


# ---------------------------------------------------------------- going on


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def through_a_file(state):
    """Arrays as such, the others as JSON."""
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in state.items() if name not in arrays}
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return {**json.loads(json.dumps(others)), **np.load(file)}


@every_id
@pytest.mark.parametrize("way", [dict, through_a_file])
def test_a_saved_state_goes_on_bit_for_bit(name, way):
    make = functools.partial(native, name, 5, max_episode_steps=33)
    envs = make(seed=4)
    actions = actions_of(envs, np.random.default_rng(0), 1000)
    played(envs, actions[:499])
    while not envs.get_state()["ended"].any():  # with a reset left to do
        envs.step(actions[499])
    state = way(envs.get_state())
    one = played(envs, actions[500:])
    other = make()
    assert other.set_state(state) == ""
    for a, b in zip(one, played(other, actions[500:]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert equal(envs.get_state(), other.get_state())
    np.testing.assert_array_equal(envs.reset()[0], other.reset()[0])


def test_a_state_is_a_copy_of_arrays_and_numbers():
    envs = native("Pendulum-v1", 2, seed=0)
    state = envs.get_state()
    assert all(isinstance(value, (int, str, np.ndarray)) for value in state.values())
    copies = {name: np.array(value) for name, value in state.items()}
    envs.step(np.zeros((2, 1), np.float32))
    assert equal(state, copies)
    envs.set_state(state)
    envs.step(np.zeros((2, 1), np.float32))
    assert equal(state, copies)


def test_states_that_are_refused():
    envs = native("CartPole-v1", 3, seed=0)
    state = envs.get_state()
    wrong = [
        native("CartPole-v1", 4, seed=0).get_state(),
        native("Pendulum-v1", 3, seed=0).get_state(),
        {**state, "seed": [0, 1, 2]},
        {**state, "seed": 2**64},
        {**state, "seed": True},
        {**state, "exactness": "replay"},
        {**state, "steps": state["steps"].astype(np.int32)},
        {**state, "steps": state["steps"] - 1},
        {**state, "physics": state["physics"].T},
        {**state, "physics": state["physics"].astype(object)},
        {name: value for name, value in state.items() if name != "ended"},
        {**state, "more": 1},
        {},
        None,
    ]
    for other in wrong:
        with pytest.raises(ValueError, match=" must .*Received: .*Pass what get_state returned"):
            envs.set_state(other)
    assert equal(envs.get_state(), state)


def test_before_the_first_reset():
    envs = native("CartPole-v1")
    with pytest.raises(gym.error.ResetNeeded, match="must be reset before its first step"):
        envs.step(np.zeros(4, int))
    with pytest.raises(gym.error.ResetNeeded, match="must be reset before get_state"):
        envs.get_state()


# ---------------------------------------------------------------- actions and settings


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
@pytest.mark.parametrize(
    "change",
    [
        lambda actions, n: np.where([True, False, False, False], n, actions),
        lambda actions, n: np.where([False, False, False, True], -1, actions),
        lambda actions, n: np.full(4, np.iinfo(np.int64).min),
        lambda actions, n: np.full(4, np.nan),
        lambda actions, n: actions.astype(float),
        lambda actions, n: actions[:3],
        lambda actions, n: actions[:, None],
        lambda actions, n: actions[0],
        lambda actions, n: None,
    ],
)
def test_discrete_actions_that_are_refused(name, change):
    envs = native(name, seed=0)
    n = envs.single_action_space.n
    actions, state = np.zeros(4, int), envs.get_state()
    with pytest.raises(ValueError, match=f"4 whole numbers from 0 to {n - 1}. Received"):
        envs.step(change(actions, n))
    assert equal(envs.get_state(), state)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_any_type_are_actions(dtype):
    one, other = native("MountainCar-v0", 3, seed=0), native("MountainCar-v0", 3, seed=0)
    actions = np.array([0, 1, 2])
    desired = one.step(actions)[0]
    np.testing.assert_array_equal(other.step(actions.astype(dtype))[0], desired)
    assert len(np.unique(desired[:, 1])) == 3


@pytest.mark.parametrize("name", ["MountainCarContinuous-v0", "Pendulum-v1"])
def test_box_actions_that_are_refused(name):
    envs = native(name, seed=0)
    for shape in [(4,), (3, 1), (4, 2), ()]:
        with pytest.raises(ValueError, match=r"shape \[4, 1\]. Received: \("):
            envs.step(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("name", "bound"), [("MountainCarContinuous-v0", 1), ("Pendulum-v1", 2)])
def test_box_actions_are_clipped(name, bound):
    one, other = native(name, 2, seed=0), native(name, 2, seed=0)
    far, bounds = (np.array([[-x], [x]]) for x in (9.0, bound))
    np.testing.assert_allclose(one.step(far)[0], other.step(bounds)[0], 1e-6)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("keywords", [{"render_mode": "rgb_array"}, {"gravitas": 1}])
def test_settings_that_are_refused(name, keywords):
    (word,) = keywords
    with pytest.raises(ValueError, match=f"does not render. Received: .*{word}.*'sync'"):
        native(name, env_kwargs=keywords)


def test_no_rendering():
    with pytest.raises(NotImplementedError, match="'sync'"):
        native("CartPole-v1").render()


# ---------------------------------------------------------------- from an id


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CartPole-v0", CartPole),
        ("CartPole-v1", CartPole),
        ("Acrobot-v1", Acrobot),
        ("MountainCar-v0", MountainCar),
        ("MountainCarContinuous-v0", MountainCarContinuous),
        ("Pendulum-v1", Pendulum),
    ],
)
def test_the_class_of_an_id(name, kind):
    registered = dict(gym.registry)
    for spelt in (name, f"gymnasium:{name}"):
        envs = native(spelt, 3)
        assert type(envs) is kind is NATIVE[name]
        assert envs.num_envs == 3 and envs.max_episode_steps == LIMITS[name]
    assert native(name, max_episode_steps=9).max_episode_steps == 9
    assert kind(2).max_episode_steps == LIMITS[name.replace("CartPole-v0", "CartPole-v1")]
    assert registered == gym.registry


def test_others_have_the_class_that_gymnasium_registers():
    def make(num_envs, max_episode_steps):
        assert max_episode_steps == 6
        return ScriptedVector([[(2, "both")]] * num_envs, AutoresetMode.NEXT_STEP)

    gym.register("Others-v0", vector_entry_point=make, max_episode_steps=6)
    try:
        envs = native("Others-v0", 3)
        assert isinstance(envs, ScriptedVector) and envs.num_envs == 3
    finally:
        del gym.registry["Others-v0"]


def test_others_without_one_are_refused():
    with pytest.raises(ValueError, match="'FrozenLake-v1', which has none. .*'sync' or 'async'"):
        native("FrozenLake-v1")
