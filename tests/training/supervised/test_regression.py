"""Regression against Keras's own training; reports, stops and bad input; the two examples."""

import functools
import json
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from vantage.scripts.commands import regression as command
from vantage.scripts.examples import robotic_arm, target_range
from vantage.training import (
    GAN,
    Regression,
    compile_step,
    differentiate,
    estimated,
    external,
    given,
)
from vantage.training.supervised import inference
from vantage.training.tensorboard.summaries import COLOURS

B, M = 10, 4  # examples, examples per minibatch
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
Y = RANDOM.normal(size=(B, 2)).astype(np.float32)


def mse(y, targets):
    return tf.reduce_mean((y - targets) ** 2), {"bias": tf.reduce_mean(y - targets)}


def host_mse(y, targets):
    return np.mean((y - targets) ** 2), 2 * (y - targets) / y.size, {"bias": (y - targets).mean()}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(2)]
    )


def regression(loss=None, jit_compile=False, **options):
    """Without XLA, whose compilation takes seconds, unless asked for."""
    loss = differentiate(mse) if loss is None else loss
    optimizer = keras.optimizers.Adam(0.01)
    return Regression(network(), loss, optimizer, jit_compile=jit_compile, **options)


def read(folder):
    return EventAccumulator(str(folder), {"tensors": 0, "images": 0}).Reload()


def hparams(events):
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content).hparams


def status(events):
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    return metadata.parse_session_end_info_plugin_data(content).status


def scalars(folder):
    events = read(folder)
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def assert_same_weights(model, expected):
    for weights, others in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weights, others, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------ what is learnt


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
    losses = np.zeros((6, 2))
    for epoch in range(6):
        order = generator.permutation(B)
        for k, batch in enumerate((order[:M], order[M : 2 * M])):  # the last two are left out
            losses[epoch, k] = mse(expected(X[batch]), Y[batch])[0]
            expected.train_on_batch(X[batch], Y[batch])
    trainer = regression(batch_size=M, seed=5)
    history = trainer.fit(X, Y, epochs=6, report_every=2)
    assert_same_weights(trainer.model, expected)
    np.testing.assert_allclose(history["loss"], losses.mean(1), rtol=1e-5)


def test_every_epoch_leaves_out_other_examples_than_the_last_one():
    seen = []

    def loss(y, targets):
        seen.append(targets.astype(int).tolist())
        return 0.0, np.zeros_like(y)

    trainer = regression(external(loss), batch_size=M)
    trainer.fit(X, np.arange(B), epochs=20, report_every=10)
    assert len(seen) == 20 * (B // M)
    epochs = [sorted(seen[i] + seen[i + 1]) for i in range(0, len(seen), 2)]
    assert all(len(set(epoch)) == 2 * M for epoch in epochs)  # nothing twice
    left_out = [tuple(sorted(set(range(B)) - set(epoch))) for epoch in epochs]
    assert len(set(left_out)) > 5
    assert set().union(*left_out) == set(range(B))


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


@pytest.mark.parametrize("jit_compile", [None, False])
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_reports_do_not_change_the_noise(model, batch_size, jit_compile):
    """To the last bit: with noise, calls of one update are compiled as those of several are."""
    weights = []
    for fits in ([(6, 1)], [(6, 3)], [(1, 1), (4, 3), (1, 5)]):
        trainer = Regression(
            model(),
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


def test_predict_is_inference():
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.9)])
    trainer = Regression(model, given, keras.optimizers.SGD())
    np.testing.assert_array_equal(trainer.predict(X), X)


# ------------------------------------------------------------------------------ what is reported


def test_prints_every_hundred_epochs_and_nothing_else(capfd):
    regression().fit(X, Y, epochs=250, report_every=100, verbose=True)
    printed = capfd.readouterr()
    assert re.findall(r"^epoch +(\d+)  loss [\d.]+  grad_norm [\d.]+  bias", printed.out, re.M) == [
        "100",
        "200",
        "250",
    ]
    assert len(printed.out.splitlines()) == 3
    assert "epochs" not in printed.err  # no progress bar: this is not a terminal


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


