"""QR-DQN: its loss and target against NumPy, acting, priorities, resuming, learning."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents import QRDQN, QRDQNConfig
from vantage.agents.base.off_policy import Examples
from vantage.agents.base.q_learning import QNetworks, QTargets
from vantage.agents.presets import PRESETS
from vantage.agents.qrdqn import quantile_loss, quantile_target
from vantage.envs import make_vec
from vantage.envs.examples import Bandit
from vantage.training import differentiate, evaluate, train

M, A, N = 5, 3, 4
SMALL = QRDQNConfig(
    learning_rate=1e-2,
    learning_starts=10,
    batch_size=16,
    train_freq=4,
    net_arch=(16,),
    n_quantiles=N,
    target_update_interval=20,
    exploration_fraction=0.5,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
def test_the_target_is_the_naive_one(masked):
    """The best action is that of the greatest mean, of those that are allowed."""
    outputs, rewards = draw(M, A * N), draw(M, seed=1)
    discounts = np.array([0.9, 0, 0.9, 0.9, 0], np.float32)
    may = np.ones((M, A), bool)
    if masked:
        may[np.arange(M), outputs.reshape(M, A, N).mean(2).argmax(1)] = False
    masks = tf.constant(may) if masked else ()
    networks = QNetworks(lambda x: tf.constant(-outputs), lambda x: tf.constant(outputs))
    examples = Examples(None, None, rewards, discounts, None, next_masks=masks)
    y = quantile_target(N)(networks, examples).numpy()
    for m in range(M):
        means = [np.mean(outputs[m, a * N : (a + 1) * N]) for a in range(A)]
        best = max((a for a in range(A) if may[m, a]), key=means.__getitem__)
        expected = rewards[m] + discounts[m] * outputs[m, best * N : (best + 1) * N]
        np.testing.assert_allclose(y[m], expected, rtol=1e-5)


def test_the_loss_is_the_naive_one():
    outputs, y = draw(M, A * N), 2 * draw(M, N, seed=1)
    actions = np.array([[0], [2], [1], [0], [2]], np.int32)
    weights = np.random.default_rng(2).random(M).astype(np.float32)
    total, gradient = 0.0, np.zeros((M, A * N))
    for m in range(M):
        for i in range(N):
            place, level = actions[m, 0] * N + i, (i + 0.5) / N
            for j in range(N):
                u = y[m, j] - outputs[m, place]
                huber = u**2 / 2 if abs(u) < 1 else abs(u) - 0.5
                tilt = abs(level - (u < 0))
                total += weights[m] * tilt * huber / N / M
                gradient[m, place] -= weights[m] * tilt * np.clip(u, -1, 1) / N / M
    targets = QTargets(tf.constant(y), actions, weights)
    loss, by_outputs, metrics = differentiate(quantile_loss(N))(tf.constant(outputs), targets)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(by_outputs, gradient, rtol=1e-4, atol=1e-6)
    taken = outputs.reshape(M, A, N)[np.arange(M), actions[:, 0]]
    np.testing.assert_allclose(metrics["error"], y.mean(1) - taken.mean(1), rtol=1e-4, atol=1e-6)


def test_the_quantiles_of_a_known_distribution_are_found():
    """Returns are 0 and 10, half of the time each: two quantiles lie at either."""
    theta = tf.Variable(tf.zeros((1, 4)))
    y = np.repeat([0.0, 10.0], 50).astype(np.float32)[None]

    @tf.function
    def descend():
        with tf.GradientTape() as tape:
            one = np.ones(1, np.float32)
            loss, _ = quantile_loss(4)(theta, QTargets(y, np.zeros((1, 1), np.int32), one))
        theta.assign_sub(0.5 * tape.gradient(loss, theta))

    for _ in range(400):
        descend()
    found = theta.numpy()[0]
    assert found[:2].max() < 1.5 and found[2:].min() > 8.5


def test_acting_is_greedy_in_the_mean_of_the_quantiles():
    agent = QRDQN(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(A, start=2), SMALL, seed=0)
    x = draw(50, 3)
    means = agent.network(x).numpy().reshape(50, A, N).mean(2)
    np.testing.assert_array_equal(agent.act(x, deterministic=True), means.argmax(1) + 2)
    np.testing.assert_allclose(agent.value(x), means.max(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"prioritized": True, "n_steps": 3, "gradient_steps": 2}])
def test_a_bandit_is_learned(options):
    """The best arm pays 0.9 on average, the mean of the arms is 0.5."""
    envs = make_vec(Bandit, num_envs=4, seed=0)
    space = envs.single_observation_space, envs.single_action_space
    agent = QRDQN(*space, replace(SMALL, **options), seed=0)
    train(agent, envs, 3_000)
    assert evaluate(agent, envs, episodes=200, seed=1).mean > 0.8


def test_a_run_is_resumed_bit_for_bit(tmp_path):
    def run(**options):
        envs = make_vec("CartPole-v1", num_envs=2, seed=0)
        agent = QRDQN(envs.single_observation_space, envs.single_action_space, SMALL, seed=0)
        train(agent, envs, 400, **options)
        return agent

    run(logdir=tmp_path / "run", callbacks=[lambda steps, _: steps < 150], log_every=1)
    resumed, whole = run(logdir=tmp_path / "run", resume=True), run()
    assert resumed.updates == whole.updates > 20
    for one, other in zip(resumed.network.get_weights(), whole.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = draw(20, 4)
    np.testing.assert_array_equal(
        QRDQN.load(tmp_path / "run").act(x, deterministic=True), whole.act(x, deterministic=True)
    )


def test_what_is_refused():
    box = spaces.Box(-1.0, 1.0, (3,))
    with pytest.raises(ValueError, match="The action space of QRDQN must be Discrete"):
        QRDQN(box, box)
    with pytest.raises(ValueError, match="n_quantiles must be"):
        QRDQNConfig(n_quantiles=0)


def test_a_forged_number_of_quantiles_is_refused_before_a_network_is_built(tmp_path, monkeypatch):
    agent = QRDQN(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(A), SMALL, seed=0)
    state = agent.get_state()
    state["config"]["n_quantiles"] = 1_000
    monkeypatch.setattr("vantage.agents.base.agent.read_state", lambda path: state)
    with pytest.raises(ValueError, match="settings must fit the network that was saved"):
        QRDQN.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "least"), [("CartPole-v1", 475), ("MountainCar-v0", -130)])
def test_the_presets_learn(env_id, least):
    """Five seeds, their mean."""
    preset, means = PRESETS["qrdqn", env_id], []
    for seed in range(5):
        envs = make_vec(env_id, num_envs=preset.num_envs, seed=seed)
        spaces_ = envs.single_observation_space, envs.single_action_space
        agent = QRDQN(*spaces_, preset.config, seed=seed)
        train(agent, envs, preset.total_steps)
        means.append(evaluate(agent, make_vec(env_id, num_envs=8), 100, seed=100 + seed).mean)
    assert math.fsum(means) / 5 >= least, means
