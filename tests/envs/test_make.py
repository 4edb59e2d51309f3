"""Vector environments from ids, modules, callables, classes and ready ones."""

import contextlib
import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import Scripted, ScriptedVector
from specimens import Specimen, faulty

from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.envs.common.episodes import episode_seed
from vantage.envs.native.classic_control import CartPole
from vantage.envs.vector.sync import LeanSyncVectorEnv
from vantage.envs.vector.workers import WorkerVectorEnv

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
        assert isinstance(envs, LeanSyncVectorEnv)
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
    assert envs.np_random_seed == (7, 8, 9)  # Gymnasium's way, for it is Gymnasium's
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


def test_each_episode_has_its_own_seed():
    """Of the run, the environment and its number: 0 once `make_vec` has returned."""
    with opened("CartPole-v1", 3, seed=10) as envs:
        assert envs.run_seed == 10 and envs.episodes.tolist() == [0, 0, 0]
        assert envs.np_random_seed == tuple(episode_seed(10, i, 0) for i in range(3))
        assert tuple(env.unwrapped.np_random_seed for env in envs.envs) == envs.np_random_seed
        one, two, three = envs.reset()[0]
        assert (one != two).all() and (two != three).all()
        assert envs.np_random_seed == tuple(episode_seed(10, i, 1) for i in range(3))
    alone = gym.make("CartPole-v1")
    np.testing.assert_array_equal(alone.reset(seed=episode_seed(10, 1, 1))[0], two)


def test_a_run_without_a_seed_can_be_played_again():
    with opened("CartPole-v1", 2) as envs:
        first = envs.reset()[0]
    with opened("CartPole-v1", 2, seed=envs.run_seed) as again:
        np.testing.assert_array_equal(again.reset(seed=envs.run_seed)[0], first)


# ---------------------------------------------------------------- worker processes


def test_async_plays_as_sync():
    envs = make_vec("CartPole-v1", 2, seed=3, vectorization="async")
    assert isinstance(envs, WorkerVectorEnv)
    one = played(envs)  # closes them
    np.testing.assert_array_equal(one, played(make_vec("CartPole-v1", 2, seed=3)))


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


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_broken_environments_are_rebuilt_if_wanted(vectorization):
    make = functools.partial(make_vec, faulty("step", at=2), 2, vectorization=vectorization)
    with contextlib.closing(make(seed=0)) as envs:
        envs.step(np.zeros(2, int))
        with pytest.raises(BrokenEnvironmentError, match="environment 0 raised Boom"):
            envs.step(np.zeros(2, int))
    with contextlib.closing(make(restart_broken_envs=True, seed=0)) as envs:
        envs.step(np.zeros(2, int))
        assert envs.step(np.zeros(2, int))[4]["restarted"].all()
        assert envs.restarts == 2


def test_the_timeout_of_worker_processes():
    with pytest.raises(BrokenEnvironmentError, match="0.01 s .--env-timeout. in __init__"):
        make_vec(Specimen, 1, vectorization="async", timeout=0.01)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_breaks_at_once(vectorization):
    """In its constructor or in the reset that seeds it; nothing is left open."""
    closed = []

    class Noted(Specimen):
        def close(self):
            closed.append(self)

    for where in ("__init__", "reset"):
        make = functools.partial(Noted, where)
        with pytest.raises(BrokenEnvironmentError, match=f"raised Boom.*in {where}"):
            make_vec(make, 2, seed=0, vectorization=vectorization)
    assert len(closed) == (2 if vectorization == "sync" else 0)


# ---------------------------------------------------------------- action masks


class Choosy(Specimen):
    """Has a method for its mask, like environments for sb3-contrib."""

    def action_masks(self):
        self.mask = getattr(self, "mask", np.zeros((2, 2), np.int8))
        self.mask[0, 0] = self.now % 2
        return self.mask


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_mask_of_a_method(vectorization):
    """Goes into the info of every reset and step, flat, as bools of its own."""
    with opened(Choosy, 2, vectorization=vectorization, seed=0) as envs:
        masks = [envs.reset()[1]["action_mask"]]
        for _ in range(8):
            observations, *_, infos = envs.step(np.zeros(2, int))
            masks.append(infos["action_mask"])
            assert infos["_action_mask"].all()
            np.testing.assert_array_equal(masks[-1][:, 0], observations[:, 1] % 2)
        for mask in masks:
            assert mask.shape == (2, 4) and mask.dtype == bool and not mask[:, 1:].any()
        assert not masks[0].any() and masks[1].any()


def test_the_mask_of_a_wrapper_and_of_the_other_name():
    class Named(gym.Wrapper):
        def action_mask(self):
            return [True, False]

    with opened(Specimen, 2, wrappers=[Named, gym.wrappers.RecordEpisodeStatistics]) as envs:
        assert envs.reset()[1]["action_mask"].tolist() == [[True, False]] * 2


def test_masks_that_are_left_alone():
    """Those in the info already, methods that need a state (as Taxi's), and what is no method."""

    class Told(Choosy):
        def reset(self, **keywords):
            observation, info = super().reset(**keywords)
            return observation, {**info, "action_mask": np.ones(3, np.int8)}

    class Needy(Specimen):
        action_masks = None

        def action_mask(self, state):
            raise AssertionError

    with opened(Told, 1) as envs:
        assert envs.reset()[1]["action_mask"].tolist() == [[1, 1, 1]]
        assert envs.reset()[1]["action_mask"].dtype == np.int8
    with opened(Needy, 1) as envs:
        assert envs.reset()[1] == {}
        assert wrappers_of(envs.envs[0]) == []


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
        (
            "Nothing like that",
            "Check its spelling.*write module:EnvId-v0, or module:Class, or pass a callable",
        ),
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


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_out_of_range(timeout):
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds. Received"):
        make_vec("CartPole-v1", timeout=timeout)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"env_kwargs": {"a": 1}}, "env_kwargs"),
        ({"wrappers": [lambda env: env]}, "wrappers"),
        ({"max_episode_steps": 3}, "max_episode_steps"),
        ({"restart_broken_envs": True, "max_episode_steps": 3}, "max_.* and restart_broken_envs"),
    ],
)
def test_a_ready_vector_environment_takes_no_settings(settings, named):
    envs = ScriptedVector([[(2, "both")]], AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=f"bring its own settings. Received: {named}. Leave"):
        make_vec(envs, **settings)


def test_native_environments_are_not_restarted():
    with pytest.raises(ValueError, match="no single environments to restart. Received"):
        make_vec("CartPole-v1", vectorization="native", restart_broken_envs=True)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("limit", [None, 5])
def test_a_callable_that_makes_no_environment(vectorization, limit):
    """The caller's mistake, and no environment that broke."""
    with pytest.raises(ValueError, match=r"must return a gymnasium.Env. Received: 0 \(int\)"):
        make_vec(int, 1, vectorization=vectorization, max_episode_steps=limit)


@pytest.mark.parametrize("vectorization", ["fork", "", None])
def test_unknown_vectorization(vectorization):
    with pytest.raises(ValueError, match="must be sync, async or native. Received"):
        make_vec("CartPole-v1", 2, vectorization=vectorization)
