"""Rollouts of scripted environments: right at every episode end, in every autoreset mode."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import GAMMA, LAMBDA, of_real, play
from scripted import KINDS, MODES, Scripted, ScriptedVector, reference, slots, sync, value

from vantage.training.experience.rollout import Rollout
from vantage.training.experience.transitions import Transitions

NEXT_STEP = AutoresetMode.NEXT_STEP
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)

SCRIPTS = {
    "each kind": [
        [(3, "terminated"), (4, "truncated"), (2, "both")],
        [(5, "truncated")],
        [(4, "both")],
    ],
    "length one": [[(1, kind) for kind in KINDS * 2], [(1, "truncated")] * 5],
    "all together": [[(3, "truncated"), (2, "terminated"), (3, "both")]] * 3,
    "never ending": [[], [(2, "truncated"), (3, "terminated")]],
    "one environment": [[(2, "truncated"), (1, "terminated"), (4, "both"), (1, "truncated")]],
}
EVERY_SCRIPT = pytest.mark.parametrize("scripts", SCRIPTS.values(), ids=SCRIPTS.keys())


def expected(scripts, mode, n_steps, rollouts=1, lambda_=LAMBDA):
    """What should be recorded: every fragment by the scalar reference, NaN in dummy slots."""
    arrays = {"returns": np.full((n_steps * rollouts, len(scripts)), np.nan)}
    total = n_steps * rollouts
    columns = [slots(index, script, mode, total) for index, script in enumerate(scripts)]
    fields = zip(*([list(zip(*column, strict=True)) for column in columns]), strict=True)
    names = ("observations", "successors", "rewards", "terminated", "ended", "dummies")
    arrays |= {name: np.stack(field, 1) for name, field in zip(names, fields, strict=True)}
    arrays["weights"] = ~arrays["dummies"]
    next_values = np.stack([value(column) for column in arrays["successors"].swapaxes(0, 1)], 1)
    for start in range(0, total, n_steps):
        for n in range(len(scripts)):
            kept = start + np.flatnonzero(arrays["weights"][start : start + n_steps, n])
            fragment = (arrays["rewards"], next_values, arrays["terminated"], arrays["ended"])
            real = [array[kept, n] for array in fragment]
            arrays["returns"][kept, n] = reference(*real, GAMMA, lambda_)
    return arrays


def assert_recorded(arrays, desired):
    for name in ("weights", "rewards", "terminated", "ended", "observations"):
        np.testing.assert_array_equal(arrays[name], desired[name], name)
    real = desired["weights"]
    np.testing.assert_allclose(arrays["returns"][real], desired["returns"][real], 1e-5, 1e-5)
    baseline = value(desired["observations"][real])
    advantages = desired["returns"][real] - baseline
    np.testing.assert_allclose(arrays["advantages"][real], advantages, 1e-5, 1e-5)


def spanning(scripts):
    """Steps in which every script ends in every mode, and how many real ones they hold."""
    lengths = [sum(length for length, _ in script) for script in scripts]
    steps = max(n + len(script) for n, script in zip(lengths, scripts, strict=True)) + 1
    return steps, lengths


# ---------------------------------------------------------------- one rollout, all modes


@EVERY_SCRIPT
def test_one_rollout_is_the_same_in_every_mode(scripts):
    """Equal to the last bit per real transition, and right by the scalar reference."""
    steps, lengths = spanning(scripts)
    played = {mode: play(sync(scripts, mode), steps)[0] for mode in MODES}
    for mode, arrays in played.items():
        assert_recorded(arrays, expected(scripts, mode, steps))
        for n, length in enumerate(lengths):
            for name in ("observations", "rewards", "returns", "advantages", "terminated"):
                one, other = (of_real(a, name, n, length) for a in (arrays, played[NEXT_STEP]))
                np.testing.assert_array_equal(one, other, f"{mode} {name}")


@EVERY_MODE
@EVERY_SCRIPT
@pytest.mark.parametrize("n_steps", [1, 2, 3, 5])
def test_short_rollouts_are_their_own_fragments(scripts, mode, n_steps):
    rollouts = -(-spanning(scripts)[0] // n_steps)
    arrays, _ = play(sync(scripts, mode), n_steps, rollouts)
    assert_recorded(arrays, expected(scripts, mode, n_steps, rollouts))


@EVERY_MODE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_an_end_on_the_last_step(mode, kind, lambda_):
    """γ·v of the final observation is added when it was truncated only, and of no other one."""
    scripts, n_steps = [[(4, kind)]], 4
    arrays, _ = play(sync(scripts, mode), n_steps, lambda_=lambda_)
    final = value([[0, 0, 4]])[0] if kind == "truncated" else 0.0
    last = float(arrays["rewards"][-1, 0] + GAMMA * final)
    assert arrays["returns"][-1, 0] == pytest.approx(last)
    desired = expected(scripts, mode, n_steps, lambda_=lambda_)["returns"]
    np.testing.assert_allclose(arrays["returns"], desired, 1e-5)


LAYOUTS = st.tuples(
    st.sampled_from([1, 2, 7, 64]),  # N
    st.integers(1, 9),  # T
    st.integers(1, 3),  # rollouts
    st.integers(1, 6),  # the longest episode
    st.integers(0, 2**32),
)


def random_scripts(num_envs, steps, longest, seed):
    """Fewer than `steps` random episodes per environment; none at all: never ending."""
    random = np.random.default_rng(seed)

    def script(episodes):
        lengths, kinds = random.integers(1, longest + 1, episodes), random.choice(KINDS, episodes)
        return list(zip(lengths.tolist(), kinds.tolist(), strict=True))

    return [script(episodes) for episodes in random.integers(0, steps, num_envs)]


@settings(deadline=None)
@given(LAYOUTS)
def test_random_layouts(layout):
    num_envs, n_steps, rollouts, longest, seed = layout
    scripts = random_scripts(num_envs, n_steps * rollouts, longest, seed)
    for mode in MODES:
        arrays, transitions = play(ScriptedVector(scripts, mode), n_steps, rollouts)
        desired = expected(scripts, mode, n_steps, rollouts)
        assert_recorded(arrays, desired)
        assert transitions.env_steps == desired["weights"].sum()
        assert transitions.episodes == desired["ended"].sum()


@settings(deadline=None)
@given(LAYOUTS)
def test_random_layouts_are_the_same_in_every_mode(layout):
    num_envs, n_steps, _, longest, seed = layout
    scripts = random_scripts(num_envs, n_steps, longest, seed)
    steps, lengths = spanning(scripts)
    played = [play(ScriptedVector(scripts, mode), steps)[0] for mode in MODES]
    for n, length in enumerate(lengths):
        for name in ("returns", "advantages"):
            one, *others = (of_real(arrays, name, n, length) for arrays in played)
            for other in others:
                np.testing.assert_array_equal(one, other)


@EVERY_MODE
@EVERY_SCRIPT
def test_our_vector_environment_plays_as_gymnasiums(scripts, mode):
    """The fast one used above is no easier than the real one."""
    one, _ = play(sync(scripts, mode), 4, 6)
    other, _ = play(ScriptedVector(scripts, mode), 4, 6)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], name)


# ---------------------------------------------------------------- wrong handling shows


def truncation_is_termination(transition):
    return transition._replace(terminated=transition.ended)


def bootstraps_from_the_reset(transition):
    return transition._replace(final_observations=None)


def nothing_terminates(transition):
    return transition._replace(terminated=np.zeros_like(transition.terminated))


def traces_cross_ends(transition):
    return transition._replace(ended=np.zeros_like(transition.ended))


def dummies_count(transition):
    return transition._replace(weights=np.ones_like(transition.weights))


@pytest.mark.parametrize(
    ("wrong", "modes"),
    [
        (truncation_is_termination, MODES),
        (bootstraps_from_the_reset, [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]),
        (nothing_terminates, MODES),
        (traces_cross_ends, [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]),
        (dummies_count, [NEXT_STEP]),
    ],
)
def test_wrong_handling_gives_other_numbers(wrong, modes):
    scripts = SCRIPTS["each kind"]
    for mode in modes:
        desired = expected(scripts, mode, 4, 5)
        assert_recorded(play(sync(scripts, mode), 4, 5)[0], desired)
        mistaken, _ = play(sync(scripts, mode), 4, 5, wrong)
        assert abs(mean_return(mistaken) - mean_return(desired)) > 0.01


def mean_return(arrays):
    return np.average(np.nan_to_num(arrays["returns"]), weights=arrays["weights"])


def learned_value(mode, change=lambda t: t, n_steps=5, lambda_=0.95):
    """The fixed point of v ← mean return: reward 1 for ever, cut by a time limit of 8."""

    def with_constant_reward(transition):
        return change(transition._replace(rewards=transition.weights.copy()))

    v = 0.0
    for _ in range(40):
        envs = ScriptedVector([[(8, "truncated")] * 10] * 2, mode)
        arrays, _ = play(envs, n_steps, 8, with_constant_reward, None, constant(v), lambda_)
        v = mean_return(arrays)
    return v


def constant(v):
    return lambda observations: np.full(len(observations), v, np.float32)


@EVERY_MODE
def test_a_time_limit_does_not_lower_the_value(mode):
    """V = 1/(1 − γ) = 10 although every episode is cut after 8 steps; not so if done wrongly."""
    assert learned_value(mode) == pytest.approx(10.0, rel=1e-3)
    assert learned_value(mode, truncation_is_termination) < 6
    if mode is NEXT_STEP:
        assert learned_value(mode, dummies_count) < 9.7


# ---------------------------------------------------------------- other vector environments


@EVERY_MODE
def test_a_vector_environment_that_reuses_its_buffer(mode):
    scripts = SCRIPTS["each kind"]
    arrays, _ = play(sync(scripts, mode, copy=False), 4, 5)
    assert_recorded(arrays, expected(scripts, mode, 4, 5))


@EVERY_MODE
def test_async(mode):
    scripts = SCRIPTS["each kind"][:2]
    makers = [functools.partial(Scripted, index, script) for index, script in enumerate(scripts)]
    envs = AsyncVectorEnv(makers, context="forkserver", autoreset_mode=mode)
    arrays, _ = play(envs, 4, 5)
    assert_recorded(arrays, expected(scripts, mode, 4, 5))


def balance(observations):
    """Pushes to where the pole leans: about 40 steps, decided by the observation alone."""
    return (observations[:, 2] > 0).astype(np.int64)


def tilt(observations):
    """A value function of CartPole, element by element, hence bit-equal for every batch size."""
    return observations[:, 0] + 2 * observations[:, 1] - observations[:, 2] * observations[:, 3]


def test_cartpole_is_the_same_in_every_mode():
    """The environments' own randomness, deterministic actions, a time limit now and then."""
    played = []
    for mode in MODES:
        makers = [lambda: gym.make("CartPole-v1", max_episode_steps=45)] * 3
        envs = SyncVectorEnv(makers, autoreset_mode=mode)
        envs.reset(seed=5)
        played.append(play(envs, 300, act=balance, v=tilt)[0])
    for n in range(3):
        length = min(np.flatnonzero(of_real(arrays, "ended", n))[-1] + 1 for arrays in played)
        one, *others = ({k: of_real(a, k, n, length) for k in a} for a in played)
        assert set(one["terminated"][one["ended"]]) == {True, False}
        for other in others:
            for name, array in one.items():
                np.testing.assert_array_equal(array, other[name], name)


