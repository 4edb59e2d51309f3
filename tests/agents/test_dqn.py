"""DQN: its loss against NumPy, masks, the target network, exploration, learning, resuming."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents import DQN, DQNConfig
from vantage.agents.base.off_policy import Examples
from vantage.agents.base.q_learning import QNetworks, QTargets
from vantage.agents.dqn import double_value, dqn_loss, greatest_value
from vantage.envs import make_vec
from vantage.envs.examples import Bandit, Corridor
from vantage.training import evaluate, train
from vantage.training.core.lifts import differentiate
from vantage.training.experience.bad_numbers import BadNumbersError
from vantage.training.experience.transitions import Transition
from vantage.training.storage.packing import digest, pack, unpack

OBSERVATIONS, ACTIONS = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4, start=2)
SMALL = DQNConfig(
    learning_starts=10,
    batch_size=8,
    buffer_size=100,
    net_arch=(16,),
    train_freq=4,
    target_update_interval=9,
    learning_rate=1e-2,
)
ALL = replace(SMALL, double=True, dueling=True, prioritized=True, n_steps=3)
M, A = 7, 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def begun(config=SMALL, num_envs=2, masked=False, seed=0, **options):
    agent = DQN(OBSERVATIONS, ACTIONS, config, seed=seed, **options)
    agent.begin(num_envs, 400, masked=masked)
    return agent


def fed(agent, count, begin=0, masked=False, reward=None):
    """Steps of random experience, the same for the same numbers; actions and metrics."""
    actions, metrics = [], []
    for t in range(begin, begin + count):
        generator, n = np.random.default_rng(t), 2
        masks = allowed(t, n) if masked else None
        seen = np.random.default_rng(t + 10**6).uniform(-1, 1, (n, 3)).astype(np.float32)
        actions.append(agent.explore(seen, masks))
        after = np.random.default_rng(t + 1 + 10**6).uniform(-1, 1, (n, 3)).astype(np.float32)
        ended = generator.random(n) < 0.1
        rewards = generator.normal(size=n).astype(np.float32)
        rewards = rewards if reward is None else np.full(n, reward, np.float32)
        ones = np.ones(n, np.float32)
        made = agent.observe(Transition(after, rewards, ended, ended, ones, -after))
        if made is not None:
            metrics.append({name: value for name, value in made.items() if name != "seconds"})
    return actions, metrics


def allowed(t, n):
    masks = np.random.default_rng(-t % 10**6).random((n, A)) < 0.4
    masks[:, t % A] = True
    return masks


def values(agent):
    return [v.numpy().copy() for part in agent.parts.values() for v in part]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# The loss.


@pytest.mark.thinned
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_naive_one(double, masked):
    q, next_q, online = draw(M, A), draw(M, A, seed=1) * 3, draw(M, A, seed=2)
    generator = np.random.default_rng(3)
    actions = generator.integers(A, size=(M, 1)).astype(np.int32)
    rewards, weights = draw(M, seed=4), generator.random(M).astype(np.float32)
    discounts = np.where(generator.random(M) < 0.3, 0, 0.9).astype(np.float32)
    may = allowed(1, M) if masked else np.ones((M, A), bool)
    total, gradient, errors = 0.0, np.zeros((M, A)), []
    for i in range(M):
        options = [a for a in range(A) if may[i, a]]
        best = max(options, key=lambda a: (online if double else next_q)[i, a])
        error = rewards[i] + discounts[i] * next_q[i, best] - q[i, actions[i, 0]]
        total += weights[i] * (error**2 / 2 if abs(error) < 1 else abs(error) - 0.5) / M
        gradient[i, actions[i, 0]] = -weights[i] * np.clip(error, -1, 1) / M
        errors.append(error)
    networks = QNetworks(lambda x: tf.constant(online), lambda x: tf.constant(next_q))
    masks = tf.constant(may) if masked else ()
    examples = Examples(None, actions, rewards, discounts, None, next_masks=masks)
    y = (double_value if double else greatest_value)(networks, examples)
    loss, seeds, metrics = differentiate(dqn_loss)(tf.constant(q), QTargets(y, actions, weights))
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    np.testing.assert_allclose(seeds, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["error"], errors, rtol=1e-4, atol=1e-5)
    assert max(map(abs, errors)) > 1 > min(map(abs, errors))


# Acting.


def test_a_dueling_network_adds_value_and_centred_advantages():
    """On the host as in Keras; the mean over actions is the value."""
    agent = begun(ALL)
    x = draw(9, 3)
    q, *_ = agent._acting(x)
    np.testing.assert_allclose(q, agent.network(x).numpy(), rtol=1e-4, atol=1e-5)
    trunk = keras.Model(agent.network.input, agent.network.get_layer("value").output)
    np.testing.assert_allclose(q.mean(axis=1), trunk(x).numpy()[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(agent.value(x), q.max(axis=1))
    assert agent.value(x[0]) == pytest.approx(q[0].max())


@pytest.mark.parametrize("config", [SMALL, ALL], ids=["plain", "all"])
def test_forbidden_actions_are_never_taken(config):
    agent = begun(config, masked=True)
    for t, actions in enumerate(fed(agent, 80, masked=True)[0]):
        assert allowed(t, 2)[np.arange(2), actions - ACTIONS.start].all()
    assert agent.updates
    for deterministic in (True, False):
        masks = np.eye(A, dtype=bool)
        done = agent.act(draw(A, 3), deterministic, masks)
        np.testing.assert_array_equal(done, np.arange(A) + ACTIONS.start)


def test_a_forbidden_action_is_not_believed_in():
    """One action is worth 100 by the target, and forbidden everywhere; final states allow all."""
    agent = begun(replace(SMALL, target_update_interval=10**6), masked=True)
    agent.target.weights[-1].assign([0.0, 0.0, 0.0, 100.0])
    masks = np.tile([True, True, True, False], (2, 1))
    seen, zeros, ones = np.zeros((2, 3), np.float32), np.zeros(2, bool), np.ones(2, np.float32)
    for t in range(12):
        agent.explore(seen, masks)
        ended = np.array([t == 5, False])
        agent.observe(Transition(seen, ones, zeros, ended, ones, seen))
    batch = agent._replay.sample(300, np.random.default_rng(0))
    may = agent._next_masks(batch.following)
    is_final = batch.following < 0
    assert is_final.any() and may[is_final].all()
    np.testing.assert_array_equal(may[~is_final, 3], False)
    assert may[~is_final, :3].all()


def test_exploration():
    """ε falls in a line, as it is reported and as it is acted."""
    agent = begun(replace(SMALL, exploration_fraction=0.5, exploration_final_eps=0.2))
    for done, expected in ((0, 1.0), (100, 0.6), (200, 0.2), (399, 0.2), (500, 0.2)):
        agent.begin(2, 400, done)
        assert agent.exploration_rate == pytest.approx(expected)
    x = np.repeat(draw(1, 3), 20_000, axis=0)
    greedy = agent.act(x[0], deterministic=True)
    others = (agent.act(x) != greedy).mean()
    assert others == pytest.approx(0.2 * (A - 1) / A, abs=0.01)
    config = replace(SMALL, exploration_fraction=0.0, exploration_final_eps=0.0)
    agent = DQN(OBSERVATIONS, ACTIONS, config, seed=0)
    assert (agent.act(x) == agent.act(x[0], deterministic=True)).all()
    _, metrics = fed(begun(), 30)
    assert metrics[0]["rollout/exploration_rate"] == pytest.approx(0.05 + 0.95 * (1 - 12 / 40))


# Updates.


def test_k_updates_in_one_call_are_k_single_ones():
    at_once, single = begun(replace(SMALL, gradient_steps=3)), begun(SMALL)
    examples = 3 * SMALL.batch_size
    q, next_q, ones = draw(examples, 3), draw(examples, 3, seed=1), np.ones(examples, np.float32)
    actions = np.random.default_rng(0).integers(A, size=(examples, 1)).astype(np.int32)
    inputs = Examples(q, actions, draw(examples, seed=2), ones * 0.9, next_q)
    pair = inputs, (actions, ones)
    at_once._step(*pair, at_once._rows)
    for k in range(3):
        single._step(*tf.nest.map_structure(lambda array, k=k: array[k * 8 : (k + 1) * 8], pair))
    for a, b in zip(values(at_once), values(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_follows_as_often_as_its_interval_passes(tau):
    """9 steps of an interval against 8 from update to update: one move, now and then none."""
    agent = begun(replace(SMALL, tau=tau))
    target, moves = [v.numpy() for v in agent.target.variables], 0
    for t in range(40):
        before = [v.numpy() for v in agent.network.variables]
        _, metrics = fed(agent, 1, begin=t)
        if metrics:
            due = 2 * (t + 1) // 9
            for _ in range(due - moves):
                target = [tau * v + (1 - tau) * w for v, w in zip(before, target, strict=True)]
            moves = due
        for variable, expected in zip(agent.target.variables, target, strict=True):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert moves == 8


def test_moving_statistics_are_copied_to_the_target():
    inputs = keras.Input((3,))
    normal = keras.layers.BatchNormalization()(inputs)
    network = keras.Model(inputs, keras.layers.Dense(A)(normal))
    agent = begun(replace(SMALL, tau=0.5), network=network)
    fed(agent, 40)
    before = [v.numpy() for v in network.non_trainable_variables]
    assert any(before[0])
    agent._moves -= 1
    agent._move_target()
    assert_equal(before, [v.numpy() for v in agent.target.non_trainable_variables])


# Learning.


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True, "n_steps": 3}])
def test_it_learns_the_way_out_of_a_corridor(options):
    config = DQNConfig(
        learning_rate=5e-3,
        learning_starts=100,
        train_freq=8,
        gradient_steps=16,
        target_update_interval=64,
        exploration_fraction=0.8,
        gamma=0.9,
        buffer_size=5_000,
        prioritized=bool(options),
        **options,
    )
    make = lambda: make_vec(lambda: Corridor(6), 4, seed=0, max_episode_steps=40)  # noqa: E731
    envs = make()
    agent = DQN(envs.single_observation_space, envs.single_action_space, config, seed=0)
    train(agent, envs, 8_000)  # errors of six seeds: at most 0.04
    cells = np.arange(5)
    np.testing.assert_array_equal(agent.act(cells, deterministic=True), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(agent.value(cells), 0.9 ** (4 - cells), atol=0.1)
    assert evaluate(agent, make(), episodes=4, seed=1).mean == 1


def test_it_learns_the_best_arm():
    envs = make_vec(lambda: Bandit(std=0.1), 4, seed=0)
    config = replace(SMALL, buffer_size=2_000, target_update_interval=50, gradient_steps=4)
    agent = DQN(envs.single_observation_space, envs.single_action_space, config, seed=0)
    train(agent, envs, 1_500)
    assert agent.act(0, deterministic=True) == 2
    assert agent.value(0) == pytest.approx(0.9, abs=0.1)


# What is saved.


@pytest.mark.parametrize("config", [SMALL, ALL], ids=["plain", "all"])
def test_a_run_goes_on_to_the_bit(config):
    """In the middle of all: waiting steps, moves of the target, priorities not yet given."""
    peace = begun(config, masked=True)
    fed(peace, 33, masked=True)
    arrays, packed = pack("agent", peace.get_state())
    restored = begun(config, masked=True, seed=9)
    restored.set_state(unpack(packed, arrays))
    results = [fed(agent, 40, begin=33, masked=True) for agent in (peace, restored)]
    assert_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert digest(pack("a", peace.get_state())[0]) == digest(pack("a", restored.get_state())[0])


def test_saved_and_loaded(tmp_path):
    agent = begun(ALL)
    fed(agent, 40)
    agent.save(tmp_path / "agent")
    again = DQN.load(tmp_path / "agent")
    assert_equal(values(agent), values(again))
    x = draw(5, 3)
    assert_equal(agent.act(x, True), again.act(x, True))
    assert again.exploration_rate == SMALL.exploration_final_eps  # of a trained one


# What is refused.


def test_a_reward_of_nan_is_named_and_never_learnt_from():
    agent = begun()
    fed(agent, 20)
    before = values(agent)
    with pytest.raises(BadNumbersError, match="The reward must be finite"):
        fed(agent, 1, begin=20, reward=np.nan)
    assert_equal(before, values(agent))
    _, metrics = fed(agent, 60, begin=21)
    assert np.isfinite([metric["loss"] for metric in metrics]).all()
    assert all(np.isfinite(array).all() for array in values(agent))


def test_a_bad_loss_changes_nothing():
    agent = begun(ALL)
    fed(agent, 20)
    before, priorities = values(agent), agent.training_state()["replay"]["priorities"]
    agent.target.weights[-1].assign(agent.target.weights[-1] * np.nan)
    with pytest.raises(FloatingPointError, match="loss or gradient must be finite"):
        fed(agent, 12, begin=20)
    assert_equal(before[:6], values(agent)[:6])
    now = agent.training_state()["replay"]["priorities"]
    assert now["most"] == max(1.0, priorities["priorities"].max())


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3])])
def test_actions_must_be_discrete(space):
    with pytest.raises(ValueError, match=r"must be Discrete\. Received: .*Use A2C"):
        DQN(OBSERVATIONS, space)


def test_networks_must_fit():
    inputs = keras.Input((3,))
    wide = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    for network, said in (
        (wide, r"\[B, 4\].*Received.*5.*Build"),
        (keras.Model(inputs, [wide(inputs), wide(inputs)]), r"\[B, 4\].*Received.*Build"),
        (keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)]), r"must accept.*Build"),
        ("network", r"must be a Keras model.*Received: 'network'"),
    ):
        with pytest.raises(ValueError, match=said):
            DQN(OBSERVATIONS, ACTIONS, network=network)

    class Own(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    with pytest.raises(ValueError, match="clone_model can clone"):
        DQN(OBSERVATIONS, ACTIONS, network=Own(keras.layers.Dense(4)))


def test_an_own_network_and_optimizer_are_trained():
    inputs = keras.Input((3,))
    network = keras.Model(inputs, keras.layers.Dense(A, name="own")(inputs))
    agent = begun(network=network, optimizer=keras.optimizers.SGD(0.1))
    before = network.get_weights()
    assert_equal(before, agent.target.get_weights())
    fed(agent, 20)
    assert not np.array_equal(before[0], network.get_weights()[0])


def test_too_small_a_buffer():
    with pytest.raises(ValueError, match=r"two steps.*Received: capacity=3.*Pass"):
        begun(replace(SMALL, buffer_size=3))
    images = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    agent = DQN(images, ACTIONS, replace(SMALL, buffer_size=10_000_000))
    with pytest.raises(ValueError, match="must fit into the machine's memory"):
        agent.begin(1, 100)


def test_nothing_is_learnt_before_it_starts():
    agent = begun(replace(SMALL, learning_starts=60))
    assert not fed(agent, 30)[1] and not agent.updates
    assert fed(agent, 2, begin=30)[1] and agent.updates == 1


def test_the_learning_rate_falls_to_zero():
    points, envs = [], make_vec("CartPole-v1", 2, seed=0)
    config = replace(SMALL, lr_schedule="linear", learning_rate=1e-3, learning_starts=10)
    agent = DQN(envs.single_observation_space, envs.single_action_space, config)
    train(agent, envs, 1_000, log_every=1, callbacks=[lambda step, m: points.append((step, m))])
    rates = {step: m["train/learning_rate"] for step, m in points if "train/loss" in m}
    assert len(rates) > 20
    for step, rate in rates.items():  # that of an update was set after the one before
        assert rate == pytest.approx(1e-3 * (1 - step / 1_000), abs=1.2e-5 * SMALL.train_freq)
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
