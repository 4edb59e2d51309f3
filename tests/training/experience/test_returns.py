"""Returns against naive references, episode by episode, and the identities between them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import pieces, reference

from vantage.training.experience.returns import (
    discounted_returns,
    gae,
    lambda_returns,
    n_step_returns,
    return_metrics,
)


def explained_variance(*arrays):
    return return_metrics(*arrays)["explained_variance"]


class Fragment:
    """Random numbers with random ends: terminated, truncated, both, on the last step as well.

    Inside an episode v' is the value of the next state, at an end that of the final one.
    """

    def __init__(self, seed=0, length=9, num_envs=7, end_probability=0.3, gamma=0.9, lambda_=0.8):
        random, shape = np.random.default_rng(seed), (length, num_envs)
        self.gamma, self.lambda_ = gamma, lambda_
        self.rewards, self.values, self.next_values = random.normal(size=(3, *shape))
        self.terminated, self.truncated = random.random((2, *shape)) < end_probability / 2
        self.ended = self.terminated | self.truncated
        inside = ~self.ended[:-1]
        self.next_values[:-1][inside] = self.values[1:][inside]
        self.discounts = gamma * (1.0 - self.terminated)
        self.ones = 1.0 - self.ended  # the lambdas of λ = 1
        self.lambdas = lambda_ * self.ones

    def reference(self, lambda_=None, n=None):
        lambda_ = self.lambda_ if lambda_ is None else lambda_
        columns = self.rewards.T, self.next_values.T, self.terminated.T, self.ended.T
        each = zip(*columns, strict=True)
        return np.stack([reference(*column, self.gamma, lambda_, n) for column in each], 1)

    def lambda_returns(self, lambdas):
        return lambda_returns(self.rewards, self.discounts, self.next_values, lambdas)

    def n_step_returns(self, n):
        return n_step_returns(self.rewards, self.discounts, self.next_values, self.ones, n)

    def gae(self):
        return gae(self.rewards, self.discounts, self.values, self.next_values, self.lambdas)


UNIT = st.floats(0, 1)
FRAGMENTS = st.builds(
    Fragment,
    seed=st.integers(0, 2**32),
    length=st.integers(1, 9),
    num_envs=st.sampled_from([1, 2, 7, 64]),
    end_probability=UNIT,
    gamma=UNIT,
    lambda_=UNIT,
)


def many(examples):
    return settings(max_examples=examples, deadline=None)


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-9)


def test_two_steps_by_hand():
    """γ = λ = ½, v' = 2 and 4: G₁ = 3 + ½·4 = 5, G₀ = 1 + ½·(½·2 + ½·5) = 2.75."""
    rewards, next_values = np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])
    half, one = np.full((2, 1), 0.5), np.ones((2, 1))
    returns = lambda_returns(rewards, half, next_values, half)
    np.testing.assert_array_equal(returns, [[2.75], [5.0]])
    np.testing.assert_array_equal(gae(rewards, half, one, next_values, half), [[1.75], [4.0]])
    two_step = n_step_returns(rewards, half, next_values, one, 2)
    np.testing.assert_array_equal(two_step, [[1 + 0.5 * 3 + 0.25 * 4], [5.0]])
    discounted = discounted_returns(rewards, half, np.array([4.0]))
    np.testing.assert_array_equal(discounted, two_step)


def test_ends_by_hand():
    """λ = 1, γ = ½: a termination counts its reward alone, a truncation adds ½·v'."""
    rewards, next_values = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[8.0, 8.0], [4.0, 4.0]])
    terminated, ended = np.array([[1, 0], [0, 0]]), np.array([[1, 1], [0, 0]])
    returns = lambda_returns(rewards, 0.5 * (1 - terminated), next_values, 1.0 - ended)
    np.testing.assert_array_equal(returns, [[1.0, 5.0], [4.0, 4.0]])


@many(500)
@given(FRAGMENTS)
def test_lambda_returns_are_the_forward_view(fragment):
    assert_close(fragment.lambda_returns(fragment.lambdas), fragment.reference())


@many(50)
@given(FRAGMENTS, st.integers(1, 12))
def test_n_step_returns_are_the_definition(fragment, n):
    assert_close(fragment.n_step_returns(n), fragment.reference(n=n))


