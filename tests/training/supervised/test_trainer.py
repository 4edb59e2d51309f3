"""The Trainer: as Keras's fit on every kind of data, resumed to the same bits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training import Average, Trainer, Turn, differentiate, estimated, external

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(77, 3)).astype(np.float32)
T = (X @ RANDOM.normal(size=(3, 1))).astype(np.float32)
WEIGHTS = np.linspace(0.0, 2.0, len(X), dtype=np.float32)


def network(dropout=0.0):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, "tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(dropout, seed=1),
            layers.Dense(1),
        ]
    )


def adam():
    return keras.optimizers.Adam(0.01)


def dataset(seed=None):
    data = tf.data.Dataset.from_tensor_slices((X, T))
    return (data if seed is None else data.shuffle(77, seed=seed)).batch(8)


def squared(outputs, targets, sample_weight=None):
    weights = np.ones((len(outputs), 1)) if sample_weight is None else sample_weight[:, None]
    difference = outputs - targets
    return np.mean(weights * difference**2), 2 * weights * difference / difference.size


def assert_close(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def assert_same(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", ["mse", external(squared)], ids=["TensorFlow", "NumPy"])
@pytest.mark.parametrize("data", ["arrays", "a Dataset", "weights"])
def test_it_trains_as_keras_does(loss, data):
    """Weights, means of the epochs and validation, the shorter last batch included."""
    plain, model = network(), network()
    plain.compile(adam(), "mse", weighted_metrics=["mae"])
    trainer = Trainer(model, loss, adam(), metrics=[keras.metrics.MeanAbsoluteError("mae")])
    if data == "a Dataset":
        wanted = plain.fit(dataset(), epochs=2, verbose=0, validation_data=(X, T), shuffle=False)
        found = trainer.fit(dataset(), epochs=2, validation=dataset())
    else:
        more = {"sample_weight": WEIGHTS} if data == "weights" else {}
        options = {"batch_size": 8, "shuffle": False, "epochs": 2, **more}
        wanted = plain.fit(X, T, verbose=0, validation_data=(X, T), **options)
        found = trainer.fit(X, T, validation=(X, T), **options)
    assert_close(model, plain)
    for name, values in wanted.history.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)
    assert set(found) - set(wanted.history) == {"grad_norm", "penalty"}
    assert trainer.evaluate(X, T)["loss"] == pytest.approx(found["val_loss"][-1], rel=1e-5)
    np.testing.assert_allclose(trainer.predict(X), plain.predict(X, verbose=0), atol=1e-4)


def test_classes_have_weights():
    classes = (T[:, 0] > 0).astype(np.float32)[:, None]
    plain, model, by_class = network(), network(), {0: 0.5, 1: 2.0}
    plain.compile(adam(), "mse")
    options = {"batch_size": 8, "shuffle": False, "class_weight": by_class}
    plain.fit(X, classes, verbose=0, **options)
    Trainer(model, "mse", adam()).fit(X, classes, **options)
    assert_close(model, plain)
    trainer = Trainer(network(), "mse", adam())
    with pytest.raises(ValueError, match=r"a weight for every class. Received: none for \[1\]"):
        trainer.fit(X, classes, class_weight={0: 1.0})
    with pytest.raises(ValueError, match="class numbers"):
        trainer.fit(X, T, class_weight=by_class)


def test_a_forward_of_several_models():
    """An autoencoder as a function of encoder and decoder, and as one Keras model."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((3,)), layers.Dense(2, "tanh"), layers.Dropout(0.5)])
    decoder = keras.Sequential([keras.Input((2,)), layers.Dense(3)])

    def forward(inputs, training=True):
        return decoder(encoder(inputs, training=training), training=training)

    trainer = Trainer(forward, "mse", adam(), models=[encoder, decoder])
    plain = keras.models.clone_model(keras.Sequential([keras.Input((3,)), encoder, decoder]))
    plain.set_weights([*encoder.get_weights(), *decoder.get_weights()])
    plain.compile(adam(), "mse")
    np.testing.assert_allclose(trainer.predict(X), plain.predict(X, verbose=0), atol=1e-5)
    assert trainer.evaluate(X, X)["loss"] == pytest.approx(plain.evaluate(X, X, verbose=0))
    before = encoder.get_weights()
    losses = trainer.fit(X, X, epochs=20, batch_size=8)["loss"]
    assert losses[-1] < losses[0]
    assert (before[0] != encoder.get_weights()[0]).any()


