"""Action masks: from infos to sampling, log-probabilities and entropies."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from scripted import MODES

from vantage.agents import A2C, A2CConfig
from vantage.agents.acting.spaces import host_distribution
from vantage.agents.networks.distributions import distribution
from vantage.envs import make_vec
from vantage.training import evaluate, train
from vantage.training.experience.transitions import Transitions
from vantage.training.monitoring.video import record_episode

GENERATOR = np.random.default_rng(0)
SPACES = [
    spaces.Discrete(4),
    spaces.MultiDiscrete([2, 4, 3]),
    spaces.MultiBinary(3),
    spaces.Discrete(3, start=5),
]


def random_masks(sizes, count, generator=GENERATOR):
    """Masks `[count, Σ sizes]` with a choice left in every component."""
    parts = []
    for size in sizes:
        part = generator.random((count, size)) < 0.4
        part[np.arange(count), generator.integers(0, size, count)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def components(of, parameters):
    """The logits of each component, `[N, size]` each."""
    if of.is_binary:
        return [np.stack([0 * y, y], 1) for y in parameters.T]
    return np.split(parameters, np.cumsum(of.sizes)[:-1], axis=1)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_only_what_is_allowed_is_drawn_and_in_proportion(space):
    of, count = host_distribution(space), 40_000
    parameters = np.repeat(GENERATOR.normal(size=(1, of.size)).astype(np.float32), count, 0)
    masks = np.repeat(random_masks(of.sizes, 1), count, 0)
    raw = of.sample(parameters, np.random.default_rng(1), masks)
    indices, kept = np.split(raw, [len(of.sizes)], axis=1)
    np.testing.assert_array_equal(kept, masks)
    cuts = np.cumsum(of.sizes)[:-1]
    for k, (logits, mask) in enumerate(
        zip(components(of, parameters), np.split(masks, cuts, axis=1), strict=True)
    ):
        p = np.exp(logits[0].astype(float)) * mask[0]
        frequencies = np.bincount(indices[:, k], minlength=of.sizes[k]) / count
        np.testing.assert_allclose(frequencies, p / p.sum(), atol=0.01)
        assert not frequencies[~mask[0]].any()
    likely = of.mode(parameters, masks)[0, : len(of.sizes)]
    expected = [
        np.where(m[0], y[0], -np.inf).argmax()
        for y, m in zip(components(of, parameters), np.split(masks, cuts, axis=1), strict=True)
    ]
    np.testing.assert_array_equal(likely, expected)
    assert space.contains(of.execute(raw)[0])


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_log_probabilities_and_entropies_are_over_what_is_allowed(space):
    """Against the definitions, in float64; and no gradient reaches a masked logit."""
    of, count = host_distribution(space), 20
    pi = distribution(of)
    parameters = GENERATOR.normal(size=(count, of.size)).astype(np.float32)
    masks = random_masks(of.sizes, count)
    raw = of.sample(parameters, GENERATOR, masks)
    log_prob, entropy = np.zeros(count), np.zeros(count)
    cuts = np.cumsum(of.sizes)[:-1]
    for k, (logits, mask) in enumerate(
        zip(components(of, parameters), np.split(masks, cuts, axis=1), strict=True)
    ):
        p = np.exp(logits.astype(float)) * mask
        p /= p.sum(1, keepdims=True)
        log_prob += np.log(p[np.arange(count), raw[:, k]])
        entropy -= np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
    y = tf.constant(parameters)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        results = pi(y, raw)
    np.testing.assert_allclose(results[0], log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[1], entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of.probability(parameters, raw), np.exp(log_prob), rtol=1e-4)
    for result in results:
        gradient = tape.gradient(result, y).numpy()
        assert np.isfinite(gradient).all()
        if not of.is_binary:
            assert not gradient[~masks].any()


def test_a_choice_that_is_alone_has_probability_one_and_no_entropy():
    of = host_distribution(spaces.Discrete(3))
    masks = np.bool_([[0, 1, 0]])
    parameters = np.float32([[80.0, -80.0, 0.0]])
    raw = of.sample(parameters, GENERATOR, masks)
    pi = distribution(of)
    assert raw[0, 0] == 1
    assert [float(each[0]) for each in pi(parameters, raw)] == [0, 0]


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (np.ones((2, 3), bool), r"must have shape \[1, 3\].*Received: \[2, 3\]"),
        (np.ones((1, 4), bool), r"must have shape \[1, 3\].*Received: \[1, 4\]"),
        (np.zeros((1, 3), bool), "must leave a choice. Received: none for component 0 of env"),
    ],
)
def test_masks_that_do_not_fit(masks, said):
    with pytest.raises(ValueError, match=said):
        host_distribution(spaces.Discrete(3)).sample(np.zeros((1, 3)), GENERATOR, masks)


def test_a_box_takes_no_masks():
    agent = A2C(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))
    with pytest.raises(ValueError, match="masks are for Discrete.*Received.*for a Box"):
        agent.act(np.zeros(2), action_masks=[1])


# ---------------------------------------------------------------- environments that mask


class Fussy(gym.Env):
    """Raises on an illegal action. What is legal changes at every step; the highest pays most."""

    observation_space = spaces.Box(0, 1, (4,))

    def __init__(self, space=SPACES[0], length=7, says=lambda step: True):
        self.action_space, self.length, self.says = space, length, says
        self.sizes = host_distribution(space).sizes

    def _look(self):
        self.mask = random_masks(self.sizes, 1, self.np_random)[0]
        if not self.says(self.now):
            self.mask[:] = True
        return np.resize(self.mask, 4).astype(np.float32), {"action_mask": self.mask} if self.says(
            self.now
        ) else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self._look()

    def step(self, action):
        indices = np.ravel(action) - getattr(self.action_space, "start", 0)
        starts = np.cumsum([0, *self.sizes[:-1]])
        if not self.mask[starts + indices].all():
            raise AssertionError(f"illegal: {action} under {self.mask}")
        self.now += 1
        observation, info = self._look()
        return observation, float(indices.sum()), self.now == self.length, False, info


@pytest.mark.thinned
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_an_agent_never_does_what_is_illegal(space, mode):
    """Whatever the mode: the mask that counts is that of the observation acted upon."""
    envs = SyncVectorEnv([lambda: Fussy(space)] * 4, autoreset_mode=mode)
    agent = A2C(envs.single_observation_space, space, seed=0)
    summary = train(agent, envs, 800)
    assert summary["env_steps"] >= 800 and math.isfinite(summary["mean_return_100"])
    evaluate(agent, envs, 20, seed=0)
    evaluate(agent, envs, 20, seed=0, deterministic=False)
    envs.close()


def test_without_its_mask_an_agent_errs_at_once():
    class Silent(gym.Wrapper):
        def reset(self, **keywords):
            return self.env.reset(**keywords)[0], {}

        def step(self, action):
            return *self.env.step(action)[:4], {}

    envs = SyncVectorEnv([lambda: Silent(Fussy())] * 4)
    agent = A2C(envs.single_observation_space, envs.single_action_space, seed=0)
    with pytest.raises(AssertionError, match="illegal"):
        train(agent, envs, 2_000)


def test_an_agent_learns_to_choose_among_what_is_allowed():
    envs = make_vec(Fussy, 8, seed=0)
    agent = A2C(*_spaces(envs), A2CConfig(gamma=0.0, learning_rate=2e-3), seed=0)
    train(agent, envs, 6_000)
    generator = np.random.default_rng(5)
    masks = random_masks([4], 200, generator)
    chosen = agent.act(masks.astype(np.float32), deterministic=True, action_masks=masks)
    best = 3 - masks[:, ::-1].argmax(1)
    assert (chosen == best).mean() > 0.95
    envs.close()


def test_an_environment_that_says_nothing_allows_everything():
    """Masks may be missing at single steps, though not at the first reset of all."""
    envs = SyncVectorEnv([lambda: Fussy(says=lambda step: step % 3 == 0)] * 3)
    transitions = Transitions(envs)
    transitions.reset()
    for _ in range(40):
        masks = transitions.action_masks
        for env, mask in zip(envs.envs, masks, strict=True):
            np.testing.assert_array_equal(mask, env.mask)
        transitions.step(masks.argmax(1))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_final_state_may_allow_nothing(mode):
    class Over(Fussy):
        def _look(self):
            observation, info = super()._look()
            if self.now == self.length:
                info["action_mask"][:] = False
            return observation, info

    envs = SyncVectorEnv([Over] * 3, autoreset_mode=mode)
    agent = A2C(*_spaces(envs), seed=0)
    assert train(agent, envs, 500)["episodes"] > 60
    assert evaluate(agent, envs, 9, seed=0).episodes == 9
    envs.close()


def test_masks_must_be_there_from_the_start():
    envs = SyncVectorEnv([lambda: Fussy(says=lambda step: step > 0)] * 2)
    transitions = Transitions(envs)
    transitions.reset()
    with pytest.raises(ValueError, match="from the first reset on. Received: 4 choices after none"):
        transitions.step(np.zeros(2, np.int64))


def test_a_mask_of_several_parts():
    class Parts(Fussy):
        def _look(self):
            observation, info = super()._look()
            cuts = np.cumsum(self.sizes)[:-1]
            return observation, {"action_mask": tuple(np.split(info["action_mask"], cuts))}

    envs = SyncVectorEnv([lambda: Parts(SPACES[1])] * 3)
    agent = A2C(envs.single_observation_space, SPACES[1], seed=0)
    train(agent, envs, 500)
    envs.close()


def _spaces(envs):
    return envs.single_observation_space, envs.single_action_space


class MaskedByMethod(gym.Env):
    """Five steps; a legal action pays 1. What is legal, only the method says."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(4)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.steps, self.render_mode = 0, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        legal = self.action_masks()[action]
        self.steps += 1
        return np.zeros(1, np.float32), float(legal), self.steps == 5, False, {}

    def action_masks(self):
        return np.arange(4) == self.steps % 4

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def test_methods_for_masks_are_asked_wherever_an_agent_acts():
    envs = make_vec(MaskedByMethod, 2)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    assert evaluate(agent, envs, 4).mean == 5
    assert record_episode(agent, MaskedByMethod("rgb_array"))[1] == 5


@pytest.mark.parametrize("mode", MODES)
def test_masks_that_a_foreign_vector_does_not_pass_on_are_missed(mode):
    envs = SyncVectorEnv([MaskedByMethod] * 2, autoreset_mode=mode)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    for use in (lambda: train(agent, envs, 20), lambda: evaluate(agent, envs, 2)):
        with pytest.raises(ValueError, match=r"info\['action_mask'\].*Received: MaskedByMethod"):
            use()
