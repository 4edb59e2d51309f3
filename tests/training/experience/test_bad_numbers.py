"""Numbers going bad: named, refused before anything changes, skipped if asked to, never saved."""

import math
import warnings
from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest

from vantage.agents import A2C, DQN, SAC, TD3, A2CConfig, DQNConfig, SACConfig, TD3Config
from vantage.envs import make_vec
from vantage.envs.common.episodes import episode_seed
from vantage.training import evaluate, train
from vantage.training.experience.bad_numbers import BadNumbersError
from vantage.training.monitoring.facts import Entries
from vantage.training.runs.folder import find_checkpoint
from vantage.training.storage.packing import digest, pack, unpack

N, T = 3, 4
PLAIN = A2CConfig(n_steps=T, net_arch=(8,))
CONFIGS = {
    "plain": PLAIN,
    "linear": replace(PLAIN, lr_schedule="linear", optimizer="adam"),
    "normalised": replace(PLAIN, normalize_observations=True, normalize_rewards=True),
    "overlapping": replace(PLAIN, overlap_update=True),
}
BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Failing(gym.Env):
    """Episodes of 9 steps; the seeds of `bad` say in which a number goes bad, and at which step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, what="", value=0.0, bad=()):
        self.what, self.value, self.bad = what, value, dict(bad)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.now = self.bad.get(seed), 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        self.now += 1
        observation = self.np_random.normal(size=2).astype(np.float32)
        reward = float(self.np_random.normal())
        if self.now == self.at and self.what == "observation":
            observation[1] = self.value
        if self.now == self.at and self.what == "reward":
            reward = self.value
        return observation, reward, False, self.now == 9, {}


def failing(what, value, *bad):
    """Environments of which (environment, episode, step) give the bad number."""
    seeds = {episode_seed(5, index, episode): step for index, episode, step in bad}
    keywords = {"what": what, "value": value, "bad": tuple(seeds.items())}
    return make_vec(Failing, N, seed=5, env_kwargs=keywords)


def agent_for(envs, config):
    return A2C(envs.single_observation_space, envs.single_action_space, config, seed=2)


def state_of(agent):
    """Weights, slots, counters, normaliser: all but the generator and the running episodes.

    Nor a learning rate that a schedule sets before every update.
    """
    state = agent.get_state()
    if agent.config.lr_schedule == "linear":
        optimizer = zip(state["optimizer"], agent.optimizer.variables, strict=True)
        state["optimizer"] = [array for array, known in optimizer if known.name != "learning_rate"]
    for name in ("generator", "episodes", "overlap"):
        state.pop(name, None)
    return digest(pack("agent", state)[0]), state["updates"], state["done_steps"]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_the_quantity_and_its_place_are_named_and_nothing_has_changed(what, value, config):
    envs = failing(what, value, (1, 2, 3))
    agent, before = agent_for(envs, config), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of acting on an infinity
        with pytest.raises(BadNumbersError) as caught:
            note = [lambda *_: before.append(state_of(agent))]
            train(agent, envs, 500, log_every=1, callbacks=note)
    error = caught.value
    assert isinstance(error, FloatingPointError)
    overlaps_reward = what == "reward" and config.overlap_update  # only its return is kept
    assert error.quantity in (("return", "reward") if overlaps_reward else (what,))
    assert error.index == 1 and error.seed == episode_seed(5, 1, 2)
    # Its second episode in training (one began when the environments were seeded), third step.
    assert 12 * N - N <= error.env_steps <= (13 + 2 * T) * N
    assert error.action is None or int(error.action[0]) in (0, 1)
    text = str(error)
    assert "\n" not in text and f"seed {error.seed}" in text and "Received: " in text
    assert f"environment {error.index}" in text
    if not config.overlap_update:  # which has made its update before the last is told
        assert state_of(agent)[0] == before[-1][0] or config.normalize_observations
        assert state_of(agent)[1:] == before[-1][1:]
    if config.lr_schedule == "linear":  # that of the steps done, which a refused update is not
        rate = config.learning_rate * (1 - agent.get_state()["done_steps"] / 500)
        assert float(agent.optimizer.learning_rate) == pytest.approx(rate)
    network = agent.get_state()
    for array in (*network["network"], *network["optimizer"], *network["normalizer"].values()):
        assert np.isfinite(array).all()


def test_without_the_normaliser_s_own_check_an_infinity_is_hidden():
    """Why it has one: x̂ is clipped, so nothing would be noticed until the moments are used."""
    from vantage.training.experience.normalize import Moments

    moments = Moments((2,))
    moments.update(np.ones((3, 2)))
    kept = moments.count, moments.mean.copy(), moments.variance.copy()
    with pytest.raises(FloatingPointError), np.errstate(invalid="ignore"):
        moments.update(np.array([[1.0, np.inf]]))
    for a, b in zip(kept, (moments.count, moments.mean, moments.variance), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FloatingPointError), np.errstate(over="ignore"):
        moments.update(np.array([[1.0, 1e200]]))  # finite, its square is not


@pytest.mark.parametrize(("layer", "quantity"), [("policy", "policy output"), ("value", "value")])
def test_a_network_that_went_bad_is_named(layer, quantity):
    envs = failing("", 0.0)
    agent = agent_for(envs, PLAIN)

    def spoil(*_):
        bias = agent.network.get_layer(layer).bias
        bias.assign(np.full(bias.shape, np.nan))
        agent.refresh()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # argmax of NaN
        with pytest.raises(BadNumbersError) as caught:
            train(agent, envs, 500, log_every=100, callbacks=[spoil])
    assert caught.value.quantity == quantity and caught.value.index == 0


def test_a_loss_that_overflows_is_named():
    envs = failing("reward", 1e30, *((i, e, s) for i in range(N) for e in range(9) for s in (2, 5)))
    with pytest.raises(BadNumbersError, match="advantage, loss or gradient must be finite"):
        train(agent_for(envs, PLAIN), envs, 500)


class Vanishing(keras.layers.Layer):
    """Divides by zero in training."""

    def call(self, x, training=False):
        return x / 0.0 if training else x


def test_the_error_says_which_turns_were_made():
    """A bad actor is noticed after the critics' turn, which it does not undo."""
    observations, actions = keras.Input((3,)), keras.Input((1,))
    joined = keras.layers.Concatenate()([observations, actions])
    critics = [
        keras.Model([observations, actions], keras.layers.Dense(1)(joined)) for _ in range(2)
    ]
    actor = keras.Model(observations, Vanishing()(keras.layers.Dense(1, "tanh")(observations)))
    envs = make_vec("Pendulum-v1", 1, seed=0)
    config = TD3Config(learning_starts=10, batch_size=8, buffer_size=100, policy_delay=1)
    network = (actor, *critics)
    agent = TD3(envs.single_observation_space, envs.single_action_space, config, network=network)
    before = [model.get_weights() for model in agent.network]
    with pytest.raises(BadNumbersError, match="rest .* refused; made were of this step turn 'cri"):
        train(agent, envs, 50)
    moved = [
        any((a != b).any() for a, b in zip(model.get_weights(), old, strict=True))
        for model, old in zip(agent.network, before, strict=True)
    ]
    assert moved == [False, True, True]


