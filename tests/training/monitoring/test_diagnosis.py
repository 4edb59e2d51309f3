"""Each rule speaks on a real run that has the fault, and none does on healthy ones."""

import functools
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C, DQN, PPO, SAC, A2CConfig, DQNConfig, PPOConfig
from vantage.agents.configs.presets import PRESETS
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.monitoring.diagnosis import Diagnosis

AGENTS = {"a2c": A2C, "ppo": PPO, "dqn": DQN, "sac": SAC}
CARTPOLE = PRESETS["a2c", "CartPole-v1"].config
OFTEN = {"log_every": 80}  # as many points of a short run as of a long one


def said(agent, envs, total_steps, log_every=200, callbacks=(), planned=None):
    """What is said of a run, by rule; the run may be the beginning of one that is `planned`."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            agent,
            envs,
            planned or total_steps,
            logdir=Path(folder) / "run",
            log_every=log_every,
            histograms_every=log_every,
            callbacks=[*callbacks, lambda steps, _: steps < total_steps],
        )
        envs.close()
        events = EventAccumulator(str(Path(folder) / "run"), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("diagnosis/")]
    texts = {tag: [event.tensor_proto for event in events.Tensors(tag)] for tag in tags}
    assert all(len(each) == 1 for each in texts.values())  # a rule speaks once
    return {tag[10:]: each[0].string_val[0].decode() for tag, each in texts.items()}


def said_of(kind, make, config, total_steps, num_envs=8, **options):
    """What is said of a run with environments of one's own."""
    limit = options.pop("max_episode_steps", 500)
    envs = make_vec(make, num_envs, seed=0, max_episode_steps=limit)
    agent = kind(envs.single_observation_space, envs.single_action_space, config, seed=0)
    return said(agent, envs, total_steps, **options)


def said_of_preset(
    algorithm, env_id, total_steps=None, log_every=1_000, planned=None, seed=0, **changed
):
    """What is said of a run as the command makes it, but for what of the config is changed."""
    preset = PRESETS[algorithm, env_id]
    config = replace(preset.config, **changed)
    envs = make_vec(env_id, preset.num_envs, seed=seed, vectorization=preset.vectorization)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = AGENTS[algorithm](*spaces, config, seed=seed)
    total_steps = total_steps or preset.total_steps
    return said(agent, envs, total_steps, log_every, planned=planned)


class CartPole(gym.Wrapper):
    """CartPole with another reward or other observations."""

    def __init__(self, reward=lambda r: r, observation=lambda x: x, size=4):
        super().__init__(gym.make("CartPole-v1").unwrapped)
        self.reward, self.observation = reward, observation
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return np.asarray(self.observation(observation), np.float32), info

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return np.asarray(self.observation(observation), np.float32), self.reward(reward), *rest


