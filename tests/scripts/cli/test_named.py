"""What is named on the command line: arguments of environments, classes in modules, networks."""

import importlib
import json
import sys
from dataclasses import fields, replace

import gymnasium as gym
import numpy as np
import pytest
from commands import assert_refused, caller
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from vantage.agents import A2C, DQN, PPO, SAC, A2CConfig, DQNConfig, PPOConfig
from vantage.agents.configs.config import OF_NETWORK, OF_OPTIMIZER, used_settings
from vantage.agents.configs.registry import ALGORITHMS
from vantage.envs import check_env, make_vec
from vantage.scripts.cli.named import env_kwargs_from, recorded_env_kwargs
from vantage.training import train

MODULE = '''
import gymnasium as gym
import numpy as np

class Line(gym.Env):
    """Go right; every step costs `cost`."""
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, length=4, cost=1.0, name="", render_mode=None):
        self.length, self.cost, self.render_mode = length, cost, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        seen, ended = np.full(1, self.at / self.length, np.float32), self.at >= self.length
        return seen, -self.cost, ended, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

def network():
    import keras
    x = keras.Input((1,))
    hidden = keras.layers.Dense(5)(x)
    return keras.Model(x, [keras.layers.Dense(2)(hidden), keras.layers.Dense(1)(hidden)])

def sized(observation_space, action_space):
    return network()

NUMBER = 3
def several():
    return PettingZoo()

class PettingZoo:
    possible_agents = ["a", "b"]
'''


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lines_of_mine.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("lines_of_mine", None)


LINE = "lines_of_mine:Line"
SHORT = ("--total-steps", 40, "--num-envs", 2, "--net-arch", 4)


def saved(folder, name):
    return json.loads((folder / name).read_text())


# Arguments of environments.


@pytest.mark.parametrize(
    ("words", "kwargs"),
    [
        (["a=1", "b=x y", "c=null", "d=[1, 2]"], {"a": 1, "b": "x y", "c": None, "d": [1, 2]}),
        (["slippery=False", "b=true"], {"slippery": False, "b": True}),
        (['{"a": {"b": 1.5}}'], {"a": {"b": 1.5}}),
        (["url=http://x=y"], {"url": "http://x=y"}),
        ([], {}),
    ],
)
def test_arguments_are_read(words, kwargs):
    assert env_kwargs_from(words) == kwargs


@pytest.mark.parametrize("words", [["a"], ["{a: 1}"], ["a=1", "a=2"], ["a b=1"], ['{"a b": 1}']])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="env_kwargs must be .* Received: .* Write --env-kwargs"):
        env_kwargs_from(words)


@pytest.mark.parametrize(
    "found",
    ["x", [1], {"a b": 1}, {"env_id": "os:system"}, {"xml_file": "../a.xml"}, {"a": ["/b"]}]
    + [{"a": "x" * 300}, {"a": [1] * 9_000}],
)
def test_recorded_arguments_that_name_something_have_to_be_typed(found):
    with pytest.raises(ValueError, match="Pass --env-kwargs"):
        recorded_env_kwargs({"env_kwargs": found})