SOME = [(0, 1, 4), (1, 2, 3), (2, 2, 8), (0, 4, 1)]


@pytest.mark.thinned
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_skipping_goes_on_with_what_is_good(what, config, tmp_path):
    envs = failing(what, math.nan, *SOME)
    agent = agent_for(envs, config)
    options = {"on_bad_numbers": "skip", "checkpoint_every": 2, "logdir": tmp_path / "run"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        summary = train(agent, envs, 600, **options)
    assert 1 <= summary["bad_updates"] <= 2 * len(SOME)
    assert summary["updates"] == agent.updates > 30
    assert summary["env_steps"] >= 600
    whole = find_checkpoint(tmp_path / "run")
    assert all(np.isfinite(a).all() for a in whole.arrays.values() if a.dtype.kind == "f")


def test_warning_tells_of_each_and_a_limit_ends_it():
    envs = failing("observation", math.nan, *SOME)
    with pytest.warns(UserWarning, match="Refused update .: The observation must be finite"):
        summary = train(agent_for(envs, PLAIN), envs, 300, on_bad_numbers="warn")
    envs = failing("observation", math.nan, *SOME)
    assert summary["bad_updates"] > 1
    with pytest.raises(BadNumbersError):
        train(agent_for(envs, PLAIN), envs, 300, on_bad_numbers="skip", bad_numbers_limit=1)


def test_a_skipping_run_resumes_exactly(tmp_path):
    def run(folder, **options):
        envs = failing("reward", math.nan, *SOME)
        agent = agent_for(envs, CONFIGS["normalised"])
        return train(agent, envs, 500, logdir=folder, on_bad_numbers="skip", **options)

    whole = run(tmp_path / "whole")
    stop = iter(range(1000))
    run(tmp_path / "run", log_every=1, callbacks=[lambda *_: next(stop) < 25])
    resumed = run(tmp_path / "run", resume=True)
    assert resumed["resumed_from"] < 500 and whole["bad_updates"] > 0
    for name in ("weights_sha256", "bad_updates", "env_steps", "updates"):
        assert resumed[name] == whole[name]


def test_what_is_not_finite_is_never_saved(tmp_path):
    envs = failing("", 0.0)
    agent = agent_for(envs, PLAIN)
    agent.save(tmp_path / "agent")
    agent.network.variables[0].assign(np.full(agent.network.variables[0].shape, np.inf))
    with pytest.raises(FloatingPointError, match="must hold finite numbers.*agent/network/0"):
        agent.save(tmp_path / "agent")
    assert np.isfinite(A2C.load(tmp_path / "agent").network.get_weights()[0]).all()


REPLAY = {"learning_starts": 60, "batch_size": 8, "buffer_size": 200, "net_arch": (8,)}
OFF_POLICY = {
    "dqn": (DQN, DQNConfig(**REPLAY, train_freq=2, n_steps=3, prioritized=True)),
    "dqn overlapping": (DQN, DQNConfig(**REPLAY, train_freq=2, overlap_update=True)),
    "sac": (SAC, SACConfig(**REPLAY, train_freq=2, n_steps=2)),
    "td3": (TD3, TD3Config(**REPLAY, train_freq=2)),
}


class Steering(Failing):
    """The same for actions of a Box; `first` is an observation that a reset returns."""

    action_space = gym.spaces.Box(-1, 1, (1,))
    seen: list = []

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        if self.what == "first" and self.at is not None:
            observation[0] = self.value
        return observation, info

    def step(self, action):
        self.seen.append(action)
        return super().step(action)


class Choosing(Steering):
    action_space = gym.spaces.Discrete(2)


HELD = [
    (what, kind)
    for what in ("observation", "reward", "first", "action")
    for kind in OFF_POLICY
    if what != "action" or "dqn" not in kind  # whose actions are whole numbers
]
SOON = [("observation", "dqn"), ("reward", "dqn overlapping"), ("first", "td3"), ("action", "sac")]


@pytest.mark.parametrize(
    ("what", "kind"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in SOON)) for case in HELD],
)
def test_a_replay_buffer_never_holds_a_bad_number(what, kind, tmp_path):
    agent_type, config = OFF_POLICY[kind]
    env = Choosing if "dqn" in kind else Steering
    # Episode 1 is the first one of the training; 9 is a final observation.
    bad = {episode_seed(5, i, e): s for i, e, s in [(0, 1, 4), (1, 2, 9), (2, 9, 3), (0, 12, 1)]}
    keywords = {"what": what, "value": math.nan, "bad": tuple(bad.items())}
    envs = make_vec(env, N, seed=5, env_kwargs=keywords)
    agent = agent_type(envs.single_observation_space, envs.single_action_space, config, seed=2)
    if what == "action":
        sample, calls = agent._sample, iter(range(10**6))
        agent._sample = lambda *a: np.where(next(calls) == 20, np.nan, sample(*a)).astype("f4")
    env.seen.clear()
    options = {"on_bad_numbers": "skip", "checkpoint_every": 2, "logdir": tmp_path / "run"}
    summary = train(agent, envs, 400, **options)
    assert 1 <= summary["bad_updates"] <= len(bad) and summary["env_steps"] >= 400
    assert np.isfinite(env.seen).all()  # the environment is not given them either
    whole = find_checkpoint(tmp_path / "run")
    assert whole.manifest["exactness"] == "replay"
    shards = tmp_path / "run" / "checkpoints" / "shards"
    arrays, _ = pack("agent", agent.get_state())
    saved = unpack(whole.manifest["agent"], whole.arrays, shards)
    arrays |= {f"log/{i}/{n}": a for i, p in saved["replay"]["log"].pieces() for n, a in p.items()}
    assert all(np.isfinite(a).all() for a in (*arrays.values(), *whole.arrays.values()))


