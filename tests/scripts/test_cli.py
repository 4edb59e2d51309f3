"""The command line: its answers, its errors, and what it leaves in a run's folder."""

import dataclasses
import importlib.util
import json
import math
import os
import pty
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import forks
import numpy as np
import pytest
from commands import assert_refused, caller
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C, A2CConfig
from vantage.agents.configs.presets import PRESETS
from vantage.agents.configs.registry import ALGORITHMS
from vantage.envs import make_vec
from vantage.scripts.commands.train import TrainFlags
from vantage.training import evaluate, train

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
CARTPOLE = ("train", "a2c", "CartPole-v1")
SHORT = ("--total-steps", "200", "--net-arch", "8", "--num-envs", "4")


def words(value):
    """A test's name: what was typed."""
    return " ".join(value) if isinstance(value, list) else ""


def read_json(path):
    """Strict JSON: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls `vantage …` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the folder
    return caller(capsys)


def files(folder):
    """Every file under a folder, with its content and when it was written."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def weights(path):
    return [variable.numpy() for variable in A2C.load(path).network.variables]


def newest(run):
    return max((run / "checkpoints").glob("step-*"))


# ----------------------------------------------------------------- fast, without TensorFlow


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: vantage"),
        (["--version"], 0, "vantage 0."),
        ([], 0, "usage: vantage"),
        (["dance"], 2, "one of train, evaluate"),
        (["train"], 2, "usage: vantage train ALGO ENV_ID"),
        (["train", "a2c"], 2, "usage: vantage train ALGO ENV_ID"),
        ([*CARTPOLE, "--help"], 0, "--learning-rate"),
        ([*CARTPOLE, "--colour", "blue"], 2, "--colour"),
        ([*CARTPOLE, "--gamma", "2"], 2, "gamma"),
        (["train", "a2c", "CartPool-v1"], 2, "CartPole-v1"),
        (["evaluate", "nowhere"], 2, "nowhere"),
    ],
    ids=words,
)
def test_answers_come_without_tensorflow(arguments, code, said, tmp_path):
    """A real process; Python lists every module that it imports."""
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "COLUMNS": "200"}
        options = {"stdout": out, "stderr": err, "cwd": tmp_path, "env": environment}
        process = subprocess.run([VANTAGE, *arguments], **options)
    lines = (tmp_path / "err").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}
    err = [line for line in lines if not line.startswith("import time")]
    assert process.returncode == code, err
    assert said in ("\n".join(err) if code else (tmp_path / "out").read_text())
    assert "vantage.scripts.main" in imported
    assert not imported & {"tensorflow", "keras", "tensorboard", "torch", "jax"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "err"}  # nothing else was left


