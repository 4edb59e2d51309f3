"""Vector environments from ids, modules, callables, classes and ready ones."""

import contextlib
import functools
import multiprocessing
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scripted import Scripted, ScriptedVector

from vantage.envs import make_vec
from vantage.envs.classic_control import CartPole

MODULE = """
import gymnasium as gym

class Own(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Discrete(2)

    def __init__(self, size=3):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(self.size), False, False, {}

gym.register("Own-v0", entry_point=Own)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's that registers Own-v0 when imported."""
    (tmp_path / "own_envs_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_envs_of_a_test"
    sys.modules.pop("own_envs_of_a_test", None)
    gym.registry.pop("Own-v0", None)


def opened(*arguments, **keywords):
    return contextlib.closing(make_vec(*arguments, **keywords))


def played(envs, steps=60):
    """Everything seen in `steps` steps with fixed actions after a reset without a seed."""
    random = np.random.default_rng(0)
    seen = [envs.reset()[0]]
    for _ in range(steps):
        observations, *others, _ = envs.step(random.integers(0, 2, envs.num_envs))
        seen.append(np.column_stack([observations, *others]))
    envs.close()
    return np.concatenate([array.ravel() for array in seen])


def wrappers_of(env):
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return names


# ---------------------------------------------------------------- what may be passed


def test_an_id():
    with opened("CartPole-v1", 3) as envs:
        assert isinstance(envs, SyncVectorEnv)
        assert envs.num_envs == 3
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        assert {type(env.unwrapped) for env in envs.envs} == {CartPoleEnv}
        assert len({id(env.unwrapped) for env in envs.envs}) == 3


def test_eight_environments_unless_told_otherwise():
    with opened("CartPole-v1") as envs:
        assert envs.num_envs == 8


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_module_and_an_id(own_module, vectorization):
    """The module is imported and registers it."""
    assert "Own-v0" not in gym.registry
    options = {"env_kwargs": {"size": 7}, "seed": 0, "vectorization": vectorization}
    with opened(f"{own_module}:Own-v0", 2, **options) as envs:
        assert envs.get_attr("size") == (7, 7)
        assert list(envs.step(np.zeros(2, int))[1]) == [7.0, 7.0]


def test_a_callable_and_a_class():
    for source in (CartPoleEnv, lambda **keywords: CartPoleEnv(**keywords)):
        with opened(source, 2, env_kwargs={"sutton_barto_reward": True}, seed=0) as envs:
            assert envs.num_envs == 2
            assert list(envs.step(np.zeros(2, int))[1]) == [0.0, 0.0]  # that reward is 0 at first
    with opened(functools.partial(Scripted, 4, [(2, "both")]), 1, seed=0) as envs:
        np.testing.assert_array_equal(envs.reset(seed=1)[0], [[4, 0, 0]])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_ready_vector_environment_is_only_seeded(mode):
    """Its own number of environments and autoreset mode hold; the seed is passed on."""
    envs = SyncVectorEnv([CartPoleEnv] * 3, autoreset_mode=mode)
    assert make_vec(envs, 5, seed=7) is envs
    assert envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] is mode
    assert envs.np_random_seed == (7, 8, 9)
    own = ScriptedVector([[(2, "both")]] * 2, mode)
    assert make_vec(own) is own
    assert not hasattr(own, "episodes")  # without a seed nothing was reset


def test_env_kwargs_of_an_id():
    with opened("CartPole-v1", 2, env_kwargs={"sutton_barto_reward": True}, seed=0) as envs:
        assert list(envs.step(np.zeros(2, int))[1]) == [0.0, 0.0]


@pytest.mark.parametrize("vectorization", ["sync", "native"])
@pytest.mark.parametrize("limit", [1, 4])
def test_a_time_limit(vectorization, limit):
    with opened("CartPole-v1", 2, vectorization=vectorization, max_episode_steps=limit) as envs:
        envs.reset(seed=0)
        for step in range(1, limit + 1):
            _, _, terminated, truncated, _ = envs.step(np.zeros(2, int))
            assert not terminated.any()
            assert truncated.tolist() == [step == limit] * 2


def test_a_time_limit_of_a_callable():
    endless = functools.partial(Scripted, 0, [])
    with opened(endless, 2, max_episode_steps=3, seed=0) as envs:
        ends = [envs.step(np.zeros(2, int))[3].tolist() for _ in range(3)]
    assert ends == [[False, False], [False, False], [True, True]]


def test_wrappers_the_first_one_innermost():
    """Outside the time limit; each environment has its own."""
    wrappers = [
        functools.partial(gym.wrappers.TransformReward, func=lambda reward: reward + 1),
        functools.partial(gym.wrappers.TransformReward, func=lambda reward: 10 * reward),
        gym.wrappers.RecordEpisodeStatistics,
    ]
    for source in ("CartPole-v1", CartPoleEnv):
        with opened(source, 2, wrappers=wrappers, max_episode_steps=9, seed=0) as envs:
            names = wrappers_of(envs.envs[0])
            assert names[:4] == [
                "RecordEpisodeStatistics",
                "TransformReward",
                "TransformReward",
                "TimeLimit",
            ]
            assert list(envs.step(np.zeros(2, int))[1]) == [20.0, 20.0]  # (1 + 1)·10
            assert envs.envs[0] is not envs.envs[1]


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_seeds_are_reproducible(vectorization):
    def make(seed):
        return played(make_vec("CartPole-v1", 3, seed=seed, vectorization=vectorization))

    np.testing.assert_array_equal(make(1), make(1))
    assert (make(1)[:12] != make(2)[:12]).all()
    assert (make(None)[:12] != make(None)[:12]).all()


