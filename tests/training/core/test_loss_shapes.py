"""Targets get the rank of the outputs, and what would be broadcast is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from loss_cases import BINARY, CLASSES, OTHER, B, X, assert_same, network, sgd, squared, trained

from vantage.training import (
    Regression,
    differentiate,
    estimated,
    external,
)

ALIGNED = {
    "floats": (squared, BINARY[:, 0]),
    "integers": (squared, BINARY[:, 0].astype(np.int64)),
    "closure": (lambda y, t: tf.reduce_mean(OTHER[:, :1] * (y - t) ** 2), BINARY[:, 0]),
    "compiled": (tf.function(squared), BINARY[:, 0]),
}


@pytest.mark.thinned
@pytest.mark.parametrize(("loss", "targets"), ALIGNED.values(), ids=ALIGNED)
@pytest.mark.parametrize("size", [None, 4])
def test_flat_targets_have_the_rank_of_the_outputs(loss, targets, size):
    if size and "OTHER" in getattr(getattr(loss, "__code__", None), "co_names", ()):
        pytest.skip("its weights are of all examples")
    models = [network(), network()]
    for model, each in zip(models, (targets, targets[:, None]), strict=True):
        Regression(model, differentiate(loss), sgd(), batch_size=size).fit(X, each, 4)
    assert_same(*models)


def test_flat_outputs_and_targets_with_an_axis():
    flat = keras.Sequential([*network().layers, layers.Reshape(())])
    expected = trained(differentiate(squared), BINARY, network())
    assert_same(trained(differentiate(squared), BINARY, flat), expected)


def test_targets_of_several_outputs_have_the_rank_of_each():
    def heads():
        keras.utils.set_random_seed(0)
        x = keras.Input((3,))
        return keras.Model(x, {"a": layers.Dense(1)(x), "b": layers.Dense(2)(x)})

    loss = lambda y, t: squared(y["a"], t["a"]) + squared(y["b"], t["b"])  # noqa: E731
    one, other = heads(), heads()
    trained(differentiate(loss), {"a": BINARY[:, 0], "b": X[:, :2]}, one)
    trained(differentiate(loss), {"a": BINARY, "b": X[:, :2]}, other)
    assert_same(one, other)


def test_losses_that_know_the_shapes_see_them_as_they_are():
    """One that takes the axis away, class ids, targets that are not compared, means alone."""
    expected = trained(differentiate(squared), BINARY, network())
    by_itself = differentiate(lambda y, t: squared(y[:, 0], t))
    assert_same(trained(by_itself, BINARY[:, 0], network()), expected)
    seen = []

    def cross_entropy(y, t):
        seen.append(t.shape.as_list())
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(t, y))

    trained(differentiate(cross_entropy), CLASSES, network(3))
    means = lambda y, t: seen.append(t.shape.as_list()) or tf.reduce_mean(y) * tf.reduce_mean(t)  # noqa: E731
    trained(differentiate(means), BINARY[:, 0], network())
    nest = lambda y, t: tf.reduce_mean(t["w"] * (y[:, 0] - t["y"]) ** 2)  # noqa: E731
    trained(differentiate(nest), {"y": BINARY[:, 0], "w": X[:, 0] ** 2}, network())
    assert seen[0] == [B] and seen[-1] == [B]


def gaussian(y, t):
    """The negative log-likelihood of two heads, means and log-deviations `[B, 1]`."""
    return tf.reduce_mean(y["s"] + ((tf.cast(t, tf.float32) - y["m"]) / tf.exp(y["s"])) ** 2 / 2)


def two_heads(shape=(1,)):
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    m, s = layers.Dense(1)(x), layers.Dense(1)(x)
    return keras.Model(x, {"m": m, "s": layers.Reshape(shape)(s)})


W = X[:, 0] ** 2
NESTS = {
    "both_flat": (
        lambda y, t: tf.reduce_mean(t["w"] * (y - t["y"]) ** 2),
        {"y": BINARY[:, 0], "w": W},
        network,
    ),
    "only_the_weights": (
        lambda y, t: tf.reduce_mean(t[1] * (y - t[0]) ** 2),
        (BINARY, W),
        network,
    ),
    "weights_of_weights": (
        lambda y, t: tf.reduce_mean(t[1] * t[2] * (y - t[0]) ** 2),
        (BINARY, W, W),
        network,
    ),
    "compiled": (
        tf.function(lambda y, t: tf.reduce_mean(t[1] * (y - t[0]) ** 2)),
        (BINARY, W),
        network,
    ),
    "two_heads": (gaussian, BINARY[:, 0], two_heads),
    "two_outputs": (gaussian, BINARY, lambda: two_heads(())),
    "among_targets": (
        lambda y, t: tf.reduce_mean(t["w"] * (t["y"] - y[:, 0]) ** 2),
        {"y": BINARY[:, 0], "w": W[:, None]},
        network,
    ),
    "ids_beside_them": (
        lambda y, t: tf.reduce_mean(tf.gather(W, t["id"])[:, None] * (y - t["y"]) ** 2),
        {"y": BINARY[:, 0], "id": np.arange(B)},
        network,
    ),
}


@pytest.mark.parametrize(("loss", "targets", "model"), NESTS.values(), ids=NESTS)
def test_a_nest_of_leaves_that_are_broadcast_is_refused(loss, targets, model):
    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(16, 1\).*\(16,\)|\(16, 1\)"):
        trained(differentiate(loss), targets, model())


def test_a_nest_of_leaves_that_are_not_broadcast_is_taken():
    loss = lambda y, t: tf.reduce_mean(t[1][:, None] * (y - t[0]) ** 2)  # noqa: E731
    expected = trained(
        differentiate(lambda y, t: tf.reduce_mean(W[:, None] * (y - t) ** 2)), BINARY, network()
    )
    assert_same(trained(differentiate(loss), (BINARY, W), network()), expected)
    one = lambda y, t: squared(y, t["y"])  # noqa: E731
    expected = trained(differentiate(squared), BINARY, network())
    assert_same(trained(differentiate(one), {"y": BINARY[:, 0]}, network()), expected)
    masked = lambda y, t: squared(tf.boolean_mask(y, W > 0), tf.boolean_mask(t, W > 0))  # noqa: E731
    assert_same(trained(differentiate(masked), BINARY[:, 0], network()), expected)


def host_scalar(y, t):
    """As another framework's: the gradient has the shape of y, but is of all pairs."""
    return np.mean((y - t) ** 2), 2 * np.mean(y - t, axis=1, keepdims=True) / len(y)