def test_the_program_answers_without_a_command(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert all(command in out for command in ("train", "evaluate", "regression", "gan"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["dance"], ["'dance'", "train, evaluate"]),
        (["train"], ["train ALGO ENV_ID"]),
        (["train", "a2c"], ["'a2c'", "train ALGO ENV_ID"]),
        (["train", "--seed", "1"], ["train ALGO ENV_ID"]),
        (["train", "sarsa", "CartPole-v1"], ["'sarsa'", "a2c"]),
        (["train", "a2c", "NoSuchEnv-v0"], ["'NoSuchEnv-v0'", "module:EnvId-v0"]),
        (["train", "a2c", "no_such_module:Env-v0"], ["no_such_module"]),
        ([*CARTPOLE, "--colour", "blue"], ["--colour blue", "--help"]),
        ([*CARTPOLE, "stray"], ["stray", "--help"]),
        ([*CARTPOLE, "--seed", "one"], ["--seed one", "int", "--help"]),
        ([*CARTPOLE, "--seed"], ["--seed", "--help"]),
        ([*CARTPOLE, "--seed", "-1"], ["seed", "at least 0", "-1"]),
        ([*CARTPOLE, "--gamma", "high"], ["--gamma high", "float", "--help"]),
        ([*CARTPOLE, "--gamma", "1.5"], ["gamma", "between 0 and 1", "1.5", "0.99"]),
        ([*CARTPOLE, "--gamma", "nan"], ["gamma", "between 0 and 1", "nan"]),
        ([*CARTPOLE, "--learning-rate", "0"], ["learning_rate", "greater than 0"]),
        ([*CARTPOLE, "--n-steps", "0"], ["n_steps", "at least 1"]),
        ([*CARTPOLE, "--net-arch", "64", "wide"], ["--net-arch", "wide"]),
        ([*CARTPOLE, "--net-arch", "64", "0"], ["net_arch", "(64, 0)"]),
        ([*CARTPOLE, "--activation", "sine"], ["sine", "'tanh', 'relu'"]),
        ([*CARTPOLE, "--vectorization", "warp"], ["warp", "'sync', 'async', 'native'"]),
        ([*CARTPOLE, "--total-steps", "0"], ["total_steps", "at least 1"]),
        ([*CARTPOLE, "--total-steps", "1e5"], ["1e5", "int"]),
        ([*CARTPOLE, "--num-envs", "0"], ["num_envs", "at least 1"]),
        ([*CARTPOLE, "--eval-every", "0"], ["eval_every", "at least 1"]),
        ([*CARTPOLE, "--checkpoint-every", "-3"], ["checkpoint_every", "-3"]),
        ([*CARTPOLE, "--log-every", "0"], ["log_every", "at least 1"]),
        ([*CARTPOLE, "--device", "abacus"], ["'abacus'", "cpu"]),
        ([*CARTPOLE, "--resume"], ["--logdir"]),
        ([*CARTPOLE, "--init-from", "nowhere"], ["nowhere", "folder of a run"]),
        (["train", "a2c", "Blackjack-v1", "--vectorization", "native"], ["'Blackjack-v1'", "sync"]),
        ([*CARTPOLE, "--max-episode-steps", "0"], ["max_episode_steps", "at least 1"]),
        ([*CARTPOLE, "--env-timeout", "0"], ["timeout", "more than 0"]),
        ([*CARTPOLE, "--restart-broken-envs", "--vectorization", "native"], ["restart_broken"]),
        (["train", "a2c", "Blackjack-v1", "--normalize-observations"], ["normalize_obs", "Box"]),
        (["evaluate"], ["RUN_DIR", "--help"]),
        (["evaluate", "nowhere"], ["nowhere", "folder of a run"]),
        (["evaluate", ".", "--episodes", "0"], ["episodes", "at least 1"]),
        (["evaluate", ".", "--episodes", "ten"], ["--episodes ten", "--help"]),
        (["evaluate", ".", "--seed", "-1"], ["seed", "at least 0"]),
        (["evaluate", "here", "there"], ["there", "--help"]),
    ],
    ids=words,
)
def test_bad_input_is_refused(call, tmp_path, arguments, parts):
    assert_refused(call(*arguments), *parts)
    assert list(tmp_path.iterdir()) == []


SPEECHLESS = """
import gymnasium as gym

class Speechless(gym.Env):
    observation_space, action_space = gym.spaces.SPACES

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

gym.register("Speechless-v0", entry_point=Speechless)
"""


@pytest.mark.parametrize(
    ("spaces", "parts"),
    [
        ("Text(3), gym.spaces.Discrete(2)", ["observation space", "Text(", "TransformObservation"]),
        ("Discrete(2), gym.spaces.Text(3)", ["action space", "Text(", "TransformAction"]),
        ("Discrete(2), gym.spaces.Dict(a=gym.spaces.Discrete(2))", ["action space", "Dict("]),
        ("Discrete(2), gym.spaces.Box(0, 9, (1,), int)", ["action space", "Box(", "of floats"]),
    ],
)
def test_a_space_that_no_agent_takes_is_refused(tmp_path, spaces, parts):
    """Which one it is, what is supported and how to wrap it; before TensorFlow is imported."""
    (tmp_path / "speechless.py").write_text(SPEECHLESS.replace("SPACES", spaces))
    words = ["train", "a2c", "speechless:Speechless-v0"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vantage.scripts.main", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "tensorflow" not in done.stderr
    said = "\n".join(line for line in done.stderr.splitlines() if "import time:" not in line)
    assert_refused((done.returncode, done.stdout, said), *parts)


def test_the_last_line_is_plain_on_a_terminal(tmp_path):
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "60"}
    process = subprocess.run(
        [VANTAGE, *CARTPOLE, "--vectorization", "warp"],
        **{"stdout": slave, "stderr": subprocess.PIPE, "text": True, "env": environment},
    )
    os.close(master)
    os.close(slave)
    assert_refused((process.returncode, "", process.stderr), "'sync', 'async', 'native'")
    assert "\x1b" not in process.stderr.splitlines()[-1]


