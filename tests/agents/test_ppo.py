"""PPO: its loss against NumPy, what it reduces to, early stops, and learning."""

import math
import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C, PPO, A2CConfig, PPOConfig
from vantage.agents.configs.presets import PRESETS
from vantage.agents.networks.distributions import policy_distribution
from vantage.agents.ppo import Sampled, ppo_loss
from vantage.envs import make_vec
from vantage.envs.examples.corridor import Corridor
from vantage.training import train

OBSERVATIONS = spaces.Box(-1.0, 1.0, (4,))
M = 12


def numbers(seed=0):
    """Outputs and targets of a minibatch of three discrete actions."""
    generator = np.random.default_rng(seed)
    normal = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    outputs = normal(M, 3), normal(M, 1)
    actions = generator.integers(3, size=(M, 1)).astype(np.int32)
    weights = (generator.random(M) < 0.7).astype(np.float32)
    old = outputs[0] + 0.3 * normal(M, 3), outputs[1][:, 0] + 0.5 * normal(M)
    return outputs, (actions, *old, normal(M), normal(M), weights)


def log_softmax(y):
    return [v - math.log(sum(math.exp(u) for u in y)) for v in y]


def prepared(targets):
    """Targets as the loss takes them: in place of the old parameters, log π_old(a|s)."""
    actions, old_y, *others = targets
    old = [log_softmax([float(v) for v in y])[a] for y, (a,) in zip(old_y, actions, strict=True)]
    return tuple(map(tf.constant, (actions, np.float32(old), *others)))


def naive(outputs, targets, config, clip_range):
    """Schulman et al. 2017, eq. 7 and 9, example by example."""
    total = dict.fromkeys(("policy", "value", "entropy", "kl", "clipped"), 0.0)
    actions, old_y, old_v, advantages, returns, weights = targets
    real = [i for i in range(M) if weights[i] > 0]
    if config.normalize_advantage:
        kept = [float(advantages[i]) for i in real]
        mean = sum(kept) / len(kept)
        std = math.sqrt(sum((a - mean) ** 2 for a in kept) / len(kept))
        advantages = [(a - mean) / (std + 1e-8) for a in advantages]

    for i in real:
        new = log_softmax([float(v) for v in outputs[0][i]])
        old = log_softmax([float(v) for v in old_y[i]])
        log_ratio = new[actions[i, 0]] - old[actions[i, 0]]
        ratio = math.exp(log_ratio)
        limited = min(max(ratio, 1 - clip_range), 1 + clip_range)
        value = float(outputs[1][i, 0])
        if config.clip_range_vf is not None:
            moved = min(max(value - old_v[i], -config.clip_range_vf), config.clip_range_vf)
            value = old_v[i] + moved
        total["policy"] -= min(ratio * advantages[i], limited * advantages[i]) / len(real)
        total["value"] += (returns[i] - value) ** 2 / len(real)
        total["entropy"] += sum(math.exp(v) * v for v in new) / len(real)
        total["kl"] += ((ratio - 1) - log_ratio) / len(real)
        total["clipped"] += (abs(ratio - 1) > clip_range) / len(real)
    loss = total["policy"] + config.vf_coef * total["value"] + config.ent_coef * total["entropy"]
    return loss, total


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("clip_range_vf", [None, 0.3])
def test_the_loss_equals_a_naive_one(normalize, clip_range_vf):
    config = PPOConfig(
        normalize_advantage=normalize, clip_range_vf=clip_range_vf, ent_coef=0.02, vf_coef=0.7
    )
    outputs, targets = numbers()
    pi = policy_distribution(spaces.Discrete(3))
    loss, metrics = ppo_loss(pi, config, tf.constant(0.2))(
        tuple(map(tf.constant, outputs)), prepared(targets)
    )
    expected, parts = naive(outputs, targets, config, 0.2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    names = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")
    for name, value in zip(names, parts.values(), strict=True):
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name


def test_a_minibatch_without_a_real_step_changes_nothing():
    config = PPOConfig()
    outputs, targets = numbers()
    pi = policy_distribution(spaces.Discrete(3))
    with tf.GradientTape() as tape:
        y = tf.constant(outputs[0])
        tape.watch(y)
        loss, _ = ppo_loss(pi, config, tf.constant(0.2))(
            (y, tf.constant(outputs[1])),
            prepared((*targets[:-1], np.zeros(M, np.float32))),
        )
    assert float(loss) == 0.0 and not np.any(tape.gradient(loss, y))


@pytest.mark.usefixtures("compiler")
def test_one_epoch_of_one_minibatch_without_clipping_is_a2c():
    """Huang et al. 2022, "A2C is a special case of PPO": equal weights after 20 updates."""
    shared = {"n_steps": 6, "optimizer": "rmsprop", "gae_lambda": 0.9, "ent_coef": 0.01}
    shared |= {"learning_rate": 3e-3}
    ppo = PPOConfig(batch_size=24, n_epochs=1, clip_range=1e6, normalize_advantage=False, **shared)
    weights = []
    for kind, config in ((A2C, A2CConfig(**shared)), (PPO, ppo)):
        envs = make_vec("CartPole-v1", num_envs=4, seed=0, max_episode_steps=10)
        agent = kind(envs.single_observation_space, envs.single_action_space, config, seed=2)
        observations = np.random.default_rng(0).normal(size=(20, 6, 4, 4)).astype(np.float32)
        agent.begin(4, 480)
        learn(agent, observations)
        weights.append(agent.network.get_weights())
        envs.close()
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5)


