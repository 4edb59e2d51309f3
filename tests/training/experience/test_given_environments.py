"""Environments that cannot be used as they are, and agents that cannot be copied, say so."""

import copy
import pickle

import cloudpickle
import gymnasium as gym
import keras
import numpy as np
import pytest

from vantage.agents import A2C, DQN, PPO, SAC, TD3, A2CConfig
from vantage.envs import make_vec
from vantage.envs.vector import sync
from vantage.training import GAN, Regression, differentiate, evaluate, train
from vantage.training.experience import given_environments

CARTPOLE, PENDULUM = gym.make("CartPole-v1"), gym.make("Pendulum-v1")
SMALL = A2CConfig(n_steps=2, net_arch=(4,))


def agent_for(env, **changed):
    """A small A2C agent for an environment's spaces, or others."""
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    return A2C(**(spaces | changed), config=SMALL, seed=0)


@pytest.mark.parametrize(
    "envs",
    [CARTPOLE, "CartPole-v1", lambda: CARTPOLE, None],
    ids=["environment", "name", "function", "None"],
)
def test_a_vector_environment_is_wanted(envs):
    """And `make_vec` makes one."""
    agent = agent_for(CARTPOLE)
    with pytest.raises(ValueError, match="envs must be a vector environment. Received: .*make_vec"):
        train(agent, envs, 100)
    with pytest.raises(ValueError, match="envs must be a vector environment. Received: .*make_vec"):
        evaluate(agent, envs, 2)
    if envs is not None:
        with pytest.raises(ValueError, match="evaluation_envs must be a vector"):
            ours = make_vec("CartPole-v1", 2)
            train(agent, ours, 100, evaluate_every=50, evaluation_envs=envs)


def test_agents_keep_to_their_spaces():
    """Others are refused before a step; bounds of float observations may differ."""
    envs, pendulum = make_vec("CartPole-v1", 2, seed=0), make_vec("Pendulum-v1", 2, seed=0)
    batched = agent_for(CARTPOLE, observation_space=envs.observation_space)
    narrow = agent_for(PENDULUM, action_space=gym.spaces.Box(-1.0, 1.0, (1,)))
    for agent, others in [(batched, envs), (narrow, pendulum), (agent_for(PENDULUM), envs)]:
        for play in (lambda a, e: train(a, e, 100), lambda a, e: evaluate(a, e, 2)):
            with pytest.raises(ValueError, match="space of envs.*single_observation_space"):
                play(agent, others)
    free = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    assert evaluate(agent_for(CARTPOLE, observation_space=free), envs, 2).episodes == 2


def test_no_environment_serves_twice():
    """Neither in training and evaluation, nor inside wrappers, nor in a callback."""
    agent, envs, one = (
        agent_for(CARTPOLE),
        make_vec("CartPole-v1", 2, seed=0),
        gym.make("CartPole-v1"),
    )
    shared = [make_vec(lambda: gym.wrappers.TimeLimit(one, 9), 1) for _ in range(2)]
    for train_in, evaluate_in in [(envs, envs), shared]:
        with pytest.raises(ValueError, match="of their own.*in envs and evaluation_envs"):
            train(agent, train_in, 100, evaluate_every=50, evaluation_envs=evaluate_in)
    same = gym.vector.SyncVectorEnv([lambda: one] * 2)
    with pytest.raises(ValueError, match="every slot of a vector its own"):
        train(agent, same, 100)
    with pytest.raises(ValueError, match="the same .* in envs, in training"):
        train(agent, envs, 100, log_every=10, callbacks=[lambda *_: evaluate(agent, envs, 1)])
    assert evaluate(agent, envs, 1).episodes == 1  # afterwards


class Outer(gym.Env):
    """An environment that holds what it is given."""

    observation_space, action_space = CARTPOLE.observation_space, CARTPOLE.action_space

    def __init__(self, **held):
        vars(self).update(held)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}

    def another(self):
        return Outer(origin=self)


SIMULATOR = gym.make("Pendulum-v1")
VECTOR = make_vec("Pendulum-v1", 1, vectorization="native")


class OfAClass(Outer):
    simulators = (SIMULATOR,)


SHARED = {
    "attribute": lambda: Outer(simulator=SIMULATOR),
    "list": lambda: Outer(simulators=[SIMULATOR]),
    "dict": lambda: Outer(simulators={"first": SIMULATOR}),
    "wrappers of their own": lambda: Outer(simulator=gym.wrappers.TimeLimit(SIMULATOR, 9)),
    "an environment in it": lambda: gym.wrappers.TimeLimit(Outer(one=Outer(sim=SIMULATOR)), 9),
    "vector": lambda: Outer(envs=VECTOR),
    "class": OfAClass,
    "bound method": Outer().another,
}


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_no_environment_inside_others_serves_twice(make):
    """In two slots, or in training and evaluation."""
    with pytest.raises(ValueError, match="instance of its own.*for environment 1 as for envir"):
        make_vec(make, 2)
    with pytest.raises(ValueError, match="every slot of a vector its own"):
        evaluate(agent_for(CARTPOLE), gym.vector.SyncVectorEnv([make] * 2), 1)
    one, other = make_vec(make, 1), make_vec(make, 1)
    with pytest.raises(ValueError, match="the same .* in envs and evaluation_envs. Make new"):
        train(agent_for(CARTPOLE), one, 100, evaluate_every=50, evaluation_envs=other)
    assert set(sync.layers_of(one.envs[0])) == set(given_environments.layers_of(one.envs[0]))
    assert evaluate(agent_for(CARTPOLE), one, 1).episodes == 1