def test_a_kept_compilation_gives_the_same_bits(tmp_path):
    """With the docs' variables: without the folder, with an empty one, with what is in it now."""
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    (line,) = re.findall(r"^export (.*)", page.read_text(encoding="utf-8"), re.M)
    kept = os.environ | dict(word.split("=", 1) for word in line.split())
    (tmp_path / "xla-cache").mkdir()
    weights, files = [], []
    words = ("train", "ppo", "CartPole-v1", *SHORT, "--n-steps", "10", "--batch-size", "20")
    words += ("--overlap-update",)
    for name, environment in (("none", None), ("empty", kept), ("full", kept)):
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        # TensorFlow reads its log level while it is imported: a fork has that of its server.
        run = forks.run if environment is None else subprocess.run
        done = run([VANTAGE, *words, "--logdir", name], **options)
        assert done.returncode == 0 and "E0000" not in done.stderr, done.stderr
        weights.append(json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"])
        compiled = (tmp_path / "xla-cache").iterdir()
        files.append({path.name: path.stat().st_mtime_ns for path in compiled})
    assert len(set(weights)) == 1
    assert len(files[0]) == 0 and len(files[1]) == 1 and files[2] == files[1]


@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="jax is installed")
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_missing_package_of_an_environment_is_named(call, vectorization):
    code, _, err = call("train", "a2c", "phys2d/Pendulum-v0", "--vectorization", vectorization)
    assert code != 0 and "jax" in err.splitlines()[-1]


BROKEN = """
import gymnasium, numpy

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), numpy.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        raise {error}("the sensor\\nis unplugged")

gymnasium.register("{error}-v0", entry_point=Broken)
"""


@pytest.mark.parametrize("error", ["ValueError", "RuntimeError"])
def test_a_bug_in_an_environment_can_be_found(call, tmp_path, monkeypatch, error):
    """Its own traceback, and a last line that tells which environment and what to do."""
    module = f"broken_{error.lower()}"
    (tmp_path / f"{module}.py").write_text(BROKEN.format(error=error))
    arguments = ("train", "a2c", f"{module}:{error}-v0")
    code, _, err = call(*arguments)
    assert code == 1 and f"{module}.py" in err and "in reset" in err
    last = err.splitlines()[-1]
    assert last.startswith("error: An environment must not break. Received: environment 0")
    assert f"{error}: the sensor is unplugged" in last and "vantage check" in last
    monkeypatch.setenv("VANTAGE_TRACEBACK", "1")
    code, _, err = call(*arguments)
    cause, _, effect = err.partition("The above exception was the direct cause")
    assert code == 1 and f"\n{error}: the sensor" in cause and "BrokenEnvironmentError" in effect


# ------------------------------------------------------------------------------- one real run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the installed command: its folder and the finished process."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    process = subprocess.run(
        [VANTAGE, *CARTPOLE, "--total-steps", "600", "--logdir", folder, "--log-every", "100"],
        capture_output=True,
        text=True,
    )
    return folder, process