@pytest.mark.parametrize("steps", [102, 105])
@pytest.mark.parametrize("config", [PLAIN, OFF_POLICY["dqn"][1]], ids=["a2c", "dqn"])
def test_a_run_that_ends_with_a_bad_number_is_saved(config, steps, tmp_path):
    """In a rollout that is not full, and in what was seen last."""
    envs = make_vec(Choosing, N, seed=5, env_kwargs={"what": "", "value": math.nan})
    agent_type = A2C if config is PLAIN else DQN
    agent = agent_type(envs.single_observation_space, envs.single_action_space, config, seed=2)
    for env in envs.envs:
        env.unwrapped.bad = {episode_seed(5, i, 4): 7 for i in range(N)}  # at 102 steps
        env.unwrapped.what = "observation" if steps == 102 else "reward"
    summary = train(agent, envs, steps, on_bad_numbers="skip", logdir=tmp_path / "run")
    assert summary["env_steps"] == steps
    whole = find_checkpoint(tmp_path / "run")
    assert int(whole.path.name[5:]) == summary["env_steps"]


def test_an_error_before_the_first_update_leaves_a_checkpoint(tmp_path):
    envs = make_vec(Choosing, N, seed=5, env_kwargs={"what": "first", "value": math.nan})
    agent_type, config = OFF_POLICY["dqn"]
    agent = agent_type(envs.single_observation_space, envs.single_action_space, config, seed=2)
    envs.envs[1].unwrapped.bad = {episode_seed(5, 1, 2): 1}
    with pytest.raises(BadNumbersError) as caught:
        train(agent, envs, 500, logdir=tmp_path / "run")
    assert "--resume" in caught.value.__notes__[0] and agent.updates == 0
    assert find_checkpoint(tmp_path / "run").manifest["agent"]["replay"]["acted"] > 9


