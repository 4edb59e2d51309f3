"""A training run: its folder, curves, callbacks, evaluations, signals and its end."""

import itertools
import json
import os
import pty
import signal
import sys
import sysconfig
import threading
import time
import urllib.request
from pathlib import Path

import forks
import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
from vantage.envs.examples import Corridor
from vantage.envs.native.classic_control import CartPole
from vantage.scripts.examples import a2c_cartpole
from vantage.training import TensorBoardWriter, Writer, evaluate, train
from vantage.training.monitoring.reports import report
from vantage.training.monitoring.video import play_episode

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
SMALL = A2CConfig(net_arch=(8,))
SUMMARY = {
    "env_steps": int,
    "updates": int,
    "episodes": int,
    "seconds": float,
    "steps_per_second": float,
    "mean_return_100": float,
    "solved_at_steps": int | None,
    "solved_at_seconds": float | None,
    "import_seconds": float | None,
    "versions": dict,
}
TAGS = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "rollout/episodes",
    "rollout/truncated_share",
    "train/loss",
    "train/clipped_updates",
    "train/return_mean",
    "train/return_std",
    "train/advantage_std",
    "train/policy_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/explained_variance",
    "train/grad_norm",
    "train/learning_rate",
    "time/fps",
    "time/acting",
    "time/environments",
    "time/advantages",
    "time/update",
}


def cartpole(seed=0, config=SMALL, num_envs=4):
    envs = make_vec("CartPole-v1", num_envs, seed=seed)
    return A2C(envs.single_observation_space, envs.single_action_space, config, seed=seed), envs


def read_json(path):
    """Strict JSON: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def curves(folder):
    """The points `{tag: [(step, value), …]}` that TensorBoard's own reader finds."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def assert_strictly_increasing(points):
    for tag, values in points.items():
        steps = [step for step, _ in values]
        assert steps == sorted(set(steps)), tag


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 1,000 steps, what its callback saw, and the folder."""
    folder, seen = tmp_path_factory.mktemp("runs") / "cartpole", []
    agent, envs = cartpole()
    summary = train(
        agent,
        envs,
        1_000,
        logdir=folder,
        log_every=100,
        callbacks=[lambda steps, metrics: seen.append((steps, dict(metrics)))],
        checkpoint_every=20,
        config={"env_id": "CartPole-v1"},
    )
    return folder, summary, seen, agent


def test_the_folder(run):
    folder, summary, _, agent = run
    names = sorted(path.name for path in folder.iterdir())
    assert [n for n in names if "tfevents" not in n] == [
        "checkpoints",
        "config.json",
        "summary.json",
    ]
    assert len(names) == 4
    config = read_json(folder / "config.json")
    assert config["algorithm"] == "a2c" and config["env_id"] == "CartPole-v1"
    assert config["num_envs"] == 4 and config["total_steps"] == 1_000
    assert A2CConfig(**config["config"] | {"net_arch": (8,)}) == SMALL
    assert read_json(folder / "summary.json") == summary
    last = folder / "checkpoints" / f"step-{summary['env_steps']:012d}"
    kept = sorted((folder / "checkpoints").iterdir())
    assert kept[-1] == last and len(kept) == 2  # the two newest
    loaded = A2C.load(last)
    for a, b in zip(loaded.network.variables, agent.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_seconds_between_checkpoints_count_from_the_start_of_the_run(tmp_path, monkeypatch):
    """Not from that of the machine's clock, of which a short run may pass a multiple."""
    ticks = itertools.count(29.5, 0.01)
    monkeypatch.setattr("vantage.training.runs.record.clock", lambda: next(ticks))
    envs = make_vec("CartPole-v1", 2, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, SMALL)
    summary = train(agent, envs, 2_000, logdir=tmp_path / "run", checkpoint_every="30s")
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert 1.0 < summary["seconds"] < 30.0
    assert kept.name == f"step-{summary['env_steps']:012d}"  # that of the end


def test_the_summary(run):
    _, summary, _, agent = run
    for name, kind in SUMMARY.items():
        assert isinstance(summary[name], kind), name
    assert 1_000 <= summary["env_steps"] < 1_000 + 4
    assert summary["updates"] == agent.updates == pytest.approx(1_000 / 20, rel=0.2)
    assert summary["steps_per_second"] == summary["env_steps"] / summary["seconds"]
    assert summary["seconds"] > agent.construction_seconds > 0
    assert summary["solved_at_steps"] is summary["solved_at_seconds"] is None
    assert set(summary["versions"]) >= {"python", "vantage-rl", "tensorflow", "keras", "numpy"}