def test_training_by_command(trained):
    folder, process = trained
    assert (process.returncode, process.stderr) == (0, "")
    names = sorted(path.name.partition(".")[0] for path in folder.iterdir())
    assert names == ["checkpoints", "config", "events", "summary"]
    summary = read_json(folder / "summary.json")
    assert 600 <= summary["env_steps"] < 632 and summary["updates"] >= 3
    assert summary["steps_per_second"] == summary["env_steps"] / summary["seconds"]
    assert summary["seconds"] > 0 and summary["import_seconds"] > 0
    assert summary["mean_return_100"] > 8
    assert summary["solved_at_steps"] is summary["solved_at_seconds"] is None
    assert set(summary["versions"]) >= {"python", "vantage-rl", "tensorflow", "keras", "gymnasium"}
    last = process.stdout.splitlines()[-1]
    assert last.startswith(f"done: {summary['env_steps']:,} steps") and "summary.json" in last
    assert A2C.load(newest(folder)).updates == summary["updates"]


def test_a_command_is_quiet_where_a_module_of_the_users_imports_tensorflow(tmp_path):
    """TensorFlow's own words are held back, not those of the module."""
    (tmp_path / "mine.py").write_text(
        "import sys\n"
        "print('mine begins', file=sys.stderr)\n"
        "import keras\n"
        "print('mine ends', file=sys.stderr)\n"
        "from vantage.envs.examples import Corridor\n"
        "def network():\n"
        "    x = keras.Input((10,))\n"
        "    return keras.Model(x, [keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)])\n"
    )
    command = [VANTAGE, "train", "a2c", "mine:Corridor", "--network", "mine:network", *SHORT]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "mine begins\nmine ends\n"


def test_a_run_by_command_is_quiet_where_there_is_no_terminal(trained):
    _, process = trained
    assert not set(process.stdout + process.stderr) & {"\x1b", "\r", "━", "╭"}


def test_the_preset_is_used_and_printed(trained):
    folder, process = trained
    config, preset = read_json(folder / "config.json"), PRESETS["a2c", "CartPole-v1"]
    assert config["env_id"] == "CartPole-v1" and config["algorithm"] == "a2c"
    expected = dataclasses.asdict(preset.config)
    assert config["config"] == json.loads(json.dumps(expected))
    assert config["num_envs"] == preset.num_envs and config["total_steps"] == 600
    assert config["stop_at_return"] == preset.stop_at_return == 475.0
    first = process.stdout.splitlines()[0]
    assert "preset" in first and "--no-preset" in first
    for name, value in expected.items():
        assert f"{name}={value}" in first


def test_an_existing_run_is_never_overwritten(call, trained):
    folder, _ = trained
    before = files(folder)
    assert len(before) >= 5
    assert_refused(call(*CARTPOLE, "--logdir", folder), str(folder), "new or empty", "--resume")
    assert_refused(
        call("train", "a2c", "Acrobot-v1", "--logdir", folder, "--resume"),
        "'Acrobot-v1'",
        "'CartPole-v1'",
        "--init-from",
    )
    assert files(folder) == before


