"""`vantage evaluate RUN_DIR` on foreign folders: nothing that a file names is imported."""

import json
import shutil
import sys
from functools import partial

import gymnasium as gym
import pytest
from commands import caller

from vantage.agents import A2C
from vantage.envs import make_vec
from vantage.scripts.main import main
from vantage.training import load_checkpoint, save_checkpoint

CANARY = """
import pathlib
pathlib.Path({path!r}).touch()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the command, started with a plain id."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    arguments = ("--total-steps", "40", "--num-envs", "2", "--net-arch", "4", "--logdir")
    main(["train", "a2c", "CartPole-v1", *arguments, str(folder), "--max-episode-steps", "20"])
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of the run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command may add the folder
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """What the module `canary` leaves behind when it is imported; it is in the current folder."""
    path = tmp_path / "it-sang"
    (tmp_path / "canary.py").write_text(CANARY.format(path=str(path)))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop("canary", None)


@pytest.fixture
def evaluate(capsys):
    """Calls `vantage evaluate run …` for two episodes: (exit code, stdout, stderr)."""

    return partial(caller(capsys), "evaluate", "run", "--episodes", "2")


def record(folder, **changes):
    """Changes the run's `config.json`; ... removes an entry."""
    path = folder / "config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))


def assert_refused(result, *parts):
    code, _, err = result
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert "Received: " in err and err.rstrip("\n").isprintable() and len(err) < 900
    for part in parts:
        assert part in err


def test_a_run_is_evaluated_by_its_folder(folder, evaluate):
    before = list(sys.path)
    code, out, err = evaluate()
    assert (code, err) == (0, "") and "mean return" in out
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["episodes"] == 2 and result["mean"] <= 20  # as long as the run's episodes
    assert sys.path == before  # nor can a module beside a foreign run shadow one of ours


@pytest.mark.parametrize(
    "env_id",
    [
        "canary:CartPole-v1",
        "canary:",
        ":CartPole-v1",
        "canary:canary:CartPole-v1",
        "canary:CartPole-v1\n",
        " canary:CartPole-v1",
        "canary:CartPole-v1; touch it-sang",
        "canary.py",
        "canary/CartPole-v1",
        "NoSuchEnv-v0",
        "CartPole-v1\n",
        "\x1b[2JCartPole-v1",
        "x" * 10_000,
        "",
        3,
        True,
        ["canary:CartPole-v1"],
        {"canary:CartPole-v1": "canary"},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_no_recorded_id_imports_anything(folder, evaluate, canary, env_id):
    sys.path.insert(0, "")  # so that it could be found
    record(folder, env_id=env_id)
    assert_refused(evaluate())
    assert not canary.exists() and "canary" not in sys.modules
    assert not (folder / "evaluation.json").exists()


def test_the_error_says_what_to_type(folder, evaluate, canary):
    record(folder, env_id="canary:CartPole-v1")
    assert_refused(
        evaluate(),
        "Received: 'canary:CartPole-v1' in config.json, which would import a module. "
        "Pass --env canary:CartPole-v1 if you trust it.",
    )
    code, out, err = evaluate("--env", "canary:CartPole-v1")
    assert (code, err) == (0, "") and "mean return" in out
    assert canary.exists()  # it can sing


@pytest.mark.parametrize("env_id", ["canary:CartPole-v1; rm -rf ~", "$(canary):x", "--seed", 3])
def test_only_what_is_harmless_to_paste_is_suggested(folder, evaluate, env_id):
    record(folder, env_id=env_id)
    assert f"--env {env_id}" not in evaluate()[2]


@pytest.mark.parametrize("env_id", [..., None])
def test_the_environment_of_a_run_by_script_is_given(folder, evaluate, env_id):
    record(folder, env_id=env_id)
    assert_refused(evaluate(), "'run'", "--env ID", "in a script")
    assert evaluate("--env", "CartPole-v1")[0] == 0


def test_what_is_given_counts_more_than_what_is_recorded(folder, evaluate):
    record(folder, env_id="NoSuchEnv-v0")
    assert evaluate("--env", "CartPole-v1")[0] == 0
    assert_refused(evaluate("--env", "NoSuchEither-v0"), "'NoSuchEither-v0'")


@pytest.mark.parametrize("number", ["ten", 0, -1, True, 1.5, [20], 10**400, 10**30])
def test_the_recorded_limit_of_steps_is_checked(folder, evaluate, number):
    record(folder, max_episode_steps=number)
    assert_refused(evaluate(), "max_episode_steps must be an integer of at least 1")


@pytest.mark.parametrize("number", [None, ...])
def test_a_limit_of_steps_need_not_be_recorded(folder, evaluate, number):
    record(folder, max_episode_steps=number)
    assert evaluate()[0] == 0


class OtherActions(gym.ActionWrapper):
    """CartPole with three actions."""

    def __init__(self, **keywords):
        super().__init__(gym.make("CartPole-v1", **keywords))
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action):
        return min(action, 1)


@pytest.fixture
def other_actions():
    gym.register("OtherActions-v0", entry_point=OtherActions)
    yield "OtherActions-v0"
    gym.registry.pop("OtherActions-v0")


def test_the_environment_must_have_the_agents_spaces(folder, evaluate, other_actions):
    result = evaluate("--env", "Acrobot-v1")
    assert_refused(result, "observation space of the agent", "(4,)", "(6,)", "'Acrobot-v1'")
    result = evaluate("--env", other_actions)
    assert_refused(result, "action space of the agent, Discrete(2)", "Discrete(3)", "--env")
    assert not (folder / "evaluation.json").exists()


def test_the_environment_is_closed_when_it_does_not_fit(
    folder, evaluate, other_actions, monkeypatch
):
    closed = []
    monkeypatch.setattr(OtherActions, "close", lambda self: closed.append(self))
    assert evaluate("--env", other_actions)[0] == 2
    assert len(closed) == 2


class Labelled(gym.ObservationWrapper):
    """CartPole with a text that no network takes."""

    def __init__(self, **keywords):
        super().__init__(gym.make("CartPole-v1", **keywords))
        text = gym.spaces.Text(5)
        self.observation_space = gym.spaces.Dict(label=text, state=self.env.observation_space)

    def observation(self, observation):
        return {"label": "pole", "state": observation}


@pytest.mark.filterwarnings("ignore:The agent does not see")
def test_entries_that_no_network_takes_need_not_be_the_agents(folder, evaluate):
    gym.register("Labelled-v0", entry_point=Labelled)
    try:
        envs = make_vec("Labelled-v0", 1)
        agent = A2C(envs.single_observation_space, envs.single_action_space)
        agent.save(max((folder / "checkpoints").glob("step-*")))
        record(folder, env_id="Labelled-v0")
        assert evaluate()[0] == 0
    finally:
        gym.registry.pop("Labelled-v0")


def test_a_checkpoint_that_names_a_module(folder, evaluate, canary):
    sys.path.insert(0, "")
    path = max((folder / "checkpoints").glob("step-*"))
    tensors, manifest = load_checkpoint(path)
    space = {"type": "canary:Space", "dtype": "canary:dtype", "n": 2, "start": 0}
    manifest["agent"]["action_space"] = space
    save_checkpoint(path, tensors, manifest)
    assert_refused(evaluate(), "A saved space must be readable")
    assert not canary.exists() and "canary" not in sys.modules
