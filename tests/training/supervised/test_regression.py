"""Regression against Keras's own training; when it stops; what it keeps frozen and averaged."""

import itertools
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from regressions import (
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
    LBFGS,
    SAM,
    Regression,
    differentiate,
    estimated,
    external,
    given,
)


@pytest.mark.parametrize("lift", [differentiate(mse), external(host_mse)], ids=["tf", "host"])
def test_full_batches_train_as_keras_fit(lift):
    expected = network()
    expected.compile(keras.optimizers.Adam(0.01), "mse")
    losses = expected.fit(X, Y, epochs=12, batch_size=B, shuffle=False, verbose=0).history["loss"]
    trainer = regression(lift)
    history = trainer.fit(X, Y, epochs=12, report_every=6)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    assert set(history) == {"loss", "grad_norm", "bias"}
    assert all(values.shape == (12,) for values in history.values())
    assert_same_weights(trainer.model, expected)


def test_minibatches_are_those_of_a_fresh_permutation_each_epoch():
    expected, generator = network(), np.random.default_rng(5)
    expected.compile(keras.optimizers.Adam(0.01), "mse")
    losses = np.zeros((6, 3))
    for epoch in range(6):
        for k, batch in enumerate(np.split(generator.permutation(B), [M, 2 * M])):
            losses[epoch, k] = mse(expected(X[batch]), Y[batch])[0]
            expected.train_on_batch(X[batch], Y[batch])
    trainer = regression(batch_size=M, seed=5)
    history = trainer.fit(X, Y, epochs=6, report_every=2)
    assert_same_weights(trainer.model, expected)
    means = losses @ np.array([M, M, B - 2 * M]) / B  # each example counts once
    np.testing.assert_allclose(history["loss"], means, rtol=1e-5)


def test_every_epoch_has_every_example_once_in_another_order():
    seen = []

    def loss(y, targets):
        seen.append(targets.astype(int).tolist())
        return 0.0, np.zeros_like(y)

    trainer = regression(external(loss), batch_size=M)
    trainer.fit(X, np.arange(B), epochs=20, report_every=10)
    assert [len(batch) for batch in seen] == [M, M, B - 2 * M] * 20
    epochs = [[*seen[i], *seen[i + 1], *seen[i + 2]] for i in range(0, len(seen), 3)]
    assert all(sorted(epoch) == list(range(B)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 15


@pytest.mark.parametrize("batch_size", [None, M])
def test_reports_do_not_change_what_is_learnt(batch_size):
    """Calls of 1, 5 and 10 epochs; the first without XLA, the others with it."""
    trainers = [regression(batch_size=batch_size, jit_compile=None) for _ in range(3)]
    histories = [
        trainer.fit(X, Y, epochs=10, report_every=every)
        for trainer, every in zip(trainers, (1, 5, 10), strict=True)
    ]
    for trainer, history in zip(trainers[1:], histories[1:], strict=True):
        assert_same_weights(trainer.model, trainers[0].model)
        for name, values in history.items():
            np.testing.assert_allclose(values, histories[0][name], rtol=1e-4, atol=1e-6)


def own_noise():
    """Noise of a layer that no random seed of the model announces."""

    class Shaken(layers.Layer):
        def call(self, inputs, training=None):
            return inputs + 0.1 * keras.random.normal((2,), seed=7) if training else inputs

    model = network()
    return keras.Sequential([keras.Input((3,)), *model.layers, Shaken()])


def tensorflows_noise():
    """Noise of an operation that keeps its own state."""
    noise = layers.Lambda(lambda x: x + 0.1 * tf.random.normal(tf.shape(x), seed=3))
    return keras.Sequential([keras.Input((3,)), *network().layers, noise])


MODELS = {"dropout": lambda: noisy(), "own": own_noise, "tensorflow": tensorflows_noise}


# Each noise where XLA may be chosen, one where it may not.
SOON = [("dropout", 8, False), ("dropout", None, None), ("own", None, None)]
SOON += [("tensorflow", 8, None)]
NOISE = itertools.product(MODELS, (None, 8), (None, False))


@pytest.mark.parametrize(
    ("name", "batch_size", "jit_compile"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in SOON)) for case in NOISE],
)
def test_reports_do_not_change_the_noise(name, batch_size, jit_compile):
    """To the last bit: with noise, calls of one update are compiled as those of several are."""
    weights = []
    for fits in ([(6, 1)], [(6, 3)], [(1, 1), (4, 3), (1, 5)]):
        trainer = Regression(
            MODELS[name](),
            differentiate(mse),
            keras.optimizers.SGD(0.1),
            batch_size=batch_size,
            jit_compile=jit_compile,
        )
        for epochs, every in fits:
            trainer.fit(X, Y, epochs, report_every=every)
        weights.append(trainer.model.get_weights())
    for others in weights[1:]:
        for a, b in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_single_update_without_noise_is_a_graph():
    trainers = (
        regression(jit_compile=None),
        Regression(noisy(), differentiate(mse), keras.optimizers.SGD(0.1)),
    )
    for trainer in trainers:
        trainer.fit(X, Y, 1)
    steps = [next(iter(trainer._steps.values())) for trainer in trainers]
    assert [(step.is_random, step._traced.is_xla) for step in steps] == [
        (False, False),
        (True, True),
    ]


