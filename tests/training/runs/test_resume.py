"""Exact resume: from any checkpoint a run goes on to the same bits as if it had never stopped."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import forks
import keras
import numpy as np
import pytest
from specimens import Walk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C, A2CConfig, DQNConfig, PPOConfig, SACConfig, TD3Config
from vantage.agents.configs.registry import ALGORITHMS
from vantage.envs import make_vec
from vantage.scripts.benchmarks import kills
from vantage.training import train
from vantage.training.storage.checkpoint import load_checkpoint
from vantage.training.storage.packing import digest, pack

N, STEPS = 4, 400
REPLAY_STEPS = 200  # of agents with a replay buffer, which goes round in them
SMALL = A2CConfig(n_steps=5, net_arch=(8,), lr_schedule="linear")
NORMALISED = replace(SMALL, normalize_observations=True, normalize_rewards=True)


def cartpole(**options):
    return lambda: make_vec("CartPole-v1", N, seed=3, **options)


def pendulum(vectorization):
    options = {"vectorization": vectorization, "max_episode_steps": 13}
    return lambda: make_vec("Pendulum-v1", N, seed=3, **options)


ENVIRONMENTS = {
    "sync": (cartpole(), "state"),
    "native": (cartpole(vectorization="native"), "state"),
    "custom": (lambda: make_vec(Walk, N, seed=3), "replay"),
    "async": (lambda: make_vec(Walk, N, seed=3, vectorization="async"), "replay"),
    "pendulum sync": (pendulum("sync"), "state"),
    "pendulum native": (pendulum("native"), "state"),
}
ANY = ("sync", "native", "custom", "async")
BOX = ("pendulum sync", "pendulum native", "custom", "async")
PPO = PPOConfig(n_steps=5, batch_size=10, n_epochs=2, net_arch=(8,), clip_schedule="linear")
REPLAY = {"learning_starts": 60, "batch_size": 8, "buffer_size": 100, "net_arch": (8,)}
DQN = DQNConfig(**REPLAY, train_freq=2, target_update_interval=30, gradient_steps=3)
SAC = SACConfig(**REPLAY, train_freq=3, gradient_steps=2)
AGENTS = {
    "a2c": SMALL,
    "normalised": NORMALISED,
    "overlapping": replace(SMALL, overlap_update=True),
    "adam": replace(NORMALISED, optimizer="adam", share_trunk=True, overlap_update=True),
    "a2c sde": replace(SMALL, use_sde=True, sde_sample_freq=3),
    "ppo": PPO,
    "ppo normalised": replace(
        PPO, normalize_observations=True, normalize_rewards=True, target_kl=0.01, clip_range_vf=0.2
    ),
    "ppo sde": replace(PPO, use_sde=True),
    "dqn": DQN,
    "ppo overlapping": replace(
        PPO, normalize_observations=True, normalize_rewards=True, overlap_update=True
    ),
    "dqn overlapping": replace(DQN, overlap_update=True, double=True),
    "dqn all": replace(
        DQN, double=True, dueling=True, n_steps=3, prioritized=True, gradient_steps=1
    ),
    "sac": SAC,
    "sac sde": replace(SAC, use_sde=True, sde_sample_freq=2, n_steps=3, gradient_steps=1),
    "td3": TD3Config(**REPLAY, train_freq=3, gradient_steps=1),
}
POINTS = ("first update", "in the middle of all episodes", "just after an end", "half", "last")


def class_of(config):
    """The agent whose settings these are."""
    return next(each.load() for each in ALGORITHMS.values() if each.config is type(config))


def run(envs, config, folder, steps=None, optimizer=None, **options):
    """A run, and all that must be the same: the agent's state, counters, curves, summary."""
    steps = steps or (REPLAY_STEPS if hasattr(config, "buffer_size") else STEPS)
    agent = class_of(config)(
        envs.single_observation_space,
        envs.single_action_space,
        config,
        seed=1,
        optimizer=None if optimizer is None else optimizer(),
    )
    evaluation = make_vec("CartPole-v1", 2) if "Box(4,)" in repr(envs.observation_space) else None
    settings = {"evaluate_every": 150, "evaluation_envs": evaluation} if evaluation else {}
    summary = train(agent, envs, steps, logdir=folder, log_every=60, **settings, **options)
    envs.close()
    arrays, packed = pack("agent", agent.get_state())
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("time/")  # of the clock
    }
    curves["time/fps"] = [event.step for event in events.Scalars("time/fps")]
    names = ("env_steps", "updates", "episodes", "mean_return_100", "weights_sha256")
    counted = {name: summary[name] for name in names}
    return (digest(arrays), json.dumps(packed, sort_keys=True), counted, curves), summary