class Noise(gym.Env):
    """Observations and rewards are noise; an episode ends after 10 steps, or never."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=10):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        return self.observe(), self.np_random.normal(), self.steps == self.length, False, {}

    def observe(self):
        return self.np_random.normal(size=3).astype(np.float32)


def test_no_episode_ends():
    half = {"total_steps": 5_200, "planned": 10_000, "num_envs": 4}  # the rule waits for it
    found = said_of(A2C, lambda: Noise(-1), A2CConfig(), **half, max_episode_steps=None)
    assert set(found) == {"no_episode_ends"}
    assert "No episode has ended in 1,2" in found["no_episode_ends"]
    found = said_of(A2C, lambda: Noise(-1), A2CConfig(), **half, max_episode_steps=1_000)
    assert "no_episode_ends" not in found


def test_no_reward():
    found = said_of(A2C, lambda: CartPole(lambda _: 0.0), CARTPOLE, 4_000, **OFTEN)
    assert set(found) == {"no_reward"}


@pytest.mark.parametrize("kind", [A2C, DQN])
def test_constant_observations(kind):
    config = {A2C: CARTPOLE, DQN: DQNConfig(learning_starts=100)}[kind]
    found = said_of(kind, lambda: CartPole(observation=np.ones_like), config, 2_400, **OFTEN)
    assert set(found) == {"observations_constant"}


@pytest.mark.thinned
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("constant", [0.0, 0.5, 1e6])
def test_constant_entries(normalize, constant):
    config = A2CConfig(normalize_observations=normalize)
    make = functools.partial(CartPole, observation=lambda x: [*x, constant], size=5)
    found = said_of(A2C, make, config, 4_000, **OFTEN)
    assert "1 of 5 entries of the observations have never changed (index 4)" in found.get(
        "entries_constant", ""
    )


@pytest.mark.parametrize(
    ("kind", "config", "scale", "total_steps"),
    [
        pytest.param(A2C, A2CConfig(), 1e6, 20_000, marks=pytest.mark.slow),
        (A2C, A2CConfig(), 1e-6, 20_000),
        pytest.param(PPO, PPOConfig(n_steps=32), 1e6, 20_000, marks=pytest.mark.slow),
        (DQN, DQNConfig(learning_starts=100), 1e6, 5_000),
        pytest.param(DQN, DQNConfig(learning_starts=100), 1e6, 20_000, marks=pytest.mark.slow),
    ],
)
def test_returns_off_scale(kind, config, scale, total_steps):
    found = said_of(
        kind,
        lambda: CartPole(lambda r: scale * r),
        config,
        total_steps,
        log_every=total_steps // 100,
    )
    assert set(found) == {"returns_off_scale"}


@pytest.mark.parametrize("scale", [1e6, pytest.param(1e-6, marks=pytest.mark.slow)])
def test_rewards_of_any_scale_may_be_normalised(scale):
    config = A2CConfig(normalize_rewards=True)
    make = functools.partial(CartPole, lambda r: scale * r)
    assert said_of(A2C, make, config, 8_000, planned=20_000) == {}


def test_entropy_collapsed():
    found = said_of(A2C, CartPole, A2CConfig(learning_rate=0.1), 6_000, **OFTEN)
    assert "entropy_collapsed" in found


class Indifferent(Noise):
    """Every action earns the same."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, -1.0, *rest


def test_standard_deviation_collapsed():
    """By an entropy bonus of the wrong sign."""
    envs = make_vec(Indifferent, 8, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space

    def malus(outputs, targets):
        return keras.ops.mean(outputs[0][:, 1])  # log σ

    agent = A2C(*spaces, A2CConfig(learning_rate=5e-2), seed=0, auxiliary_loss=malus)
    found = said(agent, envs, 6_000, **OFTEN)
    assert "standard deviation fell" in found["entropy_collapsed"]


def test_values_explain_nothing():
    found = said_of(A2C, Noise, A2CConfig(), 5_000, **OFTEN)
    assert "values_explain_nothing" in found


def test_gradients_always_clipped():
    config = A2CConfig(max_grad_norm=1e-4, rms_prop_eps=1e-3)
    found = said_of(A2C, CartPole, config, 20_000)
    assert "gradients_always_clipped" in found


def test_policy_changes_too_fast():
    config = PPOConfig(learning_rate=3e-2, n_steps=16)
    found = said_of(PPO, CartPole, config, 4_000)
    assert "policy_changes_too_fast" in found


def test_q_diverges():
    config = DQNConfig(
        learning_rate=0.1, learning_starts=100, target_update_interval=1, net_arch=(16,)
    )
    found = said_of(DQN, CartPole, config, 4_000, **OFTEN)
    assert "q_diverges" in found


def test_return_fell():
    """The learning rate is set a hundred times too high when the return is good."""
    envs = make_vec("CartPole-v1", 16, seed=0, vectorization="native")
    agent = A2C(envs.single_observation_space, envs.single_action_space, CARTPOLE, seed=0)

    def spoil(steps, metrics):
        if steps > 30_000:
            agent.optimizer.learning_rate = 1.0

    assert "return_fell" in said(agent, envs, 60_000, 600, [spoil])


def test_nothing_learnt():
    found = said_of(A2C, CartPole, A2CConfig(learning_rate=1e-9), 20_000, log_every=500)
    assert "nothing_learnt" in found and "return_fell" not in found


def test_constants_of_images_and_one_hot_vectors_are_normal():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (50, 84, 84, 4)).astype(np.uint8)
    images[:, :20] = 7
    one_hot = np.eye(16, dtype=np.float32)[generator.integers(0, 9, 50)]
    for observations in (images, one_hot):
        diagnosis = Diagnosis(100, {})
        for step in range(100):
            assert diagnosis.look(step, {}, {"observations": observations}) == {}
    for size in (1, 84):
        diagnosis, constant = Diagnosis(100, {}), np.ones((50, size, size, 1), np.uint8)
        looks = [diagnosis.look(step, {}, {"observations": constant}) for step in range(100)]
        assert [len(sentences) for sentences in looks] == [0] * 4 + [1] + [0] * 95


