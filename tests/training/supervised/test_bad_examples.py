"""Examples that are not finite: which they are, and updates that are skipped."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from regressions import B, M, X, Y, host_mse, mse, network, regression, scalars

from vantage.training import (
    Regression,
    compile_step,
    differentiate,
    external,
)


def test_a_loss_that_is_not_finite_says_after_how_many_epochs(tmp_path):
    calls = []

    def loss(y, targets):
        calls.append(1)
        return (np.nan if len(calls) == 6 else 1.0), np.zeros_like(y)

    trainer = regression(external(loss))
    with pytest.raises(FloatingPointError, match="After 4 epochs: .*update 2 of 4"):
        trainer.fit(X, Y, epochs=8, report_every=4, logdir=tmp_path)
    assert len(scalars(tmp_path)["train/loss"]) == 4  # what was trained is on disk


@pytest.mark.parametrize("batch_size", [None, M])
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_the_example_that_is_not_finite_is_named(where, batch_size):
    x, y = X.copy(), Y.copy()
    {"inputs": x, "targets": y}[where][7, 1] = np.inf
    with pytest.raises(
        FloatingPointError, match=f"the {where} hold inf in example 7, and 1 of"
    ) as e:
        regression(batch_size=batch_size).fit(x, y, epochs=4)
    assert f"1 of {batch_size or B} examples" in str(e.value) and "learning rate" not in str(
        e.value
    )


def test_the_part_that_is_not_finite_is_named():
    model = keras.Model({"a": (a := keras.Input((3,), name="a"))}, layers.Dense(2)(a))
    y = {"p": Y, "q": np.where(np.arange(B)[:, None] == 3, np.nan, Y)}
    loss = differentiate(lambda y, targets: tf.reduce_mean((y - targets["p"] * targets["q"]) ** 2))
    trainer = Regression(model, loss, keras.optimizers.SGD(0.1), jit_compile=False)
    with pytest.raises(FloatingPointError, match=r"the targets \(part 1\) hold nan in example 3"):
        trainer.fit({"a": X}, y, 1)


def test_examples_of_a_bad_update_are_named_where_all_are_finite():
    """The logarithm of a negative number: the first minibatch that holds it is refused."""
    targets = np.ones((B, 2), np.float32)
    targets[7] = -1
    loss = differentiate(lambda y, t: tf.reduce_mean((y - tf.math.log(t)) ** 2))
    with pytest.raises(FloatingPointError, match="targets are finite: .*, in examples (.*)") as e:
        regression(loss, batch_size=M).fit(X, targets, epochs=4, report_every=4)
    listed = re.search("in examples ([0-9, ]+)", str(e.value))[1].split(", ")
    assert "7" in listed and len(listed) == M


def test_an_exception_of_the_loss_reaches_the_caller():
    def loss(y, targets):
        raise RuntimeError("the simulator is out of order")

    with pytest.raises(RuntimeError, match="^the simulator is out of order$"):
        regression(external(loss)).fit(X, Y, epochs=2)


def bad_at(*updates):
    """A host loss whose value is NaN in these of its calls, from 1."""
    calls = []

    def loss(y, t):
        calls.append(1)
        value, gradient, metrics = host_mse(y, t)
        return (np.nan if len(calls) in updates else value), gradient, metrics

    return external(loss)


@pytest.mark.parametrize("bad", [(2,), (1, 2, 3), (4,), (3, 4, 6), (9,)])
def test_a_skipped_update_is_as_if_its_minibatch_did_not_exist(bad):
    """Against a loop of single updates over the same minibatches without the bad ones."""
    trainer = regression(bad_at(*bad), batch_size=M, seed=5)  # 3 updates an epoch
    history = trainer.fit(X, Y, 3, report_every=3, on_bad_numbers="skip")
    twin = Regression(network(), external(host_mse), keras.optimizers.Adam(0.01), seed=5)
    model, generator = twin.model, np.random.default_rng(5)
    optimizer, steps = keras.optimizers.Adam(0.01), {}
    for size in (M, B % M):
        specs = tf.TensorSpec((size, 3)), tf.TensorSpec((size, 2))
        arguments = external(host_mse), model.trainable_variables, optimizer, specs
        steps[size] = compile_step(model, *arguments)
    losses, sizes = np.full((3, 3), np.nan), np.array([M, M, B % M])
    for epoch in range(3):
        order = generator.permutation(B)
        for k in range(3):
            rows = order[M * k : M * k + M]
            if 3 * epoch + k + 1 not in bad:
                losses[epoch, k] = steps[len(rows)](X[rows], Y[rows])["loss"]
    for a, b in zip(trainer.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with np.errstate(all="ignore"):
        skipped = np.isnan(losses)
        means = (np.where(skipped, 0, losses) * sizes).sum(1) / (~skipped * sizes).sum(1)
    np.testing.assert_array_equal(history["bad_updates"], skipped.sum(1))
    np.testing.assert_allclose(history["loss"], means, rtol=1e-6)
    assert len(history["bias"]) == 3 and trainer.epochs == 3


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_bad_examples_are_skipped_in_compiled_calls(jit_compile):
    targets = Y.copy()
    targets[3] = np.nan
    loss, optimizer = differentiate(mse), keras.optimizers.Adam(0.01)
    options = {"jit_compile": jit_compile, "batch_size": 1, "seed": 2}
    skipping = Regression(network(), loss, optimizer, **options)
    history = skipping.fit(X, targets, 4, report_every=2, on_bad_numbers="skip")
    np.testing.assert_array_equal(history["bad_updates"], [1, 1, 1, 1])
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in skipping.model.get_weights())
    assert int(optimizer.iterations) == 4 * (B - 1)


def test_what_may_be_skipped_has_a_limit():
    trainer = regression(bad_at(2, 5, 8), batch_size=M)
    with pytest.raises(FloatingPointError, match="After 2 epochs: .* number 3; 2 may be skipped"):
        trainer.fit(X, Y, 4, on_bad_numbers="skip", bad_numbers_limit=2)
    with pytest.warns(UserWarning, match="Skipped update 1 of the fit. After 0 epochs: The loss"):
        history = regression(bad_at(2), batch_size=M).fit(X, Y, 2, on_bad_numbers="warn")
    np.testing.assert_array_equal(history["bad_updates"], [1, 0])
    with pytest.raises(FloatingPointError, match='Or pass on_bad_numbers="skip" to fit'):
        regression(bad_at(2), batch_size=M).fit(X, Y, 2)
    assert "bad_updates" not in regression().fit(X, Y, 1)


def test_policies_and_limits_are_checked():
    with pytest.raises(ValueError, match="on_bad_numbers must be .*Received: 'ignore'"):
        regression().fit(X, Y, 1, on_bad_numbers="ignore")
    with pytest.raises(ValueError, match="bad_numbers_limit must be at least 0. Received: -1"):
        regression().fit(X, Y, 1, bad_numbers_limit=-1)
