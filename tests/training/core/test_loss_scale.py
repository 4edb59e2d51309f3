"""Loss scaling: overflows are skipped and halve the scale, and what is no overflow is an error."""

import keras
import numpy as np
import pytest
from gradient_steps import (
    SGD,
    Adam,
    B,
    LossScale,
    X,
    Y,
    assert_same,
    assert_unchanged,
    network,
    sequential,
    stateful,
    step_for,
    twins,
    values,
)
from keras import layers


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_overflow_skips_the_update_and_halves_the_scale(jit_compile):
    model, optimizer = network(), LossScale(Adam(0.01), initial_scale=3e38)
    step = step_for(model, optimizer=optimizer, jit_compile=jit_compile)
    before = values(model, optimizer.inner_optimizer)
    metrics = step(X, 100 * Y)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert_unchanged(values(model, optimizer.inner_optimizer), before)
    assert float(optimizer.dynamic_scale) == pytest.approx(1.5e38)


def test_recovery_from_overflow_equals_fit():
    model, reference = twins(stateful)
    ours, keras_own = (LossScale(Adam(0.01), initial_scale=3e38) for _ in range(2))
    step = step_for(model, optimizer=ours)
    reference.compile(keras_own, "mse", run_eagerly=True)
    norms = [(step(X, Y)["grad_norm"], reference.train_on_batch(X, Y))[0] for _ in range(8)]
    assert not np.isfinite(norms[0]) and 0.1 < norms[-1] < 10
    assert_same(values(model, ours), values(reference, keras_own))


def test_loss_scaled_nan_is_an_error_not_an_overflow():
    model, optimizer = network(), LossScale(Adam(0.01))
    step = step_for(model, optimizer=optimizer)
    before = values(model, optimizer)
    with pytest.raises(FloatingPointError, match="loss=nan"):
        step(X, Y * np.nan)
    assert_unchanged(values(model, optimizer), before)


def test_half_precision_activity_regularizer_under_loss_scaling():
    """Keras cannot add up such a loss; here the penalty is taken in single precision."""
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    keras.utils.set_random_seed(0)
    model = sequential(layers.Dense(2, dtype=policy, activity_regularizer="l2"))
    step = step_for(model, optimizer=LossScale(SGD(0.1)))
    half = X.astype(np.float16).astype(np.float32)
    y = half @ model.get_weights()[0]
    penalty = 0.01 * np.sum(y**2) / B
    metrics = step(half, Y)
    assert metrics["penalty"] == pytest.approx(penalty, rel=1e-2)
    assert metrics["loss"] == pytest.approx(np.mean((y - Y) ** 2) + penalty, rel=1e-2)
    assert np.isfinite(metrics["grad_norm"])