def test_the_curves_are_what_tensorboard_reads(run):
    folder, summary, seen, _ = run
    points = curves(folder)
    assert set(points) == TAGS
    assert_strictly_increasing(points)
    for tag, values in points.items():
        expected = [(steps, metrics[tag]) for steps, metrics in seen if tag in metrics]
        assert [step for step, _ in values] == [step for step, _ in expected], tag
        np.testing.assert_allclose([v for _, v in values], [v for _, v in expected], rtol=1e-6)
    steps = [step for step, _ in points["time/fps"]]
    assert steps[-1] == summary["env_steps"] and 8 <= len(steps) <= 11
    assert all(80 <= b - a <= 125 for a, b in itertools.pairwise(steps[:-1]))
    assert dict(points["rollout/ep_rew_mean"])[steps[-1]] == pytest.approx(
        summary["mean_return_100"]
    )
    assert points["rollout/ep_rew_mean"] == points["rollout/ep_len_mean"]  # CartPole pays 1 a step
    assert {value for _, value in points["train/learning_rate"]} == {np.float32(7e-4)}
    assert all(value > 0 for _, value in points["train/grad_norm"])
    for index in range(len(steps)):  # the parts are shares of the time between two points
        parts = [points[f"time/{p}"][index][1] for p in ("acting", "environments", "update")]
        assert all(part > 0 for part in parts) and sum(parts) <= 1


def test_the_linear_schedule_shows_in_its_curve(tmp_path):
    config = A2CConfig(net_arch=(8,), lr_schedule="linear")
    agent, envs = cartpole(config=config)
    train(agent, envs, 400, logdir=tmp_path / "run", log_every=20)
    rates = [value for _, value in curves(tmp_path / "run")["train/learning_rate"]]
    assert rates[0] == pytest.approx(7e-4, rel=0.1) and rates[-1] < 2e-4
    assert rates == sorted(rates, reverse=True)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # TensorBoard's own