def test_traced_once_over_epochs_and_calls_of_fit():
    traces = []

    def loss(y, targets):
        traces.append(1)
        return tf.reduce_mean((y - targets) ** 2)

    trainer = regression(differentiate(loss), jit_compile=None)
    trainer.fit(X, Y, epochs=40, report_every=10)
    trainer.fit(X[::-1], Y, epochs=20, report_every=10)
    assert len(traces) == 1
    assert trainer.epochs == 60


def test_nests_of_inputs_outputs_and_targets():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((1,), dtype="int32", name="b")}
    embedded = layers.Flatten()(layers.Embedding(5, 2)(inputs["b"]))
    hidden = layers.Concatenate()([inputs["a"], embedded])
    model = keras.Model(inputs, (layers.Dense(2)(hidden), layers.Dense(1)(hidden)))

    def loss(y, targets):
        return mse(y[0], targets["y"])[0] + tf.reduce_mean((y[1] - targets["z"]) ** 2)

    optimizer = keras.optimizers.Adam(0.05)
    trainer = Regression(model, differentiate(loss), optimizer, batch_size=5, jit_compile=False)
    data = {"a": X, "b": np.arange(B)[:, None] % 5}, {"y": Y, "z": Y[:, :1].astype(np.float64)}
    losses = trainer.fit(*data, epochs=200, report_every=100)["loss"]
    assert losses[-1] < 0.5 * losses[0]
    first, second = trainer.predict(data[0])
    assert isinstance(first, np.ndarray)
    assert (first.shape, second.shape) == ((B, 2), (B, 1))


def test_a_model_without_shapes_is_built_and_a_given_gradient_is_followed():
    model = keras.Sequential([layers.Dense(2)])
    trainer = Regression(model, given, keras.optimizers.SGD(0.1))
    before = trainer.predict(X)
    trainer.fit(X, np.ones((B, 2)), epochs=1)
    assert (trainer.predict(X).mean(0) < before.mean(0)).all()


@pytest.mark.parametrize("no", [False, np.False_])
def test_a_callback_that_returns_false_stops(no):
    calls = []

    def watch(epoch, metrics):
        calls.append((epoch, metrics["loss"]))

    trainer = regression()
    stop = lambda epoch, metrics: no if epoch == 4 else None  # noqa: E731
    history = trainer.fit(X, Y, epochs=10, report_every=2, callbacks=[stop, watch])
    assert [epoch for epoch, _ in calls] == [2, 4]
    assert [loss for _, loss in calls] == pytest.approx(history["loss"][[1, 3]].tolist())
    assert len(history["loss"]) == trainer.epochs == 4


