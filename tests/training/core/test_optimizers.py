"""The joined update: the optimizer's own mathematics, and left alone where it is not."""

from __future__ import annotations

import gc
import re
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

from vantage.training import (
    Turn,
    compile_step,
    compile_turns,
    differentiate,
    external,
)
from vantage.training.core import optimizers as house
from vantage.training.core.loss_scale import LossScale
from vantage.training.core.optimizers import build_optimizer
from vantage.training.core.turns import Average

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


def is_joined(optimizer, variables):
    return house.Joined.of(optimizer, variables) is not None


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
    assert is_joined(optimizer, variables) == (most > 0)
    for _ in range(updates):
        x, t = generator.normal(size=(8, 3)), 3 * generator.normal(size=(8, 2))
        metrics = step(x.astype(np.float32), t.astype(np.float32))
    for mirrored, variable in zip(step.weights, variables, strict=True):
        np.testing.assert_array_equal(mirrored, variable.numpy())
    return [variable.numpy() for variable in variables], metrics


@pytest.mark.parametrize(
    ("make", "jit_compile"),
    [
        *(pytest.param(make, False, id=f"{name}-graph") for name, make in SAME.items()),
        pytest.param(SAME["adamw"], True, id="adamw-xla"),
        *(
            pytest.param(make, True, id=f"{name}-xla", marks=pytest.mark.slow)
            for name, make in SAME.items()
            if name != "adamw"
        ),
    ],
)
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
    assert optimizer.built and not is_joined(optimizer, variables)


@pytest.mark.parametrize(
    "model",
    [
        lambda: network(bias_constraint="non_neg"),
        lambda: network(dtype="float64"),
        lambda: network(width=20_000),
    ],
    ids=["constraint", "float64", "large"],
)
def test_variables_with_rules_of_their_own_are_not_joined(model):
    optimizer, variables = optimizers.Adam(), model().trainable_variables
    build_optimizer(optimizer, variables)
    assert optimizer.built and not is_joined(optimizer, variables)


def test_an_optimizer_that_is_built_keeps_its_slots():
    optimizer, variables = optimizers.Adam(), network().trainable_variables
    optimizer.build(variables)
    build_optimizer(optimizer, variables)
    assert not is_joined(optimizer, variables) and len(optimizer.variables) == 2 + 2 * len(
        variables
    )


def test_an_optimizer_serves_the_variables_it_was_built_for():
    optimizer, variables = optimizers.Adam(), network().trainable_variables
    build_optimizer(optimizer, variables)
    build_optimizer(optimizer, variables[:2])  # a second step, while the others are frozen
    with pytest.raises(ValueError, match="with the variables it was built for. Received: .*kernel"):
        build_optimizer(optimizer, network().trainable_variables)


@pytest.mark.thinned
@pytest.mark.parametrize("name", ["table", "embeddings"])
@pytest.mark.parametrize("rows", [4, 9_000], ids=["small", "large"])
def test_a_sparse_gradient_is_known_by_its_kind(name, rows):
    table = keras.Variable(np.ones((rows, 2), np.float32), name=name)
    words, signature = np.int32([1, 1, 3]), (tf.TensorSpec((3,), tf.int32), ())
    loss = differentiate(lambda y, _: tf.reduce_sum(tf.square(y)))

    def forward(inputs):
        return tf.gather(table.value, inputs)

    for jit_compile in (False, True):
        table.assign(tf.ones_like(table))
        optimizer = optimizers.SGD(0.1, momentum=0.0)
        step = compile_step(forward, loss, [table], optimizer, signature, jit_compile=jit_compile)
        metrics = step(words, ())
        np.testing.assert_allclose(table.numpy()[:4, 0], [1, 0.6, 1, 0.8], rtol=1e-6)
        # Rows that occur twice are added up: g = 4, 4, 2, 2.
        assert metrics["grad_norm"] == pytest.approx(np.sqrt(2 * 16 + 2 * 4), rel=1e-6)


def squared(y, t):
    return tf.reduce_mean(tf.square(y - t))


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, 3])
@pytest.mark.parametrize("reads", [False, True], ids=["forward", "read_by_the_loss"])
def test_a_sparse_gradient_is_scaled_and_unscaled(reads, updates):
    def trained(factor):
        keras.utils.set_random_seed(0)
        embedding = layers.Embedding(100, 2)
        model = keras.Sequential([embedding, layers.Flatten(), layers.Dense(2)])
        model.build((8, 3))

        def loss(y_true, y_pred):
            read = tf.gather(embedding.embeddings, [1, 2, 1])
            return squared(y_pred, y_true) + reads * tf.reduce_sum(tf.square(read))

        return model, loss, optimizers.SGD(0.1, momentum=0.9, loss_scale_factor=factor)

    words = np.arange(24, dtype=np.int32).reshape(8, 3) % 7
    model, loss, optimizer = trained(8.0)
    specs = tf.TensorSpec((8, 3), tf.int32), tf.TensorSpec((8, 2))
    step = compile_step(model, loss, model.trainable_variables, optimizer, specs, updates=updates)
    for _ in range(1 if updates else 3):
        step(words, T)
    assert optimizer.loss_scale_factor == 8.0
    keras_model, loss, optimizer = trained(None)  # Keras itself cannot divide sparse gradients
    keras_model.compile(optimizer, loss)
    keras_model.fit(words, T, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), keras_model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