def test_turns():
    """Two models in turn, and one that follows."""
    one, two, follower = network(), network(), network()
    turns = {
        "one": Turn(one, differentiate("mse"), one.trainable_variables, adam()),
        "two": Turn(two, external(squared), two.trainable_variables, adam()),
    }
    average = Average(follower.trainable_variables, one.trainable_variables, 1.0)
    trainer = Trainer(turns=turns, models=[one, two], averages=[average])
    history = trainer.fit(dataset(), epochs=2)
    assert {"one_loss", "two_loss", "one_grad_norm"} <= set(history)
    alone = network()
    Trainer(alone, "mse", adam()).fit(dataset(), epochs=2)
    assert_close(one, alone)
    assert_close(two, alone)
    for a, b in zip(follower.trainable_variables, one.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sequences_of_different_lengths():
    """Padding changes nothing, for the model masks it."""

    def masked():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [layers.Embedding(9, 4, mask_zero=True), layers.GRU(3), layers.Dense(1)]
        )

    words = [RANDOM.integers(1, 9, n) for n in RANDOM.integers(1, 30, 40)]
    sums = np.array([[each.mean()] for each in words], np.float32)
    padded = keras.utils.pad_sequences(words, padding="post")
    one, other = masked(), masked()
    Trainer(one, "mse", adam()).fit(words, sums, epochs=2, batch_size=8, shuffle=False)
    Trainer(other, "mse", adam()).fit(padded, sums, epochs=2, batch_size=8, shuffle=False)
    assert_close(one, other)


class Killed(Exception):
    pass


def killing(at):
    """A loss on the host that dies at its call number `at`."""
    calls = []

    def loss(outputs, targets):
        calls.append(None)
        if len(calls) == at:
            raise Killed
        return squared(outputs, targets)

    return external(loss)


def fit(folder, loss, data, resume, epochs=3, **options):
    model = network(dropout=0.3)
    stopping = keras.callbacks.EarlyStopping("loss", patience=5)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0)
    trainer = Trainer(model, loss, adam(), metrics=[keras.metrics.MeanAbsoluteError("mae")])
    history = trainer.fit(
        *data(),
        epochs=epochs,
        callbacks=[stopping, plateau],
        logdir=folder,
        resume=resume,
        checkpoint_every=1,
        **options,
    )
    return model, trainer, history, stopping


DATA = {
    "a shuffled Dataset": (lambda: (dataset(seed=4),), {}),
    "arrays": (lambda: (X, T), {"batch_size": 8}),
    "an endless Dataset": (lambda: (dataset(seed=4).repeat(),), {"steps_per_epoch": 7}),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("at", [3, 13, 20])
def test_a_killed_fit_is_resumed_to_the_same_bits(data, at, tmp_path):
    """Weights, slots, order, dropout, means of the epoch, callbacks with a state, curves."""
    make, options = DATA[data]
    whole = fit(tmp_path / "whole", external(squared), make, False, **options)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", killing(at), make, False, **options)
    again = fit(tmp_path / "killed", external(squared), make, True, **options)
    assert_same(again[0], whole[0])
    for a, b in zip(
        again[1].optimizers[""].variables, whole[1].optimizers[""].variables, strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for name, values in whole[2].items():
        np.testing.assert_array_equal(again[2][name], values)
    assert (again[3].best, again[3].wait) == (whole[3].best, whole[3].wait)
    assert float(again[1].optimizers[""].learning_rate) < 0.01


def test_a_score_draws_on_where_it_was(tmp_path):
    score = lambda y, t: np.square(y - t)[:, 0]  # noqa: E731
    whole, half, again = network(), network(), network()
    Trainer(whole, estimated(score), adam()).fit(X, T, epochs=3)
    Trainer(half, estimated(score), adam()).fit(X, T, epochs=2, logdir=tmp_path / "run")
    trainer = Trainer(again, estimated(score), adam())
    trainer.fit(X, T, epochs=3, logdir=tmp_path / "run", resume=True)
    assert_same(again, whole)


def test_callbacks_of_keras_and_functions():
    seen, model = [], network()
    batches = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.1 / (epoch + 1))
    trainer = Trainer(model, "mse", adam())
    history = trainer.fit(
        X, T, epochs=9, callbacks=[batches, rate, lambda epoch, metrics: epoch < 2]
    )
    assert seen == [0, 1, 2] * 2 and len(history["loss"]) == 2
    assert history["learning_rate"].tolist() == pytest.approx([0.1, 0.05])
    assert not hasattr(model, "optimizer") and not model.compiled
    best = keras.callbacks.EarlyStopping(
        "loss", patience=1, min_delta=9.0, restore_best_weights=True
    )
    before = model.get_weights()
    trainer.fit(X, T, epochs=9, callbacks=[best])
    assert trainer.epochs == 4 and any(
        (a != b).any() for a, b in zip(before, model.get_weights(), strict=True)
    )


@pytest.mark.parametrize("batch_size", [8, 77])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_bad_batch(batch_size, policy):
    bad, model = X.copy(), network()
    bad[20] = np.nan
    trainer = Trainer(model, "mse", adam())
    options = {"batch_size": batch_size, "shuffle": False, "on_bad_numbers": policy}
    if policy == "raise":
        with pytest.raises(
            FloatingPointError, match="In epoch 1, from batch 0 on.*inputs hold nan"
        ):
            trainer.fit(bad, T, **options)
        return
    history = trainer.fit(bad, T, **options)
    assert all(np.isfinite(array).all() for array in model.get_weights())
    assert np.isfinite(history["loss"]).all() == (batch_size == 8)


def test_frozen_between_fits():
    model = network()
    trainer = Trainer(model, "mse", adam())
    trainer.fit(X, T)
    model.layers[0].trainable = False
    before = model.get_weights()
    trainer.fit(X, T)
    after = model.get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[-1] != after[-1]).any()