def test_a_resumed_run_says_what_one_that_was_never_stopped_says():
    """Of every rule that needs a window; the state goes through JSON between any two points."""
    generator = np.random.default_rng(0)
    whole, resumed, lately = Diagnosis(400, {}), Diagnosis(400, {}), []
    for step in range(400):
        returns = min(step, 200.0) if step < 250 else 10.0
        values = {"rollout/ep_rew_mean": returns + generator.normal(), "train/approx_kl": 0.2}
        values |= {"train/explained_variance": math.nan, "train/q": 1e9 * (step > 300)}
        arrays = {"observations": np.full((5, 3), 2.5) + [0, 0, step]} if step % 5 == 0 else {}
        state = json.loads(json.dumps(resumed.get_state(), allow_nan=False))
        resumed = Diagnosis(400, {})
        resumed.set_state(state)
        sentences = whole.look(step, values, arrays)
        assert resumed.look(step, values, arrays) == sentences
        lately += sentences.values()
    assert len(lately) == len(set(lately)) == len(whole.spoken)
    names = {"policy_changes_too_fast", "entries_constant", "return_fell", "q_diverges"}
    assert set(whole.spoken) == names
    assert all(text.endswith(".") and "\n" not in text for text in lately)


def test_nothing_is_said_of_nothing():
    diagnosis = Diagnosis(100, {})
    assert not any(diagnosis.look(step, {}, {}) for step in range(100))


SMALLER = {"net_arch": (32, 32), "batch_size": 32}
SHORT = {"planned": 5_000, "log_every": 100}


@pytest.mark.parametrize(
    ("algorithm", "env_id", "total_steps", "options"),
    [
        ("a2c", "CartPole-v1", 50_000, {}),
        pytest.param("a2c", "CartPole-v1", 100_000, {}, marks=pytest.mark.slow),
        ("ppo", "CartPole-v1", 16_000, {"planned": 50_000, "log_every": 800}),
        pytest.param("ppo", "CartPole-v1", 50_000, {}, marks=pytest.mark.slow),
        ("dqn", "CartPole-v1", 4_600, {"planned": 20_000, "log_every": 256, **SMALLER}),
        pytest.param("dqn", "CartPole-v1", 15_000, {"planned": 30_000}, marks=pytest.mark.slow),
        pytest.param("a2c", "Pendulum-v1", 100_000, {"planned": 200_000}, marks=pytest.mark.slow),
        pytest.param("ppo", "Pendulum-v1", None, {}, marks=pytest.mark.slow),
        ("a2c", "MountainCar-v0", 42_000, {"planned": 200_000}),
        pytest.param("a2c", "MountainCar-v0", 60_000, {"planned": 200_000}, marks=pytest.mark.slow),
        pytest.param("ppo", "MountainCar-v0", 60_000, {"planned": 200_000}, marks=pytest.mark.slow),
        pytest.param("dqn", "MountainCar-v0", 12_000, {"planned": 40_000}, marks=pytest.mark.slow),
        pytest.param(
            *("sac", "Pendulum-v1", 720, {"planned": 5_000, "log_every": 40, **SMALLER}),
            marks=pytest.mark.slow,
        ),
        pytest.param("sac", "Pendulum-v1", 600, SHORT, marks=pytest.mark.slow),
        pytest.param("sac", "Pendulum-v1", 1_500, SHORT, marks=pytest.mark.slow),
    ],
)
def test_silent_on_healthy_runs(algorithm, env_id, total_steps, options):
    assert said_of_preset(algorithm, env_id, total_steps, **options) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [
        *[(algorithm, "CartPole-v1") for algorithm in ("a2c", "ppo", "dqn")],
        *[(algorithm, "Acrobot-v1") for algorithm in ("a2c", "ppo", "dqn")],
        *[(algorithm, "Pendulum-v1") for algorithm in ("a2c", "ppo", "sac")],
        *[(algorithm, "MountainCar-v0") for algorithm in ("a2c", "ppo")],
    ],
)
def test_silent_on_healthy_runs_of_full_length(algorithm, env_id, seed):
    assert said_of_preset(algorithm, env_id, seed=seed) == {}