def test_arguments_reach_every_command(call, folder):
    run = folder / "run"
    words = ("--env-kwargs", "length=3", "cost=2")
    evaluated = ("--eval-every", 20, "--checkpoint-every", 1)
    code, out, err = call(
        *("train", "a2c", LINE, *SHORT, *words, "--logdir", run, "--n-steps", 4, *evaluated)
    )
    assert code == 0, err
    assert "length" in out and saved(run, "config.json")["env_kwargs"] == {"length": 3, "cost": 2}
    assert saved(run, "summary.json")["mean_return_100"] == -6
    more = ("--total-steps", 60, "--resume", "--logdir", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_refused(call("train", "a2c", LINE, *more, "--env-kwargs", "cost=1"), "Leave out --env")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert call("train", "a2c", LINE, *more)[0] == 0
    assert saved(run, "summary.json")["mean_return_100"] == -6
    longer = ("--total-steps", 80, "--resume", "--logdir", run)
    assert call("train", "a2c", LINE, *longer, *words)[0] == 0  # the same ones
    assert call("evaluate", run, "--env", LINE, "--episodes", 2)[0] == 0
    assert saved(run, "evaluation.json")["mean"] == -6
    assert call("evaluate", run, "--env", LINE, "--episodes", 2, "--env-kwargs", "cost=1")[0] == 0
    assert saved(run, "evaluation.json")["mean"] == -4
    code, out, err = call("watch", run, "--env", LINE, "--output", "a.gif")
    assert code == 0 and "return -6.00 in 3 steps" in out, err
    code, out, _ = call("check", LINE, "--steps", 20, "--env-kwargs", "length=0.5", "cost=2e3")
    assert "2000" in out or "2e+03" in out
    assert_refused(call("check", LINE, "--env-kwargs", "cost"), "env_kwargs")
    config = saved(run, "config.json")
    (run / "config.json").write_text(json.dumps({**config, "env_kwargs": {"name": "os:x"}}))
    assert_refused(call("evaluate", run, "--env", LINE), "--env-kwargs")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_class_of_a_module_is_an_environment(vectorization):
    sys.path.insert(0, "")
    envs = make_vec(LINE, 2, seed=0, vectorization=vectorization, env_kwargs={"length": 2})
    envs.reset()
    envs.step(np.zeros(2, np.int64))
    assert envs.step(np.zeros(2, np.int64))[2].all()
    envs.close()
    assert check_env(LINE, steps=50).ok


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lines_of_mine:Missing", r"has no 'Missing'\. It has lines_of_mine:Line\."),
        ("lines_of_mine:NUMBER", r"has a 'NUMBER' of type int\. It has lines_of_mine:Line\."),
        ("nowhere_at_all:Reacher", r"importable.*nowhere_at_all.*folder that holds"),
        ("nowhere_at_all.inner:Reacher-v9", r"importable.*folder that holds 'nowhere_at_all'"),
    ],
)
def test_what_a_module_does_not_hold(name, said):
    sys.path.insert(0, "")
    with pytest.raises(ValueError, match=said) as refused:
        make_vec(name)
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_what_a_module_holds_by_another_name(vectorization):
    """Gymnasium suggested the ids of its own that are nearest."""
    sys.path.insert(0, "")
    for name, near in [
        ("lines_of_mine:Lime", "lines_of_mine:Line?"),
        ("vantage.envs.examples:vantage/Bandid-v0", "vantage.envs.examples:vantage/Bandit-v0"),
    ]:
        with pytest.raises(ValueError, match="has no .* Did you mean") as refused:
            make_vec(name, vectorization=vectorization)
        assert near in str(refused.value) and "Hopper" not in str(refused.value)


def test_every_command_says_what_a_module_does_not_hold(call, folder):
    run = folder / "run"
    assert call("train", "a2c", LINE, *SHORT, "--logdir", run)[0] == 0
    wrong = "lines_of_mine:Lime"
    for words in (
        *(("check", wrong), ("train", "a2c", wrong), ("evaluate", run, "--env", wrong)),
        ("watch", run, "--env", wrong, "--output", "a.gif"),
    ):
        assert_refused(call(*words), "module 'lines_of_mine' has no 'Lime'", "lines_of_mine:Line?")
    assert_refused(
        call("train", "a2c", LINE, "--network", "lines_of_mine:netwrk"),
        "module 'lines_of_mine' has no function 'netwrk'. Write --network lines_of_mine:network.",
    )


# Environments of several agents, and of other toolkits.


def test_several_agents_are_refused_by_name():
    sys.path.insert(0, "")
    with pytest.raises(ValueError, match=r"PettingZoo\), which are not supported"):
        make_vec("lines_of_mine:several")


def test_a_vector_environment_without_spaces_is_refused():
    class Bare(gym.vector.VectorEnv):
        num_envs = 2

    with pytest.raises(ValueError, match="without single_observation_space.*SuperSuit"):
        make_vec(Bare())


def test_a_vector_environment_of_stable_baselines3_is_refused():
    class DummyVecEnv:
        num_envs = 1

        def step_async(self, actions):
            """Steps."""

    with pytest.raises(ValueError, match="of Stable-Baselines3"):
        make_vec(DummyVecEnv())


# Networks.


@pytest.mark.parametrize("function", ["network", "sized"])
def test_a_run_with_an_own_network_by_command(call, folder, function):
    run, name = folder / "run", f"lines_of_mine:{function}"
    code, _, err = call("train", "a2c", LINE, *SHORT, "--logdir", run, "--network", name)
    assert code == 0, err
    config = saved(run, "config.json")
    assert config["network"] == name and not OF_NETWORK & set(config["config"])
    # No file imports what it names: the user is asked, once for both.
    assert_refused(call("evaluate", run), f"Pass --env {LINE} --network {name} if you trust them.")
    for asked in (("evaluate", run), ("watch", run, "--output", "a.gif")):
        assert_refused(call(*asked, "--env", LINE), f"Pass --network {name} if you trust it.")
    for more in (("--resume", "--logdir", run), ("--init-from", run)):
        assert_refused(call("train", "a2c", LINE, *more), f"Pass --network {name}.")
    typed = ("--env", LINE, "--network", name)
    assert call("evaluate", run, *typed, "--episodes", 2)[0] == 0
    assert call("watch", run, *typed, "--output", "a.gif")[0] == 0
    assert call("train", "a2c", LINE, "--resume", "--logdir", run, *typed[2:])[0] == 0


