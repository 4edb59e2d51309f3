"""Saved agents: they act and learn on as before, and nothing damaged or foreign is loaded."""

import json
import pickle
from pathlib import Path

import gymnasium as gym
import keras
import numpy as np
import pytest
from gymnasium import spaces

from vantage import agents
from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.storage.checkpoint import _sealed

SMALL = A2CConfig(net_arch=(8,))
BOX, TWO = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
RANDOM = np.random.default_rng(0)


def own_network(width=6, name="hidden", dtype="float32"):
    """A model of the user's own for BOX and TWO; ReLU6 makes it one that NumPy does not mirror."""
    x = keras.Input((3,))
    hidden = keras.layers.Dense(width, "relu6", name=name, dtype=dtype)(x)
    policy = keras.layers.Dense(2, name="policy", dtype=dtype)(hidden)
    value = keras.layers.Dense(1, name="value", dtype=dtype)(hidden)
    return keras.Model(x, (policy, value))


def own_optimizer(momentum=0.9):
    return keras.optimizers.SGD(0.01, momentum=momentum)


def trained(agent, steps=200):
    """The agent after a few updates on CartPole, whose episodes are the same every time."""
    train(agent, make_vec("CartPole-v1", 4, seed=3), steps)
    return agent


def cartpole_agent(config=SMALL, **keywords):
    envs = make_vec("CartPole-v1", 1)
    spaces_ = envs.single_observation_space, envs.single_action_space
    return A2C(*spaces_, config, seed=5, **keywords)


def values(agent):
    return [v.numpy() for v in (*agent.network.variables, *agent.optimizer.variables)]


def assert_same_bits(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "config",
    [SMALL, A2CConfig(net_arch=(8,), optimizer="adam", lr_schedule="linear", share_trunk=True)],
    ids=["rmsprop", "adam, linear schedule, shared trunk"],
)
def test_a_loaded_agent_acts_and_learns_on_identically(tmp_path, config):
    agent = trained(cartpole_agent(config))
    before = values(agent)
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent")
    assert loaded.config == config and loaded.updates == agent.updates > 0
    assert_same_bits(before, values(loaded))
    observations = RANDOM.normal(size=(50, 4)).astype(np.float32)
    for deterministic in (True, False):  # the sampled ones need the generator's state
        actions = agent.act(observations, deterministic)
        np.testing.assert_array_equal(loaded.act(observations, deterministic), actions)
    np.testing.assert_array_equal(loaded.value(observations), agent.value(observations))
    after = values(trained(agent))
    assert any(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True))
    assert_same_bits(after, values(trained(loaded)))


def test_the_optimizer_slots_matter(tmp_path):
    """The negative control: with fresh slots the same training ends elsewhere."""
    agent = trained(cartpole_agent())
    agent.save(tmp_path / "agent")
    fresh = A2C.load(tmp_path / "agent")
    for variable in fresh.optimizer.variables:
        if variable.shape:  # the slots; the scalars are iterations and learning rate
            variable.assign(np.zeros(variable.shape))
    weights = [v.numpy() for v in trained(agent).network.variables]
    others = [v.numpy() for v in trained(fresh).network.variables]
    assert any(not np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


def test_own_network_and_own_optimizer_round_trip(tmp_path):
    agent = A2C(BOX, TWO, SMALL, network=own_network(), optimizer=own_optimizer())
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", network=own_network(), optimizer=own_optimizer())
    assert_same_bits(values(agent), values(loaded))
    observations = RANDOM.normal(size=(20, 3)).astype(np.float32).clip(-1, 1)
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))


def test_layers_may_have_been_numbered_by_keras_in_between(tmp_path):
    """The second model of a process has `dense_2` where the first had `dense`."""

    def network():
        x = keras.Input((3,))
        return keras.Model(x, (keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)))

    A2C(BOX, TWO, network=network()).save(tmp_path / "agent")
    A2C.load(tmp_path / "agent", network=network())


@pytest.mark.parametrize(
    ("passed", "named"),
    [
        ({}, "own network"),
        ({"network": True}, "own optimizer"),
        ({"optimizer": True}, "own network"),
        ({"network": {"width": 7}, "optimizer": True}, "[3, 7]"),
        ({"network": {"name": "other"}, "optimizer": True}, "other/kernel"),
        ({"network": {"dtype": "float64"}, "optimizer": True}, "float64"),
        ({"network": True, "optimizer": {"momentum": 0.0}}, "optimizer must have the variables"),
    ],
)
def test_own_parts_are_demanded_and_checked(tmp_path, passed, named):
    A2C(BOX, TWO, SMALL, network=own_network(), optimizer=own_optimizer()).save(tmp_path / "agent")
    makers = {"network": own_network, "optimizer": own_optimizer}
    parts = {
        name: makers[name](**(settings if isinstance(settings, dict) else {}))
        for name, settings in passed.items()
    }
    with pytest.raises(ValueError, match=r"Received: .*Pass ") as error:
        A2C.load(tmp_path / "agent", **parts)
    assert named in str(error.value)


