"""A project of the user's own, with an `envs` folder of its own, run as a user would run it."""

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import forks
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vantage.agents import A2C
from vantage.scripts.main import main

pytestmark = pytest.mark.costly_setup

PROJECT = Path(__file__).parents[1] / "examples" / "custom_environment"
VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
CELLS, BEST_RETURN = 11, -4.0

# Appended to the copy's environment: when a worker closes it, it notes what it had to import.
NOTE_MODULES = """

def _close(self):
    import os, pathlib, sys
    if sys.argv[0] == "-c":  # not a script, but a worker
        pathlib.Path(f"modules-{os.getpid()}").write_text(" ".join(sys.modules))

MyEnv.close = _close
"""


NAME = "envs.my_env:MyEnv-v0"
COMMANDS = {
    "sync": [sys.executable, "train.py"],
    "async": [sys.executable, "train.py", "async"],
    "command": [
        *(VANTAGE, "train", "a2c", NAME, "--logdir", "runs/my_env-command"),
        *("--total-steps", "20000", "--num-envs", "8", "--stop-at-return", "-3"),
    ],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the example, far from this repository."""
    folder = tmp_path_factory.mktemp("user") / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    with open(folder / "envs" / "my_env.py", "a") as file:
        file.write(NOTE_MODULES)
    return folder


@pytest.fixture(scope="module")
def finished(project):
    """What the three ways to train printed; they ran side by side, in the same folder."""
    pipes = {"stdout": forks.PIPE, "stderr": forks.PIPE, "text": True, "cwd": project}
    started = {name: forks.Popen(command, **pipes) for name, command in COMMANDS.items()}
    try:
        outputs = {name: process.communicate(timeout=300) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    assert {name: process.returncode for name, process in started.items()} == dict.fromkeys(
        COMMANDS, 0
    ), outputs
    return {name: out for name, (out, _) in outputs.items()}


def share_of_best_moves(folder):
    """How often the newest agent goes straight to the door, over all starts."""
    agent = A2C.load(max((folder / "checkpoints").glob("step-*")))
    starts = np.array([(r, d) for r in range(CELLS) for d in range(CELLS) if r != d])
    observations = starts.astype(np.float32) / (CELLS - 1) * 2 - 1
    best = np.where(starts[:, 1] > starts[:, 0], 2, 0)
    return np.mean(agent.act(observations, deterministic=True) == best)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_optimum_is_learned(project, finished, name):
    """From every start, the agent goes straight to the door."""
    assert share_of_best_moves(project / "runs" / f"my_env-{name}") == 1.0


@pytest.mark.parametrize("name", ["sync", "async"])
def test_the_script_prints_how_good_the_agent_is(finished, name):
    words = finished[name].split()
    assert words[:2] == ["mean", "return"] and words[-1] == f"{BEST_RETURN:.2f}"
    assert float(words[2].rstrip(",")) == pytest.approx(BEST_RETURN, abs=0.35)  # 4 standard errors


def test_workers_import_no_tensorflow(project, finished):
    notes = [path.read_text().split() for path in project.glob("modules-*")]
    assert len(notes) == 8  # one of each worker of the asynchronous run
    for modules in notes:
        assert {"envs.my_env", "vantage.envs.make"} <= set(modules)  # theirs and ours
        assert not {"tensorflow", "keras", "vantage.agents.a2c"} & set(modules)


def test_the_command_trains_and_evaluates_it(project, finished, monkeypatch, capsys):
    assert NAME in finished["command"] and "done: 20,00" in finished["command"]
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    main(["evaluate", "runs/my_env-command", "--env", NAME, "--episodes", "300"])
    result = json.loads(Path("runs/my_env-command/evaluation.json").read_text())
    assert result["mean"] == pytest.approx(BEST_RETURN, abs=0.6) and result["episodes"] == 300
    assert sys.modules["envs.my_env"].__file__ == str(project / "envs" / "my_env.py")
    forget_envs()


def forget_envs():
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        del sys.modules[name]
    gym.registry.pop("MyEnv-v0", None)


def test_the_folders_do_not_clash(project):
    """`envs` is the user's and `vantage.envs` ours, whichever is imported first."""
    for first, second in (("envs", "vantage.envs"), ("vantage.envs", "envs")):
        code = f"import {first}, {second}; print(envs.__file__); print(vantage.envs.__file__)"
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
        theirs, ours = process.stdout.splitlines()
        assert Path(theirs).parent == project / "envs"
        assert Path(ours).parent != project / "envs"


def test_the_environment_is_a_good_template(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT))
    forget_envs()
    from envs.my_env import BEST_RETURN as best
    from envs.my_env import LEFT, RIGHT, WAIT, MyEnv

    assert best == BEST_RETURN
    env = MyEnv()
    check_env(env, skip_render_check=True)
    distances = []
    for seed in range(200):  # the best return is minus the distance, and it can be had
        observation, _ = env.reset(seed=seed)
        robot, door = np.round((observation + 1) / 2 * (CELLS - 1))
        distance, total, terminated = abs(door - robot), 0.0, False
        assert 1 <= distance <= CELLS - 1
        assert env.step(WAIT)[0].tolist() == observation.tolist()
        while not terminated:
            _, reward, terminated, truncated, _ = env.step(RIGHT if door > robot else LEFT)
            total += reward
            assert not truncated
        assert total == -distance
        distances.append(distance)
    assert np.mean(distances) == pytest.approx(-BEST_RETURN, abs=0.6)
    forget_envs()


def test_the_script_is_ten_lines():
    main_ = next(
        node
        for node in ast.parse((PROJECT / "train.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    )
    assert len(main_.body) - 1 <= 10  # the docstring is no line