def learn(agent, observations):
    """Updates from canned rollouts, whose actions come from a generator of their own."""
    generator = np.random.default_rng(1)
    for rollout_observations in observations:
        rollout = agent._rollout
        shape = rollout.rewards.shape
        flat = rollout_observations.reshape(-1, 4)
        y, v = agent._acting(flat)
        rollout.observations[:] = rollout_observations
        rollout.parameters[:] = y.reshape(*shape, -1)
        rollout.values[:] = v.reshape(shape)
        rollout.actions[:] = generator.integers(2, size=(*shape, 1))
        rollout.weights[:] = generator.random(shape) < 0.8
        returns = generator.normal(size=shape).astype(np.float32)
        agent._learn(rollout, returns - rollout.values, returns)
        agent._acting.weights = agent._step.weights


@pytest.fixture
def begun(compiler):
    """Makes agents of three epochs over a rollout of 24 steps."""

    def begun(batch_size=12, **settings):
        config = PPOConfig(n_steps=6, batch_size=batch_size, n_epochs=3, **settings)
        agent = PPO(spaces.Box(-9.0, 9.0, (4,)), spaces.Discrete(2), config, seed=2)
        agent.begin(4, 480)
        return agent

    return begun


def test_at_first_the_new_policy_is_the_old_one(begun):
    """What is prepared before the updates follows its examples into the minibatches."""
    agent = begun(learning_rate=1e-12)
    reported, step = [], agent._step
    agent._step = lambda *arrays: reported.append(step(*arrays)) or reported[-1]
    agent._step.weights = step.weights
    learn(agent, np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype(np.float32))
    for metrics in reported:
        np.testing.assert_allclose(metrics["approx_kl"], 0.0, atol=1e-6)
        assert not metrics["clip_fraction"].any() and np.ptp(metrics["entropy_loss"])


def test_clipping_is_what_makes_the_difference(begun):
    weights = []
    for clip_range in (1e6, 0.01):
        agent = begun(clip_range=clip_range)
        learn(agent, np.random.default_rng(0).normal(size=(5, 6, 4, 4)).astype(np.float32))
        weights.append(np.concatenate([w.ravel() for w in agent.network.get_weights()]))
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