def test_tensorboard_has_every_epoch_and_goes_on_in_a_second_fit(tmp_path):
    trainer = regression()
    histories = [trainer.fit(X, Y, epochs=n, report_every=3, logdir=tmp_path) for n in (6, 3)]
    curves = scalars(tmp_path)
    assert set(curves) == {"train/loss", "train/grad_norm", "train/bias"}
    points = curves["train/loss"]
    assert [point.step for point in points] == list(range(1, 10))
    losses = np.concatenate([history["loss"] for history in histories])
    np.testing.assert_allclose([point.value for point in points], losses, rtol=1e-6)
    with pytest.raises(FileExistsError, match="event files of another run.*Choose another one"):
        regression().fit(X, Y, epochs=1, logdir=tmp_path)


class Painter:
    """A callback that adds to the fit's event file."""

    def begin(self, writer):
        self.writer = writer

    def __call__(self, epoch, metrics):
        self.writer.image(epoch, "own", np.zeros((1, 1, 1), np.uint8))
        self.writer.histograms(epoch, {"own": np.arange(3)})


def test_a_callback_may_write_to_the_same_event_file(tmp_path):
    regression().fit(X, Y, 4, report_every=2, callbacks=[Painter()])  # to no file
    regression().fit(X, Y, 4, report_every=2, callbacks=[Painter()], logdir=tmp_path)
    events = read(tmp_path)
    assert [event.step for event in events.Images("own")] == [2, 4]
    assert [event.step for event in events.Tensors("own")] == [2, 4]
    assert len(list(tmp_path.iterdir())) == 1


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