def test_the_tensorboard_server_lists_and_serves_the_curves(run):
    from tensorboard import program

    folder, *_ = run
    server = program.TensorBoard()
    port = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    server.configure(argv=["tensorboard", "--logdir", str(folder), *port])
    url = server.launch().rstrip("/")

    def get(page):
        with urllib.request.urlopen(f"{url}/data/plugin/scalars/{page}", timeout=30) as answer:
            return json.load(answer)

    deadline = time.monotonic() + 30
    while not (tags := get("tags")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {run_name: set(found) for run_name, found in tags.items()} == {".": TAGS}
    for tag, points in curves(folder).items():
        served = get(f"scalars?run=.&tag={tag}")  # [[wall time, step, value], …]
        assert [(step, pytest.approx(value)) for _, step, value in served] == points


def test_texts_and_images_are_readable(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    writer.text(7, "note", "# Täxt")
    writer.image(8, "picture", pixels)
    writer.image(9, "grey", pixels[..., :1])
    writer.scalars(10, {"a": 1, "b": np.float32(0.5), "c": float("nan")})
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (text,) = events.Tensors("note")
    assert text.step == 7 and tf.make_ndarray(text.tensor_proto).tolist() == ["# Täxt".encode()]
    assert events.SummaryMetadata("note").plugin_data.plugin_name == "text"
    for tag, step, image in (("picture", 8, pixels), ("grey", 9, pixels[..., :1])):
        (found,) = events.Images(tag)
        assert (found.step, found.width, found.height) == (step, 3, 2)
        decoded = tf.io.decode_png(found.encoded_image_string).numpy()
        np.testing.assert_array_equal(decoded, image)
    assert [e.value for e in events.Scalars("b")] == [0.5]


def test_the_writer_of_a_run_without_a_folder_takes_everything():
    writer = Writer()
    writer.scalars(1, {"a": 1.0})
    writer.text(1, "note", "text")
    writer.image(1, "picture", np.zeros((1, 1, 1), np.uint8))
    writer.close()


def test_a_callback_stops_the_run(tmp_path):
    calls = []

    def stop_at_300(steps, metrics):
        calls.append(steps)
        return steps < 300  # True goes on

    agent, envs = cartpole()
    summary = train(
        agent, envs, 10_000, logdir=tmp_path / "run", log_every=100, callbacks=[stop_at_300]
    )
    assert summary["env_steps"] == calls[-1] < 350 and calls[-2] < 300
    assert (tmp_path / "run" / "summary.json").exists()


FALSE = [False, np.False_, np.array(False), tf.constant(False)]
OTHERS = [None, True, np.True_, 0, 0.0, [], np.zeros(0, bool), np.array([False])]


@pytest.mark.parametrize("answers", [*([answer] for answer in FALSE), OTHERS], ids=range(5))
def test_every_false_stops_a_run_and_nothing_else_does(answers):
    agent, envs = cartpole()
    stops, callbacks = answers is not OTHERS, [lambda *_, a=answer: a for answer in answers]
    summary = train(agent, envs, 100, log_every=20, callbacks=callbacks)
    assert (summary["env_steps"] < 100) == stops
    for callback in callbacks:
        assert report("epoch", 1, {}, False, [lambda *_: None, callback]) != stops


def test_callbacks_must_be_callable_before_anything_begins(tmp_path):
    agent, envs = cartpole()
    with pytest.raises(ValueError, match="callbacks must be callable .* Received: 'stop'"):
        train(agent, envs, 100, logdir=tmp_path / "run", callbacks=["stop"])
    assert not (tmp_path / "run").exists()


MOVES = {
    "reset": lambda envs: envs.reset(),
    "seeded": lambda envs: envs.reset(seed=0),
    "step": lambda envs: envs.step(np.zeros(4, int)),
    "close": lambda envs: envs.close(),
}


@pytest.mark.thinned
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
def test_callbacks_leave_the_training_environments_alone(vectorization, move, tmp_path):
    """Attributes may be set; and after the end of the training anything goes."""
    envs = make_vec("CartPole-v1", 4, seed=0, vectorization=vectorization)
    agent = A2C(envs.single_observation_space, envs.single_action_space, SMALL, seed=0)

    def moving(steps, metrics):
        move(envs)

    with pytest.raises(ValueError, match=r"Received: .* in .*moving. Make others with make_vec"):
        train(agent, envs, 200, logdir=tmp_path / "run", log_every=40, callbacks=[moving])
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1
    envs.close()


def test_callbacks_may_set_attributes_and_close_environments_at_the_end():
    agent, envs = cartpole()

    options = {"log_every": 50, "callbacks": [lambda *_: envs.set_attr("gravity", 9.0)]}
    train(agent, envs, 200, **options)
    assert envs.get_attr("gravity") == (9.0,) * 4
    seen = []  # the only point is that of the end
    options = {"log_every": 1_000, "callbacks": [lambda n, _: seen.append(n) or envs.close()]}
    assert seen == [train(agent, envs, 200, **options)["env_steps"]] and envs.closed


def test_a_beginning_callback_leaves_resumed_environments_alone(tmp_path):
    class Resetting:
        def begin(self, writer):
            envs.reset()

        def __call__(self, steps, metrics):
            pass

    agent, envs = cartpole()
    train(agent, envs, 100, logdir=tmp_path / "run")
    agent, envs = cartpole()
    with pytest.raises(ValueError, match="in begin. Make others"):
        train(agent, envs, 200, logdir=tmp_path / "run", resume=True, callbacks=[Resetting()])


@pytest.mark.parametrize("log_every", [100, 70, 10_000])
def test_callbacks_see_every_evaluation_once(tmp_path, log_every):
    seen = []
    agent, envs = cartpole()
    options = {"evaluate_every": 200, "evaluation_envs": make_vec("CartPole-v1", 5)}
    callbacks = [lambda steps, metrics: seen.append((steps, metrics))]
    train(agent, envs, 700, logdir=tmp_path, log_every=log_every, callbacks=callbacks, **options)
    evaluated = [(steps, m) for steps, m in seen if "eval/mean_reward" in m]
    points = curves(tmp_path)
    for tag in ("eval/mean_reward", "eval/mean_ep_length", "eval/ci95_low", "eval/ci95_high"):
        assert [(steps, pytest.approx(m[tag])) for steps, m in evaluated] == points[tag]
    assert len({steps for steps, _ in seen}) == len(seen)  # one call at a step
    assert [steps for steps, m in evaluated] == sorted(steps for steps, _ in evaluated)


def test_a_callback_stops_at_an_evaluation():
    agent, envs = cartpole()
    options = {"evaluate_every": 200, "evaluation_envs": make_vec("CartPole-v1", 5)}
    stop = [lambda _, metrics: "eval/mean_reward" not in metrics]
    assert 200 <= train(agent, envs, 2_000, callbacks=stop, **options)["env_steps"] <= 220


def test_a_callback_without_an_answer_does_not_stop(run):
    _, summary, seen, _ = run
    assert seen[0][0] < summary["env_steps"]  # its answer is None


def test_stop_at_return(tmp_path):
    agent, envs = cartpole(num_envs=8)
    summary = train(agent, envs, 50_000, logdir=tmp_path / "run", stop_at_return=15.0)
    assert summary["solved_at_steps"] == summary["env_steps"] < 50_000
    assert 0 < summary["solved_at_seconds"] <= summary["seconds"]
    assert summary["episodes"] >= 100 and summary["mean_return_100"] >= 15.0
    assert read_json(tmp_path / "run" / "summary.json") == summary


def test_without_a_log_directory_nothing_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    agent, envs = cartpole()
    summary = train(agent, envs, 200, checkpoint_every=1, log_every=20)
    assert summary["env_steps"] >= 200 and list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")  # quiet where there is no terminal


def test_progress_is_shown_on_a_terminal(monkeypatch):
    master, slave = pty.openpty()
    shown = bytearray()

    def read():
        try:
            while chunk := os.read(master, 1024):
                shown.extend(chunk)
        except OSError:  # Linux's end of file of a pseudo-terminal
            pass

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with open(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        agent, envs = cartpole()
        train(agent, envs, 600, log_every=100)
        monkeypatch.undo()
    reader.join(10)
    os.close(master)
    text = shown.decode()
    for part in ("/600 steps", "steps/s", "mean return", "0:00:"):
        assert part in text, text
    assert "nan" not in text


def weights_after(seed, updates_seed=None):
    agent, envs = cartpole(seed)
    train(agent, envs, 400)
    return b"".join(v.numpy().tobytes() for v in agent.network.variables)


def test_a_seed_decides_every_bit():
    assert weights_after(0) == weights_after(0)
    assert weights_after(0) != weights_after(1)


def test_evaluations_keep_the_best_agent(tmp_path):
    agent, envs = cartpole()
    evaluation_envs = make_vec("CartPole-v1", 5)
    folder = tmp_path / "run"
    options = {"evaluate_every": 200, "evaluation_envs": evaluation_envs, "log_every": 100}
    train(agent, envs, 1_000, logdir=folder, **options)
    points = curves(folder)
    assert set(points) == TAGS | {
        "eval/mean_reward",
        "eval/mean_ep_length",
        "eval/ci95_low",
        "eval/ci95_high",
    }
    assert_strictly_increasing(points)
    best = max(value for _, value in points["eval/mean_reward"])
    assert 4 <= len(points["eval/mean_reward"]) <= 5
    kept = evaluate(A2C.load(folder / "checkpoints" / "best"), evaluation_envs, 20, seed=0)
    assert kept.mean == pytest.approx(best)


def test_evaluating_does_not_disturb_training(tmp_path):
    quiet, envs = cartpole()
    train(quiet, envs, 400)
    other, envs = cartpole()
    train(other, envs, 400, evaluate_every=100, evaluation_envs=make_vec("CartPole-v1", 2))
    for a, b in zip(quiet.network.variables, other.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_resuming_adds_up(tmp_path):
    """Counters, seconds, curves and the best agent go on where the interrupted run ended."""
    folder = tmp_path / "run"
    agent, envs = cartpole()
    first = train(agent, envs, 300, logdir=folder, log_every=50)
    time.sleep(0.5)  # the pause between the runs does not count
    resumed, envs = cartpole()
    began = time.monotonic()
    second = train(resumed, envs, 600, logdir=folder, resume=True, log_every=50)
    elapsed = time.monotonic() - began + resumed.construction_seconds
    assert 600 <= second["env_steps"] < 604
    assert second["updates"] == resumed.updates > first["updates"]
    assert second["episodes"] > first["episodes"]
    own = second["seconds"] - first["seconds"]  # of the second run alone
    assert 0.5 * elapsed < own < elapsed + 0.1
    assert second["steps_per_second"] == second["env_steps"] / second["seconds"]
    assert read_json(folder / "summary.json") == second
    points = curves(folder)
    assert_strictly_increasing(points)
    assert points["time/fps"][-1][0] == second["env_steps"]
    assert points["time/fps"][0][0] < 100


def test_resuming_a_finished_run_changes_no_weight(tmp_path):
    folder = tmp_path / "run"
    agent, envs = cartpole()
    first = train(agent, envs, 200, logdir=folder)
    resumed, envs = cartpole(seed=1)
    second = train(resumed, envs, 200, logdir=folder, resume=True)
    assert second["env_steps"] == first["env_steps"]
    assert second["mean_return_100"] == first["mean_return_100"]
    for a, b in zip(agent.network.variables, resumed.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_resuming_without_a_checkpoint_starts_afresh(tmp_path):
    for name in ("new", "died-early"):
        folder = tmp_path / name
        if name == "died-early":  # before its first checkpoint, and in the middle of writing one
            (folder / "checkpoints" / ".step-000000000020.1").mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            (folder / "events.out.tfevents.1.host.1.0").write_bytes(b"")
        agent, envs = cartpole()
        summary = train(agent, envs, 100, logdir=folder, resume=True)
        assert 100 <= summary["env_steps"] < 104
        assert read_json(folder / "config.json")["algorithm"] == "a2c"


@pytest.mark.parametrize(
    "name", ["thesis.tex", "summary.json", "checkpoints/best/manifest.json", "evaluation.json"]
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_is_refused(tmp_path, name, resume):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    (tmp_path / "run" / "config.json").write_text("{}")
    agent, envs = cartpole()
    with pytest.raises(FileExistsError, match=r"new or empty.*Received.*Choose"):
        train(agent, envs, 100, logdir=tmp_path / "run", resume=resume)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert sorted(files) == sorted([path, tmp_path / "run" / "config.json"])
    assert all(file.read_text() == "{}" for file in files)


@pytest.mark.parametrize("name", ["total_steps", "log_every", "evaluate_every", "checkpoint_every"])
def test_periods_out_of_range(tmp_path, name):
    agent, envs = cartpole()
    arguments = {"total_steps": 100} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1.* Received: 0"):
        train(agent, envs, **arguments, evaluation_envs=envs, logdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda agent, envs, x: train(agent, envs, 100, resume=x),
        lambda agent, envs, x: train(agent, envs, 100, verbose=x),
        lambda agent, envs, x: train(agent, envs, 100, progress=x),
        lambda agent, envs, x: evaluate(agent, envs, 1, deterministic=x),
        lambda agent, envs, x: play_episode(agent, gym.make("CartPole-v1"), deterministic=x),
        lambda agent, envs, x: agent.act(np.zeros(4, np.float32), x),
        lambda agent, envs, x: DQN(envs.single_observation_space, envs.single_action_space).act(
            np.zeros(4, np.float32), x
        ),
        lambda agent, envs, x: agent.set_state(agent.get_state(), only_network=x),
        lambda agent, envs, x: A2C.load("there is none", only_to_act=x),
        lambda agent, envs, x: make_vec("CartPole-v1", 1, restart_broken_envs=x),
        lambda agent, envs, x: CartPole(sutton_barto_reward=x),
        lambda agent, envs, x: Corridor(random_start=x),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("text", ["False", "no"])
def test_texts_are_no_bools(call, text):
    """Every text but the empty one counts as true."""
    agent, envs = cartpole()
    with pytest.raises(ValueError, match=f"must be True or False. Received: .*{text}"):
        call(agent, envs, text)


def test_bools_of_numpy_are_bools():
    agent, envs = cartpole()
    assert train(agent, envs, 100, resume=np.False_, verbose=0, progress=None)["env_steps"] >= 100


def test_evaluating_needs_environments_of_its_own():
    agent, envs = cartpole()
    with pytest.raises(ValueError, match=r"Received: evaluation_envs=None. Pass"):
        train(agent, envs, 100, evaluate_every=10)


class Signalled:
    """A callback that sends this process signals, as the terminal or the system would."""

    def __init__(self, *numbers):
        self.numbers, self.steps = numbers, None

    def __call__(self, steps, metrics):
        self.steps = steps
        for number in self.numbers:
            os.kill(os.getpid(), number)


@pytest.fixture
def handlers():
    """Fails unless the handlers of the signals are what they were before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
    ("numbers", "raised", "code"),
    [
        ((signal.SIGINT,), KeyboardInterrupt, None),
        ((signal.SIGTERM,), SystemExit, 143),
        ((signal.SIGHUP,), SystemExit, 129),
        ((signal.SIGTERM, signal.SIGHUP, signal.SIGTERM), SystemExit, 143),  # the first counts
        ((signal.SIGTERM, signal.SIGINT), SystemExit, 143),
    ],
)
def test_a_signal_ends_the_run_after_the_update(tmp_path, handlers, numbers, raised, code):
    agent, envs = cartpole()
    callback = Signalled(*numbers)
    with pytest.raises(raised) as stop:
        train(agent, envs, 10**6, logdir=tmp_path / "run", log_every=100, callbacks=[callback])
    if raised is SystemExit:
        assert stop.value.code == code
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["env_steps"] == callback.steps < 200
    assert list(curves(tmp_path / "run")["time/fps"])[-1][0] == callback.steps
    restored, envs = cartpole()
    again = train(restored, envs, 200, logdir=tmp_path / "run", resume=True)
    assert again["updates"] > summary["updates"]


def test_sighup_is_ignored_where_it_was_before(handlers):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        agent, envs = cartpole()
        callback = Signalled(signal.SIGHUP)
        assert train(agent, envs, 200, log_every=100, callbacks=[callback])["env_steps"] >= 200
    finally:
        signal.signal(signal.SIGHUP, before)


class Deaf(gym.Wrapper):
    """Sets handlers of its own, as pygame and many simulators do."""

    def step(self, action):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return super().step(action)


def test_an_environment_that_sets_handlers_does_not_disable_ours(handlers):
    envs = make_vec(lambda: Deaf(gym.make("CartPole-v1")), 2, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, SMALL, seed=0)
    callback = Signalled(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        train(agent, envs, 10**6, log_every=100, callbacks=[callback])
    assert stop.value.code == 143 and callback.steps < 200


ALGORITHMS = {
    A2C: A2CConfig(net_arch=(8,)),
    PPO: PPOConfig(n_steps=16, batch_size=32, net_arch=(8,)),
    DQN: DQNConfig(learning_starts=20, net_arch=(8,)),
    SAC: SACConfig(learning_starts=20, net_arch=(8,)),
    TD3: TD3Config(learning_starts=20, net_arch=(8,)),
}


@pytest.mark.parametrize(
    "algorithm",
    [A2C, DQN, *(pytest.param(each, marks=pytest.mark.slow) for each in (PPO, SAC, TD3))],
    ids=lambda algorithm: algorithm.__name__,
)
def test_a_signal_to_main_process_and_workers_leaves_an_exact_checkpoint(tmp_path, algorithm):
    """As a service manager or scheduler sends it, to the workers first."""
    env_id = "Pendulum-v1" if algorithm in (SAC, TD3) else "CartPole-v1"
    envs = make_vec(env_id, 2, seed=0, vectorization="async")
    spaces = envs.single_observation_space, envs.single_action_space
    agent = algorithm(*spaces, ALGORITHMS[algorithm], seed=0)

    def signal_all(steps, metrics):
        for worker in envs._workers:
            os.kill(worker.process.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        train(agent, envs, 10**6, logdir=tmp_path / "run", log_every=60, callbacks=[signal_all])
    envs.close()
    assert stop.value.code == 143
    assert read_json(tmp_path / "run" / "summary.json")["exactness"] == "state"


def test_a_second_sigint_stops_at_once(tmp_path, handlers):
    agent, envs = cartpole()
    with pytest.raises(KeyboardInterrupt):
        callback = Signalled(signal.SIGINT, signal.SIGINT)
        train(agent, envs, 10**6, logdir=tmp_path / "run", log_every=100, callbacks=[callback])
    assert not (tmp_path / "run" / "summary.json").exists()


class Panic(BaseException):
    """As PyO3 derives its PanicException, of a library in Rust."""


@pytest.mark.parametrize("error", [Panic, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_ends_a_run_leaves_a_checkpoint(tmp_path, error):
    def raise_it(steps, metrics):
        raise error("of the user's own code")

    agent, envs = cartpole()
    with pytest.raises(error) as caught:
        train(agent, envs, 10**6, logdir=tmp_path / "run", log_every=100, callbacks=[raise_it])
    assert "--resume" in caught.value.__notes__[0]
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(kept.name[5:]) >= 100


def test_a_second_sigint_and_an_error_after_the_end_alter_no_checkpoint(tmp_path, monkeypatch):
    agent, envs = cartpole()
    hurried = Signalled(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(agent, envs, 10**6, logdir=tmp_path / "run", log_every=100, callbacks=[hurried])
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))

    agent, envs = cartpole()
    monkeypatch.setattr("vantage.training.runs.record.versions", lambda: 1 / 0)  # for the summary
    with pytest.raises(ZeroDivisionError):
        train(agent, envs, 200, logdir=tmp_path / "other")
    (kept,) = (tmp_path / "other" / "checkpoints").glob("step-*")
    assert read_json(kept / "manifest.json")["exactness"] == "state"


def test_outside_the_main_thread_there_are_no_handlers(handlers):
    results = []

    def work():
        agent, envs = cartpole()
        results.append(train(agent, envs, 100))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0]["env_steps"] >= 100


SIGNALLED = {
    "SIGINT": (signal.SIGINT, os.kill, ()),
    "SIGTERM": (signal.SIGTERM, os.kill, ()),
    # A terminal sends Ctrl-C to the whole process group, worker processes included.
    "Ctrl-C": (signal.SIGINT, os.killpg, ("--vectorization", "async")),
}


@pytest.fixture(scope="module")
def signalled(tmp_path_factory):
    """Real training processes that were sent a signal: {name: (folder, exit code, out, err)}."""
    folders = {name: tmp_path_factory.mktemp("signalled") / name for name in SIGNALLED}
    flags = ("--num-envs", "2", "--total-steps", "100000000", "--checkpoint-every", "20")
    pipes = {"stdout": forks.PIPE, "stderr": forks.PIPE, "text": True}
    started = {
        name: forks.Popen(
            [VANTAGE, "train", "a2c", "CartPole-v1", *flags, "--logdir", folders[name], *more],
            start_new_session=True,
            **pipes,
        )
        for name, (_, _, more) in SIGNALLED.items()
    }
    try:
        deadline = time.monotonic() + 120
        for name, process in started.items():
            while not list(folders[name].glob("checkpoints/step-*")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, f"no checkpoint of {name}"
                time.sleep(0.05)
            number, send, _ = SIGNALLED[name]
            send(process.pid, number)
        said = {name: process.communicate(timeout=60) for name, process in started.items()}
        return {name: (folders[name], started[name].returncode, *said[name]) for name in started}
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize("name", SIGNALLED)
def test_a_signal_to_the_command(signalled, name):
    """Exit code 130 or 143, a checkpoint that loads, and not a word too many."""
    folder, code, out, err = signalled[name]
    assert (code, err) == (128 + SIGNALLED[name][0], "")
    assert "\x1b" not in out and "\r" not in out, "no terminal, no escape codes"
    summary = read_json(folder / "summary.json")
    newest = max((folder / "checkpoints").iterdir())
    assert newest.name == f"step-{summary['env_steps']:012d}"
    assert A2C.load(newest).updates == summary["updates"]


def test_the_example_script(tmp_path, capsys):
    a2c_cartpole.main(str(tmp_path / "run"), total_steps=400)
    assert "evaluation: " in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "summary.json")["env_steps"] >= 400
    assert len(Path(a2c_cartpole.__file__).read_text().splitlines()) < 40


def test_a_run_ends_with_the_common_step_that_reaches_total_steps():
    """At most N − 1 steps beyond: fewer where some environments only reset in that step."""
    beyond = set()
    for total in range(100, 108):
        envs = make_vec("CartPole-v1", 4, seed=total, max_episode_steps=9)
        agent = A2C(envs.single_observation_space, envs.single_action_space, SMALL)
        beyond.add(train(agent, envs, total)["env_steps"] - total)
    assert beyond == {0, 1, 2, 3}