def test_what_is_told_of_episodes_and_evaluations_is_kept_where_it_is_finite(tmp_path):
    class Doubtful(Failing):
        def step(self, action):
            *row, ended, info = super().step(action)
            return *row, ended, {"is_success": math.nan} if ended else info

    envs = make_vec(Doubtful, N, seed=5)
    evaluation = make_vec(Failing, 1, env_kwargs={"what": "reward", "value": math.nan})
    evaluation.envs[0].unwrapped.bad = {episode_seed(0, 0, e): 3 for e in range(30)}
    options = {"evaluate_every": 100, "evaluation_envs": evaluation, "logdir": tmp_path / "run"}
    with pytest.warns(RuntimeWarning, match="The evaluation after .* left out: .*return of nan"):
        train(agent_for(envs, PLAIN), envs, 400, **options)
    run = find_checkpoint(tmp_path / "run").manifest["run"]
    assert run["best"] is None and run["transitions"]["recent_successes"] == []
    entries = Entries()
    entries.add(np.array([[math.nan, 1.0], [2.0, 3.0], [2.0, 4.0]]))
    assert entries.first == [2.0, 3.0] and entries.changed == [False, True]


@pytest.mark.thinned
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["a2c", *OFF_POLICY])
def test_an_agent_refuses_to_act_on_a_bad_observation(kind, value):
    """And so does its value, and an evaluation that comes upon one."""
    agent_type, config = OFF_POLICY.get(kind, (A2C, PLAIN))
    is_discrete = kind == "a2c" or "dqn" in kind
    actions = Failing.action_space if is_discrete else gym.spaces.Box(-1.0, 1.0, (1,))
    agent = agent_type(Failing.observation_space, actions, config, seed=2)
    seen = np.zeros((3, 2), np.float32)
    seen[2, 1] = value
    for method in (agent.act, agent.value):
        with pytest.raises(FloatingPointError, match=rf"Received: {value} at \[2, 1\] of observ"):
            method(seen)
    with pytest.raises(FloatingPointError, match=rf"Received: {value} at \[1\] of observation"):
        agent.act(seen[2], deterministic=True)
    assert len(agent.act(seen[:2])) == 2


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_an_evaluation_is_not_of_bad_numbers(what):
    envs = failing(what, math.nan, (1, 0, 3))
    agent = agent_for(envs, PLAIN)
    said = {"observation": r"nan at \[1, 1\]", "reward": "return of nan .environment 1, seed"}
    with pytest.raises(FloatingPointError, match=f"must be finite. Received: .*{said[what]}"):
        evaluate(agent, envs, 6, seed=5)


def test_a_training_goes_on_without_an_evaluation_of_bad_numbers():
    envs, others = failing("", 0.0), make_vec(Failing, 1, env_kwargs={"what": "observation"})
    one = others.envs[0].unwrapped
    one.value, one.bad = math.nan, {episode_seed(0, 0, e): 3 for e in range(30)}
    options = {"evaluate_every": 100, "evaluation_envs": others}
    with pytest.warns(RuntimeWarning, match="evaluation after .* steps is left out: The observ"):
        assert train(agent_for(envs, PLAIN), envs, 200, **options)["env_steps"] >= 200


def test_an_unknown_policy_is_refused():
    envs = failing("", 0.0)
    with pytest.raises(ValueError, match="on_bad_numbers must be .*Received: 'ignore'"):
        train(agent_for(envs, PLAIN), envs, 100, on_bad_numbers="ignore")
