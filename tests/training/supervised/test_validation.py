"""The loss of validation is that of inference, as in Keras, and changes nothing in the training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from regressions import (
    Always,
    B,
    M,
    X,
    Y,
    assert_same_weights,
    host_mse,
    mse,
    network,
    noisy,
    regression,
    scalars,
)

from vantage.training import (
    Regression,
    differentiate,
    estimated,
    external,
)
from vantage.training.supervised import inference


@pytest.mark.parametrize("lift", [differentiate(mse), external(host_mse)], ids=["tf", "host"])
def test_the_validation_loss_is_that_of_inference(lift, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5), layers.Dense(2)])
    trainer = Regression(model, lift, keras.optimizers.SGD(0.1), jit_compile=False)
    seen = []
    history = trainer.fit(
        X[:6],
        Y[:6],
        5,
        report_every=2,
        validation=(X[6:], Y[6:]),
        callbacks=[lambda epoch, metrics: seen.append((epoch, metrics["validation_loss"]))],
        logdir=tmp_path,
    )
    assert [epoch for epoch, _ in seen] == [2, 4, 5]
    assert [loss for _, loss in seen] == history["validation_loss"].tolist()
    expected = np.mean((trainer.predict(X[6:]) - Y[6:]) ** 2)
    assert history["validation_loss"][-1] == pytest.approx(expected, rel=1e-5)
    points = scalars(tmp_path)["validation/loss"]
    assert [(p.step, p.value) for p in points] == [(e, pytest.approx(v)) for e, v in seen]


def test_an_error_of_a_host_loss_in_validation_reaches_the_caller():
    def loss(y, targets):
        if len(y) == 4:
            raise RuntimeError("out of order")
        return host_mse(y, targets)

    with pytest.raises(RuntimeError, match="^out of order$"):
        regression(external(loss)).fit(X, Y, 1, validation=(X[:4], Y[:4]))


def test_looks_and_validation_do_not_change_what_is_learnt(tmp_path):
    plain, busy = regression(batch_size=M), regression(batch_size=M)
    expected = plain.fit(X, Y, 12, report_every=2)
    history = busy.fit(X, Y, 12, report_every=2, validation=(X[:5], Y[:5]), logdir=tmp_path)
    np.testing.assert_array_equal(history["loss"], expected["loss"])
    for a, b in zip(plain.model.get_weights(), busy.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def score(y, targets):
    return ((y - targets) ** 2).mean(1)


@pytest.mark.parametrize(
    ("model", "lift"),
    [
        (network, lambda: estimated(score, samples=2)),  # whose perturbations are drawn
        (lambda: noisy(Always), lambda: differentiate(mse)),  # whose Dropout is drawn in inference
    ],
    ids=["estimated", "dropout in inference"],
)
def test_validation_and_looks_draw_nothing_from_the_training(model, lift, tmp_path):
    trainers = [
        Regression(model(), lift(), keras.optimizers.Adam(0.01), jit_compile=False)
        for _ in range(2)
    ]
    expected = trainers[0].fit(X, Y, 8, report_every=2)
    more = {"validation": (X[:5], Y[:5]), "logdir": tmp_path}
    history = trainers[1].fit(X, Y, 8, report_every=2, **more)
    np.testing.assert_array_equal(history["loss"], expected["loss"])
    for a, b in zip(*(trainer.model.get_weights() for trainer in trainers), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_validation_loss_of_a_score_is_a_function_of_the_weights():
    still = keras.optimizers.Adam(0.0)
    trainer = Regression(network(), estimated(score, samples=2), still, jit_compile=False)
    losses = trainer.fit(X, Y, 6, validation=(X, Y))["validation_loss"]
    assert (losses == losses[0]).all()


class Penalised(layers.Layer):
    """Adds a loss that depends on the examples."""

    def call(self, inputs):
        self.add_loss(0.1 * tf.reduce_mean(inputs**2))
        return inputs


def with_penalties():
    keras.utils.set_random_seed(3)
    parts = [keras.Input((3,)), layers.Dense(4, "tanh", kernel_regularizer="l2"), Penalised()]
    parts += [layers.Dense(2, activity_regularizer="l1"), layers.Dense(2, bias_regularizer="l1")]
    return keras.Sequential(parts)


@pytest.mark.parametrize("examples", [B, 100], ids=["one call", "several calls"])
def test_the_validation_loss_holds_the_penalties_as_in_keras(examples, monkeypatch):
    monkeypatch.setattr(inference, "MOST_BYTES", 0)  # 32 examples a call
    x = np.random.default_rng(1).normal(size=(examples, 3)).astype(np.float32)
    y = np.random.default_rng(2).normal(size=(examples, 2)).astype(np.float32)
    expected = with_penalties()
    expected.compile(keras.optimizers.SGD(0.0), "mse")
    expected.fit(X, Y, batch_size=B, verbose=0)
    trainer = Regression(with_penalties(), differentiate(mse), keras.optimizers.SGD(0.0))
    history = trainer.fit(X, Y, 1, validation=(x, y))
    judged = expected.evaluate(x, y, batch_size=examples, verbose=0)
    assert history["validation_loss"][0] == pytest.approx(judged, rel=1e-5)
    assert history["penalty"][0] > 0.01


ENDS = {
    "sigmoid": (lambda: layers.Dense(1, "sigmoid"), keras.losses.BinaryCrossentropy),
    "softmax": (lambda: layers.Dense(2, "softmax"), keras.losses.SparseCategoricalCrossentropy),
    "own_layer": (lambda: layers.Lambda(tf.sigmoid), keras.losses.BinaryCrossentropy),
}


@pytest.mark.thinned
@pytest.mark.parametrize("examples", [B, 100], ids=["one call", "several calls"])
@pytest.mark.parametrize(("end", "loss"), ENDS.values(), ids=ENDS)
def test_cross_entropies_are_validated_on_the_logits_as_in_keras(end, loss, examples, monkeypatch):
    """Probabilities that are 1 in single precision would be cut, and have no gradient."""
    monkeypatch.setattr("vantage.training.supervised.inference.MOST_BYTES", 1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1), end()])
    x = 1_000 * np.random.default_rng(0).choice([-1, 1], (examples, 1)).astype(np.float32)
    t = (np.asarray(model(x))[:, -1:] < 0.5).astype(np.float32)  # the model is sure, and wrong
    model.compile("sgd", loss())
    expected = model.evaluate(x, t, batch_size=examples, verbose=0)
    trainer = Regression(model, loss(), keras.optimizers.SGD(0.0))
    history = trainer.fit(x, t, 1, validation=(x, t))
    assert expected > 17  # -log of 1e-7, to which Keras cuts probabilities
    np.testing.assert_allclose(history["validation_loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("end", "loss"),
    [
        (tf.nn.softmax, keras.losses.BinaryCrossentropy()),
        (tf.sigmoid, keras.losses.CategoricalCrossentropy()),
    ],
)
def test_a_cross_entropy_of_another_kind_sees_the_probabilities_as_in_keras(end, loss):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Lambda(end)])
    targets = np.eye(2, dtype=np.float32)[np.arange(B) % 2]
    model.compile("sgd", loss)
    expected = model.evaluate(X, targets, batch_size=B, verbose=0)
    trainer = Regression(model, loss, keras.optimizers.SGD(0.0))
    history = trainer.fit(X, targets, 1, validation=(X, targets))
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(history["validation_loss"], [expected], rtol=1e-5)


class Drawing:
    """A loss that counts its calls and draws."""

    def __init__(self):
        self.seeds, self.calls = keras.random.SeedGenerator(3), tf.Variable(0)

    def __call__(self, y, t):
        self.calls.assign_add(1)
        return tf.reduce_mean((y - t + keras.random.normal(y.shape, seed=self.seeds)) ** 2)


def test_validation_moves_nothing_that_the_loss_holds():
    losses, models = [Drawing() for _ in range(3)], [network() for _ in range(3)]
    options = {}, {"validation": (X[:4], Y[:4])}, {"validation": (X[:4], Y[:4]), "report_every": 2}
    for loss, model, each in zip(losses, models, options, strict=True):
        trainer = Regression(model, loss, keras.optimizers.SGD(0.1), batch_size=M)
        trainer.fit(X, Y, 4, **each)
    for loss, model in zip(losses[1:], models[1:], strict=True):
        assert loss.calls.numpy() == losses[0].calls.numpy() > 0
        np.testing.assert_array_equal(loss.seeds.state.numpy(), losses[0].seeds.state.numpy())
        assert_same_weights(model, models[0])


def test_half_precision_is_validated_in_single_precision():
    parts = [keras.Input((3,)), layers.Dense(2, dtype="mixed_float16")]
    trainer = Regression(keras.Sequential(parts), differentiate(mse), keras.optimizers.SGD(0.0))
    history = trainer.fit(X, Y, 1, validation=(X, Y))
    assert history["validation_loss"][0] == pytest.approx(history["loss"][0], rel=1e-5)