def all_checkpoints(make, config, folder, **options):
    """A run that is left in peace, and the checkpoint after every one of its updates."""
    result, _ = run(make(), config, folder, checkpoint_every=1, keep_checkpoints=10**6, **options)
    return result, sorted((folder / "checkpoints").glob("step-*"))


def died_after(checkpoint, folder):
    """The folder of the run as if it had been killed some time after that checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    run = checkpoint.parent.parent
    for path in [run / "config.json", *run.glob("events.*")]:
        shutil.copy(path, folder)
    shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
    if (run / "checkpoints" / "shards").exists():  # of a replay buffer
        shutil.copytree(run / "checkpoints" / "shards", folder / "checkpoints" / "shards")
    return folder


def chosen(point, checkpoints):
    """The checkpoint of that name."""
    if point in ("first update", "half", "last"):
        return checkpoints[{"first update": 0, "half": len(checkpoints) // 2, "last": -1}[point]]
    for path in checkpoints[3:]:
        arrays, _ = load_checkpoint(path)
        lengths, weights = (arrays[f"run/transitions/{name}"] for name in ("lengths", "weights"))
        in_the_middle = lengths.all() and weights.all()
        if in_the_middle if point == POINTS[1] else not weights.all():
            return path
    raise AssertionError(f"no checkpoint {point}")


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    """Runs left in peace, by agent and environment, each made once."""
    made = {}

    def get(agent, environment):
        if (agent, environment) not in made:
            folder = tmp_path_factory.mktemp("peace") / f"{agent}-{environment}"
            made[agent, environment] = all_checkpoints(
                ENVIRONMENTS[environment][0], AGENTS[agent], folder
            )
        return made[agent, environment]

    return get


FEW = [("a2c", "sync"), ("normalised", "native"), ("overlapping", "native"), ("adam", "custom")]
FEWER = [("a2c sde", "custom"), ("ppo overlapping", "sync")]
FEWER += [("dqn all", "native"), ("dqn overlapping", "native"), ("sac sde", "custom")]
FEWER += [("td3", "custom")]


def environments_of(agent):
    """Where an agent can act."""
    if "dqn" in agent:
        return ("sync", "native")
    return BOX if "sde" in agent or agent in ("sac", "td3") else ANY


def marks(agent, env, point):
    """Slow, but for a part of the grid that can still fail."""
    if (agent, env) == FEW[0]:
        return ()
    if ((agent, env) in FEW and point in POINTS[1:3]) or (
        (agent, env) in FEWER and point == POINTS[1]
    ):
        return ()
    return pytest.mark.slow


GRID = [
    pytest.param(agent, env, point, marks=marks(agent, env, point))
    for agent in AGENTS
    for env in environments_of(agent)
    for point in POINTS
]


@pytest.mark.parametrize(("agent", "environment", "point"), GRID)
def test_a_resumed_run_ends_with_the_same_bits(agent, environment, point, peace, tmp_path):
    expected, checkpoints = peace(agent, environment)
    make, exactness = ENVIRONMENTS[environment]
    folder = died_after(chosen(point, checkpoints), tmp_path / "run")
    received, summary = run(make(), AGENTS[agent], folder, resume=True)
    assert received == expected
    assert summary["exactness"] == exactness
    assert summary["resumed_from"] == int(chosen(point, checkpoints).name[5:])


def test_all_at_an_episodes_end(tmp_path):
    """Episodes of 4 steps and rollouts of 4: the first update finds every episode ended."""
    make, config = cartpole(max_episode_steps=4), replace(NORMALISED, n_steps=4)
    expected, checkpoints = all_checkpoints(make, config, tmp_path / "peace", steps=200)
    assert not load_checkpoint(checkpoints[0])[0]["run/transitions/weights"].any()
    for index in (0, 1, 7):
        folder = died_after(checkpoints[index], tmp_path / f"run-{index}")
        assert run(make(), config, folder, steps=200, resume=True)[0] == expected


def test_after_the_end_of_a_schedule_of_ones_own(tmp_path):
    def optimizer():
        decay = keras.optimizers.schedules.PolynomialDecay(0.01, decay_steps=5)
        return keras.optimizers.Adam(decay)

    own = {"optimizer": optimizer}
    expected, checkpoints = all_checkpoints(cartpole(), SMALL, tmp_path / "peace", **own)
    folder = died_after(checkpoints[9], tmp_path / "run")
    with pytest.raises(ValueError, match="optimizer must have the variables"):
        run(cartpole()(), SMALL, folder, resume=True)
    assert run(cartpole()(), SMALL, folder, resume=True, **own)[0] == expected


@pytest.fixture(scope="module")
def resumed_well(peace, tmp_path_factory):
    """Hashes of runs that were resumed with nothing forgotten, by checkpoint, each made once."""
    made = {}

    def get(checkpoint, make, steps):
        if checkpoint not in made:
            folder = died_after(checkpoint, tmp_path_factory.mktemp("well") / "run")
            whole, _ = run(make(), NORMALISED, folder, steps, resume=True)
            made[checkpoint] = whole[2]["weights_sha256"]
        return made[checkpoint]

    return get


@pytest.mark.parametrize(
    "forgotten",
    [
        lambda state: state["generator"]["state"].update(state=1),
        lambda state: state["normalizer"].update(
            {"normalizer/observed/count": state["normalizer"]["normalizer/observed/count"] + 1}
        ),
        lambda state: state["episodes"].update(returns=state["episodes"]["returns"] + 1),
        lambda state: state.pop("episodes"),
        lambda state: state["optimizer"].__setitem__(-1, state["optimizer"][-1] * 1.01),
    ],
    ids=["generator", "normaliser", "discounted returns", "rollout", "optimizer slots"],
)
def test_what_is_forgotten_shows(forgotten, peace, resumed_well, tmp_path, monkeypatch):
    """The comparison can fail: each part of the state matters."""
    expected, checkpoints = peace("normalised", "native")
    restore = A2C.set_state

    def with_a_gap(self, state, **options):
        state = dict(state)
        if self._step is not None and "episodes" in state:
            forgotten(state)
        restore(self, state, **options)

    monkeypatch.setattr(A2C, "set_state", with_a_gap)
    path = chosen("last" if "pop" in forgotten.__code__.co_names else "half", checkpoints)
    steps = STEPS + 40  # the end of the run is in the middle of a rollout
    make = ENVIRONMENTS["native"][0]
    changed, _ = run(make(), NORMALISED, died_after(path, tmp_path / "a"), steps, resume=True)
    monkeypatch.undo()
    assert changed[2]["weights_sha256"] != resumed_well(path, make, steps)


def test_a_finished_run_can_be_made_longer(tmp_path):
    """It ends in the middle of a rollout, which is part of what is saved."""
    config = replace(SMALL, lr_schedule="constant")
    expected, _ = run(cartpole()(), config, tmp_path / "long", steps=433)
    run(cartpole()(), config, tmp_path / "short", steps=207)
    received, _ = run(cartpole()(), config, tmp_path / "short", steps=433, resume=True)
    assert received == expected


def test_a_longer_memory_than_its_state_is_noticed(tmp_path, capsys):
    make = lambda: make_vec(Walk, N, seed=3, env_kwargs={"forgets": False})  # noqa: E731
    _, checkpoints = all_checkpoints(make, SMALL, tmp_path / "peace")
    folder = died_after(chosen(POINTS[1], checkpoints[8:]), tmp_path / "run")
    _, summary = run(make(), SMALL, folder, resume=True, verbose=True)
    assert summary["exactness"] == "restart" and "start anew: " in capsys.readouterr().out


class Wordy(Walk):
    """Its state is a long list of texts, which is no array."""

    def get_state(self):
        generator = json.dumps(self.np_random.bit_generator.state)
        own = self.place, self.now, self.lives, generator
        return {"texts": [f"{n}" for n in range(9_000)], "own": own}

    def set_state(self, state):
        assert state["texts"] == [f"{n}" for n in range(9_000)]
        self.place, self.now, self.lives, generator = state["own"]
        self.np_random = np.random.default_rng()
        self.np_random.bit_generator.state = json.loads(generator)


def test_long_texts_of_environments_are_no_part_of_the_manifest(tmp_path):
    """So that who loads the agent need not read them."""
    make = lambda: make_vec(Wordy, N, seed=3)  # noqa: E731
    steps = 140  # of which the last are made after the checkpoint
    expected, checkpoints = all_checkpoints(make, SMALL, tmp_path / "peace", steps=steps)
    checkpoint = checkpoints[4]
    assert (checkpoint / "manifest.json").stat().st_size < 2**16
    folder = died_after(checkpoint, tmp_path / "run")
    result, summary = run(make(), SMALL, folder, steps, resume=True)
    assert result == expected and summary["exactness"] == "state"
    assert A2C.load(checkpoint).updates == 5 < result[2]["updates"]


def test_a_resume_says_what_it_does(peace, tmp_path, capsys):
    _, checkpoints = peace("a2c", "sync")
    make = ENVIRONMENTS["sync"][0]
    run(make(), SMALL, died_after(checkpoints[4], tmp_path / "run"), resume=True, verbose=True)
    steps = int(checkpoints[4].name[5:])
    said = capsys.readouterr().out
    assert f"resuming after {steps:,} steps; the running episodes continue exactly" in said
    run(make(), SMALL, tmp_path / "new", resume=True, verbose=True)
    assert "nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "count", "message"),
    [
        (replace(SMALL, gamma=0.5), N, "must have the settings.*gamma=0.5, saved as 0.99"),
        (SMALL, N + 1, "must have its 4 environments. Received: 5"),
        (replace(SMALL, net_arch=(9,)), N, r"settings.*net_arch=\(9,\), saved as \(8,\)"),
    ],
)
def test_other_settings_are_refused_and_cost_nothing(config, count, message, peace, tmp_path):
    expected, checkpoints = peace("a2c", "sync")
    folder = died_after(checkpoints[5], tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        run(make_vec("CartPole-v1", count, seed=3), config, folder, resume=True)
    assert run(ENVIRONMENTS["sync"][0](), SMALL, folder, resume=True)[0] == expected


def test_a_callback_that_cannot_begin_leaves_the_folder_free(tmp_path):
    class Failing:
        def begin(self, writer):
            raise RuntimeError("no connection")

        def __call__(self, steps, metrics):
            pass

    make = ENVIRONMENTS["native"][0]
    run(make(), SMALL, tmp_path, steps=100)
    with pytest.raises(RuntimeError, match="no connection"):
        run(make(), SMALL, tmp_path, steps=200, resume=True, callbacks=[Failing()])
    assert run(make(), SMALL, tmp_path, steps=200, resume=True)[1]["env_steps"] >= 200


def test_environments_of_another_kind_are_refused(peace, tmp_path):
    _, checkpoints = peace("a2c", "sync")
    folder = died_after(checkpoints[5], tmp_path / "run")
    with pytest.raises(ValueError, match="Received: "):
        run(ENVIRONMENTS["native"][0](), SMALL, folder, resume=True)


def test_a_damaged_newest_checkpoint_makes_way_for_the_one_before(peace, tmp_path):
    expected, checkpoints = peace("a2c", "sync")
    folder = died_after(checkpoints[5], tmp_path / "run")
    shutil.copytree(checkpoints[6], folder / "checkpoints" / checkpoints[6].name)
    manifest = folder / "checkpoints" / checkpoints[6].name / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.warns(RuntimeWarning, match=f"going on from {checkpoints[5].name}") as warned:
        received, summary = run(ENVIRONMENTS["sync"][0](), SMALL, folder, resume=True)
    assert received == expected and len(warned) == 1
    assert summary["resumed_from"] == int(checkpoints[5].name[5:])
    kept = [path.name for path in (folder / "checkpoints").glob("damaged-*")]
    assert kept == [f"damaged-{checkpoints[6].name}"]


@contextlib.contextmanager
def forked(command, **streams):
    process = forks.Popen(command, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_sigkill_at_random_times(count, tmp_path, monkeypatch):
    """So many kills of two runs or more, real processes; `vantage benchmark kills` makes 200."""
    command = (sys.executable, "-m", "vantage.scripts.main")
    monkeypatch.setattr(kills, "running", forked)
    monkeypatch.setattr(
        kills, "run_vantage", lambda *words: forks.run([*command, *words], check=True)
    )
    train = (*kills.TRAIN, "--total-steps", "30000")
    results = kills.compare(train, tmp_path, kills=count, per_run=count // 2, jobs=2)
    assert results["kills"] == count
    assert len(results["runs"]) >= 2 and all(each["equal"] for each in results["runs"])
    newest = [each for run in results["runs"] for each in run["newest_checkpoints"]]
    assert len(set(newest)) > count // 2  # they were killed at different times


GOLDEN = Path(__file__).parent / "golden"


def test_the_golden_checkpoint_loads_and_trains_on(tmp_path):
    """That of the first release; every later one must read it."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN, folder)
    expected = json.loads((folder / "expected.json").read_text())
    agent = A2C.load(next((folder / "checkpoints").iterdir()))
    actions = agent.act(np.array(expected["observations"], np.float32), deterministic=True)
    assert actions.tolist() == expected["actions"]
    envs = make_vec("CartPole-v1", 2, seed=0, vectorization="native")
    agent = A2C(envs.single_observation_space, envs.single_action_space, agent.config)
    summary = train(agent, envs, 400, logdir=folder, resume=True)
    assert summary["resumed_from"] == expected["env_steps"] and summary["env_steps"] >= 400
    assert summary["exactness"] == "state"