SCORES = {
    "external": external(host_scalar),
    "scalar": estimated(lambda y, t: np.mean((y - t) ** 2)),
    "per_example": estimated(lambda y, t: np.mean((y - t) ** 2, axis=1)),
}


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("lift", SCORES.values(), ids=SCORES)
def test_host_losses_that_broadcast_are_refused(lift, dtype):
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(16, 1\).*\(16,\)"):
        trained(lift, BINARY[:, 0].astype(dtype), model)
    assert all(map(np.array_equal, before, model.get_weights()))


BROADCASTS = {
    "product": lambda y, w: w * y,
    "plain_outputs": lambda y, w: np.asarray(y) - w,
    "plain_weights": lambda y, w: y - np.array(w, float),
    "joined": lambda y, w: np.concatenate([y]) - w,
    "where": lambda y, w: np.where(y > 0, y, w),
    "clip": lambda y, w: np.clip(y, w, 9),
    "compared": lambda y, w: 1.0 * np.isclose(y, w),
}


@pytest.mark.parametrize("broadcast", BROADCASTS.values(), ids=BROADCASTS)
def test_weights_that_a_host_loss_broadcasts_are_refused(broadcast):
    def loss(y, t):
        return np.mean(broadcast(y - t["y"], t["w"])), np.ones_like(y)

    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(16, 1\).*\(16,\)"):
        trained(external(loss), {"y": BINARY, "w": W}, network())


def test_a_host_loss_may_have_weights_with_one_axis():
    def loss(y, t):
        w = t["w"][:, None] / len(y)
        return np.sum(w * (y - t["y"]) ** 2), 2 * w * (y - t["y"])

    weighted = differentiate(lambda y, t: tf.reduce_mean(W[:, None] * (y - t) ** 2))
    expected = trained(weighted, BINARY, network())
    assert_same(trained(external(loss), {"y": BINARY, "w": W}, network()), expected)


def test_flat_floats_alone_are_no_targets_of_a_host_loss():
    """However they are nested, one of them is what outputs `[B, 1]` are compared with."""
    loss = lambda y, t: host_scalar(np.asarray(y), np.asarray(t["y"]))  # noqa: E731
    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(16, 1\).*\(16,\)"):
        trained(external(loss), {"y": BINARY[:, 0], "w": W}, network())


def test_ids_of_a_host_loss_have_no_axis_for_outputs():
    """A table of what each id stands for, beside outputs `[B, 1]`."""
    table, ids = BINARY.astype(np.float64), np.arange(B)[::-1]

    def loss(y, t):
        return np.mean((y - table[t]) ** 2), 2 * (y - table[t]) / len(y)

    expected = trained(differentiate(squared), BINARY[ids], network())
    assert_same(trained(external(loss), ids, network()), expected)
