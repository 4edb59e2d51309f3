"""Losses and target functions of the user's own: five published ones, and what is refused."""

import copy
import functools
import json
import pickle
import re

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
    policy_distribution,
)
from vantage.envs import make_vec
from vantage.training import differentiate, estimated, external, given, train

CARTPOLE = spaces.Discrete(2)


def trained(algorithm, config, steps=400, env="CartPole-v1", **options):
    """An agent after some updates, and the last number of each curve."""
    envs, curves = make_vec(env, num_envs=2, seed=0), {}
    agent = algorithm(
        envs.single_observation_space, envs.single_action_space, config, seed=0, **options
    )
    train(agent, envs, steps, log_every=1, callbacks=[lambda _, m: curves.update(m)])
    return agent, curves


@functools.cache
def default(compiler, *arguments):
    """The agent that `trained` makes without functions of the user's, compiled in the same way."""
    return trained(*arguments)[0]


def weights(agent):
    networks = agent.network if isinstance(agent.network, tuple) else (agent.network,)
    return [array for network in networks for array in network.get_weights()]


def assert_same(first, second):
    for one, other in zip(weights(first), weights(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


def differ(first, second):
    pairs = zip(weights(first), weights(second), strict=True)
    return any(not np.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in pairs)


# Five published losses, each as a user would write it.


def spo(pi, epsilon=0.2, vf_coef=0.5):
    """Simple policy optimisation: Xie et al. 2024, eq. 9."""

    def loss(outputs, targets):
        parameters, values = outputs
        weights = targets.weights / tf.reduce_sum(targets.weights)
        log_prob, _ = pi(parameters, targets.actions)
        ratio, advantages = tf.exp(log_prob - targets.old_log_prob), targets.advantages
        penalty = tf.abs(advantages) / (2 * epsilon) * tf.square(ratio - 1)
        policy_loss = tf.reduce_sum(weights * (penalty - ratio * advantages))
        value_loss = tf.reduce_sum(weights * tf.square(targets.returns - values))
        return policy_loss + vf_coef * value_loss, {"ratio": tf.reduce_mean(ratio)}

    return loss


def advantage_weighted(pi, beta=1.0):
    """Advantage-weighted regression: Peng et al. 2019, algorithm 1, weights of at most 20."""

    def loss(outputs, targets):
        parameters, values = outputs
        log_prob, _ = pi(parameters, targets.actions)
        each = tf.minimum(tf.exp(targets.advantages / beta), 20.0) * log_prob
        squares = tf.square(targets.returns - values)
        weights = targets.weights / tf.reduce_sum(targets.weights)
        return tf.reduce_sum(weights * (0.5 * squares - each))

    return loss


def munchausen(q, examples, alpha=0.9, temperature=0.03, least=-1.0):
    """Munchausen DQN's target: Vieillard et al. 2020, eq. 2 with the clipping of section 3."""
    actions = tf.one_hot(examples.actions[:, 0], 2)
    log_pi = tf.nn.log_softmax(q.target(examples.observations) / temperature)
    bonus = tf.clip_by_value(temperature * tf.reduce_sum(actions * log_pi, 1), least, 0.0)
    next_q = q.target(examples.next_observations)
    next_log_pi = tf.nn.log_softmax(next_q / temperature)
    soft = tf.reduce_sum(tf.exp(next_log_pi) * (next_q - temperature * next_log_pi), 1)
    return examples.rewards + alpha * bonus + examples.discounts * soft


def huber_critics(q, targets, delta=1.0):
    """Critics by Huber's loss with a fixed δ: Huber 1964, eq. 2.3."""
    size = tf.abs(targets.y - q)
    each = tf.where(size < delta, 0.5 * tf.square(size), delta * (size - 0.5 * delta))
    return tf.reduce_sum(tf.reduce_mean(each, axis=1)), {"q": tf.reduce_mean(q)}


def numpy_a2c(outputs, targets, vf_coef=0.5):
    """A2C's loss and its gradient in NumPy: Mnih et al. 2016, without the entropy bonus."""
    logits, values = map(np.asarray, outputs)
    actions, (advantages, returns, weights) = targets.actions[:, 0], map(np.asarray, targets[1:])
    weights = weights / weights.sum()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    pi = odds / odds.sum(1, keepdims=True)
    chosen = np.eye(2)[actions]
    policy_loss = -(weights * advantages * np.log((pi * chosen).sum(1))).sum()
    value_loss = (weights * (returns - values) ** 2).sum()
    by_logits = (weights * advantages)[:, None] * (pi - chosen)
    by_values = 2 * vf_coef * weights * (values - returns)
    return policy_loss + vf_coef * value_loss, (by_logits, by_values), {"policy": policy_loss}


PPO_SMALL = PPOConfig(n_steps=16, batch_size=16, n_epochs=2)
DQN_SMALL = DQNConfig(learning_starts=20, train_freq=4, gradient_steps=2, batch_size=16)
SAC_SMALL = SACConfig(learning_starts=20, batch_size=16, net_arch=(32,), gradient_steps=2)
TD3_SMALL = TD3Config(learning_starts=20, batch_size=16, net_arch=(32,))


@pytest.mark.parametrize("make", [spo, advantage_weighted])
def test_published_losses_of_ppo_train_it(make, compiler):
    own, curves = trained(PPO, PPO_SMALL, loss=make(policy_distribution(CARTPOLE)))
    assert differ(own, default(compiler, PPO, PPO_SMALL))
    assert np.isfinite(curves["train/loss"]) and "train/clip_range" not in curves
    assert ("train/ratio" in curves) == (make is spo)


@pytest.mark.usefixtures("compiler")
def test_spo_follows_its_equation():
    """One update of all examples: at ratio 1 the penalty has no slope, and π's is A·∇log π."""
    config, pi = PPOConfig(n_steps=16, batch_size=32, n_epochs=1), policy_distribution(CARTPOLE)
    own, _ = trained(PPO, config, steps=32, loss=spo(pi))
    received = [g for name, g in own.inspect().items() if name.startswith("gradients/")]
    inputs, sampled = own.batch
    fresh = PPO(own.observation_space, own.action_space, config, seed=0)
    with tf.GradientTape() as tape:
        parameters, values = fresh.network(inputs)
        log_prob, _ = pi(parameters, sampled.actions)
        loss = -tf.reduce_mean(sampled.advantages * log_prob)
        loss += 0.5 * tf.reduce_mean(tf.square(sampled.returns - values[:, 0]))
    expected = tape.gradient(loss, fresh.network.trainable_variables)
    for gradient, by_hand in zip(received, expected, strict=True):
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-5)


def test_a_munchausen_target_trains_dqn(compiler):
    own, curves = trained(DQN, DQN_SMALL, target_function=munchausen)
    assert differ(own, default(compiler, DQN, DQN_SMALL)) and np.isfinite(curves["train/loss"])
    inputs, (actions, _) = own._examples()
    _, y = own.turns[""].forward(inputs)
    q, after = (own.target(x).numpy() for x in (inputs.observations, inputs.next_observations))
    for m in range(len(y)):
        log_pi = q[m] / 0.03 - np.logaddexp(*(q[m] / 0.03))
        bonus = np.clip(0.03 * log_pi[actions[m, 0]], -1, 0)
        soft = 0.03 * np.logaddexp(*(after[m] / 0.03))  # Σ π·(q − τ·log π) = τ·log Σ exp(q/τ)
        expected = inputs.rewards[m] + 0.9 * bonus + inputs.discounts[m] * soft
        assert float(y[m]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_huber_critics_train_sac(compiler):
    """Errors below δ have SAC's own loss: with a large δ the weights are the same."""
    plain = default(compiler, SAC, SAC_SMALL, 60, "Pendulum-v1")
    wide, curves = trained(
        SAC, SAC_SMALL, 60, "Pendulum-v1", loss={"critic": lambda q, t: huber_critics(q, t, 1e6)}
    )
    assert_same(plain, wide)
    narrow, _ = trained(SAC, SAC_SMALL, 60, "Pendulum-v1", loss={"critic": huber_critics})
    assert differ(plain, narrow)
    assert {"train/critic_loss", "train/actor_loss", "train/q"} <= set(curves)


def test_a_numpy_loss_trains_a2c_as_the_tensorflow_one():
    config = A2CConfig(n_steps=8)
    plain, _ = trained(A2C, config)
    own, curves = trained(A2C, config, loss=external(numpy_a2c))
    assert_same(plain, own)
    assert "train/policy" in curves
    assert curves["train/learning_rate"] == pytest.approx(config.learning_rate)


# Every agent and every lift.


def quadratic(q, targets):
    """DQN's squared error on the host, with its gradient."""
    chosen = np.eye(2, dtype=np.float32)[targets.actions[:, 0]]
    error = (chosen * q).sum(1) - targets.y
    return np.mean(targets.weights * error**2), 2 * error[:, None] * chosen / len(q)


def numpy_ppo(outputs, targets):
    """Of the values alone."""
    error = outputs[1] - targets.returns
    return np.mean(error**2), (np.zeros_like(outputs[0]), 2 * error / len(error))


@pytest.mark.usefixtures("compiler")
def test_a_host_loss_trains_dqn_towards_the_same_targets():
    def in_tensorflow(q, targets):
        chosen = tf.one_hot(targets.actions[:, 0], 2)
        error = tf.reduce_sum(chosen * q, 1) - targets.y
        return tf.reduce_mean(targets.weights * tf.square(error))

    one, _ = trained(DQN, DQN_SMALL, loss=differentiate(in_tensorflow))
    other, curves = trained(DQN, DQN_SMALL, loss=external(quadratic))
    assert_same(one, other)
    assert curves["train/learning_rate"] == pytest.approx(DQN_SMALL.learning_rate)


def test_a_score_trains_ppo_in_minibatches(compiler):
    def score(outputs, targets):
        return np.square(outputs[1] - targets.returns)

    agent, curves = trained(PPO, PPO_SMALL, loss=estimated(score))
    assert differ(agent, default(compiler, PPO, PPO_SMALL)) and curves["train/standard_error"] > 0


@pytest.mark.parametrize(
    ("algorithm", "config"),
    [(SAC, SAC_SMALL), pytest.param(TD3, TD3_SMALL, marks=pytest.mark.slow)],
)
def test_critics_learn_towards_a_target_function(algorithm, config, compiler):
    """The mean of both critics is more than the least."""

    def mean_value(values, examples):
        after = tf.reduce_mean(values.q, axis=0) + values.entropy
        return examples.rewards + examples.discounts * after

    own, curves = trained(algorithm, config, 60, "Pendulum-v1", target_function=mean_value)
    assert differ(own, default(compiler, algorithm, config, 60, "Pendulum-v1"))
    assert np.isfinite(curves["train/critic_loss"])


def test_an_actor_loss_of_the_users_trains_td3(compiler):
    """The pessimist's actor goes where the value falls."""
    own, _ = trained(
        TD3, TD3_SMALL, 60, "Pendulum-v1", loss={"actor": lambda q, _: tf.reduce_mean(q)}
    )
    plain = default(compiler, TD3, TD3_SMALL, 60, "Pendulum-v1")
    observations = np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32)
    assert own.value(observations).mean() < plain.value(observations).mean()


@pytest.mark.usefixtures("compiler")
def test_priorities_follow_the_errors_of_a_loss_of_the_users():
    config = DQNConfig(**{**vars(DQN_SMALL), "prioritized": True})

    def absolute(q, targets):
        error = targets.y - tf.reduce_sum(tf.one_hot(targets.actions[:, 0], 2) * q, 1)
        return tf.reduce_mean(targets.weights * tf.abs(error)), {"error": error}

    _, curves = trained(DQN, config, loss=absolute)
    assert np.isfinite(curves["train/loss"])
    with pytest.raises(ValueError, match="prioritized needs a loss that also returns the error"):
        trained(DQN, config, loss=lambda q, t: absolute(q, t)[0])
    with pytest.raises(ValueError, match="prioritized needs a loss of TensorFlow"):
        trained(DQN, config, loss=external(quadratic))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_not_finite_never_becomes_a_priority(bad):
    config = DQNConfig(**{**vars(DQN_SMALL), "prioritized": True})
    agent = DQN(spaces.Box(-1.0, 1.0, (4,)), CARTPOLE, config, seed=0)
    first = np.eye(16, dtype=np.float32)[0]

    def loss(q, targets):
        error = targets.y - tf.reduce_sum(tf.one_hot(targets.actions[:, 0], 2) * q, 1)
        return tf.reduce_mean(tf.square(error)), {"error": tf.where(first > 0, bad, error)}

    agent.loss = loss
    before = weights(agent)
    with pytest.raises(FloatingPointError, match=r"error=(nan|inf) of 1 examples"):
        train(agent, make_vec("CartPole-v1", num_envs=2, seed=0), 100)
    for one, other in zip(before, weights(agent), strict=True):
        np.testing.assert_array_equal(one, other)
    priorities = agent.training_state()["replay"]["priorities"]
    assert np.isfinite(priorities["priorities"]).all() and priorities["most"] == 1


@pytest.mark.parametrize("name", ["learning_rate", "clipped_updates", "seconds", "stop"])
@pytest.mark.parametrize(
    ("algorithm", "config", "host"),
    [(DQN, DQN_SMALL, lambda *a: quadratic(*a)), (PPO, PPO_SMALL, lambda *a: numpy_ppo(*a))],
)
def test_metrics_of_a_host_loss_are_not_named_like_the_agents(algorithm, config, host, name):
    """And a loss on the host cannot stop: TensorFlow does not see its metrics."""

    def loss(outputs, targets):
        return (*host(outputs, targets), {name: 1.0})

    with pytest.raises(ValueError, match=rf"does not use itself\. Received: {name}\. Rename it"):
        trained(algorithm, config, loss=external(loss))


def test_a_target_function_leaves_double_unused():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    config = DQNConfig(**{**vars(DQN_SMALL), "double": True})
    own = envs.single_observation_space, envs.single_action_space
    agent = DQN(*own, config, target_function=munchausen)
    assert "double" not in agent.used_settings and DQN(*own, config).used_settings["double"]


@pytest.mark.usefixtures("compiler")
def test_a_loss_may_stop_ppo_before_its_first_minibatch():
    loss = spo(policy_distribution(CARTPOLE))
    agent, curves = trained(PPO, PPO_SMALL, loss=lambda o, t: (loss(o, t)[0], {"stop": True}))
    assert curves["train/gradient_steps"] == 0 and "train/loss" not in curves
    fresh = PPO(agent.observation_space, agent.action_space, PPO_SMALL, seed=0)
    assert_same(agent, fresh)


def test_a2c_reports_the_mean_of_a_metric_of_each_example():
    def loss(outputs, targets):
        error = targets.returns - outputs[1]
        policy = tf.reduce_mean(outputs[0][:, 0] * targets.advantages)
        return policy + tf.reduce_mean(tf.square(error)), {"each": tf.square(error)}

    _, curves = trained(A2C, A2CConfig(n_steps=8), loss=loss)
    assert np.ndim(curves["train/each"]) == 0 and curves["train/each"] > 0


@pytest.mark.parametrize(
    ("result", "received"),
    [((0.0, {}, 3), "tuple of float, dict, int"), (lambda t: (t, [1.0]), "tuple of tensor, list")],
)
@pytest.mark.parametrize(("algorithm", "config"), [(A2C, A2CConfig()), (DQN, DQN_SMALL)])
def test_what_a_loss_returns_is_named(algorithm, config, result, received):
    def loss(outputs, _):
        values = outputs[1] if algorithm is A2C else outputs
        return result(tf.reduce_mean(values)) if callable(result) else result

    with pytest.raises(ValueError, match=rf"must return a scalar tensor L.*Received: {received}\."):
        trained(algorithm, config, loss=loss)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda q, e: None, "Received: NoneType"),
        (lambda q, e: (e.rewards, {}), "Received: tuple"),
        (lambda q, e: float(e.rewards[0]), "A target function must consist of TensorFlow"),
    ],
)
def test_what_a_target_function_returns_is_named(returned, words):
    with pytest.raises(ValueError, match=words):
        trained(DQN, DQN_SMALL, target_function=returned)


