"""Long calls of many updates run in pieces, and a signal between two of them loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import forks
import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

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
from vantage.training import GAN, Regression, differentiate, external, train
from vantage.training.common import interrupts
from vantage.training.core import step as step_module
from vantage.training.core.gradients import compile_step
from vantage.training.core.step import Step
from vantage.training.experience.transitions import Transition

SMALL = {"net_arch": (8,)}
OFF = {**SMALL, "learning_starts": 40, "batch_size": 8, "buffer_size": 400, "train_freq": 16}
AGENTS = {
    "ppo": (PPO, PPOConfig(**SMALL, n_steps=16, batch_size=16, n_epochs=4), "CartPole-v1"),
    "ppo normalised": (
        PPO,
        PPOConfig(**SMALL, n_steps=16, n_epochs=6, normalize_observations=True, use_sde=True),
        "Pendulum-v1",
    ),
    "dqn": (DQN, DQNConfig(**OFF, gradient_steps=8, target_update_interval=30), "CartPole-v1"),
    "dqn prioritised": (DQN, DQNConfig(**OFF, gradient_steps=8, prioritized=True), "CartPole-v1"),
    "sac": (SAC, SACConfig(**OFF, gradient_steps=8), "Pendulum-v1"),
    "td3": (TD3, TD3Config(**OFF, gradient_steps=8), "Pendulum-v1"),
}


def assert_equal(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def one_by_one(monkeypatch):
    """Every update is a piece of its own, and every call may be cut."""
    monkeypatch.setattr(step_module, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(interrupts, "LONG", -1.0)


def dense():
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )


def convolutional():
    layers = keras.layers
    image = [keras.Input((6, 6, 1)), layers.Conv2D(3, 3), layers.BatchNormalization()]
    return keras.Sequential([*image, layers.Dropout(0.2), layers.Flatten(), layers.Dense(1)])


def squared(outputs, targets):
    return tf.reduce_mean(tf.square(outputs - targets))


def squared_on_host(outputs, targets):
    error = outputs - targets
    return np.mean(error**2), 2.0 * error / error.size, {"largest": float(np.abs(error).max())}


@pytest.mark.thinned
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize(
    ("make", "loss"),
    [(dense, differentiate(squared)), (convolutional, differentiate(squared))]
    + [(dense, external(squared_on_host))],
    ids=["xla", "graph", "host"],
)
def test_the_pieces_of_a_call_make_the_bits_of_the_whole(make, loss, by_rows, monkeypatch):
    keras.utils.set_random_seed(0)
    model, optimizer, generator = make(), keras.optimizers.Adam(0.01), np.random.default_rng(0)
    x = generator.normal(size=(12, *model.input_shape[1:])).astype(np.float32)
    y = generator.normal(size=(12, 1)).astype(np.float32)
    step = compile_step(
        model,
        loss,
        model.trainable_variables,
        optimizer,
        (tf.TensorSpec(x.shape), tf.TensorSpec(y.shape)),
        updates=(9, 4) if by_rows else 9,
        mirror=model.trainable_variables,
    )
    rows = [generator.integers(0, 12, (9, 4), np.int32) if by_rows else None for _ in range(3)]
    variables = [*model.variables, *optimizer.variables]
    before, results = [v.numpy() for v in variables], []
    start, calls = step._start, []
    monkeypatch.setattr(step, "_start", lambda *a: (calls.append(1), start(*a))[1])
    for seconds in (1e9, 0.0, 1e-3):
        monkeypatch.setattr(step_module, "PIECE_SECONDS", 0.0)
        step(x, y, rows[0])  # after which a piece is one update again
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        monkeypatch.setattr(step_module, "PIECE_SECONDS", seconds)
        calls.clear()
        for each in rows:
            metrics = step(x, y, each)
        results.append([*metrics.values(), *step.weights, *(v.numpy() for v in variables)])
        assert len(calls) == 27 if seconds == 0.0 else 4 <= len(calls) <= 27
    for other in results[1:]:
        assert_equal(results[0], other)


def test_a_bad_update_in_a_later_piece_ends_the_call(monkeypatch):
    """As in a whole call: those before it are made, it and those after it are not."""
    keras.utils.set_random_seed(0)
    model = dense()
    x, y = np.ones((6, 3), np.float32), np.ones((6, 1), np.float32)
    y[4] = np.nan
    step = compile_step(
        model,
        differentiate(squared),
        model.trainable_variables,
        keras.optimizers.SGD(0.1),
        (tf.TensorSpec(x.shape), tf.TensorSpec(y.shape)),
        updates=(6, 1),
    )
    before, made = model.get_weights(), []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(step_module, "PIECE_SECONDS", seconds)
        model.set_weights(before)
        with pytest.raises(FloatingPointError, match="in update 5 of 6"):
            step(x, y, np.arange(6, dtype=np.int32)[:, None])
        made.append(model.get_weights())
    assert_equal(*made)


def trained(name, folder, steps=200, resume=False):
    agent_type, config, env_id = AGENTS[name]
    envs = make_vec(env_id, 4, seed=1)
    agent = agent_type(envs.single_observation_space, envs.single_action_space, config, seed=2)
    points = []
    callbacks = [lambda at, metrics: points.append((at, metrics.get("train/loss")))]
    summary = train(agent, envs, steps, logdir=folder, resume=resume, callbacks=callbacks)
    envs.close()
    return summary


SOON = [("dqn", signal.SIGINT)]  # PPO is cut in a process of its own below
CUTS = [(name, signal.SIGTERM) for name in AGENTS] + [
    (name, signal.SIGINT) for name in ("ppo", "dqn")
]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(
            *cut, id=f"{cut[0]}-{cut[1].name}", marks=() if cut in SOON else pytest.mark.slow
        )
        for cut in CUTS
    ],
)
def test_a_run_cut_inside_an_update_resumes_exactly(
    name, number, tmp_path, one_by_one, monkeypatch
):
    """The signal comes after the third minibatch of the second update."""
    whole = trained(name, tmp_path / "whole")
    start, calls, at = Step._start, [], 19 if name == "ppo" else 11

    def started(*arguments):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "_start", started)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
            trained(name, tmp_path / "cut")
    assert number == signal.SIGINT or ended.value.code == 143
    assert len(calls) <= at + 1  # it did not go on to the end of the update
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert summary["updates"] == 1 and summary["exactness"] != "restart"
    resumed = trained(name, tmp_path / "cut", resume=True)
    for key in ("weights_sha256", "updates", "env_steps", "mean_return_100"):
        assert resumed[key] == whole[key], key


def test_an_update_that_is_cut_leaves_the_agent_as_it_was(one_by_one, monkeypatch):
    agent_type, config, _ = AGENTS["ppo"]
    agent = agent_type(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), config, seed=0)
    agent.begin(4, 10_000)

    def observe(value):
        agent.explore(np.full((4, 4), value, np.float32))
        flags, ones = np.zeros(4, bool), np.ones(4, np.float32)
        return agent.observe(
            Transition(np.full((4, 4), value, np.float32), ones * value, flags, flags, ones, None)
        )

    for index in range(15):
        observe(index / 16)
    before = [v.numpy() for part in agent.parts.values() for v in part]
    with interrupts.Interrupts("undone") as noting:
        noting.received = signal.SIGTERM
        with pytest.raises(interrupts.UpdateCut):
            observe(1.0)
    generator = agent.generator.bit_generator.state
    assert_equal(before, [v.numpy() for part in agent.parts.values() for v in part])
    assert agent.updates == 0 and agent.resume_update(np.ones((4, 4), np.float32))
    assert agent.updates == 1 and agent.generator.bit_generator.state != generator
    assert agent.resume_update(np.ones((4, 4), np.float32)) is None


def test_a_signal_ends_a_fit_inside_its_call(one_by_one, monkeypatch):
    x, y = np.ones((64, 3), np.float32), np.ones((64, 1), np.float32)
    trainer = Regression(
        dense(), external(squared_on_host), keras.optimizers.SGD(0.01), batch_size=4
    )
    start, calls = Step._start, []

    def started(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "_start", started)
        with pytest.raises(SystemExit):
            trainer.fit(x, y, epochs=100, report_every=100)
    assert len(calls) < 6
    history = trainer.fit(x, y, epochs=2)  # with the metrics of its own updates
    assert history["largest"].shape == (2,)


SCRIPT = """
import json, sys, time
import numpy as np, tensorflow as tf
from vantage.agents import PPO, PPOConfig
from vantage.envs import make_vec
from vantage.training import train