class Always(layers.Dropout):
    """Monte Carlo Dropout, which draws in inference, too."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def noisy(layer=layers.Dropout):
    keras.utils.set_random_seed(3)
    parts = [layers.Dense(4, "tanh"), layer(0.3, seed=1), layers.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *parts])


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
    trainer = regression(estimated(score, samples=2))
    trainer._optimizer.learning_rate = 0.0
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


# ------------------------------------------------------------------------------ many examples


def two_headed():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((1,), dtype="int32", name="b")}
    embedded = layers.Flatten()(layers.Embedding(5, 2)(inputs["b"]))
    hidden = layers.Concatenate()([inputs["a"], embedded])
    return keras.Model(inputs, (layers.Dense(2)(hidden), {"c": layers.Dense(1)(hidden)}))


def test_predictions_in_parts_equal_those_of_one_call(monkeypatch):
    model = two_headed()
    inputs = {"a": np.tile(X, (10, 1)), "b": np.arange(100)[:, None] % 5}
    whole = Regression(model, given, keras.optimizers.SGD()).predict(inputs)
    calls = []
    monkeypatch.setattr(inference, "MOST_BYTES", 0)  # 32 examples a call
    monkeypatch.setattr(model, "call", watched(model.call, calls))
    parts = Regression(model, given, keras.optimizers.SGD()).predict(inputs)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, whole)
    assert max(calls) == 32 and 4 in calls


def watched(call, calls):
    def watch(inputs, **more):
        calls.append(tf.nest.flatten(inputs)[0].shape[0])
        return call(inputs, **more)

    return watch


def test_how_many_examples_are_predicted_at_once_follows_from_what_they_compute():
    """A picture of 64 × 64 with 8 filters computes 400 kB; four numbers a few hundred bytes."""
    images = keras.Sequential([keras.Input((64, 64, 3)), layers.Conv2D(8, 3), layers.Flatten()])
    pictures = np.zeros((2_000, 64, 64, 3), np.uint8)
    assert 100 < inference.Inference(images)._size(pictures) < 1_000
    numbers = inference.Inference(network())
    assert numbers._size(np.zeros((2_000, 3), np.float32)) > 100_000


def test_a_model_with_an_output_without_examples_is_called_once():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [inputs, layers.Lambda(lambda x: tf.reduce_sum(x))(inputs)])
    _, total = Regression(model, given, keras.optimizers.SGD()).predict(np.ones((100, 3)))
    assert total == 300


def test_noise_in_inference_differs_from_prediction_to_prediction(monkeypatch):
    monkeypatch.setattr(inference, "MOST_BYTES", 0)
    trainer = Regression(noisy(Always), given, keras.optimizers.SGD())
    first, second = (trainer.predict(np.ones((64, 3), np.float32)) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:32], first[32:])


def test_looks_are_at_most_five_and_one_before_the_first_epoch(tmp_path):
    regression().fit(X, Y, 40, report_every=1, logdir=tmp_path)
    events = read(tmp_path)
    steps = [event.step for event in events.Images("predictions")]
    assert steps == [event.step for event in events.Tensors("residuals")] == [0, 8, 16, 24, 32, 40]


def test_predictions_over_targets_and_their_residuals(tmp_path):
    """The outputs of a model that errs by -1 and 0.5: two lines beside the diagonal."""
    model = keras.Sequential([keras.Input((2,)), layers.Rescaling(1.0, [-1.0, 0.5])])
    model.add(layers.Dense(2, kernel_initializer="identity"))
    targets = np.linspace(0, 10, 40).reshape(20, 2)
    trainer = Regression(model, differentiate(mse), keras.optimizers.SGD(0.0), jit_compile=False)
    trainer.fit(targets, targets, 1, logdir=tmp_path)
    events = read(tmp_path)
    pixels = tf.io.decode_png(events.Images("predictions")[0].encoded_image_string).numpy()
    grey, blue, orange = COLOURS[:3]
    heights = {
        colour: [
            row - (254 - column)  # below the diagonal
            for row, column in np.argwhere((pixels == colour).all(2))
        ]
        for colour in (grey, blue, orange)
    }
    unit = 254 / 12  # pixels
    assert np.mean(heights[grey]) == pytest.approx(0.5, abs=1)
    assert np.mean(heights[blue]) == pytest.approx(unit, abs=2)
    assert np.mean(heights[orange]) == pytest.approx(-unit / 2, abs=2)
    table = tf.make_ndarray(events.Tensors("residuals")[0].tensor_proto)
    assert (table[0, 0], table[-1, 1]) == pytest.approx((-1.0, 0.5), abs=1e-5)
    assert (table[0, 2], table[-1, 2], table[:, 2].sum()) == (20, 20, 40)


def test_what_is_compared_with_the_targets(tmp_path):
    """Nothing where shapes differ; what `compare` makes; an error that leaves no trace."""
    loss = differentiate(lambda y, targets: tf.reduce_mean((y[:, :1] - targets) ** 2))
    regression(loss).fit(X, Y[:, :1], 1, logdir=tmp_path / "none")
    assert read(tmp_path / "none").Tags()["images"] == []
    first = lambda outputs: outputs[:, :1]  # noqa: E731
    regression(loss).fit(X, Y[:, :1], 1, compare=first, logdir=tmp_path / "first")
    assert len(read(tmp_path / "first").Images("predictions")) == 2
    with pytest.raises(ValueError, match=r"shaped like the targets. Received: \(10, 2\).*Leave it"):
        regression(loss).fit(X, Y[:, :1], 1, compare=np.abs, logdir=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_settings_versions_and_graph_are_written_once(tmp_path):
    trainer = regression(batch_size=M)
    for _ in range(2):
        trainer.fit(X, Y, 2, logdir=tmp_path, config={"penalty": 0.25})
    events = read(tmp_path)
    (text,) = events.Tensors("run/config")
    shown = json.loads(tf.make_ndarray(text.tensor_proto)[0])
    assert shown["penalty"] == 0.25 and shown["batch_size"] == M and shown["examples"] == B
    assert shown["optimizer"]["name"] == "Adam"
    assert "keras" in str(tf.make_ndarray(events.Tensors("run/versions")[0].tensor_proto)[0])
    assert [node.op for node in events.Graph().node] == ["InputLayer", "Dense", "Dense"]
    assert hparams(events)["optimizer.learning_rate"].number_value == pytest.approx(0.01)
    assert status(events) == 1  # success


def test_an_error_ends_the_row_as_a_failure(tmp_path):
    def fail(epoch, metrics):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="^no$"):
        regression().fit(X, Y, 2, callbacks=[fail], logdir=tmp_path)
    assert status(read(tmp_path)) == 2  # failure


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, Y, 0), {}, r"epochs must be at least 1. Received: 0"),
        ((X, Y[:4], 1), {}, r"equally many examples.*Received: \[4, 10\].*Pass equally long"),
        ((X, Y, 1), {"batch_size": 11}, r"batch_size=11.*smaller batch_size"),
        ((X, Y, 1), {"batch_size": 0}, r"batch_size must be at least 1. Received: 0"),
        ((X, 1.0, 1), {}, r"first axis counts the examples. Received: 1.0"),
        ((X, Y, 2.5), {}, r"epochs must be a whole number.*Received: epochs=2.5"),
        ((X, Y, True), {}, r"Received: epochs=True"),
        ((X, Y), {}, r"whole number.*Received: epochs=None"),
        ((X, Y, 1), {"batch_size": 2.5}, r"whole number.*batch_size=2.5"),
        ((X, Y, 1), {"seed": -1}, r"seed must be at least 0. Received: -1"),
        (((), (), 1), {}, r"equally many examples.*Received: \[\] examples"),
        ((X[:0], Y[:0], 1), {}, r"at least one minibatch. Received: \[0\]"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        regression(**options).fit(*arguments)


def test_counts_may_be_numpys():
    history = regression(batch_size=np.int64(M)).fit(X, Y, np.int32(4), report_every=2.0)
    assert len(history["loss"]) == 4


class Table:
    """What a data frame is: no array, but one for NumPy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


