"""An agent of the user's own, in one short file, is trained, resumed and logged as ours are."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from vantage.envs import make_vec
from vantage.scripts.reading.curves import read_curves
from vantage.training import train

PATH = Path(__file__).parents[1] / "examples" / "custom_agent.py"
STEPS = 16_000


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("custom_agent", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The run of the script, left alone."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    example.main(STEPS, folder)
    return folder


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_it_learns(folder):
    assert summary_of(folder)["mean_return_100"] > 45  # 22 if actions are random


def test_a_run_that_was_stopped_is_resumed_to_the_same_bits(example, folder, tmp_path):
    stop = [lambda steps, _: steps < STEPS // 2]
    for callbacks in (stop, ()):
        envs = make_vec("CartPole-v1", num_envs=16, seed=0, vectorization="native")
        agent = example.ActorCritic(4, 2)
        ended = train(agent, envs, STEPS, logdir=tmp_path, resume=True, callbacks=callbacks)
    whole = summary_of(folder)
    assert STEPS // 2 <= ended["resumed_from"] < STEPS
    assert ended["weights_sha256"] == whole["weights_sha256"]
    assert ended["env_steps"] == whole["env_steps"]


def test_its_curves_are_written_as_ours_are(folder):
    curves = read_curves(folder)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/episodes"} <= set(curves)
    assert {"train/loss", "train/grad_norm", "time/fps"} <= set(curves)
    assert len(curves["train/loss"].steps) == STEPS // 1_000
    assert json.loads((folder / "config.json").read_text())["algorithm"] == "actorcritic"


def test_the_agent_has_under_60_lines():
    nodes = ast.parse(PATH.read_text(encoding="utf-8")).body
    parts = [node for node in nodes if getattr(node, "name", "") in ("loss", "ActorCritic")]
    assert len(parts) == 2
    assert sum(node.end_lineno - node.lineno + 1 for node in parts) < 60
