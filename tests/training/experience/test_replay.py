"""The replay buffer: equal to a list of tuples, whatever the autoreset mode, and fairly drawn."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from scripted import KINDS, MODES, ScriptedVector, slots, sync

import vantage.training.experience.replay as module
from vantage.training import Replay
from vantage.training.experience.transitions import Transition, Transitions

EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


def random_scripts(random, count):
    def script():
        lengths = random.integers(1, 6, random.integers(0, 12))
        return [(int(length), KINDS[random.integers(3)]) for length in lengths]

    return [script() for _ in range(count)]


def played(replay, envs, steps):
    """`steps` steps of an environment, each with an action of its own; the last row waits."""
    transitions = Transitions(envs)
    observations, n = transitions.reset(), envs.num_envs
    for t in range(steps):
        replay.act(observations, np.arange(t * n, (t + 1) * n))
        transition = transitions.step(np.zeros(n, np.int64))
        replay.observe(transition)
        observations = transition.observations
    return replay


def reference(scripts, mode, steps, rows):
    """What may be drawn after `steps` steps: those of the last rows that another one follows."""
    found = set()
    for n, script in enumerate(scripts):
        for t, slot in enumerate(slots(n, script, mode, steps)):
            if max(0, steps - rows) <= t < steps - 1 and not slot.is_dummy:
                action = t * len(scripts) + n
                found.add((slot.observation, action, slot.reward, slot.successor, slot.terminated))
    return found


def tuples(batch):
    """The transitions of a batch."""
    rows = zip(*(field.tolist() for field in batch[:5]), strict=True)
    return [(tuple(o), a, r, tuple(following), end) for o, a, r, following, end in rows]


@EVERY_MODE
@pytest.mark.parametrize("make", [sync, ScriptedVector])
def test_equal_to_a_list_of_tuples(mode, make):
    """Random episodes, numbers of environments and capacities; before and after it is full."""
    random = np.random.default_rng(list(mode.name.encode()))
    wrapped = 0
    for _ in range(12):
        scripts = random_scripts(random, random.integers(1, 5))
        n, steps, rows = len(scripts), int(random.integers(2, 40)), int(random.integers(2, 25))
        capacity = rows * n + int(random.integers(n))  # what does not make a row is left over
        replay = played(Replay(capacity, n, (3,), (), np.int32), make(scripts, mode), steps)
        expected = reference(scripts, mode, steps, rows)
        assert len(replay) == len(expected)
        if not expected:  # a dummy step alone
            continue
        drawn = tuples(replay.sample(40 * len(expected), random))
        assert set(drawn) == expected
        wrapped += steps > rows
    assert wrapped > 2


def naive_returns(scripts, mode, steps, rows, n_steps, gamma):
    """By action: the reward, successor, end and discount of each n-step return, slot by slot."""
    found = {}
    for n, script in enumerate(scripts):
        row = slots(n, script, mode, steps)
        for t in range(max(0, steps - rows), steps - 1):
            total, last = 0.0, t
            for m in range(min(n_steps, steps - 1 - t)):
                last = t + m
                total += gamma**m * row[last].reward
                if row[last].ended:
                    break
            if not row[t].is_dummy:
                discount = 0.0 if row[last].terminated else gamma ** (last - t + 1)
                found[t * len(scripts) + n] = (
                    total, discount, *row[last].successor, row[last].terminated
                )  # fmt: skip
    return found


@EVERY_MODE
@pytest.mark.parametrize("n_steps", [1, 2, 3, 10])
def test_n_step_returns_are_the_naive_ones(mode, n_steps):
    """Across ends, truncations, dummies, and what is not stored yet; once it is full, too."""
    random = np.random.default_rng(n_steps)
    for steps, rows in ((9, 25), (40, 25), (70, 20)):
        scripts = random_scripts(random, 3)
        replay = played(
            Replay(rows * 3, 3, (3,), (), np.int32), ScriptedVector(scripts, mode), steps
        )
        expected = naive_returns(scripts, mode, steps, rows, n_steps, 0.9)
        batch = replay.sample(2_000, random, n_steps, 0.9)
        assert set(batch.actions.tolist()) == set(expected)
        for i, action in enumerate(batch.actions.tolist()):
            total, discount, *following, terminated = expected[action]
            assert batch.rewards[i] == pytest.approx(total, abs=1e-5)
            assert batch.discounts[i] == pytest.approx(discount, rel=1e-5)
            assert batch.next_observations[i].tolist() == following
            assert batch.terminated[i] == terminated
            if batch.following[i] >= 0:  # the slot of what follows
                at = replay.observations.reshape(-1, 3)[batch.following[i]]
                assert at.tolist() == following


def test_one_step_is_the_default():
    replay = played(Replay(60, 2, (3,), ()), ScriptedVector([[], []], MODES[0]), 50)
    batch, other = (replay.sample(30, generator(), *n) for n in ((), (1, 1.0)))
    assert tuples(batch) == tuples(other)
    np.testing.assert_array_equal(batch.discounts, 1.0)


def test_only_what_has_a_successor():
    """The newest row waits for the next observation; the oldest goes when it comes."""
    envs = ScriptedVector([[], []], AutoresetMode.NEXT_STEP)
    replay = played(Replay(10, 2, (3,), (), np.int32), envs, 1)
    assert len(replay) == 0
    replay.act(np.full((2, 3), 7), np.zeros(2))
    assert len(replay) == 2
    np.testing.assert_array_equal(replay.sample(5, generator()).next_observations, 7)
    assert len(played(Replay(10, 2, (3,), ()), envs, 5)) == 8
    assert len(played(Replay(10, 2, (3,), ()), envs, 500)) == 8


def generator():
    return np.random.default_rng(3)


def test_every_transition_is_as_likely():
    """Chi-square, five standard deviations; a third of the slots are dummies."""
    scripts = [[(2, "terminated")] * 40, [(2, "truncated")] * 40, []]
    mode = AutoresetMode.NEXT_STEP
    replay = played(Replay(90, 3, (3,), (), np.int32), ScriptedVector(scripts, mode), 100)
    expected = reference(scripts, mode, 100, 30)
    each = 400
    actions = replay.sample(each * len(expected), generator()).actions
    counts = np.unique(actions, return_counts=True)[1]
    assert len(counts) == len(expected) == len(replay) < 29 * 3
    statistic, freedom = ((counts - each) ** 2 / each).sum(), len(counts) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_the_generator_alone_decides():
    replay = played(Replay(60, 2, (3,), ()), ScriptedVector([[], []], MODES[0]), 50)
    first, again = (replay.sample(30, generator()) for _ in range(2))
    other = replay.sample(30, np.random.default_rng(4))
    assert tuples(first) == tuples(again) != tuples(other)


def step(n, shape=(3,), **fields):
    """A transition in which nothing happens but what is given."""
    defaults = {
        "observations": np.zeros((n, *shape)),
        "rewards": np.zeros(n),
        "terminated": np.zeros(n, bool),
        "ended": np.zeros(n, bool),
        "weights": np.ones(n),
        "final_observations": None,
    }
    return Transition(**{**defaults, **fields})


def test_a_batch_has_the_types_of_the_spaces():
    replay = Replay(8, 2, (4, 5, 1), (3,), np.float32, np.uint8)
    for value in (250, 251):
        replay.act(np.full((2, 4, 5, 1), value), np.full((2, 3), 0.5))
        replay.observe(step(2, rewards=np.ones(2)))
    batch = replay.sample(7, generator())
    assert [(a.dtype.name, a.shape) for a in batch] == [
        ("uint8", (7, 4, 5, 1)),
        ("float32", (7, 3)),
        ("float32", (7,)),
        ("uint8", (7, 4, 5, 1)),
        ("bool", (7,)),
        ("float32", (7,)),
        ("int64", (7,)),
        ("int64", (7,)),
    ]
    assert (batch.observations == 250).all() and (batch.next_observations == 251).all()
    batch.observations[:] = 0  # a batch is the caller's own
    assert (replay.sample(7, generator()).observations == 250).all()


def test_cut_lets_nothing_follow():
    """After a reset from outside: neither a newest step, nor actions of which nothing came."""
    for observed in (True, False):
        replay = Replay(20, 1, (1,), (), np.int32)
        for t in range(3):
            replay.act([[t]], [t])
            if t < 2 or observed:
                replay.observe(step(1))
        replay.cut()
        for t in (10, 11):
            replay.act([[t]], [t])
            replay.observe(step(1))
        batch = replay.sample(200, generator())
        pairs = set(zip(batch.observations[:, 0], batch.next_observations[:, 0], strict=True))
        assert pairs == {(0, 1), (1, 2), (10, 11)}
    replay = Replay(20, 1, (1,), ())
    replay.cut()
    assert len(replay) == 0


def test_final_observations_survive_a_cut():
    replay = Replay(20, 1, (1,), ())
    replay.act([[1]], [0])
    true = np.array([True])
    replay.observe(step(1, ended=true, final_observations=np.array([[9]])))
    replay.cut()
    replay.act([[5]], [0])
    np.testing.assert_array_equal(replay.sample(3, generator()).next_observations, 9)


def test_final_observations_are_forgotten_with_their_rows():
    """Their ring does not grow for ever, however long the run."""
    random = np.random.default_rng(0)
    replay = Replay(40, 4, (1,), ())
    for t in range(500):
        ended = random.random(4) < 0.5
        replay.act(np.full((4, 1), t), np.zeros(4))
        replay.observe(step(4, ended=ended, final_observations=np.full((4, 1), -t)))
    assert len(replay.finals) <= 64
    batch = replay.sample(500, random)
    final = batch.next_observations < 0
    seen = batch.observations + ~final
    np.testing.assert_array_equal(np.abs(batch.next_observations), seen)
    assert 0.4 < final.mean() < 0.6


def test_memory_is_checked_before_it_is_taken(monkeypatch):
    with pytest.raises(ValueError, match=r"must fit .*bytes.*Pass a smaller capacity") as error:
        Replay(10**14, 4, (84, 84, 4), (), np.int32, np.uint8)
    assert f"{10**14 * (84 * 84 * 4 + 4 + 4 + 3 + 4):,} bytes" in str(error.value)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(module, "memory", lambda: 100 * (40 + 15))
    with pytest.raises(ValueError, match="must fit"):
        Replay(102, 1, (10,), ())
    replay = Replay(96, 1, (10,), ())
    with pytest.raises(ValueError, match="must fit"):  # the final ones come on top
        for _ in range(96):
            replay.act(np.zeros((1, 10)), np.zeros(1))
            true = np.ones(1, bool)
            replay.observe(step(1, ended=true, final_observations=np.zeros((1, 10))))


def test_memory_counted_is_memory_taken():
    replay = Replay(600, 3, (7,), (2,), np.float32, np.uint8)
    arrays = ("observations", "actions", "rewards", "terminated", "ended", "real", "final_at")
    assert sum(getattr(replay, name).nbytes for name in arrays) == replay._bytes


@pytest.mark.parametrize("capacity", [0, -5, 7])
def test_too_small_a_capacity(capacity):
    with pytest.raises(ValueError, match=r"two steps.*Received: capacity=.*Pass"):
        Replay(capacity, 4, (3,), ())


def test_calls_out_of_turn():
    replay = Replay(20, 2, (3,), ())
    with pytest.raises(ValueError, match=r"must hold a transition.*Received.*Call"):
        replay.sample(1, generator())
    with pytest.raises(ValueError, match=r"in turn.*observe without act.*Pass"):
        replay.observe(step(2))
    replay.act(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match=r"in turn.*act twice.*Pass"):
        replay.act(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="must hold a transition"):
        replay.sample(1, generator())


def test_a_state_taken_over_in_memory():
    """By another buffer, and by the one that gave it, which goes on from there."""
    random = np.random.default_rng(1)
    scripts, mode = random_scripts(random, 3), AutoresetMode.SAME_STEP
    replay = played(Replay(30, 3, (3,), ()), ScriptedVector(scripts, mode), 12)
    state, expected = replay.get_state(), tuples(replay.sample(50, generator()))
    other = Replay(30, 3, (3,), ())
    for buffer in (other, replay):
        buffer.set_state(state)
        assert tuples(buffer.sample(50, generator())) == expected
    for _ in range(2):
        replay.act(np.zeros((3, 3)), np.zeros(3))
        replay.observe(step(3))
    with pytest.raises(ValueError, match="has gone on"):  # overwritten: never silently wrong
        other.set_state(state)


@pytest.mark.parametrize(
    ("capacity", "n", "shape", "dtype"),
    [(28, 2, (3,), "f4"), (30, 3, (3,), "f4"), (30, 2, (4,), "f4"), (30, 2, (3,), "u1")],
)
def test_the_state_of_another_buffer_changes_nothing(capacity, n, shape, dtype):
    replay = played(Replay(30, 2, (3,), ()), ScriptedVector([[], []], MODES[0]), 50)
    other = Replay(capacity, n, shape, (), np.float32, dtype)
    for value in range(50):
        other.act(np.full((n, *shape), value), np.zeros(n))
        other.observe(step(n, shape))
    before = tuples(replay.sample(50, generator()))
    with pytest.raises(ValueError, match=r"must have the shape.*Received.*Resume"):
        replay.set_state(other.get_state())
    assert tuples(replay.sample(50, generator())) == before