def test_a_minibatch_of_all_steps_is_not_shuffled_and_comes_to_the_same(begun):
    """Beside an update that is given the same examples in another order."""
    weights, losses, agent = [], [], begun(batch_size=24)
    step, state, acting = agent._step, agent.get_state(), agent._step.weights
    for is_shuffled in (False, True):
        agent.set_state(state)
        reported, rows = [], agent._rows(24)
        assert rows is None
        order = np.random.default_rng(1).permutation(24) if is_shuffled else np.arange(24)

        def taken(inputs, targets, rows, step=step, order=order, reported=reported):
            reported.append(
                step(inputs[order], Sampled(*(array[order] for array in targets)), rows)
            )
            return reported[-1]

        agent._step = taken
        agent._step.weights = acting
        learn(agent, np.random.default_rng(0).normal(size=(3, 6, 4, 4)).astype(np.float32))
        weights.append(np.concatenate([w.ravel() for w in agent.network.get_weights()]))
        losses.append([metrics["loss"] for metrics in reported])
    assert np.shape(losses[0]) == (3, 3)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-4)


def test_the_target_kl_ends_the_epochs():
    envs = make_vec("CartPole-v1", num_envs=4, seed=0)
    points = []
    config = PPOConfig(n_steps=32, batch_size=32, n_epochs=20, learning_rate=3e-2, target_kl=0.01)
    agent = PPO(envs.single_observation_space, envs.single_action_space, config)
    train(agent, envs, 1_024, log_every=1, callbacks=[lambda _, m: points.append(m)])
    points = [point for point in points if "train/loss" in point]  # the last has no update
    steps = [point["train/gradient_steps"] for point in points]
    assert min(steps) < 80 and all(1 <= step <= 80 for step in steps)
    assert all(point["train/approx_kl"] < 1.5 * 0.01 for point in points)
    assert agent.optimizer.iterations.numpy() == sum(steps)


@pytest.mark.usefixtures("compiler")
def test_the_schedules_fall_to_zero():
    envs = make_vec("CartPole-v1", num_envs=4, seed=0)
    points = []
    config = PPOConfig(
        n_steps=16, batch_size=64, n_epochs=1, lr_schedule="linear", clip_schedule="linear"
    )
    agent = PPO(envs.single_observation_space, envs.single_action_space, config)
    train(agent, envs, 3_000, log_every=1, callbacks=[lambda _, m: points.append(m)])
    for name, first in (("train/learning_rate", 3e-4), ("train/clip_range", 0.2)):
        values = [point[name] for point in points if name in point]
        assert values[0] == pytest.approx(first, rel=1e-5)
        assert values == sorted(values, reverse=True) and values[-1] < 0.1 * first


def test_a_batch_size_that_does_not_divide_the_rollout_is_refused():
    agent = PPO(OBSERVATIONS, spaces.Discrete(2), PPOConfig(n_steps=10, batch_size=64))
    with pytest.raises(ValueError, match="batch_size must divide .* batch_size=64 for 30 steps"):
        agent.begin(3, 100)


