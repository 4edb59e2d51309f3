"""The joined update: the optimizer's own mathematics, and left alone where it is not."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

from vantage.training import compile_step, differentiate
from vantage.training import optimizers as house
from vantage.training.optimizers import build_optimizer

SAME = {
    "sgd": lambda: optimizers.SGD(0.05),
    "momentum": lambda: optimizers.SGD(0.05, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01, rho=0.99, global_clipnorm=0.5),
    "centered": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adam": lambda: optimizers.Adam(0.01, clipvalue=0.1),
    "amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda: optimizers.AdamW(0.01, loss_scale_factor=8.0),
    "schedule": lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
}


def network(*, bias_constraint=None, dtype="float32", width=5):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(width, "tanh", bias_constraint=bias_constraint, dtype=dtype)
    return keras.Sequential([keras.Input((3,)), hidden, layers.Dense(2, dtype=dtype)])


def is_joined(optimizer):
    return optimizer in house._JOINED


def trained(optimizer, monkeypatch, most, updates=6, jit_compile=False):
    """Weights after some steps, joined or not as `most` parameters say."""
    monkeypatch.setattr(house, "MOST_PARAMETERS", most)
    model, generator = network(), np.random.default_rng(0)
    loss = differentiate(lambda y, t: tf.reduce_mean(tf.square(y - t)))
    signature = tf.TensorSpec((8, 3)), tf.TensorSpec((8, 2))
    variables = model.trainable_variables
    step = compile_step(
        model, loss, variables, optimizer, signature, jit_compile=jit_compile, mirror=variables
    )
    assert is_joined(optimizer) == (most > 0)
    for _ in range(updates):
        x, t = generator.normal(size=(8, 3)), 3 * generator.normal(size=(8, 2))
        metrics = step(x.astype(np.float32), t.astype(np.float32))
    for mirrored, variable in zip(step.weights, variables, strict=True):
        np.testing.assert_array_equal(mirrored, variable.numpy())
    return [variable.numpy() for variable in variables], metrics


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_a_joined_update_is_the_plain_one(make, jit_compile, monkeypatch):
    joined, metrics = trained(make(), monkeypatch, 100, jit_compile=jit_compile)
    plain, expected = trained(make(), monkeypatch, 0, jit_compile=jit_compile)
    for a, b in zip(joined, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert metrics == pytest.approx(expected, rel=1e-5)


def excluding():
    optimizer = optimizers.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        excluding,
        lambda: optimizers.Adam(0.01, clipnorm=0.1),
        lambda: optimizers.Adam(0.01, use_ema=True),
        lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
        lambda: optimizers.Lamb(0.01),
        lambda: optimizers.Adafactor(0.01),
        lambda: optimizers.Muon(0.01),
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01)),
        type("Own", (optimizers.Adam,), {}),
    ],
)
def test_what_looks_at_single_variables_is_not_joined(make):
    optimizer, variables = make(), network().trainable_variables
    build_optimizer(optimizer, variables)
    assert optimizer.built and not is_joined(optimizer)


@pytest.mark.parametrize(
    "model",
    [
        lambda: network(bias_constraint="non_neg"),
        lambda: network(dtype="float64"),
        lambda: keras.Sequential([keras.Input((3,)), layers.Embedding(4, 2)]),
        lambda: network(width=20_000),
    ],
    ids=["constraint", "float64", "embedding", "large"],
)
def test_variables_with_rules_of_their_own_are_not_joined(model):
    optimizer = optimizers.Adam()
    build_optimizer(optimizer, model().trainable_variables)
    assert optimizer.built and not is_joined(optimizer)


def test_an_optimizer_that_is_built_keeps_its_slots():
    optimizer, variables = optimizers.Adam(), network().trainable_variables
    optimizer.build(variables)
    build_optimizer(optimizer, variables)
    assert not is_joined(optimizer) and len(optimizer.variables) == 2 + 2 * len(variables)


def test_an_optimizer_serves_one_set_of_variables():
    optimizer, variables = optimizers.Adam(), network().trainable_variables
    build_optimizer(optimizer, variables)
    build_optimizer(optimizer, variables)  # a second step of the same model
    with pytest.raises(ValueError, match="with the variables it was built for. Received: .*kernel"):
        build_optimizer(optimizer, variables[:2])


def test_a_sparse_gradient_is_refused_with_the_way_out():
    table = keras.Variable(np.ones((4, 2), np.float32), name="table")
    words, signature = np.int32([1, 1, 3]), (tf.TensorSpec((3,), tf.int32), ())
    loss = differentiate(lambda y, _: tf.reduce_sum(tf.square(y)))

    def forward(inputs):
        return tf.gather(table.value, inputs)

    with pytest.raises(ValueError, match=r"dense gradients. Received: tf.IndexedSlices.*build"):
        compile_step(forward, loss, [table], optimizers.Adam(), signature)
    optimizer = optimizers.SGD(0.1)
    optimizer.build([table])
    compile_step(forward, loss, [table], optimizer, signature)(words, ())
    np.testing.assert_allclose(table.numpy()[:, 0], [1, 0.6, 1, 0.8], rtol=1e-6)


def test_what_an_optimizer_was_built_on_goes_with_it():
    optimizer = optimizers.Adam()
    build_optimizer(optimizer, network().trainable_variables)
    count = len(house._JOINED)
    del optimizer
    gc.collect()
    assert len(house._JOINED) < count