def test_parts_that_were_not_the_agents_own_are_refused(tmp_path):
    A2C(BOX, TWO, SMALL).save(tmp_path / "agent")
    with pytest.raises(ValueError, match="default network"):
        A2C.load(tmp_path / "agent", network=own_network())
    with pytest.raises(ValueError, match="default optimizer"):
        A2C.load(tmp_path / "agent", optimizer=own_optimizer())


def decaying(decay=0.5, excluded=(), **options):
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=decay, **options)
    if excluded:
        optimizer.exclude_from_weight_decay(var_names=excluded)
    return optimizer


OTHER_SETTINGS = {
    "excluded": (lambda: decaying(excluded=["bias"]), r"=\['.*/bias'.*\], saved as \[\]"),
    "decay": (lambda: decaying(0.1), "weight_decay=0.1, saved as 0.5"),
    "clipped": (lambda: decaying(global_clipnorm=2), "global_clipnorm=2.0, saved as None"),
}


@pytest.mark.parametrize(("make", "message"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_another_setting_of_your_optimizer_is_named(make, message, tmp_path):
    """It is no variable: training would go another way in silence."""
    A2C(BOX, TWO, SMALL, optimizer=decaying()).save(tmp_path / "agent")
    A2C.load(tmp_path / "agent", optimizer=decaying()).restore(tmp_path / "agent")
    with pytest.warns(UserWarning, match=f"settings it was saved with. Received: .*{message}"):
        agent = A2C.load(tmp_path / "agent", optimizer=make())
    with pytest.warns(UserWarning, match=message):
        agent.restore(tmp_path / "agent")
    agent.restore(tmp_path / "agent", only_network=True)
    with pytest.warns(UserWarning, match=message):
        agent.check_resumable(A2C.load(tmp_path / "agent", optimizer=decaying()).get_state())
    agent.save(tmp_path / "agent")
    A2C.load(tmp_path / "agent", optimizer=make())
    with pytest.warns(UserWarning, match="Received: .*, saved as "):
        A2C.load(tmp_path / "agent", optimizer=decaying())


@pytest.mark.parametrize("differs", ["network", "optimizer"])
def test_a_failed_restore_changes_nothing(tmp_path, differs):
    A2C(BOX, TWO, SMALL, seed=1).save(tmp_path / "agent")
    config = {
        "network": A2CConfig(net_arch=(9,)),
        "optimizer": A2CConfig(net_arch=(8,), optimizer="adam"),
    }
    agent = A2C(BOX, TWO, config[differs], seed=2)
    before = values(agent)
    with pytest.raises(ValueError, match=f"{differs} must have the variables"):
        agent.restore(tmp_path / "agent")
    assert_same_bits(before, values(agent))


OBSERVATIONS = [
    spaces.Box(-np.inf, np.inf, (2,), np.float32),
    spaces.Box(np.array([-np.inf, -0.1]), np.array([0.1, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (4, 3, 1), np.uint8),
]
ACTIONS = [
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Box(np.float32([-1, -0.1]), np.float32([1 / 3, 2]), dtype=np.float32),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
]


@pytest.mark.parametrize(
    ("observations", "actions"),
    [(OBSERVATIONS[i % len(OBSERVATIONS)], space) for i, space in enumerate(ACTIONS)],
    ids=str,
)
def test_spaces_round_trip(tmp_path, observations, actions):
    A2C(observations, actions, A2CConfig(net_arch=())).save(tmp_path / "agent")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "agent" / "manifest.json").read_text(), parse_constant=refuse)
    loaded = A2C.load(tmp_path / "agent")
    for before, after in ((observations, loaded.observation_space), (actions, loaded.action_space)):
        assert before == after and type(before) is type(after)
        assert before.dtype == after.dtype and before.shape == after.shape
    batch = np.stack([observations.sample() for _ in range(4)])
    assert all(actions.contains(action) for action in loaded.act(batch))


@pytest.fixture
def saved(tmp_path):
    A2C(BOX, TWO, SMALL).save(tmp_path / "agent")
    return tmp_path / "agent"


def test_a_checkpoint_holds_two_plain_files(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["agent"]  # no temporary is left over


def test_a_checkpoint_may_be_replaced(saved):
    agent = A2C(BOX, TWO, SMALL, seed=9)
    agent.save(saved)
    assert_same_bits(values(agent), values(A2C.load(saved)))


def test_nothing_but_a_checkpoint_is_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("more")
    agent = A2C(BOX, TWO, SMALL)
    for name in ("thesis", "file"):
        with pytest.raises(FileExistsError, match=r"new path.*Received.*Choose"):
            agent.save(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more"
    assert len(list(tmp_path.rglob("*"))) == 3


def manifest(saved, **changes):
    """Changes the manifest as a forger would: its digest is right again."""
    path = saved / "manifest.json"
    data = json.loads(path.read_text())
    del data["digest"]
    data |= {key: value for key, value in changes.items() if key == "schema"}
    data["agent"] |= {key: value for key, value in changes.items() if key != "schema"}
    data["agent"] = {key: value for key, value in data["agent"].items() if value is not ...}
    path.write_bytes(_sealed(data))


def cut(path: Path, share: float):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


DAMAGE = {
    "no manifest": lambda saved: (saved / "manifest.json").unlink(),
    "no tensors": lambda saved: (saved / "tensors.safetensors").unlink(),
    "empty manifest": lambda saved: cut(saved / "manifest.json", 0),
    "half a manifest": lambda saved: cut(saved / "manifest.json", 0.5),
    "manifest a list": lambda saved: (saved / "manifest.json").write_text("[1]"),
    "manifest of bytes": lambda saved: (saved / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "empty tensors": lambda saved: cut(saved / "tensors.safetensors", 0),
    "half the tensors": lambda saved: cut(saved / "tensors.safetensors", 0.5),
    "tensors short by a byte": lambda saved: cut(saved / "tensors.safetensors", 0.999),
    "another schema": lambda saved: manifest(saved, schema=999),
    "another algorithm": lambda saved: manifest(saved, algorithm="dqn"),
    "unknown setting": lambda saved: manifest(saved, config={"colour": "blue"}),
    "setting out of range": lambda saved: manifest(saved, config={"gamma": 3.0}),
    "unknown space": lambda saved: manifest(saved, action_space={"type": "os.system"}),
    "absurd space": lambda saved: manifest(
        saved, action_space={"type": "Discrete", "dtype": "int64", "n": -1, "start": 0}
    ),
    "other space": lambda saved: manifest(
        saved, action_space={"type": "Discrete", "dtype": "int64", "n": 5, "start": 0}
    ),
}
KEYS = ("config", "observation_space", "action_space", "network", "optimizer", "generator")
for key in (*KEYS, "updates", "done_steps", "variables", "normalizer", "algorithm"):
    DAMAGE[f"no {key}"] = lambda saved, key=key: manifest(saved, **{key: ...})
    DAMAGE[f"{key} a number"] = lambda saved, key=key: manifest(saved, **{key: 0.5})


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_a_value_error(saved, damage):
    damage(saved)
    with pytest.raises(ValueError, match="Received: "):
        A2C.load(saved)


def test_a_missing_folder_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"Received: .*nowhere.*Pass"):
        A2C.load(tmp_path / "nowhere")


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_loading_never_unpickles(saved, tmp_path, name, protocol):
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary), protocol)
    (saved / name).write_bytes(payload)
    with pytest.raises(ValueError, match="Received: "):
        A2C.load(saved)
    assert not canary.exists()
    pickle.loads(payload)  # it would have sung
    assert canary.exists()


def test_files_beside_the_two_are_not_opened(saved, tmp_path):
    canary = tmp_path / "canary"
    for name in ("agent.pkl", "config.pickle", "model.keras", "tensors.npy", "__init__.py"):
        (saved / name).write_bytes(pickle.dumps(Canary(canary)))
    A2C.load(saved)
    assert not canary.exists()


def test_saving_needs_no_registered_environment(tmp_path):
    """A space of a user's own environment is saved as numbers, not as a class to import."""

    class Mine(gym.Env):
        observation_space, action_space = BOX, TWO

    envs = make_vec(Mine, 1)
    A2C(envs.single_observation_space, envs.single_action_space, SMALL).save(tmp_path / "agent")
    assert "Mine" not in (tmp_path / "agent" / "manifest.json").read_text()
    A2C.load(tmp_path / "agent")


class Places(spaces.Discrete):
    """A user's own subclass, which no other process knows."""


class Room(spaces.Box):
    def __repr__(self):
        return f"Room at {id(self)}"


def test_subclasses_of_spaces_are_saved_as_what_they_are(tmp_path):
    agent = A2C(Room(-1, 1, (3,), np.float32), Places(4), A2CConfig(net_arch=(4,)), seed=0)
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent")
    assert loaded.observation_space == spaces.Box(-1, 1, (3,), np.float32)
    assert type(loaded.observation_space) is spaces.Box
    assert loaded.action_space == spaces.Discrete(4)
    seen = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(
        loaded.act(seen, deterministic=True), agent.act(seen, deterministic=True)
    )


@pytest.mark.parametrize("name", ["A2C", "PPO", "DQN", "SAC", "TD3"])
def test_agents_refuse_averages_that_only_an_end_would_use(name):
    """A run may be stopped and resumed at any time: it has no end."""

    is_single = name in ("A2C", "PPO", "DQN")
    actions = spaces.Discrete(2) if is_single else spaces.Box(-1, 1, (1,))

    def agent(**more):
        one, other = (keras.optimizers.Adam(1e-3, use_ema=True, **more) for _ in range(2))
        seen, optimizer = spaces.Box(-1, 1, (3,)), one if is_single else (one, other)
        return getattr(agents, name)(seen, actions, optimizer=optimizer)

    with pytest.raises(ValueError, match="averages .*Received: Adam.*ema_overwrite_frequency"):
        agent()
    assert agent(ema_overwrite_frequency=5).own_optimizer