def test_native_cartpole():
    """Against the bare vector environment, its dummies cut out by hand."""

    def make():
        envs = gym.make_vec("CartPole-v1", 4, max_episode_steps=45)
        envs.reset(seed=5)
        return envs

    arrays, transitions = play(make(), 200, act=balance, v=tilt)
    envs, streams = make(), [[] for _ in range(4)]
    observations, was_over = envs.reset()[0], np.zeros(4, bool)
    for _ in range(200):
        successors, rewards, terminated, truncated, _ = envs.step(balance(observations))
        steps = zip(rewards, tilt(successors), terminated, terminated | truncated, strict=True)
        for n, step in enumerate(steps):
            if not was_over[n]:
                streams[n].append(step)
        observations, was_over = successors, terminated | truncated
    envs.close()
    for n, stream in enumerate(streams):
        desired = reference(*np.array(stream).T, GAMMA, LAMBDA)
        np.testing.assert_allclose(of_real(arrays, "returns", n), desired, 1e-4, 1e-4)
    assert transitions.env_steps == sum(map(len, streams)) < 4 * 200
    assert transitions.episodes == sum(step[3] for stream in streams for step in stream)
    assert list(transitions.recent_returns) == list(transitions.recent_lengths)  # reward 1
    both_kinds = {bool(step[2]) for stream in streams for step in stream if step[3]}
    assert both_kinds == {True, False}


