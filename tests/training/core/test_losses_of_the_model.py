"""What a loss reads of the model beside its outputs has its gradient, once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from loss_cases import (
    BINARY,
    OTHER,
    RANDOM,
    B,
    X,
    assert_same,
    fitted,
    network,
    sgd,
    squared,
    trained,
)

from vantage.training import (
    GAN,
    Regression,
    Turn,
    compile_step,
    compile_turns,
    differentiate,
    external,
)

ONES = np.ones((B, 4), np.float32)


# --- what else a loss reads -----------------------------------------------------------------------


def slopes(model, points):
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        y = model(points)
    return tape.gradient(y, points)


@tf.function
def square_sum(variables):
    return tf.add_n([tf.reduce_sum(v**2) for v in variables])


READERS = {
    "second_call": lambda m: lambda y, t: squared(y, t) + tf.reduce_mean(m(OTHER) ** 2),
    "slopes": lambda m: lambda y, t: squared(y, t) + tf.reduce_mean(slopes(m, X) ** 2),
    "decay": lambda m: (
        lambda y, t: (
            squared(y, t) + 0.1 * tf.add_n([tf.reduce_sum(v.value**2) for v in m.trainable_weights])
        )
    ),
    "one_layer": lambda m: (
        lambda y, t: squared(y, t) + tf.reduce_sum(tf.abs(m.layers[0].kernel + 0.0))
    ),
    "compiled": lambda m: tf.function(
        lambda y, t: squared(y, t) + tf.reduce_mean(m(tf.constant(OTHER)) ** 2)
    ),
}


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("name", READERS)
def test_what_a_loss_reads_of_the_model_has_its_gradient(name, updates):
    """As one tape over everything gives it: dL/dθ = (∂L/∂y)ᵀ ∂y/∂θ + ∂L/∂θ."""
    expected, model = network(), network()
    loss, optimizer = READERS[name](expected), sgd()
    for _ in range(3):
        with tf.GradientTape() as tape:
            value = loss(expected(X, training=True), tf.constant(BINARY))
        optimizer.apply(
            tape.gradient(value, expected.trainable_weights), expected.trainable_weights
        )
    loss = READERS[name](model)
    if name == "compiled":  # its trace holds the variables themselves
        loss(model(X), tf.constant(BINARY))
    trainer = Regression(model, differentiate(loss), sgd())
    history = trainer.fit(X, BINARY, 3, report_every=updates)
    assert_same(model, expected, 1e-5)
    assert history["loss"].shape == (3,)


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, 2])
@pytest.mark.parametrize("behind", [tf.identity, keras.ops.sigmoid], ids=["itself", "sigmoid"])
def test_a_variable_that_is_an_output_has_its_gradient_once(behind, updates):
    """As the temperature of soft actor-critic is one."""
    theta = keras.Variable(np.array([0.5, -1.0], np.float32), trainable=True)
    loss = (
        keras.losses.BinaryCrossentropy()
        if behind is not tf.identity
        else lambda y, _: tf.reduce_sum(y**2)
    )
    step = compile_step(
        lambda _: behind(theta.value),
        differentiate(loss),
        [theta],
        keras.optimizers.SGD(0.0),
        (tf.TensorSpec((2, 1)), tf.TensorSpec((2,))),
        updates=updates,
    )
    metrics = step(np.zeros((2, 1), np.float32), np.array([1.0, 0.0], np.float32))
    logits = np.array([0.5, -1.0])
    entropies = (1 / (1 + np.exp(-logits)) - [1.0, 0.0]) / 2
    expected = 2 * logits if behind is tf.identity else entropies
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(expected), rtol=1e-5)


SHARED = {
    "twice": lambda z: {"a": z, "b": z},
    "logits_too": lambda z: (z, keras.ops.sigmoid(z)),
    "two_sigmoids": lambda z: (keras.ops.sigmoid(z), keras.ops.sigmoid(z)),
    "one_sigmoid_twice": lambda z: (keras.ops.sigmoid(z),) * 2,
}


def both(y, t):
    """A loss of two outputs, either of them in another way."""
    one, other = tf.nest.flatten(y)
    return squared(one, t) + 3 * tf.reduce_mean(keras.losses.binary_crossentropy(t, other))


def own_gradient(y, t):
    with tf.GradientTape() as tape:
        tape.watch(y)
        value = both(y, t)
    return value, tape.gradient(value, y), {}


def host_both(y, t):
    leaves = [tf.constant(each) for each in tf.nest.flatten(y)]
    with tf.GradientTape() as tape:
        tape.watch(leaves)
        value = both(leaves, t)
    slopes = [slope.numpy() for slope in tape.gradient(value, leaves)]
    return value.numpy(), tf.nest.pack_sequence_as(y, slopes)


LIFTS = {
    "differentiate": differentiate(both),
    "bare": both,
    "own_gradient": own_gradient,
    "external": external(host_both),
}


@pytest.mark.parametrize("lift", LIFTS.values(), ids=LIFTS)
@pytest.mark.parametrize("pack", SHARED.values(), ids=SHARED)
def test_outputs_that_share_a_tensor_have_its_gradient_once(pack, lift):
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    model = keras.Model(x, pack(layers.Dense(1)(x)))
    with tf.GradientTape() as tape:
        value = both(model(X, training=True), tf.constant(BINARY))
    slopes = tape.gradient(value, model.trainable_variables)
    history = Regression(model, lift, keras.optimizers.SGD(0.0)).fit(X, BINARY, 1)
    np.testing.assert_allclose(history["loss"], [value], rtol=1e-5)
    np.testing.assert_allclose(history["grad_norm"], [tf.linalg.global_norm(slopes)], rtol=1e-5)


def averaging():
    """A model with averages, and a look at it that uses them."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(momentum=0.5)]
    )
    return model, lambda: tf.reduce_mean(model(tf.constant(OTHER), training=False) ** 2)