@many(150)
@given(FRAGMENTS)
def test_gae_is_the_sum_of_deltas(fragment):
    """Schulman et al. 2016, eq. 16: A = Σ (γλ)ˡ·δ over the rest of the episode."""
    advantages, decay = fragment.gae(), fragment.gamma * fragment.lambda_
    next_values = np.where(fragment.terminated, 0.0, fragment.next_values)
    deltas = fragment.rewards + fragment.gamma * next_values - fragment.values
    for n in range(fragment.rewards.shape[1]):
        for piece in pieces(fragment.ended[:, n]):
            δ = deltas[piece, n]
            sums = [sum(decay**k * δ[t + k] for k in range(len(δ) - t)) for t in range(len(δ))]
            assert_close(advantages[piece, n], sums)


@many(100)
@given(FRAGMENTS, st.integers(0, 5))
def test_identities(fragment, more):
    length = len(fragment.rewards)
    one_step = fragment.rewards + fragment.discounts * fragment.next_values
    complete = fragment.lambda_returns(fragment.ones)
    assert_close(fragment.lambda_returns(0 * fragment.lambdas), one_step)  # TD(0)
    assert_close(fragment.n_step_returns(1), one_step)
    assert_close(fragment.n_step_returns(length + more), complete)
    assert_close(fragment.gae(), fragment.lambda_returns(fragment.lambdas) - fragment.values)
    # with v' = G of the next step, every λ gives the same: v is its own return
    following = np.where(fragment.ended, fragment.next_values, 0.0)
    following[:-1] += np.where(fragment.ended[:-1], 0.0, complete[1:])
    following[-1] = fragment.next_values[-1]
    consistent = lambda_returns(fragment.rewards, fragment.discounts, following, fragment.lambdas)
    assert_close(consistent, complete)


@many(50)
@given(FRAGMENTS)
def test_discounted_returns(fragment):
    """Sums of rewards up to a termination; λ = 1 where no episode was truncated."""
    final = fragment.next_values[-1]
    returns = discounted_returns(fragment.rewards, fragment.discounts, final)
    columns = zip(fragment.rewards.T, fragment.terminated.T, final, returns.T, strict=True)
    for rewards, terminated, bootstrap, column in columns:
        for t in range(len(rewards)):
            total, discount = 0.0, 1.0
            for k in range(t, len(rewards)):
                total += discount * rewards[k]
                discount *= fragment.gamma * (not terminated[k])
            assert_close(column[t], total + discount * bootstrap)
    untruncated = ~(fragment.truncated & ~fragment.terminated).any(0)
    complete = fragment.lambda_returns(fragment.ones)
    assert_close(returns[:, untruncated], complete[:, untruncated])


@many(100)
@given(FRAGMENTS, st.integers(0, 2**32))
def test_nothing_leaks_across_an_end(fragment, seed):
    """Whatever follows an end, what came before it stays the same to the last bit."""
    t = seed % len(fragment.rewards)
    assume(fragment.ended[t].any())
    before = fragment.lambda_returns(fragment.lambdas), fragment.n_step_returns(3), fragment.gae()
    random = np.random.default_rng(seed)
    for name in ("rewards", "values", "next_values", "discounts", "lambdas", "ones"):
        getattr(fragment, name)[t + 1 :] = 1e6 * random.random(fragment.rewards[t + 1 :].shape)
    after = fragment.lambda_returns(fragment.lambdas), fragment.n_step_returns(3), fragment.gae()
    ended = fragment.ended[t]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[: t + 1, ended], other[: t + 1, ended])