X, T = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
T = T[:, :2]
SPECS = tf.TensorSpec((8, 3)), tf.TensorSpec((8, 2))


def stepped(make, updates, **options):
    model, optimizer = network(), make()
    variables = model.trainable_variables
    step = compile_step(model, differentiate(squared), variables, optimizer, SPECS, **options)
    for _ in range(updates):
        step(X, T)
    return model, optimizer, step


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_the_slots_look_like_those_of_keras(make):
    """Names, order, shapes and values, of an optimizer that never heard of a joined update."""
    model, optimizer, _ = stepped(make, 5)
    twin, reference = network(), make()
    reference.build(twin.trainable_variables)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = reference.scale_loss(squared(twin(X), T))
        gradients = tape.gradient(loss, twin.trainable_variables)
        reference.apply(gradients, twin.trainable_variables)
    names = [[re.sub(r"_?\d+", "", v.path) for v in o.variables] for o in (optimizer, reference)]
    assert names[0] == names[1]
    for a, b in zip(optimizer.variables, reference.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


def test_slots_that_are_read_or_set_by_whichever_way_are_the_truth():
    _, optimizer, step = stepped(lambda: optimizers.SGD(0.1, momentum=0.9), 3)
    slot = optimizer.momentums[0]
    raw = slot.value  # from now on it may be read and written without a word
    before = raw.numpy()
    assert np.abs(before).max() > 0
    step(X, T)
    assert np.abs(raw.numpy() - before).max() > 0
    np.testing.assert_array_equal(raw.numpy(), np.asarray(slot))
    for zero in (raw.assign, slot.assign):
        model, expected, other = stepped(lambda: optimizers.SGD(0.1, momentum=0.9), 4)
        other_slot = expected.momentums[0]
        (other_slot.value.assign if zero == raw.assign else other_slot.assign)(tf.zeros(slot.shape))
        weights = [w.copy() for w in model.get_weights()]
        other(X, T)
        rate_times_gradient = weights[0] - model.get_weights()[0]
        np.testing.assert_allclose(-other_slot.numpy(), rate_times_gradient, rtol=1e-3, atol=1e-6)


def test_steps_of_one_optimizer_share_its_slots():
    """Frozen and unfrozen, many updates and one: each goes on from where the other stopped."""
    make = lambda: optimizers.Adam(0.05)  # noqa: E731
    model, _, _ = stepped(make, 9)
    other, optimizer, step = stepped(make, 4)
    variables = other.trainable_variables
    three = compile_step(other, differentiate(squared), variables, optimizer, SPECS, updates=3)
    three(X, T)
    step(X, T)
    step(X, T)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    some = compile_step(other, differentiate(squared), variables[2:], optimizer, SPECS)
    kept = [v.numpy() for v in optimizer.variables]
    frozen = variables[0].numpy()
    some(X, T)
    np.testing.assert_array_equal(variables[0].numpy(), frozen)
    same = [np.array_equal(a, v.numpy()) for a, v in zip(kept, optimizer.variables, strict=True)]
    assert same == [False, True] + 4 * [True] + 4 * [False]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras, as it saves a model
def test_fit_before_and_after_goes_on_with_the_same_optimizer(tmp_path):
    def fit(model, epochs):
        model.fit(X, T, batch_size=8, shuffle=False, epochs=epochs, verbose=0)

    reference = network()
    reference.compile(optimizers.Adam(0.02), "mse")
    fit(reference, 12)
    model, optimizer, step = stepped(lambda: optimizers.Adam(0.02), 3)
    model.compile(optimizer, "mse")
    fit(model, 3)
    for _ in range(2):
        step(X, T)
    fit(model, 2)  # compiled already: nobody asks for its slots
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    variables, optimizer = model.trainable_variables, model.optimizer
    step = compile_step(model, differentiate(squared), variables, optimizer, SPECS)
    for _ in range(2):
        step(X, T)
    for a, b in zip(reference.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_an_optimizer_and_its_twins_are_forgotten_together():
    _, optimizer, step = stepped(optimizers.Adam, 1)
    alive = weakref.ref(optimizer)
    del optimizer, step
    gc.collect()
    assert alive() is None


def failing_host(at):
    calls = []

    def loss(y, t):
        calls.append(1)
        if len(calls) == at:
            raise ConnectionError("simulator")
        return np.mean((y - t) ** 2), 2 * (y - t) / y.size

    return external(loss)


def asserting(y, t):
    """An assertion that the loss does not wait for."""
    tf.debugging.assert_less(tf.reduce_max(t), 100.0)
    return squared(y, t)


def everything(model, optimizer):
    return [v.numpy() for v in (*model.variables, *optimizer.variables)]


OPTIMIZERS = {
    "joined": lambda: optimizers.Adam(0.02),
    "schedule": lambda: optimizers.SGD(
        optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9
    ),
    "averages": lambda: optimizers.Adam(0.02, use_ema=True),
    "accumulating": lambda: optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.02)),
    "plain": lambda: optimizers.Lion(0.02),
}


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, 3])
@pytest.mark.parametrize("failure", ["host", "assertion", "label"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_refused_update_leaves_no_trace(make, failure, updates):
    """Neither one that fails halfway nor, of whichever optimizer, one that is not finite."""
    model, optimizer = network(), make()
    model = keras.Sequential([*model.layers, layers.BatchNormalization(), layers.Dropout(0.2)])
    lift = failing_host(5) if failure == "host" else differentiate(asserting)
    specs, bad, target = SPECS, T + 1000, T
    if failure == "label":
        specs = (SPECS[0], tf.TensorSpec((8,), tf.int32))
        target, bad = np.zeros(8, np.int32), np.full(8, 9, np.int32)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        lift = differentiate(lambda y, t: tf.reduce_mean(entropy(t, y)))
    variables = model.trainable_variables
    step = compile_step(
        model, lift, variables, optimizer, specs, updates=updates, jit_compile=False
    )
    for _ in range(1 if updates else 4):
        step(X, target)
    before = everything(model, optimizer)
    with pytest.raises((ConnectionError, tf.errors.InvalidArgumentError)):
        step(X, bad)
    for a, b in zip(before, everything(model, optimizer), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FloatingPointError):
        step(X * np.nan, target)
    for a, b in zip(before, everything(model, optimizer), strict=True):
        np.testing.assert_array_equal(a, b)
    step(X, target)
    assert int(optimizer.iterations) > (0 if updates else 1)


def test_turns_fail_together():
    """The first of two players has made its update when the second one fails."""
    first, second = network(), network()
    adam = [optimizers.Adam(0.02) for _ in range(2)]
    turns = {
        "first": Turn(first, differentiate(squared), first.trainable_variables, adam[0]),
        "second": Turn(second, differentiate(asserting), second.trainable_variables, adam[1]),
    }
    follower = keras.Variable(np.zeros((3, 5), np.float32))
    average = Average([follower], [first.trainable_variables[0]], 0.5)
    step = compile_turns(turns, SPECS, averages=[average], jit_compile=False)
    step(X, T)
    models = list(zip((first, second), adam, strict=True))
    before = [*everything(*models[0]), *everything(*models[1]), follower.numpy()]
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(X, T + 1000)
    after = [*everything(*models[0]), *everything(*models[1]), follower.numpy()]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_turns_do_not_share_an_optimizer():
    model, adam = network(), optimizers.Adam()
    turn = Turn(model, differentiate(squared), model.trainable_variables, adam)
    with pytest.raises(ValueError, match="optimizer of its own. Received: the same one for a, b"):
        compile_turns({"a": turn, "b": turn}, SPECS)


@pytest.mark.thinned
@pytest.mark.parametrize("make", [lambda: optimizers.SGD(0.5), lambda: optimizers.Lion(0.01)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_half_precision_is_scaled(make, jit_compile):
    """A mean over many outputs: each gradient is below what float16 can hold."""
    x = np.random.default_rng(0).uniform(size=(64, 2)).astype(np.float32)
    specs = tf.TensorSpec((64, 2)), tf.TensorSpec((64, 2))

    def tiny(y, t):
        return 1e-7 * squared(y, t)

    norms = {}
    for dtype in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2, dtype=dtype)])
        optimizer, loss = make(), differentiate(tiny)
        variables = model.trainable_variables
        step = compile_step(model, loss, variables, optimizer, specs, jit_compile=jit_compile)
        norms[dtype] = step(x, x + 3)["grad_norm"]
    assert norms["mixed_float16"] == pytest.approx(norms["float32"], rel=0.02)


def test_an_overflow_halves_the_scale_and_a_bad_loss_changes_nothing():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="mixed_float16")])
    optimizer, variables = optimizers.SGD(1e-6), model.trainable_variables
    step = compile_step(model, differentiate(squared), variables, optimizer, SPECS)
    scale = LossScale.of(optimizer)
    before = everything(model, optimizer)
    assert not np.isfinite(step(X, T + 500)["grad_norm"])
    assert scale.factor.numpy() == 2.0**14
    for a, b in zip(before, everything(model, optimizer), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FloatingPointError):
        step(X, T * np.nan)
    assert scale.factor.numpy() == 2.0**14
    step(X, T)
    assert int(optimizer.iterations) == 1 and int(scale.updates.numpy()) == 1