def test_a_target_function_is_not_lifted():
    with pytest.raises(ValueError, match="one that `external` has lifted"):
        trained(DQN, DQN_SMALL, target_function=external(lambda q, e: 0.0))


# Saved, copied and resumed.


def test_own_functions_are_copied_and_must_be_passed_again(tmp_path):
    agent, _ = trained(DQN, DQN_SMALL, target_function=munchausen, loss=external(quadratic))
    other = copy.copy(agent)
    assert other.target_function is munchausen and other.loss is agent.loss
    other = copy.deepcopy(agent)
    assert other.target_function is munchausen and other.loss.lift == "external"
    agent.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.act(np.zeros(4), True), agent.act(np.zeros(4), True))
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    with pytest.raises(ValueError, match="Set agent.target_function = your_function before train"):
        train(loaded, envs, 100)
    loaded.target_function, loaded.loss = munchausen, external(quadratic)
    train(loaded, envs, 100)


@pytest.mark.usefixtures("compiler")
def test_losses_by_turn_are_saved_by_name(tmp_path):
    agent, _ = trained(SAC, SAC_SMALL, 30, "Pendulum-v1", loss={"critic": huber_critics})
    agent.save(tmp_path / "agent")
    loaded = SAC.load(tmp_path / "agent")
    assert list(loaded.loss) == ["critic"]
    with pytest.raises(ValueError, match="Set agent.loss"):
        train(loaded, make_vec("Pendulum-v1", num_envs=2, seed=0), 100)


