"""What TensorBoard shows of real runs is what they wrote: no point twice, none missing."""

import re
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard_server import Board, Recorder, boards

from vantage.agents import A2C, SAC, A2CConfig, SACConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.monitoring.monitor import LAYOUT

pytestmark = pytest.mark.costly_setup

A2C_CONFIG = A2CConfig(n_steps=5, net_arch=(8,))
SAC_CONFIG = SACConfig(learning_starts=60, batch_size=16, buffer_size=1000, net_arch=(8,))


# ------------------------------------------------------------------------------------ runs in peace


def trained(folder, env_id, kind, config, steps):
    """A run that logs, evaluates and films often; what it wrote."""
    envs, recorder = make_vec(env_id, 4, seed=0, max_episode_steps=50), Recorder()
    agent = kind(envs.single_observation_space, envs.single_action_space, config, seed=0)
    train(
        agent,
        envs,
        steps,
        logdir=folder,
        callbacks=[recorder],
        log_every=100,
        evaluate_every=300,
        evaluation_envs=make_vec(env_id, 4, max_episode_steps=50),
        video_every=300,
        video_env=gym.make(env_id, render_mode="rgb_array", max_episode_steps=20),
        config={"seed": 0},
    )
    return recorder


RUNS = {
    "slow": ("CartPole-v1", A2C, replace(A2C_CONFIG, learning_rate=1e-3), 1_200),
    "fast": ("CartPole-v1", A2C, replace(A2C_CONFIG, learning_rate=1e-2), 1_200),
    "sac": ("Pendulum-v1", SAC, SAC_CONFIG, 700),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of runs, and what each run wrote."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, {name: trained(folder / name, *RUNS[name]) for name in RUNS}


@pytest.fixture(scope="module")
def both(written):
    """Servers of that folder, that have read it."""
    with boards(written[0]) as servers:
        for server in servers:
            for name, recorder in written[1].items():
                server.wait(name, recorder.points["time/fps"][-1][0])
        yield servers


@pytest.fixture(params=(0, 1), ids=["data server", "python"])
def board(request, both) -> Board:
    return both[request.param]


@pytest.mark.parametrize("run", RUNS)
def test_scalars_are_those_written(board, written, run):
    recorder = written[1][run]
    received = board.scalars(run)
    assert received == recorder.scalars
    assert recorder.points.items() <= recorder.scalars.items()  # those that callbacks are shown
    steps = [step for step, _ in received["time/fps"]]
    assert len(steps) == RUNS[run][3] // 100 and steps == sorted(set(steps))
    expected = {"rollout/ep_rew_mean", "eval/mean_reward", "eval/ci95_low", "time/update"}
    expected |= {"train/ent_coef"} if run == "sac" else {"train/explained_variance"}
    assert expected <= set(received)


@pytest.mark.parametrize("run", RUNS)
def test_histograms_hold_every_number(board, written, run):
    heard = written[1][run].histograms
    received = board.histograms(run)
    assert {tag.split("/")[0] for tag in received} == {"samples", "weights", "gradients"}
    assert received.keys() == heard.keys() == board.histograms(run, "distributions").keys()
    for tag, points in received.items():
        assert [step for step, _ in points] == [step for step, _ in heard[tag]], tag
        for (_, buckets), (_, array) in zip(points, heard[tag], strict=True):
            table = np.array(buckets)
            assert table[:, 2].sum() == array.size, tag
            np.testing.assert_allclose((table[0, 0], table[-1, 1]), (array.min(), array.max()))


def test_distributions_are_percentiles(board, written):
    for tag, points in board.histograms("slow", "distributions").items():
        for (_, lines), (_, array) in zip(points, written[1]["slow"].histograms[tag], strict=True):
            basis = [point[0] for point in lines]
            values = [point[1] for point in lines]
            assert basis[0] == 0 and basis[-1] == 10_000 and values == sorted(values)
            np.testing.assert_allclose((values[0], values[-1]), (array.min(), array.max()))


@pytest.mark.parametrize("run", RUNS)
def test_videos_are_the_files_written(board, written, run):
    received = board.images(run)
    assert received == written[1][run].images and list(received) == ["eval/episode"]
    assert len(received["eval/episode"]) >= 2
    assert all(data.startswith(b"GIF89a") for _, data in received["eval/episode"])


@pytest.mark.parametrize("run", RUNS)
def test_texts_tell_what_the_run_is(board, written, run):
    received, heard = board.texts(run), written[1][run].texts
    assert {tag: [step for step, _ in texts] for tag, texts in received.items()} == {
        tag: [step for step, _ in texts] for tag, texts in heard.items()
    }
    shown = {tag: texts[0][1].replace("&quot;", '"') for tag, texts in received.items()}
    assert f'"learning_rate": {RUNS[run][2].learning_rate}' in shown["run/config"]
    assert '"tensorflow": ' in shown["run/versions"]
    assert RUNS[run][0] in shown["run/environment"]
    assert "resumed exactly" in shown["run/resume"]


def test_hparams_have_a_row_for_each_run(board, written):
    experiment = board.ask("hparams/experiment", {"experimentName": ""})
    columns = {each["name"]: each for each in experiment["hparamInfos"]}
    metrics = [each["name"]["tag"] for each in experiment["metricInfos"]]
    assert {"config.learning_rate", "config.gae_lambda", "config.tau", "seed"} <= set(columns)
    assert columns["config.learning_rate"]["differs"] and not columns["seed"].get("differs")
    assert {"rollout/ep_rew_mean", "eval/mean_reward"} <= set(metrics)
    question = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
        "colParams": [{"metric": {"tag": tag, "group": ""}} for tag in metrics],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = board.ask("hparams/session_groups", question)["sessionGroups"]
    rows = {group["sessions"][0]["name"]: group for group in groups}
    assert rows.keys() == RUNS.keys() and len(groups) == len(RUNS)
    for name, row in rows.items():
        config = RUNS[name][2]
        assert row["hparams"]["config.learning_rate"] == config.learning_rate
        assert row["hparams"]["algorithm"] == RUNS[name][1].__name__.lower()
        values = {each["name"]["tag"]: each["value"] for each in row["metricValues"]}
        for tag in ("rollout/ep_rew_mean", "eval/mean_reward"):
            assert values[tag] == written[1][name].scalars[tag][-1][1]
        assert row["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_graphs_are_the_networks(board):
    info = board.ask("graphs/info")
    assert info.keys() == RUNS.keys() and all(each["run_graph"] for each in info.values())
    nodes = {
        run: re.findall(r'name: "(.*?)"', board.ask("graphs/graph", run=run).decode())
        for run in RUNS
    }
    assert any(name.endswith("policy") for name in nodes["slow"])
    assert nodes["slow"] == nodes["fast"] and len(nodes["sac"]) > len(nodes["slow"])


def test_custom_scalars_are_the_layout(board, written):
    received = board.ask("custom_scalars/layout")["category"]
    shown = {
        category["title"]: {each["title"]: each["multiline"]["tag"] for each in category["chart"]}
        for category in received
    }
    heard = written[1]["slow"].scalars
    for question, charts in LAYOUT.items():
        for chart, patterns in charts.items():
            # A chart may be left out where the run has written none of its curves.
            has_points = any(re.match(pattern, tag) for pattern in patterns for tag in heard)
            received = shown.get(question, {}).get(chart)
            assert received == patterns or (received is None and not has_points), chart
    assert all(charts.keys() <= LAYOUT[question].keys() for question, charts in shown.items())
    for charts in shown.values():
        for pattern in (tag for tags in charts.values() for tag in tags):
            answer = board.ask("custom_scalars/scalars", run="slow", tag=pattern)
            assert answer["regex_valid"]
            matched = [tag for tag in heard if re.match(pattern, tag)]
            assert sorted(answer["tag_to_events"]) == sorted(matched)


# --------------------------------------------------------------------------------- size on the disk


def sizes(folder):
    """Bytes of a run's event file by kind of record."""
    (path,) = Path(folder).glob("events.*")
    data, bytes_of, counts, at = path.read_bytes(), Counter(), Counter(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        plugins = {each.metadata.plugin_data.plugin_name for each in event.summary.value}
        kind = "histograms" if "histograms" in plugins else "steps" if event.step else "fixed"
        bytes_of[kind] += length + 16
        counts[kind] += 1
        at += length + 16
    return bytes_of, counts


def size_of(steps, bytes_of, counts, million):
    """What a run of `million` steps takes, by what one of `steps` took."""
    looks = million // max(million // 25, 1_000)
    each = bytes_of["histograms"] / counts["histograms"]
    return bytes_of["fixed"] + looks * each + bytes_of["steps"] * million / steps


def test_a_million_steps_take_20_megabytes_at_most(tmp_path):
    """With default settings; that it may be extrapolated is seen by a run of twice the length."""
    env = gym.make("CartPole-v1")
    agent = A2C(env.observation_space, env.action_space, seed=0)
    start = agent.get_state()
    for steps in (20_000, 40_000):
        envs = make_vec("CartPole-v1", 16, seed=0, vectorization="native")
        agent.set_state(start)
        train(agent, envs, steps, logdir=tmp_path / str(steps))
    measured = sizes(tmp_path / "20000")
    assert measured[1]["histograms"] >= 19
    longer = sum(sizes(tmp_path / "40000")[0].values())
    assert size_of(20_000, *measured, 40_000) == pytest.approx(longer, rel=0.05)
    assert size_of(20_000, *measured, 1_000_000) < 20e6