def test_what_follows_counts_where_nothing_ended():
    """The test above can fail: inside an episode the future does count, with λ > 0."""
    one, other = Fragment(end_probability=0.0), Fragment(end_probability=0.0)
    other.rewards[-1] += 1
    assert (other.lambda_returns(one.lambdas)[0] > one.lambda_returns(one.lambdas)[0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arguments_stay_and_so_does_their_dtype(dtype):
    fragment = Fragment()
    names = ("rewards", "discounts", "values", "next_values", "lambdas")
    arrays = {name: getattr(fragment, name).astype(dtype) for name in names}
    copies = {name: array.copy() for name, array in arrays.items()}
    advantages = gae(**arrays)
    arguments = {name: array for name, array in arrays.items() if name != "values"}
    assert advantages.dtype == lambda_returns(**arguments).dtype == dtype
    assert n_step_returns(**arguments, n=3).dtype == dtype
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, copies[name])


# ---------------------------------------------------------------- explained variance


@many(100)
@given(FRAGMENTS)
def test_explained_variance_is_numpys(fragment):
    values, returns, weights = fragment.values, fragment.next_values, fragment.ones
    kept = weights > 0
    assume(kept.sum() > 1)
    expected = 1 - np.var((returns - values)[kept]) / np.var(returns[kept])
    assert explained_variance(values, returns, weights) == pytest.approx(expected)
    garbage = np.where(kept, 0.0, 1e9)
    assert explained_variance(values - garbage, returns + garbage, weights) == pytest.approx(
        expected
    )


def test_return_metrics_are_numpys():
    fragment = Fragment()
    weights = np.ones_like(fragment.rewards)
    weights[0] = 0.0
    returns, values = fragment.rewards, 0.5 * fragment.rewards + 1.0
    told, real = return_metrics(values, returns, weights), weights > 0
    assert told["return_mean"] == pytest.approx(returns[real].mean())
    assert told["return_std"] == pytest.approx(returns[real].std())
    assert told["advantage_std"] == pytest.approx((returns - values)[real].std())


def test_explained_variance_of_good_and_bad_values():
    returns = Fragment().rewards
    ones = np.ones_like(returns)
    assert explained_variance(returns, returns, ones) == 1.0
    assert explained_variance(returns + 3, returns, ones) == pytest.approx(1.0)  # a bias is free
    assert explained_variance(0 * returns, returns, ones) == 0.0
    assert explained_variance(-returns, returns, ones) == pytest.approx(-3.0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 8), (16, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_explained_variance_is_nan_where_returns_do_not_vary(shape, dtype):
    values = np.linspace(0, 1, np.prod(shape), dtype=dtype).reshape(shape)
    for constant in (0.0, 0.1, 1.7, 98.3, -99.9):  # most of them are no binary fractions
        returns = np.full(shape, constant, dtype)
        assert np.isnan(explained_variance(values, returns, np.ones(shape, np.float32)))


def test_explained_variance_without_a_real_step():
    array = Fragment().rewards
    assert np.isnan(explained_variance(array, array, np.zeros_like(array)))
    one = np.zeros_like(array)
    one[2, 3] = 1
    assert np.isnan(explained_variance(array, array, one))


# ---------------------------------------------------------------- bad input


def test_shapes_are_checked():
    array = np.zeros((4, 2))
    arguments = {"discounts": array, "next_values": array, "lambdas": array}
    for name in arguments:
        wrong = {**arguments, name: np.zeros((4, 1))}
        with pytest.raises(ValueError, match=r"one shape \[T, N\].*\(4, 1\)"):
            lambda_returns(array, **wrong)
        with pytest.raises(ValueError, match=name):
            n_step_returns(array, **wrong, n=2)
        with pytest.raises(ValueError, match=name):
            gae(array, values=array, **wrong)
    with pytest.raises(ValueError, match="values"):
        gae(array, values=np.zeros(4), **arguments)
    with pytest.raises(ValueError, match="one shape"):
        discounted_returns(array, np.zeros((3, 2)), np.zeros(2))


def test_the_axis_of_environments_is_asked_for():
    flat = np.zeros(4)
    with pytest.raises(ValueError, match=r"array\[:, None\]"):
        lambda_returns(flat, flat, flat, flat)
    with pytest.raises(ValueError, match=r"array\[:, None\]"):
        n_step_returns(flat, flat, flat, flat, 2)


@pytest.mark.parametrize("n", [0, -1])
def test_n_is_at_least_one(n):
    array = np.zeros((4, 2))
    with pytest.raises(ValueError, match=f"n must be at least 1. Received: n={n}"):
        n_step_returns(array, array, array, array, n)