@pytest.mark.usefixtures("compiler")
def test_a_run_is_resumed_with_the_losses_it_had(tmp_path):
    def run(steps, resume, **options):
        envs = make_vec("CartPole-v1", num_envs=2, seed=0)
        own = envs.single_observation_space, envs.single_action_space
        agent = DQN(*own, DQN_SMALL, seed=0, **options)
        train(agent, envs, steps, logdir=tmp_path / "run", resume=resume)
        return agent

    run(100, False, target_function=munchausen)
    with pytest.raises(ValueError, match="without its own target function. Received: one saved w"):
        run(200, True)
    resumed = run(200, True, target_function=munchausen)
    whole, _ = trained(DQN, DQN_SMALL, 200, target_function=munchausen)
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


# What is refused, before anything is trained.

CASES = {
    "a name": (A2C, A2CConfig(), "mse", "loss must be a TensorFlow function of the outputs"),
    "given": (A2C, A2CConfig(), given, "Received: `given`"),
    "one argument": (A2C, A2CConfig(), lambda outputs: 0.0, "two arguments"),
    "not by turn": (SAC, SAC_SMALL, huber_critics, "a dict of losses under 'critic' or 'actor'"),
    "an unknown turn": (SAC, SAC_SMALL, {"critics": huber_critics}, "Received: critics"),
    "no turn": (SAC, SAC_SMALL, {}, "a dict of losses under 'critic' or 'actor'"),
    "None for a turn": (SAC, SAC_SMALL, {"critic": None}, r"loss\['critic'\] must be a loss"),
    "overlap": (
        *(A2C, A2CConfig(overlap_update=True), external(numpy_a2c)),
        "overlap_update needs a loss of TensorFlow",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_loss_of_an_agent(case):
    algorithm, config, loss, message = CASES[case]
    actions = spaces.Box(-1.0, 1.0, (1,)) if algorithm is SAC else CARTPOLE
    with pytest.raises(ValueError, match=message):
        algorithm(spaces.Box(-1.0, 1.0, (4,)), actions, config, loss=loss)


def test_an_auxiliary_loss_is_not_added_to_a_loss_of_the_users():
    options = {"loss": external(numpy_a2c), "auxiliary_loss": lambda y, t: 0.0 * y[1][0, 0]}
    with pytest.raises(ValueError, match="Add it within your loss"):
        A2C(spaces.Box(-1.0, 1.0, (4,)), CARTPOLE, **options)


def numpy_critics(q, targets):
    """½·Σᵢ mean((Qᵢ − y)²), and its gradient."""
    difference = q - targets.y
    return 0.5 * np.mean(difference**2, 1).sum(), difference / q.shape[1], {"error": 1.0}


def numpy_actor(q, _):
    """−mean Q(s, π(s)), and its gradient."""
    return -np.mean(q), np.full_like(q, -1 / q.size)


@pytest.mark.parametrize(
    ("algorithm", "config", "losses"),
    [
        (SAC, SAC_SMALL, {"critic": numpy_critics}),
        (TD3, TD3_SMALL, {"critic": numpy_critics, "actor": numpy_actor}),
    ],
)
def test_numpy_losses_by_turn_train_as_the_algorithms(algorithm, config, losses, compiler):
    plain = default(compiler, algorithm, config, 60, "Pendulum-v1")
    lifted = {name: external(loss) for name, loss in losses.items()}
    agent, curves = trained(algorithm, config, 60, "Pendulum-v1", loss=lifted)
    assert_same(plain, agent)
    assert curves["train/critic_error"] == 1.0


def test_a_target_function_returns_a_target_for_each_example():
    cases = {
        "()": lambda q, examples: 0.0,
        "(16, 2)": lambda q, examples: q.target(examples.next_observations),
        "(16, 1)": lambda q, examples: examples.rewards[:, None],
    }
    for shape, function in cases.items():
        with pytest.raises(ValueError, match=rf"Received: shape {re.escape(shape)}\. Reduce"):
            trained(DQN, DQN_SMALL, target_function=function)
    with pytest.raises(ValueError, match="outside them"):
        trained(DQN, DQN_SMALL, target_function=lambda q, e: np.asarray(e.rewards) + 1)
    with pytest.raises(ValueError, match="target_function must be a function that is called with"):
        trained(DQN, DQN_SMALL, target_function=lambda q: 0.0)


def test_a_host_loss_that_broadcasts_values_and_targets_is_refused():
    """Q(s, a) `[M, 1]` minus y `[M]` is `[M, M]`."""

    def score(q, targets):
        return np.square(np.take_along_axis(q, targets.actions, 1) - targets.y).mean(1)

    with pytest.raises(ValueError, match="broadcast to all pairs"):
        trained(DQN, DQN_SMALL, loss=estimated(score))


def by_name(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true.returns - y_pred[1])) + tf.reduce_mean(y_pred[0])


def test_a_loss_in_the_order_of_keras_is_called_so_and_pickled():
    agent, _ = trained(A2C, A2CConfig(), 40, loss=by_name)
    other = pickle.loads(pickle.dumps(agent))
    assert_same(agent, other)
    assert other.loss.loss is by_name


def test_the_users_functions_are_checked_when_they_are_set():
    agent = A2C(spaces.Box(-1.0, 1.0, (4,)), CARTPOLE)
    with pytest.raises(ValueError, match="two arguments"):
        agent.auxiliary_loss = lambda outputs: 0.0
    dqn = DQN(spaces.Box(-1.0, 1.0, (4,)), CARTPOLE)
    with pytest.raises(ValueError, match="target_function must be a function"):
        dqn.target_function = 3
    with pytest.raises(ValueError, match="takes none. Received: 3 for A2C. Leave it out: agents"):
        agent.target_function = 3
    with pytest.raises(ValueError, match="auxiliary_loss must be None.* for DQN.*A2C and PPO take"):
        dqn.auxiliary_loss = lambda outputs, targets: 0.0
    dqn.auxiliary_loss = agent.target_function = None


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("algorithm", "config", "name"),
    [(A2C, A2CConfig(), "auxiliary_loss"), (PPO, PPO_SMALL, "loss"), (DQN, DQN_SMALL, "loss")]
    + [(DQN, DQN_SMALL, "target_function")],
)
def test_a_running_training_keeps_its_functions(algorithm, config, name, tmp_path):
    """One set by a callback would have no effect, and a checkpoint would say otherwise."""
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = algorithm(envs.single_observation_space, envs.single_action_space, config, seed=0)

    def change(env_steps, metrics):
        setattr(agent, name, lambda outputs, targets: 0.0)

    with pytest.raises(ValueError, match=f"{name} must be set before a training begins"):
        train(agent, envs, 400, log_every=1, callbacks=[change], logdir=tmp_path / "run")
    assert getattr(agent, name) is None
    setattr(agent, name, lambda outputs, targets: tf.reduce_mean(outputs[1]))  # none runs now
    assert algorithm.load(tmp_path / "run").updates == agent.updates > 0