# ---------------------------------------------------------------- the buffer itself


def test_everything_is_float32_from_birth_and_stays_where_it_is():
    scripts = SCRIPTS["each kind"]
    envs = sync(scripts, NEXT_STEP)
    rollout = Rollout(2, 3, (3,), (2,), parameters=4)
    own = [each for each in vars(rollout).items() if isinstance(each[1], np.ndarray)]
    arrays = {name: array for name, array in own if array.ndim >= 2}
    assert len(arrays) == 8
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    transitions = Transitions(envs)
    observations = transitions.reset()
    for _ in range(2):
        assert not rollout.is_full
        parameters = np.full((3, 4), 0.25)
        rollout.act(observations, np.full((3, 2), 0.5), value(observations), parameters)
        rollout.observe(transitions.step(np.zeros(3, np.int64)))
    assert rollout.is_full
    assert rollout.finish(observations, value, GAMMA, LAMBDA).dtype == np.float32
    for name, address in addresses.items():
        array = getattr(rollout, name)
        assert array.ctypes.data == address
        assert array.dtype == (bool if name in ("terminated", "ended") else np.float32)
    np.testing.assert_array_equal(rollout.actions, np.full((2, 3, 2), 0.5))
    np.testing.assert_array_equal(rollout.parameters, np.full((2, 3, 4), 0.25))


def test_one_batched_value_call_for_all_final_observations():
    calls = []

    def counting(observations):
        calls.append(len(observations))
        return value(observations)

    envs = sync([[(1, "truncated")] * 3, [(2, "truncated")], []], AutoresetMode.SAME_STEP)
    transitions, rollout = Transitions(envs), Rollout(4, 3, (3,), (), np.int64)
    observations = transitions.reset()
    while not rollout.is_full:
        rollout.act(observations, np.zeros(3, np.int64), value(observations))
        transition = transitions.step(np.zeros(3, np.int64))
        rollout.observe(transition)
        observations = transition.observations
    rollout.finish(observations, counting, GAMMA, LAMBDA)
    assert calls == [3, 4]  # the observations after the last step; four truncations