MIXED = X.astype(object)
HUGE = np.where(np.arange(B)[:, None] == 7, 1e39, X.astype(float))
DATA = {
    "a list of numbers": (X.tolist(), r"Received: [-\d.]+. .*numpy.asarray"),
    "a dataset": (tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), "Received: <_BatchDataset"),
    "a generator": ((row for row in X), "Received: <generator.*batches put together"),
    "no data": (None, "Received: None"),
    "a sparse tensor": (tf.sparse.from_dense(X), "Received: SparseTensor"),
    "a ragged tensor": (tf.ragged.constant([[1.0], [2.0, 3.0]] * 5), "Received: <tf.RaggedTensor"),
    "objects": (MIXED, r"numbers, truth values or texts. Received: object\[10, 3\].*astype"),
    "dates": (X.astype("datetime64[s]"), r"Received: datetime64\[s\]\[10, 3\]"),
    "texts": (X.astype(str), r"real numbers, as the model's are \(float32\). Received: <U"),
    "complex numbers": (X + 1j, "Received: complex.*`array.real`"),
    "masked": (
        np.ma.masked_array(X, X > 1),
        r"masked entries.*Received: \d+ masked of 30. .*filled",
    ),
    "too large": (HUGE, r"fit float32.*Received: 1e\+39 in example 7. Scale"),
}


@pytest.mark.parametrize(("data", "message"), DATA.values(), ids=DATA)
def test_odd_inputs_are_refused_before_anything_is_trained_or_written(data, message, tmp_path):
    trainer = regression()
    before = trainer.model.get_weights()
    with pytest.raises(ValueError, match=message) as raised:
        trainer.fit(data, Y, epochs=1, logdir=tmp_path / "run")
    assert len(str(raised.value)) < 600
    assert not (tmp_path / "run").exists()
    for a, b in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, tf.constant, Table, lambda a: a.astype(np.float64), np.asfortranarray],
    ids=["NumPy", "tensor", "table", "double", "Fortran"],
)
def test_arrays_of_any_kind_train_the_same(convert):
    histories = [regression().fit(f(X), f(Y), 3)["loss"] for f in (np.asarray, convert)]
    np.testing.assert_array_equal(*histories)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_data_are_trained_on_in_single_precision(dtype):
    x, y = (tf.cast(array, dtype) for array in (X, Y))
    assert np.isfinite(regression().fit(x, y, 2)["loss"]).all()