@pytest.mark.parametrize("base", [A2C.__base__, DQN.__base__.__base__, SAC.__base__])
def test_an_algorithm_that_lacks_a_method_is_not_built(base):
    lacking = type("Lacking", (base,), {"algorithm": "lacking", "config_type": A2CConfig})
    with pytest.raises(TypeError, match="_compile"):
        lacking(spaces.Box(-1.0, 1.0, (4,)), CARTPOLE)


@pytest.mark.usefixtures("compiler")
def test_a_run_says_that_its_loss_is_the_users(tmp_path):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    own = envs.single_observation_space, envs.single_action_space
    agent = PPO(*own, PPO_SMALL, loss=spo(policy_distribution(CARTPOLE)))
    train(agent, envs, 40, logdir=tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["loss"] == "own" and "target_function" not in recorded
    assert not {"clip_range", "ent_coef", "target_kl"} & set(recorded["config"])
    assert recorded["config"]["gae_lambda"] == PPO_SMALL.gae_lambda


@pytest.mark.parametrize(("algorithm", "config"), [(A2C, A2CConfig()), (DQN, DQN_SMALL)])
def test_a_loss_that_stops_every_update_is_refused(algorithm, config):
    def loss(outputs, targets):
        first = outputs if algorithm is DQN else outputs[1]
        return tf.reduce_mean(first), {"stop": True}

    with pytest.raises(ValueError, match="Received: stop"):
        trained(algorithm, config, loss=loss)


def test_metrics_of_a_loss_of_the_users_are_not_named_like_the_agents():
    def loss(outputs, targets):
        return tf.reduce_mean(outputs[1] + outputs[0][:, 0]), {"learning_rate": 1.0}

    with pytest.raises(ValueError, match="the agent does not use itself. Received: learning_rate"):
        trained(A2C, A2CConfig(), loss=loss)