def test_a_signal_ends_the_training_after_the_current_call(tmp_path):
    def interrupt(epoch, metrics):
        if epoch == 4:
            signal.raise_signal(signal.SIGINT)

    trainer = regression()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, epochs=10, report_every=2, callbacks=[interrupt], logdir=tmp_path)
    assert trainer.epochs == 4
    assert [point.step for point in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("frequency", [None, 5])
def test_a_fit_ends_with_the_averages_in_the_model_as_in_keras(frequency):
    def averaging():
        return keras.optimizers.Adam(
            0.02, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=frequency
        )

    trainer, twin = Regression(network(), differentiate(mse), averaging()), network()
    twin.compile(averaging(), "mse")
    for epochs in (7, 4):
        trainer.fit(X, Y, epochs)
        twin.fit(X, Y, batch_size=B, shuffle=False, epochs=epochs, verbose=0)
        for a, b in zip(trainer.model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_what_is_frozen_between_two_fits_stays():
    trainer = regression()
    trainer.fit(X, Y, 2)
    first, last = trainer.model.layers
    before = first.get_weights(), last.get_weights()
    first.trainable = False
    trainer.fit(X, Y, 2)
    for a, b in zip(first.get_weights(), before[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(last.get_weights()[0], before[1][0])
    first.trainable = True
    trainer.fit(X, Y, 2)
    assert not np.array_equal(first.get_weights()[0], before[0][0])


class Holding(layers.Layer):
    """A layer that holds others in a list."""

    def __init__(self, *held):
        super().__init__()
        self.held = list(held)

    def call(self, inputs, training=False):
        for layer in self.held:
            inputs = layer(inputs, training=training)
        return inputs


@pytest.mark.parametrize("hold", [layers.TimeDistributed, Holding], ids=lambda kind: kind.__name__)
def test_averages_of_a_frozen_layer_inside_another_stay(hold):
    """They are not trained: which variables are, says nothing of them."""
    inner = layers.BatchNormalization(scale=False, center=False)
    model = keras.Sequential([keras.Input((1, 3)), hold(inner), layers.Dense(2)])
    trainer = Regression(model, "mse", keras.optimizers.SGD(0.01))
    before = [value.numpy() for value in inner.variables]
    trainer.fit(X[:, None], Y[:, None], 1)
    between = [value.numpy() for value in inner.variables]
    assert not any(map(np.array_equal, before, between))
    inner.trainable = False
    trainer.fit(X[:, None], Y[:, None], 2)
    assert all(map(np.array_equal, between, [value.numpy() for value in inner.variables]))


class Killed(Exception):
    """As a process that dies: nothing is saved."""


def killing(at):
    """A callback that dies at a report."""

    def callback(epoch, metrics):
        if epoch >= at:
            raise Killed

    return callback


RESUMED = {
    "full batches": (None, lambda: differentiate(mse)),
    "minibatches": (4, lambda: differentiate(mse)),
    "a loss on the host": (4, lambda: external(host_mse)),
    "a score": (4, lambda: estimated(lambda y, t: ((y - t) ** 2).mean(1))),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_killed_fit_is_resumed_to_the_same_bits(case, tmp_path):
    """Weights, slots, order of the examples, noise of a score, history, curves."""
    size, loss = RESUMED[case]
    options = {"report_every": 3, "validation": (X, Y)}
    whole = regression(loss(), batch_size=size)
    wanted = whole.fit(X, Y, 18, logdir=tmp_path / "whole", **options)
    killed = regression(loss(), batch_size=size)
    with pytest.raises(Killed):
        killed.fit(
            X,
            Y,
            18,
            logdir=tmp_path / "run",
            checkpoint_every=1,
            callbacks=[killing(12)],
            **options,
        )
    again = regression(loss(), batch_size=size)
    calls = []
    found = again.fit(
        X,
        Y,
        18,
        logdir=tmp_path / "run",
        resume=True,
        callbacks=[lambda *_: calls.append(1)],
        **options,
    )
    assert len(calls) == 3 and again.epochs == 18
    for one, other in zip(again.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert [e.step for e in scalars(tmp_path / "run")["train/loss"]] == list(range(1, 19))


def test_a_fit_is_resumed_to_more_epochs(tmp_path):
    whole, half, again = (regression(batch_size=4) for _ in range(3))
    whole.fit(X, Y, 10)
    half.fit(X, Y, 6, logdir=tmp_path / "run")
    assert len(again.fit(X, Y, 10, logdir=tmp_path / "run", resume=True)["loss"]) == 10
    for one, other in zip(again.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_resumed(tmp_path):
    regression().fit(X, Y, 2, logdir=tmp_path / "run")
    other = Regression(keras.Sequential([layers.Dense(2)]), mse, keras.optimizers.Adam())
    with pytest.raises(ValueError, match="must hold the variables of the model"):
        other.fit(X, Y, 4, logdir=tmp_path / "run", resume=True)
    sgd = Regression(network(), mse, keras.optimizers.SGD(0.1, momentum=0.9))
    before = sgd.model.get_weights()
    with pytest.raises(ValueError, match="must hold the variables of the optimizer"):
        sgd.fit(X, Y, 4, logdir=tmp_path / "run", resume=True)
    for one, two in zip(before, sgd.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(FileExistsError, match="Pass --resume"):
        regression().fit(X, Y, 2, logdir=tmp_path / "run")
    with pytest.raises(ValueError, match="needs the folder of the fit"):
        regression().fit(X, Y, 2, resume=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_callbacks_of_keras():
    """A report is the end of an epoch for them."""
    trainer = regression()
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9.0)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.1 / (epoch + 1))
    history = trainer.fit(X, Y, 30, report_every=5, callbacks=[stopping, rate])
    assert len(history["loss"]) == 10


@pytest.mark.parametrize("kind", ["lbfgs", "sam"])
def test_other_optimizers_are_resumed_to_the_same_bits(kind, tmp_path):
    def trainer():
        optimizer = LBFGS() if kind == "lbfgs" else SAM(keras.optimizers.Adam(0.01))
        size = None if kind == "lbfgs" else M
        return Regression(network(), mse, optimizer, batch_size=size, jit_compile=False)

    whole, half, again = trainer(), trainer(), trainer()
    whole.fit(X, Y, 8, report_every=2)
    half.fit(X, Y, 4, report_every=2, logdir=tmp_path / "run")
    again.fit(X, Y, 8, report_every=2, logdir=tmp_path / "run", resume=True)
    for one, other in zip(again.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