@pytest.mark.parametrize("targets", [Y.astype(int), Y > 0], ids=["int", "bool"])
def test_targets_of_another_kind_than_the_loss_takes(targets):
    with pytest.raises(ValueError, match=r"targets as they are. Received: targets (int64|bool)\["):
        regression().fit(X, targets, 1)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (X, "must be a pair.*Received: ndarray"),
        ((X, Y, Y), "must be a pair.*Received: tuple of 3.*weights of examples"),
        ((X, Y[:3]), r"equally many examples.*Received: \[3, 10\]"),
        ((X[:0], Y[:0]), r"Received: \[0\]"),
        ((X[:, :2], Y), "inputs that the model takes.*float32.10, 2."),
        ((X, Y[:, :1].repeat(3, 1)), "targets that the loss takes.*float32.10, 3."),
        ((X, Y.astype(str)), "targets that the loss takes"),
        ((X, None), "validation's targets must be arrays.*None"),
    ],
)
def test_bad_validations_are_refused_before_an_epoch_is_trained(validation, message, tmp_path):
    trainer = regression()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, Y, 1, validation=validation, logdir=tmp_path / "run")
    assert trainer.epochs == 0 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("validation_data", "validation=\\(inputs, targets\\)"),
        ("validation_split", "Split the arrays"),
        ("sample_weight", "weights"),
        ("batch_size", "to the trainer itself"),
        ("shuffle", "fresh permutation"),
        ("resume", "no checkpoints"),
    ],
)
def test_arguments_of_keras_fit_are_refused_with_what_to_pass(name, advice):
    with pytest.raises(ValueError, match=f"Received: {name}=.*{advice}"):
        regression().fit(X, Y, 1, **{name: None})
    with pytest.raises(
        TypeError, match="Regression.fit got an unexpected keyword argument 'epoch'"
    ):
        regression().fit(X, Y, 1, epoch=3)


class Late:
    """What is called, and does nothing by that."""

    def __init__(self, epoch, metrics):
        pass

    async def __call__(self, epoch, metrics):
        return False

    @staticmethod
    async def awaited(epoch, metrics):
        return False

    @staticmethod
    def yielded(epoch, metrics):
        yield False


class Beginning:
    def begin(self):
        pass

    def __call__(self, epoch, metrics):
        pass