def looking(model, *looks):
    """An update for each look, on an output that learns nothing."""
    turns = {
        f"turn{k}": Turn(
            lambda x: model(x, training=True),
            differentiate(lambda y, _, look=look: 0.0 * tf.reduce_sum(y) + look()),
            model.trainable_variables,
            keras.optimizers.SGD(0.0),
        )
        for k, look in enumerate(looks)
    }
    specs = tf.TensorSpec(X.shape), ()
    if len(turns) == 1:
        return compile_step(*turns["turn0"], specs)
    return compile_turns(turns, specs)


@pytest.mark.parametrize("compiles", [lambda look: look, tf.function], ids=["plain", "compiled"])
def test_a_loss_reads_the_averages_that_its_forward_pass_has_updated(compiles):
    """As in `fit`, if it is compiled for the first time within the step."""
    expected, look = averaging()
    expected(X, training=True)
    model, again = averaging()
    metrics = looking(model, compiles(again))(X, ())
    np.testing.assert_allclose(metrics["loss"], look(), rtol=1e-5)


def test_a_compiled_function_that_holds_averages_of_before_is_refused():
    """Traced before the step it holds the variables, traced in an earlier turn that turn's values.

    In a branch, too. One that reads other variables is left.
    """
    refused = "must not be read by .*earlier.*batch_normal.*/moving_.*Leave out @tf.func"
    model, look = averaging()
    before = model.get_weights()
    early, late, kernel = map(tf.function, (look, look, lambda: tf.norm(model.layers[0].kernel)))
    early(), kernel()
    branch = lambda: tf.cond(kernel() > 0, early, lambda: 0.0)  # noqa: E731
    for looks in ([early], [branch], [look, early], [late, late]):
        with pytest.raises(ValueError, match=refused):
            looking(model, *looks)
    judge = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dense(1)])
    judging = tf.function(lambda: tf.reduce_mean(judge(tf.constant(ONES), training=False)))
    judging()
    loss = lambda real, fake: tf.reduce_mean(fake - real) + judging()  # noqa: E731
    gan = GAN(model, judge, sgd(), sgd(), discriminator_loss=loss, batch_size=B)
    with pytest.raises(ValueError, match=refused):
        gan.step(ONES)
    assert all(map(np.array_equal, before, model.get_weights()))
    looking(model, kernel, kernel)(X, ())


def test_penalties_of_a_second_call_are_added_once():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, activity_regularizer="l2")])
    loss = lambda y, t: squared(y, t) + 0.0 * tf.reduce_mean(model(OTHER))  # noqa: E731
    history = Regression(model, differentiate(loss), keras.optimizers.SGD(0.0)).fit(X, BINARY, 1)
    once = Regression(model, differentiate(squared), keras.optimizers.SGD(0.0)).fit(X, BINARY, 1)
    np.testing.assert_allclose(history["penalty"], once["penalty"], rtol=1e-6)


def test_a_loss_of_the_model_alone_is_not_sent_to_numpy():
    model = network()
    for loss in (
        lambda y, t: tf.reduce_mean(slopes(model, X) ** 2),
        lambda y, t: tf.reduce_mean(t**2),
    ):
        with pytest.raises(ValueError, match="ignores them") as error:
            trained(differentiate(loss), BINARY, model)
        assert "external" not in str(error.value)


def test_the_gradient_of_a_frozen_model_in_the_loss():
    keras.utils.set_random_seed(1)
    frozen = keras.Sequential([keras.Input((1,)), layers.Dense(3, "tanh")])
    loss = lambda y, t: tf.reduce_mean((frozen(y) - frozen(t)) ** 2)  # noqa: E731
    before = frozen.get_weights()
    expected = fitted(lambda t, y: loss(y, t), BINARY, network())
    assert_same(trained(differentiate(loss), BINARY, network()), expected)
    assert all(map(np.array_equal, before, frozen.get_weights()))


# --- masks ----------------------------------------------------------------------------------------

WORDS = np.where(np.arange(6) < RANDOM.integers(2, 6, (40, 1)), RANDOM.integers(1, 9, (40, 6)), 0)
LABELS = np.where(WORDS == 0, 2, WORDS % 3)  # wrong where there is no word


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_loss_sees_the_mask_of_the_outputs(policy):
    """Also in half precision, and in a validation, in parts or not: 40 examples are two parts."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((6,), dtype="int32")])
        model.add(layers.Embedding(9, 4, mask_zero=True))
        model.add(layers.Dense(3))
    finally:
        keras.config.set_dtype_policy("float32")
    logits = np.asarray(model(WORDS), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = -np.take_along_axis(log_p, LABELS[..., None], -1)[..., 0][WORDS > 0].mean()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for each in (loss, "sparse_categorical_crossentropy", lambda y, t: loss(t, y)):
        if isinstance(each, str):
            continue  # of probabilities
        trainer = Regression(model, differentiate(each), keras.optimizers.SGD(0.0))
        for count in (8, 40):
            data = WORDS[:count], LABELS[:count]
            history = trainer.fit(WORDS, LABELS, 1, validation=data)
            np.testing.assert_allclose(history["loss"], right, rtol=2e-2)
        np.testing.assert_allclose(history["validation_loss"], right, rtol=2e-2)