def test_each_environment_has_its_own_seed():
    with opened("CartPole-v1", 3, seed=10) as envs:
        assert envs.np_random_seed == (10, 11, 12)
        one, two, three = envs.reset()[0]
        assert (one != two).all() and (two != three).all()
    with opened("CartPole-v1", 1, seed=11) as envs:
        np.testing.assert_array_equal(envs.reset()[0][0], two)


# ---------------------------------------------------------------- worker processes


def test_async_plays_as_sync_and_leaves_no_process():
    """Never forked, whatever the platform's default: a fork hangs once TensorFlow is loaded."""
    before = set(multiprocessing.active_children())
    envs = make_vec("CartPole-v1", 2, seed=3, vectorization="async")
    assert isinstance(envs, AsyncVectorEnv)
    assert envs.context in ("forkserver", "spawn")
    kinds = {type(process).__name__ for process in envs.processes}
    assert kinds <= {"ForkServerProcess", "SpawnProcess"}
    one = played(envs)  # closes them
    np.testing.assert_array_equal(one, played(make_vec("CartPole-v1", 2, seed=3)))
    assert not any(process.is_alive() for process in envs.processes)
    assert set(multiprocessing.active_children()) <= before


def test_spawn_where_there_is_no_forkserver(monkeypatch):
    """As on Windows; looked up only, nothing is started."""
    contexts = []
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(
        "vantage.envs.make.AsyncVectorEnv", lambda makers, context: contexts.append(context)
    )
    make_vec("CartPole-v1", 2, vectorization="async")
    assert contexts == ["spawn"]


def test_async_of_what_only_this_process_knows():
    """Closures, wrappers and an id registered here, not on import, reach the workers."""
    script = [(2, "truncated"), (3, "terminated")]
    gym.register("OnlyHere-v0", entry_point=functools.partial(Scripted, 0, script))
    try:
        make = functools.partial(
            make_vec,
            "OnlyHere-v0",
            2,
            seed=0,
            max_episode_steps=4,
            wrappers=[lambda env: gym.wrappers.TransformReward(env, lambda reward: 3 * reward)],
        )
        one = played(make(vectorization="async"), 12)
        np.testing.assert_array_equal(one, played(make(), 12))
    finally:
        del gym.registry["OnlyHere-v0"]


# ---------------------------------------------------------------- native


def test_native():
    with opened("CartPole-v1", 5, vectorization="native", seed=0) as envs:
        assert isinstance(envs, CartPole)
        assert envs.num_envs == 5
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        assert envs.max_episode_steps == 500  # the registered limit
    options = {"env_kwargs": {"sutton_barto_reward": True}, "seed": 0}
    with opened("CartPole-v1", 2, vectorization="native", **options) as envs:
        assert list(envs.step(np.zeros(2, int))[1]) == [0.0, 0.0]


def test_native_does_not_change_the_callers_arguments():
    keywords = {"sutton_barto_reward": True}
    make_vec("CartPole-v1", vectorization="native", env_kwargs=keywords, max_episode_steps=9)
    assert keywords == {"sutton_barto_reward": True}


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("FrozenLake-v1", {}, "needs a vector class.*which has none.*'sync' or 'async'"),
        (CartPoleEnv, {}, "takes a registered id and no wrappers"),
        ("CartPole-v1", {"wrappers": [lambda env: env]}, "no wrappers.*with 1 wrappers"),
        ("CartPool-v1", {}, "Did you mean CartPole-v1"),
    ],
)
def test_native_needs_a_registered_vector_class(env, options, message):
    with pytest.raises(ValueError, match=message):
        make_vec(env, vectorization="native", **options)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPool-v1", "Received: 'CartPool-v1'.*Did you mean CartPole-v1"),
        ("cartpole-v1", "Did you mean CartPole-v1"),
        ("CartPole-v9", "Did you mean CartPole-v1"),
        ("Nothing like that", "Check its spelling.*write module:EnvId-v0 or pass a callable"),
        ("", "Received: ''"),
        ("no_such_module:Own-v0", "No module named 'no_such_module'"),
        ("math:CartPool-v1", "Did you mean CartPole-v1"),
    ],
)
def test_unknown_ids(name, vectorization, message):
    with pytest.raises(ValueError, match=message):
        make_vec(name, 2, vectorization=vectorization)


@pytest.mark.parametrize("env", [3, None, CartPoleEnv()])
def test_what_makes_no_environment(env):
    with pytest.raises(ValueError, match="a callable that returns one.*Received"):
        make_vec(env, 2)


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
@pytest.mark.parametrize(
    "numbers", [{"num_envs": 0}, {"num_envs": -1}, {"max_episode_steps": 0}, {"seed": -1}]
)
def test_numbers_out_of_range(vectorization, numbers):
    ((name, number),) = numbers.items()
    with pytest.raises(ValueError, match=rf"{name} must be at least \d. Received: {number}"):
        make_vec("CartPole-v1", vectorization=vectorization, **numbers)


@pytest.mark.parametrize("vectorization", ["fork", "", None])
def test_unknown_vectorization(vectorization):
    with pytest.raises(ValueError, match="must be sync, async or native. Received"):
        make_vec("CartPole-v1", 2, vectorization=vectorization)