def test_a_callback_that_returns_what_has_not_run_is_refused():
    with pytest.raises(ValueError, match="must run when they are called. Received: .*generator"):
        regression().fit(X, Y, 1, callbacks=[lambda *both: Late.yielded(*both)])


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([keras.callbacks.EarlyStopping("loss")], "EarlyStopping.*return False"),
        (keras.callbacks.History(), "Pass a list"),
        ([3], "Received: 3. Pass a function of two arguments"),
        ([lambda epoch: None], "function of two arguments"),
        ([print, "x"], "Received: 'x'"),
        (lambda epoch, metrics: None, "Pass a list of functions"),
        ({}, "Received: {}. Pass a list of functions"),
        ("", "Received: ''. Pass a list of functions"),
        ([{}], "Received: {}. Pass a function of two arguments"),
        ([Late], "Received: the class Late. Pass an instance of it"),
        ([Late.awaited], "awaited.* async or has a yield.*def and return"),
        ([functools.partial(Late.yielded)], "yielded.* async or has a yield"),
        ([Late(1, 2)], "Late object.* async or has a yield"),
        ([Beginning()], r"begin must be a method of one argument.*Write begin\(self, writer\)"),
    ],
)
@pytest.mark.parametrize("trainer", ["regression", "gan"])
def test_what_is_no_callback_is_refused_before_training(trainer, callbacks, message, tmp_path):
    options = {"callbacks": callbacks, "logdir": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        if trainer == "regression":
            regression().fit(X, Y, 1, **options)
        else:
            adversaries().fit(X[:, :2], 1, **options)
    assert not (tmp_path / "run").exists()


def adversaries():
    generator = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    discriminator = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    optimizers = keras.optimizers.SGD(), keras.optimizers.SGD()
    return GAN(generator, discriminator, *optimizers, batch_size=M)


def test_callbacks_may_come_from_a_generator():
    calls = []
    regression().fit(X, Y, 4, callbacks=(lambda n, _: calls.append(n) for _ in range(1)))
    assert calls == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logdir": 3}, "logdir must be a path. Received: logdir=3"),
        ({"logdir": __file__}, "logdir must be a folder"),
        ({"config": [1]}, r"config must be a dict.*Received: config=\[1\]"),
        ({"config": {1: 2}}, "config must be a dict"),
        ({"compare": 3}, "compare must be a function. Received: 3"),
        ({"compare": lambda y, t: y}, r"compare must be .*\(outputs\). Received: .*\(y, t\)"),
        ({"verbose": "no"}, "verbose must be True or False. Received: verbose='no'"),
    ],
)
def test_odd_destinations_are_refused_before_training(options, message):
    trainer = regression()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, Y, 1, **options)
    assert trainer.epochs == 0


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        ("x", keras.optimizers.SGD(), "model must be a Keras model or layer. Received: 'x'"),
        (keras.Sequential, keras.optimizers.SGD(), "Keras model.*Received: <class"),
        (lambda x: x, keras.optimizers.SGD(), "compile_step"),
        (network(), "adam", r"optimizer must be a Keras optimizer. Received: 'adam'.*Adam\("),
        (network(), keras.optimizers.Adam, "Received: <class"),
        (network(), None, "Received: None"),
    ],
)
def test_models_and_optimizers_that_are_none(model, optimizer, message):
    with pytest.raises(ValueError, match=message):
        Regression(model, differentiate(mse), optimizer)


def named(lift, name):
    """A loss with a metric of that name."""
    if lift is differentiate:
        return differentiate(lambda y, t: (tf.reduce_mean((y - t) ** 2), {name: 1.0}))
    return external(lambda y, t: (np.mean((y - t) ** 2), 2 * (y - t) / y.size, {name: 1.0}))


OF_THE_FIT = {"validation_loss": {"validation": (X, Y)}, "bad_updates": {"on_bad_numbers": "skip"}}


@pytest.mark.parametrize("lift", [differentiate, external])
@pytest.mark.parametrize(("name", "options"), OF_THE_FIT.items(), ids=OF_THE_FIT)
def test_metrics_are_not_named_like_those_of_the_fit(name, options, lift, tmp_path):
    trainer = regression(named(lift, name))
    before = trainer.model.get_weights()
    with pytest.raises(ValueError, match=f"does not use itself. Received: {name}. Rename it"):
        trainer.fit(X, Y, 4, report_every=2, logdir=tmp_path / "run", **options)
    for now, then in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert lift is external or not (tmp_path / "run").exists()  # a host loss tells when it runs
    assert trainer.fit(X, Y, 2)[name].tolist() == [1.0, 1.0]  # of a fit that reports no other


def test_a_fit_is_not_stopped_by_a_metric():
    trainer = regression(named(differentiate, "stop"))
    with pytest.raises(ValueError, match="Received: stop. Rename it; a callback that returns Fal"):
        trainer.fit(X, Y, 1)


def test_the_compiler_is_chosen_by_a_truth_value():
    with pytest.raises(ValueError, match="True, False or None. Received: jit_compile='yes'"):
        regression(jit_compile="yes")


def test_targets_may_be_none_for_a_loss_without(tmp_path):
    loss = differentiate(lambda y, targets: tf.reduce_mean(y**2))
    assert len(regression(loss).fit(X, (), 2, logdir=tmp_path)["loss"]) == 2


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


# ------------------------------------------------------------------------------ the target range