def slow(outputs, targets):
    def wait(values):
        open(sys.argv[1] + ".at", "a").write(".")
        time.sleep(0.05)
        return np.float32(0.0)
    return tf.ensure_shape(tf.numpy_function(wait, [outputs[1]], tf.float32), ()) * 0.0 + (
        0.0 * tf.reduce_sum(outputs[1])
    )

envs = make_vec("CartPole-v1", 2, seed=0)
config = PPOConfig(net_arch=(8,), n_steps=32, batch_size=2, n_epochs=3)
agent = PPO(envs.single_observation_space, envs.single_action_space, config, auxiliary_loss=slow)
train(agent, envs, 64, logdir=sys.argv[1], resume="resume" in sys.argv)
"""


def test_sigterm_in_a_long_update_is_answered_soon_in_a_real_process(tmp_path):
    """An update of 96 minibatches of 50 ms: 143 within two seconds, and an exact checkpoint."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def begin(folder, *words):
        command = (sys.executable, script, tmp_path / folder, *words)
        return forks.Popen(command, stderr=forks.DEVNULL)

    process, marks = begin("cut"), tmp_path / "cut.at"
    try:
        while not marks.exists() or marks.stat().st_size < 10:
            assert process.poll() is None
            time.sleep(0.05)
        at = marks.stat().st_size
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
    assert marks.stat().st_size < at + 40  # of 96: two seconds of them
    assert list((tmp_path / "cut" / "checkpoints").glob("step-*"))
    whole = begin("whole")
    assert begin("cut", "resume").wait(120) == 0 and whole.wait(120) == 0
    hashes = [
        json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"]
        for name in ("cut", "whole")
    ]
    assert hashes[0] == hashes[1]


