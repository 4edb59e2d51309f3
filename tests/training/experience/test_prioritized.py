"""Prioritised replay: the sum tree against a naive sum, frequencies, weights, new ones, state."""

import numpy as np
import pytest

from vantage.training import Replay
from vantage.training.experience.prioritized import Priorities, SumTree
from vantage.training.experience.transitions import Transition


def filled(replay, steps, generator, dummies=0.0):
    """Steps whose action is their number; the last row waits."""
    n = replay.rewards.shape[1]
    for _ in range(steps):
        replay.act(np.zeros((n, 1)), np.full(n, replay.acted))
        weights = (generator.random(n) >= dummies).astype(np.float32)
        ended = np.zeros(n, bool)
        replay.observe(Transition(np.zeros((n, 1)), np.ones(n), ended, ended, weights, None))
    return replay


def buffer(capacity=40, n=2):
    return Replay(capacity, n, (1,), (), np.int32)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100])
def test_a_sum_tree_is_a_naive_sum(size):
    """100,000 numbers set, in pieces with repetitions; the last of equals counts."""
    generator, tree, naive = np.random.default_rng(size), SumTree(size), np.zeros(size)
    for _ in range(1_000):
        at = generator.integers(size, size=100)
        values = generator.random(100) * (generator.random(100) < 0.7)
        tree.set(at, values)
        for position, value in zip(at.tolist(), values.tolist(), strict=True):
            naive[position] = value
    tree.set(np.zeros(1, int), 1.0)
    naive[0] = 1.0
    np.testing.assert_array_equal(tree.leaves, naive)
    assert tree.total == pytest.approx(naive.sum(), rel=1e-12)
    sums = generator.random(2_000) * tree.total * (1 - 1e-9)
    expected = np.searchsorted(np.cumsum(naive), sums, side="right")
    assert (tree.find(sums) != expected).mean() < 0.001  # rounding alone
    assert (naive[tree.find(sums)] > 0).all()
    again = SumTree(size)
    again.set(np.arange(size), tree.leaves)
    assert again.total == tree.total  # to the bit, however it came about


def test_a_number_of_zero_is_never_found():
    """Not even for a sum that rounding has brought to the total, or beyond it."""
    tree = SumTree(9)
    tree.set(np.array([1, 4, 5]), np.array([0.1, 0.2, 1e-300]))
    sums = np.array([0.0, np.nextafter(tree.total, 0), tree.total, 2 * tree.total])
    assert set(tree.find(sums).tolist()) <= {1, 4, 5}


def test_an_empty_tree_is_left_alone():
    tree = SumTree(4)
    tree.set(np.zeros(0, int), np.zeros(0))
    assert tree.total == 0 and not tree.find(np.zeros(0)).size


def test_drawn_in_proportion_and_weighed_against_it():
    """Frequencies p^α / Σ p^α, within five standard deviations; w = (P·count)^−β / max."""
    generator = np.random.default_rng(0)
    replay = filled(buffer(24, 1), 21, generator)
    priorities = Priorities(replay, alpha=0.7)
    slots = np.arange(20)
    priorities.draw((1, 1), generator, 0.0)  # takes in what is new
    errors = generator.normal(size=20).astype(np.float32)
    priorities.update(slots, errors)
    chances = (np.abs(errors.astype(float)) + 1e-6) ** 0.7
    chances /= chances.sum()
    drawn, weights = priorities.draw((400, 50), generator, 0.5)
    counts, total = np.bincount(drawn, minlength=20), 400 * 50
    deviation = np.sqrt(total * chances * (1 - chances))
    assert (np.abs(counts[:20] - total * chances) < 5 * deviation + 1).all()
    expected = (20 * chances[drawn].reshape(400, 50)) ** -0.5
    expected /= expected.max(axis=1, keepdims=True)
    np.testing.assert_allclose(weights.reshape(400, 50), expected, rtol=1e-5)
    assert weights.dtype == np.float32 and weights.max() == 1


def test_alpha_zero_is_uniform():
    generator = np.random.default_rng(0)
    priorities = Priorities(filled(buffer(24, 1), 21, generator), alpha=0.0)
    drawn, _ = priorities.draw((1, 4), generator, 1.0)
    priorities.update(drawn, np.array([5, 0.1, 3, 9]))
    drawn, weights = priorities.draw((100, 20), generator, 1.0)
    assert (np.bincount(drawn) == 100).all()  # strata of one transition each
    assert (weights == 1).all()


@pytest.mark.parametrize("dummies", [0.0, 0.4])
def test_what_may_be_drawn_is_what_the_buffer_may_draw(dummies):
    """However many steps between two draws; new ones have the greatest priority."""
    generator = np.random.default_rng(5)
    replay = buffer()
    priorities = Priorities(replay, alpha=1.0)
    for steps in (3, 1, 2, 5, 13, 20, 19, 21, 100, 1, 1, 7):
        before = replay.stop
        filled(replay, steps, generator, dummies)
        drawn, _ = priorities.draw((4, 8), generator, 0.4)
        rows, n = replay.rewards.shape
        may = np.zeros((rows, n), bool)
        for row in range(replay.start, replay.stop):
            may[row % rows] = replay.real[row % rows]
        leaves = priorities.get_state()["priorities"].reshape(rows, n)
        np.testing.assert_array_equal(leaves > 0, may)
        assert (leaves > 0).sum() == len(replay)
        assert may.ravel()[drawn].all()
        for row in range(max(before, replay.start), replay.stop):
            at = row % rows
            assert (leaves[at] == priorities.most * replay.real[at]).all()
        priorities.update(drawn, generator.normal(size=32) * 3)


def test_the_state_goes_on_to_the_bit():
    def go_on(replay, priorities, generator):
        found = []
        for _ in range(5):
            filled(replay, 7, generator)
            drawn, weights = priorities.draw((3, 6), generator, 0.6)
            priorities.update(drawn, generator.normal(size=18))
            found += [drawn, weights, priorities.get_state()["priorities"], priorities.most]
        return found

    generator = np.random.default_rng(1)
    replay = buffer()
    priorities = Priorities(replay, 0.6)
    go_on(replay, priorities, generator)
    filled(replay, 4, generator)  # that are new at the next draw
    other = buffer()
    other.set_state(replay.get_state())
    restored = Priorities(other, 0.6)
    restored.set_state(priorities.get_state())
    expected = go_on(replay, priorities, np.random.default_rng(2))
    for a, b in zip(expected, go_on(other, restored, np.random.default_rng(2)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.zeros(39), np.full(40, -1.0), np.full(40, np.nan)])
def test_the_state_of_another_buffer(bad):
    priorities = Priorities(buffer(), 0.6)
    with pytest.raises(ValueError, match=r"Priorities must be.*Received.*Resume"):
        priorities.set_state({"priorities": bad, "most": 1.0, "seen": 0})


def test_nothing_to_draw():
    with pytest.raises(ValueError, match=r"must hold a transition.*Received.*Call"):
        Priorities(buffer(), 0.6).draw((1, 4), np.random.default_rng(0), 0.4)