def restart(trainer, penalty, seed, unlucky=False):
    """The example as it starts from `seed`, in an already compiled trainer; its data."""
    fresh = target_range.build_trainer(penalty, seed).model
    trainer.model.set_weights(fresh.get_weights())
    for variable in trainer._optimizer.variables:
        if variable is not trainer._optimizer._learning_rate:
            variable.assign(np.zeros(variable.shape))
    inputs, targets = target_range.sample(1_000, np.random.default_rng([seed, 0]))
    if unlucky:
        below = min(0.0, 0.4 - trainer.predict(inputs).max())
        trainer.model.layers[-1].bias.assign_add([below])
    return inputs, targets


@pytest.fixture(scope="module")
def penalised():
    return target_range.build_trainer(penalty=0.1, seed=0)


def test_clipping_alone_never_moves_an_unlucky_start():
    trainer = target_range.build_trainer(penalty=0.0, seed=0)
    natural = 0
    for seed in range(20):
        data = restart(trainer, 0.0, seed)
        if natural < 3 and (trainer.predict(data[0]) < target_range.LOW).all():
            natural += 1
            before = trainer.model.get_weights()
            history = trainer.fit(*data, epochs=1_000, report_every=100)
            assert (history["loss"] == history["loss"][0]).all()
            assert (history["grad_norm"] == 0).all()
            for weights, old in zip(trainer.model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(weights, old)
    assert natural == 3


@pytest.mark.parametrize("unlucky", [False, True], ids=["as drawn", "all below the range"])
def test_the_range_penalty_ends_at_the_noise_from_every_start(unlucky, penalised):
    trainer = penalised  # compiled once, restarted from 20 seeds
    inputs, targets = target_range.sample(100_000, np.random.default_rng(20))
    means = 0.8 * inputs + 0.2
    ratios = []
    for seed in range(20):
        data = restart(trainer, 0.1, seed, unlucky)
        if unlucky:
            assert (trainer.predict(data[0]) < target_range.LOW).all()
        trainer.fit(*data, epochs=1_000, report_every=100)
        squares = (np.clip(trainer.predict(inputs), 0.5, 1.5) - targets) ** 2
        for values in (targets, means):  # the second is the harder one: all of the noise
            inside = (values >= 0.5) & (values <= 1.5)
            ratios.append(squares[inside].mean() / target_range.NOISE**2)
    assert max(ratios) <= 1.1
    assert min(ratios[1::2]) > 0.95  # nobody beats the noise


def test_no_hidden_unit_of_the_example_starts_dead():
    inputs = np.linspace(0, 2, 200)[:, None]
    for seed in range(20):
        hidden = target_range.build_trainer(0.1, seed).model.layers[0]
        assert (np.asarray(hidden(inputs)) > 0).any(0).all()


# ------------------------------------------------------------------------------ the arm


@pytest.mark.parametrize(
    ("lift", "epochs", "limit"),
    [
        (external(robotic_arm.ARM.loss), 50, 0.02),
        (estimated(robotic_arm.ARM.score, samples=4), 30, 0.05),
    ],
    ids=["external", "estimated"],
)
def test_the_arm_learns_inverse_kinematics(lift, epochs, limit):
    arm, generator = robotic_arm.ARM, np.random.default_rng(1)
    targets, held_out = arm.sample_targets(10_000, generator), arm.sample_targets(5_000, generator)
    trainer = robotic_arm.build_trainer(lift, epochs, seed=1)
    untrained = np.median(arm.errors(trainer.predict(held_out), held_out))
    trainer.fit(targets, targets, epochs)
    angles = trainer.predict(held_out)
    assert np.median(arm.errors(angles, held_out)) <= limit < 0.2 < untrained
    assert arm.violations(angles).max() <= 1.0


# ------------------------------------------------------------------------------ the command


def vantage(*arguments):
    line = [sys.executable, "-m", "vantage.scripts.main", "regression", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_the_command_keeps_the_run_and_never_overwrites_it(tmp_path):
    folder = tmp_path / "run"
    flags = ("target-range", "--penalty", 0, "--unlucky", "--epochs", 20, "--logdir", folder)
    done = vantage(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "the loss never moved" in done.stdout
    assert re.match(r"done: 20 epochs in .* final loss \d", done.stdout.splitlines()[-1])
    config, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary")
    )
    assert config["penalty"] == 0.0 and config["example"] == "target-range"
    assert summary["epochs"] == 20 and summary["seconds"] > 0
    assert summary["loss_moved"] is False and summary["all_below_range_at_start"] is True
    events = read(folder)
    assert [event.step for event in events.Images("predictions")] == [0, 20]
    assert [event.value for event in events.Scalars("final/loss_moved")] == [0.0]
    assert hparams(events)["unlucky"].bool_value and "logdir" not in hparams(events)
    again = vantage(*flags)
    assert again.returncode == 2
    assert "must be new or empty" in again.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must be one of target-range, arm. Received: None"),
        (["leg"], "Received: 'leg'"),
    ],
)
def test_unknown_examples(arguments, message):
    with pytest.raises(ValueError, match=message):
        command.run(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arm", "--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["arm", "--no-gradient", "--samples", "1"], "--samples must be at least 2"),
        (["target-range", "--penalty", "-1"], "--penalty must be a number >= 0. Received: -1.0"),
        (["target-range", "--seed", "-1"], "--seed must be at least 0"),
        (["arm", "--penalty", "1"], "--penalty"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.run(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_help_and_usage_errors_need_no_tensorflow():
    program = (
        "import sys; from vantage.scripts.commands import regression as r\n"
        "for words in (['--help'], ['arm', '--help'], ['leg'], ['arm', '--epochs', '0']):\n"
        "    try: r.run(words)\n"
        "    except (SystemExit, ValueError): pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def bad_at(*updates):
    """A host loss whose value is NaN in these of its calls, from 1."""
    calls = []

    def loss(y, t):
        calls.append(1)
        value, gradient, metrics = host_mse(y, t)
        return (np.nan if len(calls) in updates else value), gradient, metrics

    return external(loss)


@pytest.mark.parametrize("bad", [(2,), (1, 2), (4,), (3, 4, 6), (6,)])
def test_a_skipped_update_is_as_if_its_minibatch_did_not_exist(bad):
    """Against a loop of single updates over the same minibatches without the bad ones."""
    trainer = regression(bad_at(*bad), batch_size=M, seed=5)  # 2 updates an epoch
    history = trainer.fit(X, Y, 3, report_every=3, on_bad_numbers="skip")
    twin = Regression(network(), external(host_mse), keras.optimizers.Adam(0.01), seed=5)
    model, generator = twin.model, np.random.default_rng(5)
    specs = tf.TensorSpec((M, 3)), tf.TensorSpec((M, 2))
    optimizer = keras.optimizers.Adam(0.01)
    step = compile_step(model, external(host_mse), model.trainable_variables, optimizer, specs)
    losses = np.full((3, 2), np.nan)
    for epoch in range(3):
        order = generator.permutation(B)
        for k in range(2):
            rows = order[M * k : M * k + M]
            if 2 * epoch + k + 1 not in bad:
                losses[epoch, k] = step(X[rows], Y[rows])["loss"]
    for a, b in zip(trainer.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with np.errstate(all="ignore"):
        skipped = np.isnan(losses)
        means = np.where(skipped, 0, losses).sum(1) / (~skipped).sum(1)
    np.testing.assert_array_equal(history["bad_updates"], skipped.sum(1))
    np.testing.assert_allclose(history["loss"], means, rtol=1e-6)
    assert len(history["bias"]) == 3 and trainer.epochs == 3


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_bad_examples_are_skipped_in_compiled_calls(jit_compile):
    targets = Y.copy()
    targets[3] = np.nan
    skipping = regression(jit_compile=jit_compile, batch_size=1, seed=2)
    history = skipping.fit(X, targets, 4, report_every=2, on_bad_numbers="skip")
    np.testing.assert_array_equal(history["bad_updates"], [1, 1, 1, 1])
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in skipping.model.get_weights())
    assert int(skipping._optimizer.iterations) == 4 * (B - 1)


def test_what_may_be_skipped_has_a_limit():
    trainer = regression(bad_at(2, 4, 5), batch_size=M)
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