def test_a_signal_ends_a_run_between_two_steps_of_a_rollout(tmp_path):
    """It does not wait for a rollout that may take minutes."""

    class Slow(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
        steps = 0

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            Slow.steps += 1
            if Slow.steps == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return np.zeros(2, np.float32), 1.0, False, False, {}

    envs = make_vec(Slow, 1, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, A2CConfig(n_steps=1_000))
    with pytest.raises(SystemExit):
        train(agent, envs, 2_000, logdir=tmp_path / "run")
    assert Slow.steps == 5
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] == 5


def test_a_first_update_that_takes_long_says_that_it_is_at_work(monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.2)

    def slow(outputs, targets):
        time.sleep(0.5)
        return squared_on_host(outputs, targets)

    x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
    trainer = Regression(dense(), external(slow), keras.optimizers.SGD(0.01))
    trainer.fit(x, y, epochs=3)
    assert capsys.readouterr().err.count("the first update has been running") == 1


class Camera(gym.Env):
    """An image of 32 × 32 × 3 and a vector."""

    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (32, 32, 3), np.uint8), "state": spaces.Box(-1, 1, (4,))}
    )
    action_space = spaces.Discrete(2)

    def _seen(self):
        image = self.np_random.integers(0, 256, (32, 32, 3), np.uint8)
        return {"camera": image, "state": self.np_random.random(4, np.float32)}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), 1.0, False, False, {}


@pytest.mark.slow
def test_ppo_on_an_image_and_a_vector_updates_in_seconds():
    """By XLA, whose convolutions are naive, an update of this size took minutes."""
    envs = make_vec(Camera, 2, seed=0)
    config = PPOConfig(n_steps=32, batch_size=16, n_epochs=2)
    agent = PPO(envs.single_observation_space, envs.single_action_space, config)
    began = time.process_time()
    summary = train(agent, envs, 128)
    assert summary["updates"] == 2 and time.process_time() - began < 60
    assert not agent._step._compiled.is_xla


