"""What a run shows beside its curves: texts, table row, graph, histograms, video, diagnosis."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from vantage.agents import (
    A2C,
    DQN,
    PPO,
    SAC,
    TD3,
    A2CConfig,
    DQNConfig,
    PPOConfig,
    SACConfig,
    TD3Config,
)
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.experience.transitions import Transitions

SMALL = A2CConfig(net_arch=(8,))
REPLAY = {"net_arch": (8,), "buffer_size": 500, "learning_starts": 40, "batch_size": 16}
AGENTS = {
    "a2c": (A2C, SMALL, "CartPole-v1"),
    "a2c overlap": (A2C, replace(SMALL, overlap_update=True), "CartPole-v1"),
    "a2c box": (A2C, replace(SMALL, normalize_observations=True), "Pendulum-v1"),
    "ppo": (PPO, PPOConfig(net_arch=(8,), n_steps=16, batch_size=16, n_epochs=2), "CartPole-v1"),
    "ppo once": (
        PPO,
        PPOConfig(net_arch=(8,), n_steps=5, batch_size=20, n_epochs=1),
        "CartPole-v1",
    ),
    "ppo sde": (
        PPO,
        PPOConfig(net_arch=(8,), n_steps=16, batch_size=16, n_epochs=2, use_sde=True),
        "Pendulum-v1",
    ),
    "dqn": (DQN, DQNConfig(**REPLAY, gradient_steps=2, double=True), "CartPole-v1"),
    "sac": (SAC, SACConfig(**REPLAY), "Pendulum-v1"),
    "td3": (TD3, TD3Config(**REPLAY), "Pendulum-v1"),
}
LATER = ("a2c box", "ppo once", "ppo sde", "td3")


def make(name, num_envs=4, seed=0, **options):
    agent_type, config, env_id = AGENTS[name]
    envs = make_vec(env_id, num_envs, seed=seed)
    spaces = envs.single_observation_space, envs.single_action_space
    return agent_type(*spaces, config, seed=seed, **options), envs


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0}).Reload()


def weights_of(agent):
    return [variable.numpy() for part in agent.parts.values() for variable in part]


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n in LATER)) for n in AGENTS],
)
def looked(request, tmp_path_factory):
    """The same run without and with looks inside: its agent, what it became, its events."""
    became, events = [], []
    for every in (0, 100):
        agent, envs = make(request.param)
        others = make_vec(AGENTS[request.param][2], 4, max_episode_steps=20)
        folder = tmp_path_factory.mktemp("looked")
        options = {"evaluate_every": 600, "evaluation_envs": others, "log_every": 50}
        train(agent, envs, 600, logdir=folder, histograms_every=every, **options)
        became.append((weights_of(agent), agent.generator.bit_generator.state))
        events.append(read(folder))
    return agent, became, events


def test_looking_inside_changes_nothing_and_shows_every_layer(looked):
    agent, became, (quiet, events) = looked
    np.testing.assert_equal(became[0], became[1])
    looks = [
        tag for tag in events.Tags()["tensors"] if tag.split("/")[0] in ("weights", "gradients")
    ]
    assert not [tag for tag in quiet.Tags()["tensors"] if tag.startswith(("weights", "samples"))]
    networks = agent.network if isinstance(agent.network, tuple) else (agent.network,)
    for variable in (v for network in networks for v in network.trainable_variables):
        for kind in ("weights", "gradients"):
            assert any(tag.startswith(kind) and tag.endswith(variable.path) for tag in looks)
    points = [event.step for event in events.Tensors("samples/rewards")]
    assert len(points) >= 4 and points == sorted(set(points))
    assert events.Tags()["graph"]


def test_every_chart_of_the_layout_has_a_curve(looked):
    *_, (events, _) = looked
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    written, charts = events.Tags()["scalars"], 0
    # What only some environments tell of, or what ends episodes, may not be there.
    maybe = ("rollout/success_rate", "rollout/ep_rew_mean", "rollout/ep_len_mean")
    for category in layout.category:
        for chart in category.chart:
            tags, charts = list(chart.multiline.tag), charts + 1
            found = any(re.fullmatch(tag, each) for tag in tags for each in written)
            assert found or tags[0] in (*maybe, "rollout/truncated_share"), (chart.title, tags)
    assert charts >= 9


@pytest.mark.parametrize("name", ["dqn", "sac", "td3"])
def test_the_gradients_are_those_of_the_loss(name):
    """By the slope of L along g, which is ‖g‖."""
    agent, envs = make(name)
    train(agent, envs, 200, log_every=50)
    inputs, targets = agent.batch
    count = getattr(agent.config, "batch_size", None)
    tensors = tf.nest.map_structure(lambda a: tf.constant(a[:count]), (inputs, targets))
    arrays = agent.inspect()
    for turn_name, turn in agent.turns.items():
        prefix = f"gradients/{turn_name}/" if turn_name else "gradients/"
        gradients = [array for tag, array in arrays.items() if tag.startswith(prefix)]
        assert all(
            g.shape == tuple(v.shape) for g, v in zip(gradients, turn.variables, strict=True)
        )

        def loss(turn=turn):
            forward = turn.forward
            trains = {"training": True} if hasattr(forward, "layers") else {}
            return float(turn.loss_gradient(forward(tensors[0], **trains), tensors[1])[0])

        norm = np.sqrt(sum(float(np.sum(np.square(g))) for g in gradients))
        step = 1e-3 / norm
        losses = []
        for sign in (1.0, -2.0):
            for variable, gradient in zip(turn.variables, gradients, strict=True):
                variable.assign_add(sign * step * gradient)
            losses.append(loss())
        for variable, gradient in zip(turn.variables, gradients, strict=True):
            variable.assign_add(step * gradient)
        slope = (losses[0] - losses[1]) / (2e-3)
        if turn_name != "actor" or name != "sac":  # its temperature has a loss of its own
            assert slope == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize("name", ["a2c", "ppo once"])
def test_the_gradients_of_the_last_update_are_kept(name):
    """With plain gradient descent they are what the weights moved by."""
    agent, envs = make(name, optimizer=keras.optimizers.SGD(0.5))
    seen = []

    class Look:
        def __call__(self, env_steps, metrics):
            seen.append(agent.inspect())

    train(agent, envs, 200, log_every=1, callbacks=[Look()])
    assert len(seen) >= 10
    for before, after in itertools.pairwise(seen[:10]):  # the last one comes after the end
        for tag, weights in after.items():
            if tag.startswith("weights/"):
                gradient = after[tag.replace("weights", "gradients")]
                np.testing.assert_allclose(before[tag] - weights, 0.5 * gradient, atol=1e-6)


class Own:
    """A callback that writes with the run's writer."""

    def begin(self, writer):
        self.writer = writer

    def __call__(self, env_steps, metrics):
        self.writer.scalars(env_steps, {"mine/twice": 2.0 * metrics["rollout/episodes"]})
        self.writer.image(env_steps, "mine/picture", np.zeros((2, 2, 3), np.uint8))


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The folder of a run, and its events."""
    folder = tmp_path_factory.mktemp("described")
    agent, envs = make("a2c")
    config = {"env_id": "CartPole-v1", "seed": 3, "checkpoint_every": "30s"}
    train(agent, envs, 400, logdir=folder, log_every=100, config=config, callbacks=[Own()])
    return folder, read(folder)


def test_what_a_run_is(described):
    _, events = described

    def text(tag):
        (event,) = events.Tensors(tag)
        return event.tensor_proto.string_val[0].decode()

    config = json.loads(text("run/config"))
    assert config["config"]["n_steps"] == 5 and config["num_envs"] == 4
    assert "tensorflow" in json.loads(text("run/versions"))
    assert "CartPole-v1" in text("run/environment") and "Discrete(2)" in text("run/environment")
    assert "exactly" in text("run/resume") and "`state`" in text("run/resume")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    row = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert row["algorithm"].string_value == "a2c" and row["config.gamma"].number_value == 0.99
    content = events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info.status == 1


def test_a_callback_of_ones_own_writes_with_the_runs_writer(described):
    folder, events = described
    assert len(list(folder.glob("events*"))) == 1
    episodes = {event.step: event.value for event in events.Scalars("rollout/episodes")}
    own = {event.step: event.value for event in events.Scalars("mine/twice")}
    assert own == {step: 2 * value for step, value in episodes.items()} and len(own) >= 2
    assert len(events.Images("mine/picture")) == len(own)


def test_the_environment_is_a_table_and_the_settings_of_learning_come_first(described):
    _, events = described
    (event,) = events.Tensors("run/environment")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert lines[:2] == ["| | |", "|---|---|"] and all(line.count("|") == 3 for line in lines)
    assert "EnvSpec" not in "".join(lines) and "| time limit | `500` |" in lines
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    row = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {"config.learning_rate", "seed", "algorithm"} <= set(row)
    assert not {"checkpoint_every", "keep_checkpoints"} & set(row)


def test_a_resumed_run_does_not_say_what_it_is_again(tmp_path):
    class Stop:
        def __call__(self, env_steps, metrics):
            return env_steps < 200

    agent, envs = make("a2c")
    train(agent, envs, 400, logdir=tmp_path, log_every=50, callbacks=[Stop()])
    agent, envs = make("a2c")
    train(agent, envs, 400, logdir=tmp_path, log_every=50, resume=True)
    events = read(tmp_path)
    for tag in ("run/config", "run/versions", "run/environment", "run/resume"):
        assert len(events.Tensors(tag)) == 1


class Succeeds(gym.Env):
    """Episodes of `length` steps; every second one is a success, which only its end tells."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def __init__(self, length=3, key="is_success", cut=False):
        self.length, self.key, self.cut, self.episode = length, key, cut, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        ended = self.time >= self.length
        info = {self.key: bool(self.episode % 2)} if ended else {}
        return np.zeros(2, np.float32), 1.0, ended and not self.cut, ended and self.cut, info


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
@pytest.mark.parametrize("key", ["is_success", "success"])
def test_successes_and_cut_episodes_are_counted_in_every_mode(mode, key):
    makers = [lambda: Succeeds(3, key), lambda: Succeeds(4, key, cut=True)]
    envs = gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    transitions = Transitions(envs)
    transitions.reset()
    for _ in range(60):
        transitions.step(np.zeros(2, np.int64))
    means, episodes = transitions.means(), transitions.episodes
    assert len(transitions.recent_successes) == episodes == len(transitions.recent_returns) > 20
    cut = sum(length == 4 for length in transitions.recent_lengths)
    assert means["truncated_share"] == pytest.approx(cut / episodes)
    successes = sum(n // 2 for n in (episodes - cut, cut))  # the first of each is none
    assert means["success_rate"] == pytest.approx(successes / episodes)
    assert means["episodes"] == episodes


def test_there_is_no_success_rate_where_nobody_tells():
    transitions = Transitions(make_vec("CartPole-v1", 2, seed=0))
    transitions.reset()
    for _ in range(100):
        transitions.step(np.zeros(2, np.int64))
    assert "success_rate" not in transitions.means() and transitions.episodes


@pytest.mark.parametrize("name", ["a2c", pytest.param("ppo", marks=pytest.mark.slow), "dqn"])
def test_the_share_of_clipped_updates(name):
    agent_type, config, env_id = AGENTS[name]
    for limit, expected in ((1e-9, 1.0), (1e9, 0.0)):
        envs, points = make_vec(env_id, 4, seed=0), []
        spaces = envs.single_observation_space, envs.single_action_space
        agent = agent_type(*spaces, replace(config, max_grad_norm=limit))
        train(agent, envs, 300, log_every=50, callbacks=[lambda _, m, p=points: p.append(m)])
        shares = {m["train/clipped_updates"] for m in points if "train/loss" in m}
        assert shares == {expected}
        assert any(m.get("train/grad_norm", 0.0) > 1e-3 for m in points)  # that before clipping


def test_videos_of_evaluation_episodes(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    agent, envs = make("a2c")
    video_env = gym.make("CartPole-v1", render_mode="rgb_array")
    train(agent, envs, 500, logdir=tmp_path, video_every=200, video_env=video_env)
    images = read(tmp_path).Images("eval/episode")
    assert len(images) == 2 and all(i.encoded_image_string[:6] == b"GIF89a" for i in images)
    files = {path.name: path.stat().st_size for path in (tmp_path / "videos").iterdir()}
    assert (
        set(files) == {f"step-{image.step}.mp4" for image in images} and min(files.values()) > 999
    )


def test_a_video_needs_an_environment_that_renders(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    agent, envs = make("a2c")
    for video_env in (None, gym.make("CartPole-v1")):
        with pytest.raises(ValueError, match='video_every needs.*render_mode="rgb_array"'):
            train(agent, envs, 100, logdir=tmp_path, video_every=50, video_env=video_env)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "least"), [("histograms_every", 0), ("video_every", 1)])
def test_periods_are_positive(option, least):
    agent, envs = make("a2c")
    with pytest.raises(ValueError, match=f"{option} must be at least {least}. Received: .*-1"):
        train(agent, envs, 100, **{option: -1})