def test_arguments_of_environments_may_hold_no_environment():
    for keywords in ({"simulator": SIMULATOR}, {"simulators": [SIMULATOR]}):
        with pytest.raises(ValueError, match="the same Pendulum.* no environment in env_kwargs"):
            make_vec(Outer, 2, env_kwargs=keywords)


def test_what_is_no_environment_may_be_shared():
    """Data sets, tables, models; and a simulator by one after the other."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    shared = {"data": [0] * 10**7, "model": model, "table": {"a": object()}, "kind": Outer}
    envs = make_vec(Outer, 2, env_kwargs=shared, seed=0)
    assert evaluate(agent_for(CARTPOLE), envs, 2).episodes == 2

    class Breaking(Outer):
        def step(self, action):
            raise RuntimeError("once")

    makers = iter([Breaking, Outer])
    envs = make_vec(lambda: next(makers)(sim=SIMULATOR), 1, restart_broken_envs=True, seed=0)
    assert envs.step(np.zeros(1, int))[4]["restarted"]


def pickled(agent):
    return pickle.loads(pickle.dumps(agent))


@pytest.mark.thinned
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
@pytest.mark.parametrize(
    "kind", [A2C, DQN, SAC, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (PPO, TD3))]
)
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_are_agents_of_their_own(copied, kind, is_own, tmp_path):
    """They act and learn as the original would, and share nothing with it."""
    settings = {"net_arch": (4,)}
    settings |= {"n_steps": 4} if kind in (A2C, PPO) else {"learning_starts": 10, "batch_size": 4}
    settings |= {"batch_size": 4} if kind is PPO else {}
    name = "CartPole-v1" if kind in (A2C, PPO, DQN) else "Pendulum-v1"
    envs = make_vec(name, 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    config = kind.config_type(**settings)
    agent, own = kind(*spaces, config, seed=3), {}
    if is_own:
        own = {"network": kind(*spaces, config, seed=4).network}
        own["optimizer"] = keras.optimizers.Adam(1e-2)
        if kind in (SAC, TD3):
            own["optimizer"] = tuple(keras.optimizers.Adam(1e-2) for _ in agent.optimizer)
    agent = kind(*spaces, config, seed=3, **own)
    x = np.random.default_rng(0).normal(size=(9, *spaces[0].shape)).astype(np.float32)
    for trained in (False, True):
        if trained:
            train(agent, envs, 60)
        expected, updates = agent.act(x, deterministic=True), agent.updates
        agent.save(tmp_path / f"{trained}")
        copies = [copy.copy(agent), copied(agent)]
        learned = []
        for other in copies:
            np.testing.assert_array_equal(other.act(x, deterministic=True), expected)
            assert type(other) is kind and other.updates == updates
            train(other, make_vec(name, 2, seed=1), 60)
            assert other.updates > updates and agent.updates == updates
            learned.append(np.concatenate([np.ravel(v) for v in other.parts["network"]]))
            np.testing.assert_array_equal(agent.act(x, deterministic=True), expected)
            other.restore(tmp_path / f"{trained}")
            np.testing.assert_array_equal(other.act(x, deterministic=True), expected)
        assert all((one == learned[0]).all() for one in learned)


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A class that Keras does not know."""

    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


class OwnOptimizer(keras.optimizers.SGD):
    """One that is not made of what `get_config` returns."""

    def __init__(self, rate):
        super().__init__(rate)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: cloudpickle.loads(cloudpickle.dumps(one))]
)
def test_copies_keep_what_no_setting_says(copied):
    """Frozen layers of the default network, exclusions from weight decay, own schedules."""
    optimizer = keras.optimizers.AdamW(OwnSchedule(), weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    spaces = CARTPOLE.observation_space, CARTPOLE.action_space
    agent = A2C(*spaces, A2CConfig(net_arch=(4,)), optimizer=optimizer)
    agent.network.layers[1].trainable = False
    other = copied(agent)
    trainable = [[each.trainable for each in one.network.layers] for one in (agent, other)]
    assert trainable[0] == trainable[1] and not all(trainable[1])
    for one in (agent, other):
        train(one, make_vec("CartPole-v1", 2, seed=1), 60)
    for a, b in zip(agent.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_copies_of_an_optimizer_that_cannot_be_made_again():
    spaces = CARTPOLE.observation_space, CARTPOLE.action_space
    agent = A2C(*spaces, optimizer=OwnOptimizer(0.1))
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ValueError, match="OwnOptimizer.*load it with optimizer="):
            copied(agent)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, cloudpickle.dumps])
def test_copies_of_trainers_are_refused(copied):
    """Whose compiled functions are of the original's variables."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    loss = differentiate(lambda outputs, targets: keras.ops.mean((outputs - targets) ** 2))
    with pytest.raises(ValueError, match="trainer.save.*a new Regression"):
        copied(Regression(model, loss, keras.optimizers.Adam()))
    assert issubclass(GAN, Regression.__base__)
