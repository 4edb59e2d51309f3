"""Predictions: inference, in parts, of a size that follows from what they compute."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from regressions import Always, X, network, noisy

from vantage.training import (
    Regression,
    given,
)
from vantage.training.supervised import inference


def test_predict_is_inference():
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.9)])
    trainer = Regression(model, given, keras.optimizers.SGD())
    np.testing.assert_array_equal(trainer.predict(X), X)


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