def test_the_seed_of_a_command_is_that_of_an_own_network_too(call, folder):
    weights = []
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        name = ("--network", "lines_of_mine:network")
        code, _, err = call("train", "a2c", LINE, *SHORT, "--logdir", run, *name, "--seed", seed)
        assert code == 0, err
        network = importlib.import_module("lines_of_mine").network()
        weights.append(A2C.load(folder / run, network=network).network.get_weights())
    assert all(map(np.array_equal, weights[0], weights[1]))
    assert not any(map(np.array_equal, weights[0], weights[2]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_settings_that_an_own_part_replaces_are_not_shown(algorithm):
    """Neither where a run begins nor in what it records."""
    config = ALGORITHMS[algorithm].config()
    every = {field.name for field in fields(config)}
    assert set(used_settings(config)) == every
    assert set(used_settings(config, own_network=True)) == every - OF_NETWORK
    assert set(used_settings(config, own_optimizer=True)) == every - OF_OPTIMIZER


def test_a_run_with_an_own_network_shows_what_applies(call, folder):
    """And resumes with settings of the default network that were given in vain."""
    run, name = folder / "run", "lines_of_mine:network"
    flags = ("--network", name, "--net-arch", "32", "--logdir", run)
    code, out, err = call("train", "a2c", LINE, *SHORT, *flags, "--max-episode-steps", 9)
    assert code == 0, err
    first = out.splitlines()[0]
    assert f": network={name}, max_episode_steps=9, num_envs=" in first and "gamma=0.99" in first
    assert not [setting for setting in OF_NETWORK if f"{setting}=" in first]
    values = EventAccumulator(str(run)).Reload()
    table = values.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(table).session_start_info.hparams
    assert shown["network"].string_value == name and "config.net_arch" not in shown
    again = ("--resume", "--logdir", run, "--network", name)
    code, _, err = call("train", "a2c", LINE, *again)
    assert code == 0, err


def test_a_script_with_an_own_network_says_so_in_its_run(call, folder):
    """And a note of the user's by that name asks for nothing."""
    sys.path.insert(0, "")
    import lines_of_mine

    envs = make_vec(LINE, 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    train(A2C(*spaces, network=lines_of_mine.network()), envs, 40, logdir="run")
    assert saved(folder / "run", "config.json")["network"] == "own"
    assert_refused(call("evaluate", "run"), "Pass --env ID --network module:function, or use")
    train(A2C(*spaces), envs, 40, logdir="other", config={"network": "small"})
    assert call("evaluate", "other", "--env", LINE, "--episodes", 2)[0] == 0


def test_a_network_that_is_too_much_or_not_there(call, folder):
    run = folder / "run"
    assert call("train", "a2c", LINE, *SHORT, "--logdir", run)[0] == 0
    typed = ("evaluate", run, "--env", LINE, "--network")
    assert_refused(call(*typed, "lines_of_mine:network"), "Leave out --network")
    for name in ("lines_of_mine:NUMBER", "lines_of_mine:none", "network", "nowhere_x:network"):
        assert_refused(call(*typed, name), "module:function")


def test_an_own_optimizer_is_not_needed_to_act(call, folder):
    import keras

    envs = make_vec("CartPole-v1", 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = A2C(*spaces, A2CConfig(net_arch=(4,)), optimizer=keras.optimizers.SGD(0.01))
    train(agent, envs, 40, logdir="run")
    code, _, err = call("evaluate", "run", "--env", "CartPole-v1", "--episodes", 2)
    assert code == 0, err


def test_an_agent_with_an_auxiliary_loss_is_loaded_and_not_trained_without_it(tmp_path):
    envs = make_vec("CartPole-v1", 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = PPO(*spaces, PPOConfig(net_arch=(4,), n_steps=8, batch_size=16),
                auxiliary_loss=lambda outputs, targets: 0.0 * outputs[1][0, 0])  # fmt: skip
    train(agent, envs, 32)
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent")
    again.act(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="Set agent.auxiliary_loss"):
        train(again, envs, 32)


# Loading.


def test_a_run_is_loaded_by_its_folder(tmp_path):
    envs = make_vec("CartPole-v1", 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    kept = DQNConfig(net_arch=(4,), learning_starts=10, buffer_size=100)
    for kind, config in ((A2C, A2CConfig(net_arch=(4,))), (DQN, kept)):
        agent, run = kind(*spaces, config, seed=0), tmp_path / kind.__name__
        train(agent, envs, 60, logdir=run)
        for again in (kind.load(run), kind.load(str(run))):
            for a, b in zip(agent.parts["network"], again.parts["network"], strict=True):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
        other = kind(*spaces, config, seed=1)
        other.restore(run, only_network=True)
        np.testing.assert_array_equal(
            other.network.get_weights()[0], agent.network.get_weights()[0]
        )


# Other toolkits' ways of building and using an agent.


@pytest.mark.parametrize("kind", [PPO, DQN, SAC])
def test_names_of_other_toolkits_lead_to_ours(kind):
    env_id = "Pendulum-v1" if kind is SAC else "CartPole-v1"
    envs = make_vec(env_id, 1)
    agent = kind(envs.single_observation_space, envs.single_action_space)
    for name, said in {"learn": "training.train", "predict": "agent.act", "env": "no env"}.items():
        with pytest.raises(AttributeError, match=said):
            getattr(agent, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
        agent.nothing  # noqa: B018
    assert not hasattr(agent, "learn")
    for arguments, keywords in (
        (("MlpPolicy", "CartPole-v1"), {}),
        (("MlpPolicy",), {"env": "CartPole-v1", "verbose": 1}),
        ((), {"policy": "MlpPolicy", "env": envs}),
    ):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\(envs.single_observation_space"):
            kind(*arguments, **keywords)
    spaces = envs.single_observation_space, envs.single_action_space
    with pytest.raises(TypeError, match=rf"learning_rate as arg.*{kind.__name__}Config"):
        kind(*spaces, learning_rate=1e-3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        kind(*spaces, nothing=1)


def test_schedules_as_functions_are_refused_with_what_to_do():
    for name, said in (
        ("learning_rate", "lr_schedule='linear'"),
        ("clip_range", "clip_schedule='linear'"),
        ("ent_coef", "no schedule"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(PPOConfig(), **{name: lambda left: left})


def test_help_describes_every_field():
    import dataclasses
    import pydoc

    for kind in (A2CConfig, PPOConfig, DQNConfig):
        text = pydoc.plain(pydoc.render_doc(kind))
        for field in dataclasses.fields(kind):
            assert f"{field.name}: " in text.partition("Method")[0]
    assert "Clip" in PPOConfig.__doc__ or "ratio" in PPOConfig.__doc__


def test_recurrent_layers_that_see_one_step_are_refused():
    import keras

    envs = make_vec("CartPole-v1", 2)
    spaces = envs.single_observation_space, envs.single_action_space

    def network(steps, wrap=lambda layer: layer, stateful=False):
        x = keras.Input((4,), batch_size=3 if stateful else None)
        hidden = keras.layers.Reshape((steps, -1))(x)
        hidden = wrap(keras.layers.LSTM(3, stateful=stateful))(hidden)
        return keras.Model(x, [keras.layers.Dense(2)(hidden), keras.layers.Dense(1)(hidden)])

    for wrong in (network(1), network(1, keras.layers.Bidirectional), network(4, stateful=True)):
        with pytest.raises(ValueError, match="recurrent layer .*FrameStackObservation"):
            A2C(*spaces, network=wrong)
    A2C(*spaces, network=network(4))  # over four parts of one observation


def test_the_places_of_entries_are_in_the_error():
    import keras

    space = gym.spaces.Dict({"cam": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
                             "vec": gym.spaces.Box(-1, 1, (5,))})  # fmt: skip
    x = keras.Input((5,))
    wrong = keras.Model(x, [keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)])
    said = r"cam at \[:, 0:192\], of shape \(8, 8, 3\); vec at \[:, 192:197\]"
    with pytest.raises(ValueError, match=said):
        A2C(space, gym.spaces.Discrete(2), network=wrong)


def test_progress_without_a_terminal(capsys):
    envs = make_vec("CartPole-v1", 2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    for progress, least, most in ((None, 0, 0), (False, 0, 0), (True, 10, 20)):
        train(A2C(*spaces, A2CConfig(net_arch=(4,))), envs, 400, log_every=10, progress=progress)
        lines = capsys.readouterr().out.splitlines()
        assert least <= len(lines) <= most
        assert all("steps/s" in line and "/400 steps" in line for line in lines)