def conv_gan():
    layers = keras.layers
    generator = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16),
            layers.Reshape((4, 4, 1)),
            layers.Conv2DTranspose(1, 3),
        ]
    )
    judge = keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    judge.add(layers.Dense(1))
    return GAN(generator, judge, keras.optimizers.Adam(), keras.optimizers.Adam(), batch_size=4)


@pytest.mark.parametrize("with_sac", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_learner_with_convolutions_is_compiled_as_a_graph(with_sac, monkeypatch):
    made, compiled = [], step_module.Compiled

    def spy(*arguments, **options):
        made.append(compiled(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(step_module, "Compiled", spy)
    image = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    off = {"batch_size": 4, "buffer_size": 40, "net_arch": (4,), "gradient_steps": 2}
    for agent in (
        PPO(Camera.observation_space, spaces.Discrete(2), PPOConfig(n_steps=4, batch_size=4)),
        DQN(image, spaces.Discrete(2), DQNConfig(**off)),
        *([SAC(image, spaces.Box(-1, 1, (1,)), SACConfig(**off))] if with_sac else ()),
    ):
        agent.begin(2, 1_000)
    conv_gan().step(np.zeros((4, 6, 6, 1), np.float32))
    model = convolutional()
    x, y = np.ones((8, 6, 6, 1), np.float32), np.ones((8, 1), np.float32)
    Regression(model, differentiate(squared), keras.optimizers.SGD(0.1), batch_size=2).fit(x, y, 1)
    step = compile_step(
        lambda x: model(x, training=True),  # a plain function
        differentiate(squared),
        model.trainable_variables,
        keras.optimizers.SGD(0.1),
        (tf.TensorSpec(x.shape), tf.TensorSpec(y.shape)),
        updates=3,
    )
    assert step(x, y)["loss"].shape == (3,)
    assert len(made) == 5 + with_sac and not any(each.is_xla for each in made)
    made.clear()
    PPO(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), PPOConfig(n_steps=4, batch_size=4)).begin(2, 9)
    assert made[0].is_xla


@pytest.mark.parametrize(("agent_type", "config_type"), [(PPO, PPOConfig), (DQN, DQNConfig)])
def test_a_net_arch_that_is_not_the_default_follows_an_image_alone(agent_type, config_type):
    image = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    kept = {"buffer_size": 40} if agent_type is DQN else {}

    def widths(**options):
        agent = agent_type(image, spaces.Discrete(2), config_type(**kept, **options))
        return {layer.units for layer in agent.network.layers if hasattr(layer, "units")}

    assert widths() == ({1, 2, 512} if agent_type is PPO else {2, 512})
    assert widths(net_arch=(24,)) == widths() | {24}


@pytest.mark.parametrize(("has_images", "expected"), [(True, "1 0"), (False, "0 1")])
def test_tensorflow_is_started_with_onednn_and_all_cores_for_images(has_images, expected):
    code = (
        "import os; from vantage.scripts.cli.starting import start_tensorflow; "
        f"start_tensorflow('cpu', 32, 64, {has_images}); import tensorflow as tf; "
        "print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'), "
        "tf.config.threading.get_intra_op_parallelism_threads())"
    )
    kept = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run((sys.executable, "-c", code), env=kept, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


COMPUTES = """
import tensorflow as tf
from vantage.training.common.interrupts import Interrupts

step = lambda i, x: (i + 1, x * 1.0001)
more = lambda i, x: i < 2_000_000_000
run = tf.function(lambda x: tf.while_loop(more, step, (tf.constant(0), x), parallel_iterations=1))
with Interrupts():
    print("computes", flush=True)
    run(tf.constant(1.0))
"""


def test_a_second_sigint_ends_a_compiled_call_that_lasts_minutes():
    child = forks.Popen(
        [sys.executable, "-c", COMPUTES], stdout=forks.PIPE, stderr=forks.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "computes\n"
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        time.sleep(1)
        assert child.poll() is None  # one lets the call end
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "stopped at once" in err
