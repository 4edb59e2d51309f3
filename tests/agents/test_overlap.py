"""Updates beside the acting: one behind, whatever the timing, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents import A2C, DQN, PPO, A2CConfig, DQNConfig, PPOConfig
from vantage.agents.base.overlap import OverlappedStep
from vantage.envs import make_vec
from vantage.training import compile_step, differentiate, train
from vantage.training.core.optimizers import assign
from vantage.training.core.step import Step
from vantage.training.experience.transitions import Transitions

NET = {"net_arch": (8, 8)}
LAGGED = A2CConfig(**NET, overlap_update=True)
SEVERAL = DQNConfig(
    learning_rate=1e-2,
    learning_starts=100,
    train_freq=4,
    gradient_steps=3,
    target_update_interval=60,
)
SMALL = dataclasses.replace(SEVERAL, **NET, batch_size=16, gradient_steps=1)
AGENTS = {
    "a2c": (A2C, LAGGED),
    "ppo": (PPO, PPOConfig(**NET, n_steps=16, batch_size=16, n_epochs=3, overlap_update=True)),
    "dqn": (DQN, dataclasses.replace(SMALL, overlap_update=True)),
}
LAGGING = pytest.mark.parametrize("name", AGENTS)
TWO = pytest.mark.parametrize("name", ["a2c", pytest.param("ppo", marks=pytest.mark.slow), "dqn"])


def is_synchronous():
    return tf.config.experimental.get_synchronous_execution()


@pytest.fixture(autouse=True)
def synchronous_again():
    yield
    assert is_synchronous()


def make_step(optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh")])
    loss = differentiate(lambda y, t: tf.reduce_mean((y - t[0]) ** 2))
    signature = tf.TensorSpec((8, 3)), (tf.TensorSpec((8, 4)),)
    variables = model.trainable_variables
    return model, compile_step(
        model, loss, variables, optimizer or keras.optimizers.Adam(0.1), signature, mirror=variables
    )


def batches(count):
    generator = np.random.default_rng(0)
    for _ in range(count):
        x, t = generator.normal(size=(8, 3)), generator.normal(size=(8, 4))
        yield x.astype(np.float32), (t.astype(np.float32),)


def assert_equal(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_call_tells_what_the_call_before_it_made():
    model, step = make_step()
    twin, reference = make_step()
    overlapped = OverlappedStep(step)
    expected, weights = {"loss": math.nan}, reference.weights
    for inputs, targets in batches(20):
        received = overlapped(inputs, targets)
        assert_equal(overlapped.weights, weights)
        np.testing.assert_equal(received, expected)
        expected, weights = reference(inputs, targets), reference.weights
        inputs[:], targets[0][:] = math.nan, math.nan  # a buffer is filled again meanwhile
    assert_equal([v.numpy() for v in model.variables], [v.numpy() for v in twin.variables])
    overlapped.settle()


def test_a_bad_update_is_told_by_the_next_call_and_changed_nothing():
    """The update that the telling call starts runs on what was before the bad one."""
    model, step = make_step()
    twin, reference = make_step()
    overlapped = OverlappedStep(step)
    first, second = batches(2)
    overlapped(*first)
    overlapped(first[0] * np.nan, first[1])
    reference(*first)
    assert_equal([v.numpy() for v in model.variables], [v.numpy() for v in twin.variables])
    with pytest.raises(FloatingPointError, match="must be finite"):
        overlapped(*second)
    assert_equal(overlapped.batch[0], first[0] * np.nan)
    expected = reference(*second)
    assert_equal([v.numpy() for v in model.variables], [v.numpy() for v in twin.variables])
    np.testing.assert_equal(overlapped(*first), expected)
    overlapped.settle()


def test_a_number_is_assigned_between_two_updates():
    """Each update at a rate of its own, as in a step that is waited for."""
    ours, other = keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1)
    model, step = make_step(ours)
    twin, reference = make_step(other)
    overlapped = OverlappedStep(step)
    for rate, batch in zip(np.linspace(0.2, 0.01, 20), batches(20), strict=True):
        assign(ours.learning_rate.value, rate)
        overlapped(*batch)
        other.learning_rate = rate
        reference(*batch)
    assert_equal([v.numpy() for v in model.variables], [v.numpy() for v in twin.variables])
    overlapped.settle()


def on_the_host(function):
    """A call that TensorFlow queues, of a function that returns a float32."""
    compiled = tf.function(lambda: tf.numpy_function(function, [], tf.float32))
    queued = compiled.get_concrete_function()  # which asks for its result's shape if called itself
    return lambda: tf.raw_ops.StatefulPartitionedCall(args=[], Tout=[tf.float32], f=queued)


def test_assigning_does_not_wait_for_what_runs():
    has_assigned, answers, variable = threading.Event(), [], tf.Variable(1.0)

    def hold():
        answers.append(has_assigned.wait(5.0))
        return np.float32(0.0)

    held = on_the_host(hold)
    tf.config.experimental.set_synchronous_execution(False)
    held()
    assign(variable, 2.0)
    has_assigned.set()
    tf.config.experimental.set_synchronous_execution(True)
    assert answers == [True] and variable.numpy() == 2.0


def weights_of(agent):
    return [variable.numpy() for variable in agent.network.variables]


def make(config, seed=0):
    envs = make_vec("CartPole-v1", 4, seed=seed, vectorization="native")
    (agent_type,) = {kind for kind, known in AGENTS.values() if type(known) is type(config)}
    return agent_type(
        envs.single_observation_space, envs.single_action_space, config, seed=seed
    ), envs


def test_the_updates_of_an_agent_are_those_of_its_twin_one_update_later():
    """DQN while ε is 1: what is explored does not depend on the weights, so both see the same."""
    random = dataclasses.replace(SMALL, exploration_final_eps=1.0)
    seen = []
    for config in (random, dataclasses.replace(random, overlap_update=True)):
        agent, envs = make(config)
        points = []
        train(agent, envs, 800, log_every=1, callbacks=[lambda _, m, p=points: p.append(m)])
        losses = [point["train/loss"] for point in points if "train/loss" in point]
        seen.append((losses, weights_of(agent)))
    assert seen[1][0] == seen[0][0][:-1] and len(seen[1][0]) > 20
    assert_equal(seen[0][1], seen[1][1])


class Held:
    """Holds every update until it is released; whoever waits for it waits in vain."""

    def __init__(self, agent, monkeypatch):
        self.releases, self.answers = [], []
        held, start, get_state = on_the_host(self._hold), Step.start, agent.get_state

        def started(*arguments):
            self.releases.append(threading.Event())
            held()
            return start(*arguments)

        monkeypatch.setattr(Step, "start", started)
        monkeypatch.setattr(agent, "get_state", lambda: (self.release(), get_state())[1])

    def _hold(self):
        release = self.releases[len(self.answers)]
        self.answers.append(release.wait(5.0 * all(self.answers)))
        return np.float32(0.0)

    def release(self, but=0):
        for release in self.releases[: len(self.releases) - but]:
            release.set()


SCHEDULES = pytest.mark.parametrize("schedule", ["constant", "linear"])


@pytest.mark.thinned
@SCHEDULES
@LAGGING
def test_exploring_goes_on_while_an_update_runs(name, schedule, monkeypatch):
    """Each update is held until its agent has explored again."""
    agent, envs = make(dataclasses.replace(AGENTS[name][1], lr_schedule=schedule))
    held, explore = Held(agent, monkeypatch), agent.explore
    monkeypatch.setattr(agent, "explore", lambda *seen: (explore(*seen), held.release())[0])
    train(agent, envs, 500)
    assert len(held.answers) == len(held.releases) > 5 and all(held.answers)


@pytest.mark.thinned
@SCHEDULES
@LAGGING
def test_an_update_is_queued_behind_the_one_that_runs(name, schedule, monkeypatch):
    """Each update is held until its agent has started the next one: no core waits in between."""
    agent, envs = make(dataclasses.replace(AGENTS[name][1], lr_schedule=schedule))
    held = Held(agent, monkeypatch)
    start = Step.start
    monkeypatch.setattr(Step, "start", lambda *given: (start(*given), held.release(but=1))[0])
    train(agent, envs, 500)
    assert len(held.answers) == len(held.releases) > 5 and all(held.answers)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_look_inside_does_not_wait_for_the_update_that_runs(name, monkeypatch):
    """Each update is held until its agent has been looked at."""
    agent, envs = make(AGENTS[name][1])
    held, explore, looks = Held(agent, monkeypatch), agent.explore, []

    def look(*seen):
        looks.append(agent.inspect() if agent.updates > 1 else {})
        held.release()
        return explore(*seen)

    monkeypatch.setattr(agent, "explore", look)
    train(agent, envs, 500)
    assert len(held.answers) == len(held.releases) > 5 and all(held.answers)
    gradients = [array for tag, array in looks[-1].items() if tag.startswith("gradients/")]
    assert len(gradients) == 12 and all(gradient.any() for gradient in gradients)


def test_an_agent_acts_on_the_weights_of_one_update_ago():
    agent, envs = make(LAGGED)
    transitions = Transitions(envs)
    agent.begin(4, 1_000)
    observations, known = transitions.reset(), [weights_of(agent)]
    for _ in range(30):
        _, _, values, _ = agent.policy.sample(observations)
        transition = transitions.step(agent.explore(observations))
        metrics = agent.observe(transition)
        if metrics is not None:
            known.append(weights_of(agent))
        acting = dict(
            zip(map(id, agent.network.variables), known[max(len(known) - 2, 0)], strict=True)
        )
        assert_equal(agent._acting.weights, [acting[id(v)] for v in agent._acting.variables])
        now = agent.value(observations)  # as the model is now, which waits for the update
        assert len(known) < 3 or not np.array_equal(now, values)
        observations = transition.observations
    assert not is_synchronous()
    agent.settle()


@TWO
def test_runs_are_reproducible_and_differ_from_those_without(name):
    """With several updates per call, too."""
    trained, lagged = [], AGENTS[name][1]
    if name == "dqn":
        lagged = dataclasses.replace(SEVERAL, overlap_update=True)
    for config in (lagged, lagged, dataclasses.replace(lagged, overlap_update=False)):
        agent, envs = make(config)
        summary = train(agent, envs, 800)
        assert agent.updates == summary["updates"] * getattr(config, "gradient_steps", 1)
        trained.append(weights_of(agent))
    assert_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0][0], trained[2][0])


@TWO
def test_an_evaluation_does_not_change_the_training(name):
    trained = []
    for period in (None, 200):
        agent, envs = make(AGENTS[name][1])
        others = make_vec("CartPole-v1", 4, vectorization="native")
        train(agent, envs, 800, evaluate_every=period, evaluation_envs=others)
        trained.append(weights_of(agent))
    assert_equal(*trained)


@LAGGING
def test_a_saved_agent_holds_the_update_that_ran(name, tmp_path):
    agent, envs = make(AGENTS[name][1])
    train(agent, envs, 500, logdir=tmp_path / "run", checkpoint_every=3)
    agent.save(tmp_path / "agent")
    assert_equal(weights_of(type(agent).load(tmp_path / "agent")), weights_of(agent))


def test_it_learns(tmp_path):
    """The value of a step is 1 where every episode lasts one step."""
    agent, envs = make(A2CConfig(overlap_update=True, learning_rate=0.01))
    envs.max_episode_steps = 1
    envs.sutton_barto_reward = False
    train(agent, envs, 8_000)
    values = agent.value(np.random.default_rng(0).uniform(-0.05, 0.05, (5, 4)).astype(np.float32))
    assert np.all(values > 1.5)  # a step of reward 1, and the bootstrap of a time limit


def test_tensorflow_waits_again_after_an_error():
    agent, envs = make(LAGGED)

    def fails(env_steps, metrics):
        assert not is_synchronous()
        raise RuntimeError("a callback of the user's")

    with pytest.raises(RuntimeError, match="user's"):
        train(agent, envs, 5_000, callbacks=[fails])


def test_a_network_without_a_mirror_is_refused():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "gelu")(inputs)
    network = keras.Model(inputs, (keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)))
    with pytest.raises(ValueError, match="overlap_update needs a network that NumPy mirrors"):
        A2C(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), LAGGED, network=network)


def test_priorities_cannot_be_one_update_behind():
    with pytest.raises(ValueError, match="prioritized and overlap_update.*Leave one of them out"):
        DQNConfig(prioritized=True, overlap_update=True)
