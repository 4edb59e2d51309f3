"""True transitions, whatever the autoreset mode: what is seen, what counts, what is kept."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from scripted import KINDS, MODES, Scripted, ScriptedVector, slots, sync

from vantage.training.experience.transitions import Transitions

NEXT_STEP, SAME_STEP, DISABLED = (
    AutoresetMode.NEXT_STEP,
    AutoresetMode.SAME_STEP,
    AutoresetMode.DISABLED,
)
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
EVERY_KIND = pytest.mark.parametrize("make", [sync, ScriptedVector])
SCRIPTS = [
    [(3, "terminated"), (1, "truncated"), (1, "both"), (2, "truncated")],
    [(1, kind) for kind in KINDS],
    [(3, "both"), (2, "terminated")],  # its ends meet those of the first
]
STEPS = 12


def steps(transitions, count=STEPS):
    """`count` transitions from a reset on."""
    transitions.reset()
    actions = np.zeros(transitions.num_envs, np.int64)
    return [transitions.step(actions) for _ in range(count)]


def counted(transitions):
    return {
        "env_steps": transitions.env_steps,
        "episodes": transitions.episodes,
        "recent_returns": list(transitions.recent_returns),
        "recent_lengths": list(transitions.recent_lengths),
    }


def columns(scripts, mode, count=STEPS):
    return [slots(index, script, mode, count) for index, script in enumerate(scripts)]


@EVERY_MODE
@EVERY_KIND
def test_every_step_is_as_scripted(make, mode):
    """Rewards, ends and weights; where acting goes on; the final observations."""
    transitions = Transitions(make(SCRIPTS, mode))
    np.testing.assert_array_equal(transitions.reset(), [[n, 0, 0] for n in range(3)])
    expected = columns(SCRIPTS, mode, STEPS + 1)
    for t in range(STEPS):
        step = transitions.step(np.zeros(3, np.int64))
        now, following = [column[t] for column in expected], [column[t + 1] for column in expected]
        np.testing.assert_array_equal(step.rewards, [slot.reward for slot in now])
        np.testing.assert_array_equal(step.terminated, [slot.terminated for slot in now])
        np.testing.assert_array_equal(step.ended, [slot.ended for slot in now])
        np.testing.assert_array_equal(step.weights, [not slot.is_dummy for slot in now])
        np.testing.assert_array_equal(step.observations, [slot.observation for slot in following])
        final = step.observations if step.final_observations is None else step.final_observations
        for n in np.flatnonzero(step.ended):
            assert tuple(final[n]) == now[n].successor  # never that of a reset
        assert step.rewards.dtype == step.weights.dtype == np.float32
        assert step.terminated.dtype == step.ended.dtype == bool


@EVERY_MODE
@EVERY_KIND
def test_counters_and_statistics(make, mode):
    """Dummy steps count nowhere; episodes appear in the order of their ends."""
    transitions = Transitions(make(SCRIPTS, mode))
    assert (transitions.env_steps, transitions.episodes) == (0, 0)
    returns, lengths, real = [], [], 0
    running = [[] for _ in SCRIPTS]
    taken = steps(transitions)
    for now in zip(*columns(SCRIPTS, mode), strict=True):
        for n, slot in enumerate(now):
            if slot.is_dummy:
                continue
            real += 1
            running[n].append(slot.reward)
            if slot.ended:
                returns.append(sum(running[n]))
                lengths.append(len(running[n]))
                running[n] = []
    assert len(returns) == 9  # the whole script was played
    assert list(transitions.recent_returns) == returns
    assert list(transitions.recent_lengths) == lengths
    assert transitions.episodes == len(returns)
    assert transitions.env_steps == real == sum(step.weights.sum() for step in taken)
    assert np.mean(transitions.recent_returns) == pytest.approx(np.mean(returns))
    assert type(transitions.env_steps) is int and type(transitions.episodes) is int


def test_step_counts_differ_by_the_dummies_alone():
    """With as many calls, NEXT_STEP has one real step less per episode that ended before."""
    counts = {}
    for mode in MODES:
        transitions = Transitions(sync(SCRIPTS, mode))
        steps(transitions)
        counts[mode] = transitions.env_steps
    assert counts[SAME_STEP] == counts[DISABLED] == 3 * STEPS
    assert counts[NEXT_STEP] == 3 * STEPS - 9


def test_next_step_dummies_of_a_rude_environment():
    """Whatever a dummy step reports, it has no reward and no end."""
    polite, rude = (Transitions(ScriptedVector(SCRIPTS, NEXT_STEP, rude)) for rude in (False, True))
    for one, other in zip(steps(polite), steps(rude), strict=True):
        for field, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(field, same)
    assert counted(polite) == counted(rude)


def test_flags_that_are_no_booleans():
    """Zeros and ones do as well; ~1 is −2 and would become a weight."""

    class Integers(ScriptedVector):
        def step(self, actions):
            observations, rewards, terminated, truncated, infos = super().step(actions)
            return observations, rewards, terminated.astype(int), truncated.astype(int), infos

    for mode in MODES:
        one, other = (
            Transitions(ScriptedVector(SCRIPTS, mode)),
            Transitions(Integers(SCRIPTS, mode)),
        )
        for booleans, integers in zip(steps(one), steps(other), strict=True):
            np.testing.assert_array_equal(booleans.weights, integers.weights)
            np.testing.assert_array_equal(booleans.ended, integers.ended)
            np.testing.assert_array_equal(booleans.terminated, integers.terminated)
            assert integers.ended.dtype == integers.terminated.dtype == bool
        assert counted(one) == counted(other)


def test_disabled_resets_with_a_mask_those_that_ended_and_no_others():
    envs = ScriptedVector(SCRIPTS, DISABLED)
    taken = steps(Transitions(envs))
    ended = [step.ended for step in taken if step.ended.any()]
    np.testing.assert_array_equal(envs.masks, ended)


@EVERY_MODE
def test_all_together_again_and_again(mode):
    """Episodes of one step in every environment: in NEXT_STEP every other step is a dummy."""
    transitions = Transitions(sync([[(1, "truncated")] * 6] * 4, mode))
    weights = np.stack([step.weights for step in steps(transitions, 6)])
    real = [1, 0, 1, 0, 1, 0] if mode is NEXT_STEP else [1] * 6
    np.testing.assert_array_equal(weights, np.repeat(real, 4).reshape(6, 4))
    assert transitions.env_steps == transitions.episodes == 4 * sum(real)
    assert set(transitions.recent_lengths) == {1}


def test_the_statistics_hold_the_last_hundred_episodes():
    transitions = Transitions(ScriptedVector([[(1, "terminated")] * 70] * 2, SAME_STEP))
    steps(transitions, 49)
    assert len(transitions.recent_returns) == 98
    assert not transitions.has_reached(-np.inf)  # too few
    steps_more = [transitions.step(np.zeros(2, np.int64)) for _ in range(12)]
    assert transitions.episodes == 98 + 2 * len(steps_more) == 122
    assert len(transitions.recent_returns) == len(transitions.recent_lengths) == 100
    expected = [
        slot.reward
        for t in range(11, 61)
        for slot in (column[t] for column in columns([[(1, "terminated")] * 70] * 2, SAME_STEP, 61))
    ]
    assert list(transitions.recent_returns) == expected
    mean = np.mean(expected)
    assert transitions.has_reached(mean - 1e-9) and not transitions.has_reached(mean + 1e-9)


@EVERY_MODE
def test_a_reset_starts_anew(mode):
    """Amid an episode, and where a dummy step would have been next."""
    script = [(4, "terminated")]
    for played in (2, 4):
        transitions = Transitions(ScriptedVector([script], mode))
        steps(transitions, played)
        counted, episodes = transitions.env_steps, transitions.episodes
        again = steps(transitions, 4)  # the scripts start over as well
        assert transitions.env_steps == counted + 4
        assert transitions.episodes == episodes + 1
        assert transitions.recent_lengths[-1] == 4
        assert transitions.recent_returns[-1] == sum(float(step.rewards[0]) for step in again)


def test_the_seed_is_that_of_the_reset():
    def first(seed):
        envs = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
        return Transitions(envs, seed).reset()

    np.testing.assert_array_equal(first(3), first(3))
    assert (first(3) != first(4)).any()
    assert (first(3)[0] != first(3)[1]).any()


def test_what_was_counted_goes_through_json_and_back():
    """As a checkpoint keeps it; running episodes are not part of it."""
    transitions, restored = (Transitions(sync(SCRIPTS, NEXT_STEP)) for _ in range(2))
    steps(transitions)
    state = json.loads(json.dumps(counted(transitions)))
    restored.env_steps, restored.episodes = state["env_steps"], state["episodes"]
    restored.recent_returns.extend(state["recent_returns"])
    restored.recent_lengths.extend(state["recent_lengths"])
    assert counted(restored) == counted(transitions)
    steps(restored)
    assert restored.env_steps == 2 * transitions.env_steps > 0
    assert list(restored.recent_returns) == 2 * list(transitions.recent_returns)
    assert list(restored.recent_lengths) == 2 * list(transitions.recent_lengths)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("mode", [None, "NextStep", "NEXT_STEP", True])
def test_the_autoreset_mode_must_be_declared(mode):
    envs = ScriptedVector(SCRIPTS, NEXT_STEP)
    envs.metadata = {} if mode is None else {"autoreset_mode": mode}
    message = r"must declare metadata\['autoreset_mode'\].*Received: .*Set it on the class"
    with pytest.raises(ValueError, match=message):
        Transitions(envs)


# ---------------------------------------------------------------- nested observations


class Nested(Scripted):
    """The script seen as a Dict with a Tuple and a text in it."""

    observation_space = gym.spaces.Dict(
        {
            "now": gym.spaces.Tuple([gym.spaces.Box(0, 1e6, (1,)), gym.spaces.Discrete(99)]),
            "name": gym.spaces.Text(3),
        }
    )

    def _observation(self):
        index, episode, now = super()._observation()
        return {"now": (np.array([100 * index + now], np.float32), int(episode)), "name": "abc"}


@EVERY_MODE
def test_final_observations_of_nests(mode):
    """Entry by entry as for a plain array; the batches that the environment returned stay whole."""
    makers = [lambda i=i, s=s: Nested(i, s) for i, s in enumerate(SCRIPTS)]
    nested, plain = (
        Transitions(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)),
        Transitions(sync(SCRIPTS, mode)),
    )

    def check(batch, array):
        numbers, episodes = batch["now"]
        np.testing.assert_array_equal(numbers[:, 0], array[:, 0] * 100 + array[:, 2])
        np.testing.assert_array_equal(episodes, array[:, 1])

    check(nested.reset(), plain.reset())
    ends = 0
    for _ in range(STEPS):
        one, other = (t.step(np.zeros(3, np.int64)) for t in (nested, plain))
        check(one.observations, other.observations)
        assert (one.final_observations is None) == (other.final_observations is None)
        if one.final_observations is not None:
            for batch, array in (
                (one.observations, other.observations),
                (one.final_observations, other.final_observations),
            ):
                check(batch, array)
        ends += one.ended.sum()
    assert ends == 9


def test_what_the_methods_return_is_counted():
    envs = ScriptedVector(SCRIPTS, AutoresetMode.NEXT_STEP)
    transitions, reset, step = Transitions(envs), envs.reset, envs.step
    envs.reset = lambda **keywords: reset(**keywords)[0]
    with pytest.raises(ValueError, match="reset of a vector environment must return a tuple of 2"):
        transitions.reset()
    envs.reset = reset
    transitions.reset()
    envs.step = lambda actions: step(actions)[:4]
    with pytest.raises(ValueError, match="must return a tuple of 5.* Received: 4 of them"):
        transitions.step(np.zeros(len(SCRIPTS), int))
