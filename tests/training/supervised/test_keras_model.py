"""A model whose `fit` is Keras's and whose update is the core's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training import as_keras, differentiate, estimated, external, given

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(37, 3)).astype(np.float32)
T = RANDOM.normal(size=(37, 1)).astype(np.float32)
WEIGHTS = np.linspace(0.0, 2.0, len(X), dtype=np.float32)


def network(units=1):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, "tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dense(units),
        ]
    )


def adam():
    return keras.optimizers.Adam(0.01)


def squared(outputs, targets, sample_weight=None):
    weights = np.ones((len(outputs), 1)) if sample_weight is None else sample_weight[:, None]
    difference = outputs - targets
    loss = np.mean(weights * difference**2)
    return loss, 2 * weights * difference / difference.size, {"largest": difference.max()}


def tensor_squared(outputs, targets):
    return tf.reduce_mean(tf.square(outputs - targets))


LOSSES = {
    "a name": "mse",
    "an object": keras.losses.MeanSquaredError(),
    "TensorFlow": tensor_squared,
    "differentiate": differentiate("mse"),
    "NumPy": external(squared),
}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], T[8 * index : 8 * index + 8]


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, T)).batch(8)


def generator():
    while True:
        yield from ((x.numpy(), t.numpy()) for x, t in dataset())


DATA = {
    "arrays": lambda: {"x": X, "y": T, "batch_size": 8, "shuffle": False},
    "a Dataset": lambda: {"x": dataset(), "shuffle": False},
    "a PyDataset": lambda: {"x": Batches(), "shuffle": False},
    "a generator": lambda: {"x": generator(), "steps_per_epoch": 5, "shuffle": False},
}


def assert_same(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "loss"),
    [("arrays", loss) for loss in LOSSES]
    + [(data, loss) for data in DATA for loss in ("a name", "NumPy") if data != "arrays"],
)
def test_fit_is_the_one_of_keras(data, loss):
    """All data that Keras takes, the shorter last batch and validation included."""
    plain, options = network(), {"epochs": 2, "verbose": 0, "validation_data": (X, T)}
    plain.compile(adam(), "mse", metrics=["mae"])
    wanted = plain.fit(**DATA[data](), **options).history
    model = as_keras(network(), LOSSES[loss])
    found = model.compile(adam(), metrics=["mae"]).fit(**DATA[data](), **options).history
    assert_same(model, plain)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)
    assert set(found) - set(wanted) == {"grad_norm", "penalty"} | (
        {"largest"} if loss == "NumPy" else set()
    )


@pytest.mark.parametrize("loss", ["mse", external(squared)], ids=["Keras", "NumPy"])
@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_examples_have_weights(loss, weights):
    classes = (T[:, 0] > 0).astype(np.float32)
    options = {"sample_weight": WEIGHTS}
    targets = T
    if weights == "class_weight":
        options, targets = {"class_weight": {0: 0.5, 1: 2.0}}, classes[:, None]
    plain, model = network(), as_keras(network(), loss)
    plain.compile(adam(), "mse")
    model.compile(adam())
    for each in (plain, model):
        each.fit(X, targets, batch_size=8, shuffle=False, verbose=0, **options)
    assert_same(model, plain)


def test_a_function_without_weights_refuses_them():
    for loss in (tensor_squared, external(lambda y, t: squared(y, t)), given):
        model = as_keras(network(), loss).compile(adam())
        before = model.get_weights()
        with pytest.raises(ValueError, match="parameter `sample_weight`"):
            model.fit(X, T, sample_weight=WEIGHTS, verbose=0)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


KERAS_SAVES = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@KERAS_SAVES
def test_callbacks_of_keras(tmp_path):
    model = as_keras(network(), external(squared)).compile(adam())
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=10.0)
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.1 / (epoch + 1))
    table = keras.callbacks.CSVLogger(tmp_path / "curves.csv")
    callbacks = [stopping, saving, rate, table]
    history = model.fit(X, T, epochs=9, verbose=0, callbacks=callbacks).history
    assert len(history["loss"]) == 2
    assert history["learning_rate"] == pytest.approx([0.1, 0.05])
    assert (tmp_path / "2.keras").is_file()
    assert "largest" in (tmp_path / "curves.csv").read_text().splitlines()[0]


@KERAS_SAVES
@pytest.mark.parametrize("loss", ["mse", external(squared)], ids=["Keras", "NumPy"])
def test_a_saved_model_trains_on_as_if_never_stopped(loss, tmp_path):
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    whole, half = (as_keras(network(), loss).compile(adam(), metrics=["mae"]) for _ in range(2))
    whole.fit(X, T, epochs=4, **fit)
    half.fit(X, T, epochs=2, **fit)
    half.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), half.predict(X, verbose=0))
    with pytest.raises(ValueError, match="no file holds a loss. Call set_loss"):
        again.fit(X, T, **fit)
    again.set_loss(loss)
    again.fit(X, T, epochs=2, **fit)
    for a, b in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_bad_number_changes_nothing(jit_compile):
    """Under XLA nothing can be raised: the loss is NaN, and the weights stay."""
    bad = X.copy()
    bad[20] = np.nan
    model = as_keras(network(), "mse").compile(adam(), jit_compile=jit_compile)
    model.fit(X[16:24], T[16:24], batch_size=8, verbose=0)
    before = model.get_weights(), int(model.optimizer.iterations)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    if jit_compile:
        assert np.isnan(model.fit(bad[16:24], T[16:24], **fit).history["loss"][0])
    else:
        with pytest.raises(FloatingPointError, match="inputs hold nan in example 4"):
            model.fit(bad[16:24], T[16:24], **fit)
    for a, b in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(model.optimizer.iterations) == before[1]


def test_exceptions_of_the_host_reach_the_caller():
    calls = []

    def broken(outputs, targets):
        calls.append(len(outputs))
        if len(calls) == 3:
            raise KeyError("the simulator")
        return squared(outputs, targets)

    model = as_keras(network(), external(broken)).compile(adam())
    with pytest.raises(KeyError, match="the simulator"):
        model.fit(X, T, batch_size=8, shuffle=False, verbose=0)
    assert calls == [8, 8, 8] and int(model.optimizer.iterations) == 2


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"steps_per_execution": 3}],
    ids=lambda each: next(iter(each)),
)
def test_other_ways_to_run_the_step(options):
    plain = as_keras(network(), external(squared)).compile(adam())
    other = as_keras(network(), external(squared)).compile(adam(), **options)
    for model in (plain, other):
        model.fit(X, T, batch_size=8, shuffle=False, verbose=0, epochs=2)
    assert_same(plain, other)


def test_validation_does_not_advance_a_score():
    """A score draws noise; evaluating it between two fits changes nothing."""
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    score = lambda y, t: np.square(y - t)[:, 0]  # noqa: E731
    one, other = (as_keras(network(), estimated(score)).compile(adam()) for _ in range(2))
    for model in (one, other):
        model.fit(X, T, **fit)
        if model is one:
            assert model.evaluate(X, T, verbose=0) == model.evaluate(X, T, verbose=0)
        model.fit(X, T, **fit)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_are_given():
    """The targets are the gradient; without targets a loss receives ()."""
    model = as_keras(network(), given).compile(keras.optimizers.SGD(0.1))
    other = as_keras(network(), lambda y, _: tf.reduce_sum(y)).compile(keras.optimizers.SGD(0.1))
    model.fit(X, np.ones_like(T), batch_size=8, shuffle=False, verbose=0)
    other.fit(X, batch_size=8, shuffle=False, verbose=0)
    assert_same(model, other)


def test_bad_arguments():
    model = as_keras(network(), external(squared))
    with pytest.raises(ValueError, match="compiled without a loss.*Received: loss='mse'"):
        model.compile("adam", "mse")
    with pytest.raises(ValueError, match="must be compiled without XLA"):
        model.compile("adam", jit_compile=True)
    with pytest.raises(ValueError, match="must be a Keras model or layer"):
        as_keras(lambda x: x, "mse")
    with pytest.raises(ValueError, match="`keras.losses.get` knows"):
        as_keras(network(), "meen")
    named = external(lambda y, t: (*squared(y, t)[:2], {"mae": 0.0}))
    with pytest.raises(ValueError, match="Keras's fit does not use itself. Received: mae"):
        as_keras(network(), named).compile(adam(), metrics=["mae"]).fit(X, T, verbose=0)
    stops = as_keras(network(), lambda y, t: (tf.reduce_mean(y), {"stop": True}))
    with pytest.raises(ValueError, match="Received: stop. Rename it; a callback ends a fit"):
        stops.compile(adam()).fit(X, T, verbose=0)