class Random(gym.Env):
    """Random observations; reward 1; one episode in ten ends. Masks, if asked for."""

    observation_space = OBSERVATIONS

    def __init__(self, action_space, masks=False):
        self.action_space, self.masks = action_space, masks

    def _info(self):
        mask = np.array([True, False, True]) if self.masks else None
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), self._info()

    def step(self, action):
        assert self.action_space.contains(action), action
        assert not (self.masks and action == 1)
        ended = self.np_random.random() < 0.1
        return self.observation_space.sample(), 1.0, ended, False, self._info()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "actions",
    [
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Box(-2.0, 2.0, (2,)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_every_action_space_trains(actions):
    envs = make_vec(lambda: Random(actions), num_envs=2, seed=0)
    config = PPOConfig(n_steps=16, batch_size=8, n_epochs=2, ent_coef=0.01)
    agent = PPO(OBSERVATIONS, actions, config)
    before, seen = agent.network.get_weights(), []
    train(agent, envs, 100, log_every=1, callbacks=[lambda _, metrics: seen.append(metrics)])
    assert seen and all(np.isfinite(list(metrics.values())).all() for metrics in seen)
    assert any(
        not np.array_equal(a, b) for a, b in zip(before, agent.network.get_weights(), strict=True)
    )
    assert all(actions.contains(a) for a in agent.act(np.zeros((3, 4), np.float32)))


@pytest.mark.usefixtures("compiler")
def test_masks_are_obeyed_and_scored():
    envs = make_vec(lambda: Random(spaces.Discrete(3), masks=True), num_envs=2, seed=0)
    config = PPOConfig(n_steps=16, batch_size=8, n_epochs=2)
    agent = PPO(OBSERVATIONS, spaces.Discrete(3), config)
    points = []
    train(agent, envs, 200, log_every=1, callbacks=[lambda _, metrics: points.append(metrics)])
    # Of two allowed choices at most log 2: the forbidden one has no share in the entropy.
    entropies = [-point["train/entropy_loss"] for point in points if "train/loss" in point]
    assert entropies and all(entropy <= math.log(2) + 1e-6 for entropy in entropies)


def test_ppo_learns_the_corridor():
    """The way on in every cell, and the values: V*(s) = γ^(n − 2 − s)."""
    corridor = Corridor(6, random_start=True)
    envs = make_vec(lambda: Corridor(6, random_start=True), 8, seed=0, max_episode_steps=50)
    config = PPOConfig(n_steps=32, batch_size=64, n_epochs=5, learning_rate=3e-3, gamma=0.9)
    agent = PPO(envs.single_observation_space, envs.single_action_space, config)
    train(agent, envs, 12_000)
    cells = corridor.observations()
    np.testing.assert_array_equal(agent.act(cells[:-1], True), corridor.optimal_actions)
    np.testing.assert_allclose(agent.value(cells[:-1]), corridor.optimal_values(0.9)[:-1], atol=0.1)


@pytest.mark.usefixtures("compiler")
def test_a_bad_loss_is_refused_and_the_rollout_forgotten():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    config = PPOConfig(n_steps=8, batch_size=8, n_epochs=2)
    agent = PPO(envs.single_observation_space, envs.single_action_space, config)
    observe = agent.observe
    calls = []

    def spoilt(transition):
        calls.append(1)
        if len(calls) == 12:
            transition.rewards[1] = np.nan
        return observe(transition)

    agent.observe = spoilt
    with pytest.raises(FloatingPointError, match="The reward must be finite.*environment 1"):
        train(agent, envs, 200)
    assert agent.updates == 1
    assert all(np.isfinite(w).all() for w in agent.network.get_weights())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("steps", [2_048, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_example_of_an_auxiliary_loss(steps, tmp_path, monkeypatch, capsys):
    """It reconstructs far better than the same run in which the loss counts nothing."""
    path = Path(__file__).parents[2] / "examples" / "auxiliary_loss.py"
    code = path.read_text(encoding="utf-8")
    own = code[code.index("def network") : code.index('if __name__ == "__main__"')]
    assert len(own.splitlines()) < 30 and "class" not in own
    module, errors = runpy.run_path(str(path)), []
    observations = np.random.default_rng(0).normal(0, 0.1, (100, 4)).astype(np.float32)
    own_loss = module["reconstruction"]
    for name, loss in (("with", own_loss), ("without", lambda o, t: 0.0 * own_loss(o, t))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        agent = module["main"](steps, loss)
        errors.append(float(np.mean(agent.network(observations)[2])))
        events = EventAccumulator("runs/auxiliary-loss").Reload()
        assert "train/auxiliary_loss" in events.Tags()["scalars"]
    assert capsys.readouterr().out.count("Evaluation(mean=") == 2
    assert errors[0] < 0.2 * errors[1], errors


def test_the_preset_is_the_zoo_setting():
    config = PRESETS["ppo", "CartPole-v1"].config
    assert (config.n_steps, config.batch_size, config.n_epochs) == (32, 256, 20)