def test_a_folder_of_something_else_is_refused(call, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("more")
    before = files(tmp_path)
    for name in ("thesis", "file"):
        for more in ((), ("--resume",)):
            assert_refused(call(*CARTPOLE, "--logdir", tmp_path / name, *more), name)
    assert files(tmp_path) == before


def test_starting_from_an_incompatible_run(call, trained, tmp_path):
    folder, _ = trained
    before = files(folder)
    result = call("train", "a2c", "Acrobot-v1", "--init-from", folder, "--logdir", "new")
    assert_refused(result, "[4, 64]", "[6, 64]", "Pass one built like the saved one")
    result = call(*CARTPOLE, "--init-from", folder, "--net-arch", "8", "--logdir", "new")
    assert_refused(result, "[4, 64]", "[4, 8]")
    for name, content in {"list": "[]", "foreign": '{"name": "webpage"}', "null": "null"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        assert_refused(call(*CARTPOLE, "--init-from", tmp_path / name), "Pass the folder")
    assert files(folder) == before and not (tmp_path / "new").exists()


def test_a_run_whose_checkpoint_is_damaged(call, trained, tmp_path):
    folder, _ = trained
    broken = tmp_path / "broken"
    (broken / "checkpoints" / "step-000000000001").mkdir(parents=True)
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.warns(RuntimeWarning, match="starting afresh: step-000000000001: .*manifest.json"):
        assert_refused(call("evaluate", broken), "all damaged")
    with pytest.warns(RuntimeWarning, match="starting afresh: step-000000000001: .*manifest.json"):
        code, out, _ = call(*CARTPOLE, "--logdir", broken, "--resume", "--total-steps", "200")
    assert code == 0 and "starting afresh" in out
    assert (broken / "checkpoints" / "damaged-step-000000000001").is_dir()  # nothing is deleted


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy sees it coming
def test_a_loss_that_is_not_a_number_ends_the_run(call, tmp_path):
    result = call(*CARTPOLE, *SHORT, "--learning-rate", "1e30", "--logdir", "run")
    assert_refused(result, "must be finite", "grad_norm=nan", "learning rate")
    assert not (tmp_path / "run" / "summary.json").exists()


# ------------------------------------------------------------------------------------ evaluate


def test_evaluate(call, trained):
    folder, _ = trained
    code, out, err = call("evaluate", folder, "--episodes", "13")
    assert (code, err) == (0, "")
    result = read_json(folder / "evaluation.json")
    assert result["episodes"] == 13 and result["seed"] == 1_000 and result["deterministic"]
    low, high = result["ci95"]
    assert low < result["mean"] < high
    margin = 2.179 * result["std"] / math.sqrt(13)  # Student's t, 12 degrees of freedom
    assert (high - low) / 2 == pytest.approx(margin, rel=0.01)
    assert f"{result['mean']:.2f} ± {result['std']:.2f}" in out and "13 episodes" in out
    again = evaluate(A2C.load(newest(folder)), make_vec("CartPole-v1", 10), 13, seed=1_000)
    assert (again.mean, again.std) == (result["mean"], result["std"])

    call("evaluate", folder, "--episodes", "13", "--stochastic", "--seed", "7")
    other = read_json(folder / "evaluation.json")
    assert other["seed"] == 7 and not other["deterministic"] and other["mean"] != result["mean"]
    assert_refused(call("evaluate", folder, "--best"), "--eval-every")


def test_evaluating_what_is_no_run(call, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(call("evaluate", tmp_path / "empty"), "config.json", "folder of a run")
    (tmp_path / "empty" / "config.json").write_text('{"env_id": "CartPole-v1"}')
    assert_refused(call("evaluate", tmp_path / "empty"), "has none", "checkpoint")
    envs = make_vec("CartPole-v1", 1)
    agent = A2C(envs.single_observation_space, envs.single_action_space, A2CConfig(net_arch=()))
    train(agent, envs, 10, logdir=tmp_path / "by-script")  # nobody told it the environment's id
    assert_refused(call("evaluate", tmp_path / "by-script"), "by-script", "evaluate in a script")


# --------------------------------------------------------------------------------------- flags

CHANGED = {
    "learning_rate": 0.002,
    "lr_schedule": "linear",
    "n_steps": 3,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "ent_coef": 0.02,
    "vf_coef": 0.25,
    "max_grad_norm": 1.5,
    "normalize_advantage": True,
    "optimizer": "adam",
    "rms_prop_eps": 1e-4,
    "net_arch": [8, 7],
    "activation": "relu",
    "share_trunk": True,
    "ortho_init": False,
    "log_std_init": -0.5,
    "use_sde": False,
    "sde_sample_freq": 4,
    "normalize_observations": True,
    "normalize_rewards": True,
    "rescale_actions": True,
    "overlap_update": True,
}


def as_flags(settings):
    words = []
    for name, value in settings.items():
        words.append(f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}")
        words += [str(part) for part in value] if isinstance(value, list) else []
        words += [] if isinstance(value, (list, bool)) else [str(value)]
    return words


def test_every_setting_has_a_flag(call, tmp_path):
    assert set(CHANGED) == {field.name for field in dataclasses.fields(A2CConfig)}
    defaults = dataclasses.asdict(A2CConfig())
    changed = {name: value for name, value in CHANGED.items() if name != "use_sde"}  # of a Box
    assert all(defaults[name] != value for name, value in changed.items())
    code, out, err = call(
        *CARTPOLE, *as_flags(changed), "--total-steps", "100", "--logdir", "run", "--seed", "3"
    )
    assert (code, err) == (0, "")
    config = read_json(tmp_path / "run" / "config.json")
    assert config["config"] == CHANGED and config["seed"] == 3
    assert "learning_rate=0.002" in out
    agent = A2C.load(newest(tmp_path / "run"))
    assert agent.network.count_params() == 4 * 8 + 8 + 8 * 7 + 7 + 7 * 2 + 2 + 7 + 1
    assert type(agent.optimizer).__name__ == "Adam"


@pytest.mark.parametrize("arguments", [["train", "--help"], [*CARTPOLE, "--help"]], ids=words)
def test_help_lists_every_flag_with_its_meaning(call, arguments, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = call(*arguments)
    assert (code == 0 and ", ".join(ALGORITHMS) in out) or arguments != ["train", "--help"]
    names = [f.name for kind in (A2CConfig, TrainFlags) for f in dataclasses.fields(kind)]
    for name in set(names) - {"config"}:
        assert f"--{name.replace('_', '-')} " in out or f"--{name.replace('_', '-')}," in out, name
    assert "Discount factor" in out and "--config" not in out


def test_one_flag_overrides_the_preset_and_no_preset_drops_it(call, tmp_path):
    preset = PRESETS["a2c", "CartPole-v1"]
    call(*CARTPOLE, "--total-steps", "50", "--logdir", "one", "--gamma", "0.98")
    config = read_json(tmp_path / "one" / "config.json")
    assert config["stop_at_return"] == preset.stop_at_return
    expected = dataclasses.asdict(dataclasses.replace(preset.config, gamma=0.98))
    assert config["config"] == json.loads(json.dumps(expected))

    words = ("train", "--no-preset", "a2c", "CartPole-v1")
    code, out, _ = call(*words, "--total-steps", "50", "--logdir", "none", "--n-steps", "2")
    config = read_json(tmp_path / "none" / "config.json")
    assert code == 0 and config["stop_at_return"] is None
    expected = dataclasses.asdict(A2CConfig(n_steps=2))
    assert config["config"] == json.loads(json.dumps(expected))
    assert "preset" not in out


def test_without_a_log_directory_a_new_one_is_made(call, tmp_path):
    for _ in range(2):
        code, out, _ = call(*CARTPOLE, *SHORT, "--total-steps", "20")
        assert code == 0
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert made == ["a2c-CartPole-v1-seed0-1", "a2c-CartPole-v1-seed0-2"]
    assert made[1] in out


def test_eval_every_keeps_the_best_agent(call, tmp_path):
    arguments = ("--total-steps", "800", "--eval-every", "200", "--logdir", "run")
    code, _, err = call(*CARTPOLE, *arguments)
    assert (code, err) == (0, "")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    best = max(event.value for event in events.Scalars("eval/mean_reward"))
    kept = A2C.load(tmp_path / "run" / "checkpoints" / "best")
    assert evaluate(kept, make_vec("CartPole-v1", 10), 20, seed=0).mean == pytest.approx(best)
    assert call("evaluate", "run", "--best", "--episodes", "2")[0] == 0
    assert read_json(tmp_path / "run" / "evaluation.json")["checkpoint"] == "best"


def test_init_from_starts_with_the_weights_and_settings_of_a_run(call, tmp_path):
    call(*CARTPOLE, *SHORT, "--logdir", "first", "--gamma", "0.95")
    code, out, _ = call(
        *CARTPOLE,
        *("--init-from", "first", "--learning-rate", "1e-30", "--logdir", "second"),
        *("--total-steps", "100"),
    )
    assert code == 0 and "first" in out
    config = read_json(tmp_path / "second" / "config.json")["config"]
    assert config["gamma"] == 0.95 and config["net_arch"] == [8]  # the first run's
    assert config["learning_rate"] == 1e-30  # the flag's: too small to move a weight
    before, after = (weights(newest(tmp_path / name)) for name in ("first", "second"))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    summary = read_json(tmp_path / "second" / "summary.json")
    assert summary["env_steps"] < 180 and summary["updates"] <= 3  # counted from its own start


def test_resume_continues_with_the_settings_of_the_run(call, tmp_path):
    call(*CARTPOLE, *SHORT, "--logdir", "run", "--gamma", "0.95", "--log-every", "50")
    first = read_json(tmp_path / "run" / "summary.json")
    code, out, err = call(*CARTPOLE, "--logdir", "run", "--resume", "--total-steps", "400")
    assert (code, err) == (0, "")
    assert "resuming after" in out and "gamma=0.95" in out and "net_arch=(8,)" in out
    second = read_json(tmp_path / "run" / "summary.json")
    assert first["env_steps"] < 210 and 400 <= second["env_steps"] < 404
    assert second["updates"] > first["updates"] and second["seconds"] > first["seconds"]
    assert second["steps_per_second"] == second["env_steps"] / second["seconds"]
    preset = PRESETS["a2c", "CartPole-v1"].config
    expected = dataclasses.replace(preset, gamma=0.95, net_arch=(8,))
    assert A2C.load(newest(tmp_path / "run")).config == expected
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    steps = [event.step for event in events.Scalars("time/fps")]
    assert steps == sorted(set(steps)) and steps[-1] == second["env_steps"]


def test_resume_without_a_checkpoint_starts_afresh_and_says_so(call, tmp_path):
    code, out, _ = call(*CARTPOLE, *SHORT, "--logdir", "run", "--resume")
    assert code == 0 and "starting afresh" in out
    assert read_json(tmp_path / "run" / "summary.json")["env_steps"] >= 200


# --------------------------------------------------------------------------------- every algorithm

OFF_POLICY = ["--learning-starts", "20", "--batch-size", "8", "--buffer-size", "200"]
OTHERS = {
    "ppo": ("CartPole-v1", ["--n-steps", "10", "--batch-size", "20", "--n-epochs", "2"]),
    "dqn": ("CartPole-v1", [*OFF_POLICY, "--train-freq", "4", "--gradient-steps", "1"]),
    "sac": ("Pendulum-v1", [*OFF_POLICY, "--train-freq", "4", "--gradient-steps", "1"]),
    "td3": ("Pendulum-v1", [*OFF_POLICY, "--train-freq", "4", "--gradient-steps", "1"]),
}


@pytest.mark.parametrize(
    "algorithm", ["ppo", "sac", *(pytest.param(a, marks=pytest.mark.slow) for a in ("dqn", "td3"))]
)
def test_every_algorithm_trains_resumes_and_is_evaluated(call, algorithm, tmp_path):
    env_id, small = OTHERS[algorithm]
    train_it = ["train", algorithm, env_id, *small, *SHORT, "--logdir", "run"]
    code, out, err = call(*train_it)
    assert (code, err) == (0, "") and f"{algorithm} on {env_id}, its preset" in out
    longer = ("train", algorithm, env_id, "--logdir", "run", "--resume", "--total-steps", "300")
    code, out, err = call(*longer)
    assert (code, err) == (0, "") and "continue exactly" in out
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["resumed_from"] >= 200 and summary["exactness"] == "state"
    code, out, err = call("evaluate", "run", "--episodes", "2")
    assert (code, err) == (0, "") and "mean return" in out
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(f'"algorithm": "{algorithm}"', '"algorithm": "x"'))
    assert_refused(call("evaluate", "run"), "one of the algorithms", "'x'")


@pytest.mark.parametrize(
    ("algorithm", "env_id", "advice"),
    [
        ("dqn", "Pendulum-v1", "Use a2c, ppo, sac or td3"),
        ("sac", "CartPole-v1", "Use a2c, ppo, dqn or qrdqn"),
        ("td3", "CartPole-v1", "Use a2c, ppo, dqn or qrdqn"),
    ],
)
def test_actions_that_an_algorithm_does_not_take(call, algorithm, env_id, advice):
    assert_refused(call("train", algorithm, env_id), f"{algorithm} needs actions", advice)


def test_state_dependent_exploration_needs_a_box(call):
    assert_refused(call(*CARTPOLE, "--use-sde"), "use_sde needs actions of a Box")