def test_it_is_saved_and_set():
    one, other = network(), network()
    trainer, again = Trainer(one, "mse", adam()), Trainer(other, "mse", adam())
    trainer.fit(X, T, batch_size=8)
    again.set_state(trainer.get_state())
    for each in (trainer, again):
        each.fit(X, T, batch_size=8)
    assert_same(one, other)
    wide = Trainer(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), "mse", adam())
    with pytest.raises(ValueError, match="must hold the variables of the models"):
        wide.set_state(trainer.get_state())


BAD = {
    "an optimizer": (lambda: Trainer(network(), "mse", "adam"), "must be a Keras optimizer"),
    "no models": (lambda: Trainer(lambda x: x, "mse", adam()), "needs the models that it uses"),
    "metrics": (
        lambda: Trainer(network(), "mse", adam(), metrics=["mae"]),
        "objects of keras.metr",
    ),
    "both": (lambda: Trainer(network(), "mse", adam(), turns={"a": 1}), "must be a dict of Turn"),
    "weights": (
        lambda: Trainer(network(), lambda y, t: tf.reduce_mean(y), adam()).fit(
            X, T, sample_weight=WEIGHTS
        ),
        "a parameter `sample_weight`",
    ),
    "callbacks": (
        lambda: Trainer(network(), "mse", adam()).fit(X, T, callbacks=[3]),
        "callbacks must be callable",
    ),
    "resume": (
        lambda: Trainer(network(), "mse", adam()).fit(X, T, resume=True),
        "needs the folder",
    ),
    "validation": (
        lambda: Trainer(network(), "mse", adam()).fit(X, T, validation=(X, T, T, T)),
        "a tuple of 4",
    ),
    "training": (
        lambda: Trainer(lambda x: X, "mse", adam(), models=[network()]).evaluate(X, T),
        "needs a parameter `training`",
    ),
    "validation_data": (
        lambda: Trainer(network(), "mse", adam()).fit(X, T, validation_data=(X, T)),
        "Received: validation_data",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_data_that_end_or_change(monkeypatch):
    trainer = Trainer(network(), "mse", adam())
    with pytest.raises(ValueError, match="gives its batches once"):
        trainer.fit(((X, T) for _ in range(3)), epochs=2)
    with pytest.raises(ValueError, match="must hold equally many examples"):
        trainer.fit(iter([(X, T), (X, T[:3])]))
    monkeypatch.setattr("vantage.training.supervised.trainer.SIGNATURES", 3)
    lengths = (np.ones((k, 3), np.float32) for k in range(1, 5))
    with pytest.raises(ValueError, match="at most 3 different shapes"):
        Trainer(network(), lambda y, t: tf.reduce_mean(y), keras.optimizers.SGD()).fit(lengths)


def test_more_callbacks_of_keras(tmp_path):
    """Those that write files, and one that ends a fit at a bad number."""
    model = network()
    callbacks = [
        keras.callbacks.TensorBoard(str(tmp_path / "board"), write_graph=False),
        keras.callbacks.CSVLogger(tmp_path / "curves.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = Trainer(model, "mse", adam()).fit(X, T, epochs=2, callbacks=callbacks)
    rows = (tmp_path / "curves.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,grad_norm,loss,penalty") and len(rows) == 3
    assert float(rows[2].split(",")[2]) == pytest.approx(history["loss"][1])
    other = network()
    other.load_weights(tmp_path / "2.weights.h5")
    assert_same(other, model)
    assert list((tmp_path / "board").rglob("events.*"))


def test_an_evaluation_with_weights_is_the_one_of_keras():
    model = network()
    model.compile(adam(), "mse")
    wanted = model.evaluate(X, T, batch_size=8, sample_weight=WEIGHTS, verbose=0)
    found = Trainer(model, "mse", adam()).evaluate(X, T, batch_size=8, sample_weight=WEIGHTS)
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
