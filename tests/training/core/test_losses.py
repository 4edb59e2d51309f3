"""Losses as people write them: Keras's order and objects, and what is no loss."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from loss_cases import (
    BINARY,
    CLASSES,
    OTHER,
    SHARE,
    B,
    X,
    assert_same,
    fitted,
    network,
    pinball,
    sgd,
    squared,
    trained,
)

from vantage.training import (
    Turn,
    compile_step,
    compile_turns,
    differentiate,
    estimated,
    external,
    given,
)
from vantage.training.core.lifts import lifted
from vantage.training.core.losses import in_our_order

ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]


def host_pinball(y_true, y_pred):
    below = y_true - y_pred
    loss = np.mean(np.maximum(SHARE * below, (SHARE - 1) * below))
    return loss, np.where(below > 0, -SHARE, 1 - SHARE) / below.size


class Pinball(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return pinball(y_true, y_pred)


class Settings:
    def loss(self, y_true, y_pred, **options):
        return pinball(y_true, y_pred)

    __call__ = loss


def with_share(share, y_true, y_pred):
    return tf.reduce_mean(tf.maximum(share * (y_true - y_pred), (share - 1) * (y_true - y_pred)))


PINBALLS = {
    "function": pinball,
    "object": Pinball(),
    "method": Settings().loss,
    "callable": Settings(),
    "partial": functools.partial(with_share, SHARE),
    "partial_by_keyword": functools.partial(with_share, share=SHARE),
    "compiled": tf.function(pinball),
    "lambda": lambda labels, logits: pinball(labels, logits),
    "camel_case": lambda yTrue, yHat: pinball(yTrue, yHat),
    "target_output": lambda target, output: pinball(target, output),
    "expected_outputs": lambda expected, outputs: pinball(expected, outputs),
    "observed_simulated": lambda observed, simulated: pinball(observed, simulated),
    "letters": lambda t, p: pinball(t, p),
    "outputs_come_second": lambda y, outputs: pinball(y, outputs),
    "one_name_is_clear": lambda a, y_pred: pinball(a, y_pred),
    "ours": lambda outputs, targets: pinball(targets, outputs),
    "ambiguous_is_ours": lambda y, t: pinball(t, y),
    "of_one_time": lambda q_t, y: pinball(y, q_t),
    "an_expectation_is_an_output": lambda expected_return, y: pinball(y, expected_return),
    "an_estimate_may_be_a_target": lambda y, estimates: pinball(estimates, y),
    "a_wish_is_no_output": lambda y, desired_output: pinball(desired_output, y),
    "a_wish_comes_first": lambda desired_output, output: pinball(desired_output, output),
    "output_of_one_time": lambda output_t, y: pinball(y, output_t),
    "traced": tf.function(pinball).get_concrete_function(*[tf.TensorSpec(X.shape)] * 2),
    "names_say_ours": lambda y_pred, y_true: pinball(y_true, y_pred),
}


@pytest.mark.parametrize("loss", PINBALLS.values(), ids=PINBALLS)
def test_the_order_of_arguments_is_read_from_their_names(loss):
    y, t = tf.constant(X), tf.constant(OTHER)
    value, gradient, _ = differentiate(loss)(y, t)
    expected, slope = host_pinball(OTHER, X)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@pytest.mark.parametrize("name", ["function", "object", "partial_by_keyword"])
def test_a_loss_in_keras_order_trains_as_in_fit(name):
    expected = fitted(pinball, BINARY, network())
    assert_same(trained(differentiate(PINBALLS[name]), BINARY, network()), expected)


def test_host_losses_and_scores_in_keras_order():
    expected = fitted(pinball, BINARY, network())
    assert_same(trained(external(host_pinball), BINARY, network()), expected)
    seen = []
    score = lambda y_true, y_pred: seen.append((y_true, y_pred)) or np.zeros(len(y_pred))  # noqa: E731
    trained(estimated(score, samples=2), BINARY, network(), epochs=1)
    assert all(np.array_equal(t, BINARY) and not np.array_equal(y, BINARY) for t, y in seen)


KERAS = {
    "BinaryCrossentropy": (keras.losses.BinaryCrossentropy(), BINARY, (1, "sigmoid")),
    "from_logits": (keras.losses.BinaryCrossentropy(from_logits=True), BINARY, (1,)),
    "flat_targets": (keras.losses.BinaryCrossentropy(from_logits=True), BINARY[:, 0], (1,)),
    "Categorical": (keras.losses.CategoricalCrossentropy(), ONE_HOT, (3, "softmax")),
    "Sparse": (keras.losses.SparseCategoricalCrossentropy(), CLASSES, (3, "softmax")),
    "KLDivergence": (keras.losses.KLDivergence(), ONE_HOT * 0.7 + 0.1, (3, "softmax")),
    "name": ("poisson", BINARY, (1, "exponential")),
    "function": (keras.losses.mean_absolute_percentage_error, BINARY + 1, (1,)),
}


@pytest.mark.thinned
@pytest.mark.parametrize("lift", [differentiate, lambda loss: loss], ids=["lifted", "bare"])
@pytest.mark.parametrize("name", KERAS)
def test_losses_of_keras_train_as_in_fit(name, lift):
    loss, targets, model = KERAS[name]
    expected = fitted(loss, targets, network(*model))
    assert_same(trained(lift(loss), targets, network(*model)), expected, 1e-5)


def test_every_door_takes_losses_of_keras():
    """`compile_step` and turns, without a lift, as `differentiate` does it by hand."""
    loss = keras.losses.Poisson()
    by_hand = lambda y, t: tf.reduce_mean(y - t * tf.math.log(y + 1e-7))  # noqa: E731
    signature = tf.TensorSpec(X.shape), tf.TensorSpec(BINARY.shape)
    models = [network(1, "exponential") for _ in range(3)]
    a, b, c = models
    compile_step(a, differentiate(by_hand), a.trainable_variables, sgd(), signature)(X, BINARY)
    compile_step(b, loss, b.trainable_variables, sgd(), signature)(X, BINARY)
    turn = Turn(c, loss, c.trainable_variables, sgd())
    compile_turns({"only": turn}, signature)(X, BINARY)
    assert_same(b, a)
    assert_same(c, a)


def test_a_function_without_a_lift():
    """A TensorFlow function is differentiated; one with its own gradient is taken as it is."""
    expected = trained(differentiate(pinball), BINARY, network())
    assert_same(trained(pinball, BINARY, network()), expected)

    def with_gradient(outputs, targets):
        value = pinball(targets, outputs)
        gradient = tf.where(targets > outputs, -SHARE, 1 - SHARE) / B
        return value, gradient, {"mine": value}

    assert_same(trained(with_gradient, BINARY, network()), expected)
    with pytest.raises(ValueError, match="Use `external` for a loss that returns"):
        trained(lambda y, t: (np.mean((y - t) ** 2), y - t), BINARY, network())


BAD = {
    "dict": ({"a": "mse"}, "one function of all outputs.*Received: dict"),
    "none": (None, "Received: NoneType"),
    "class": (keras.losses.MeanSquaredError, r"Received: the class.*MeanSquaredError\(\)"),
    "metric": (keras.metrics.MeanSquaredError(), "must be one function of all outputs"),
    "unknown": ("mze", "Received: 'mze'"),
    "three": (lambda a, b, c: a, r"two arguments, .*Received: .*\(a, b, c\)"),
    "twice": (external(host_pinball), "`external` has lifted"),
    "given": (given, "`given` has lifted"),
}


@pytest.mark.parametrize(("loss", "message"), BAD.values(), ids=BAD)
def test_what_is_no_loss(loss, message):
    for lift in (differentiate, estimated, *([external] if loss != "mze" else [])):
        with pytest.raises(ValueError, match=message):
            lift(loss)


def test_a_loss_of_keras_has_no_gradient_for_external():
    for loss in ("mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error):
        with pytest.raises(ValueError, match="Use `differentiate`, which takes it as it is"):
            external(loss)


RETURNS = {
    "none": (lambda y, t: None, "Received: NoneType"),
    "dict": (lambda y, t: {"a": tf.reduce_mean(y)}, "Received: dict"),
    "not_reduced": (keras.losses.MeanSquaredError(reduction="none"), r'\(16,\).*"none"'),
    "numpy": (lambda y, t: np.mean(np.asarray(y)), "Use `external`"),
    "float": (lambda y, t: float(tf.reduce_mean(y)), "Use `external`"),
    "if": (lambda y, t: y[0, 0] if y[0, 0] > 0 else t[0, 0], "tf.where in place of `if`"),
    "round": (lambda y, t: tf.reduce_mean(tf.round(y) - t), "differentiable.*Use `estimated`"),
}


@pytest.mark.parametrize(("loss", "message"), RETURNS.values(), ids=RETURNS)
def test_what_a_loss_must_not_return(loss, message):
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        trained(differentiate(loss), BINARY, model)
    assert all(map(np.array_equal, before, model.get_weights()))


HOSTS = {
    "none": (external(lambda y, t: (None, y)), "real numbers. Received: object, None"),
    "complex": (external(lambda y, t: (0.0, y * 1j)), "dL/dy must consist of real numbers"),
    "tensor": (external(lambda y, t: tf.reduce_mean(y)), "Use `differentiate`"),
    "score": (estimated(host_pinball), "Received: tuple. Use `external`"),
}


@pytest.mark.parametrize(("loss", "message"), HOSTS.values(), ids=HOSTS)
def test_what_a_host_loss_must_not_return(loss, message):
    with pytest.raises(ValueError, match=message):
        trained(loss, BINARY, network())


def test_an_error_of_the_loss_itself_is_left_as_it_is():
    def loss(y, t):
        raise KeyError("weather")

    with pytest.raises(KeyError, match="weather"):
        trained(differentiate(loss), BINARY, network())


def test_the_order_is_no_guess_where_nothing_is_known():
    """Builtins, `*args`, and names of which one says nothing stay (outputs, targets)."""
    both = lambda *arguments: arguments  # noqa: E731
    assert in_our_order(both, "x")(1, 2) == (1, 2)
    assert in_our_order(lambda label_logits, _: label_logits, "x")(1, 2) == 1
    assert in_our_order(max, "x")(1, 2) == 2


ALIKE = {
    "expected, actual": lambda expected, actual: squared(expected, actual),
    "target, label": lambda target, label: squared(target, label),
    "y_pred, predictions": lambda y_pred, predictions: squared(y_pred, predictions),
    "desired_output, actual_output": lambda desired_output, actual_output: squared(
        desired_output, actual_output
    ),
}


@pytest.mark.parametrize("lift", [differentiate, external, estimated, lifted])
@pytest.mark.parametrize(("names", "loss"), ALIKE.items(), ids=ALIKE)
def test_two_names_of_one_meaning_are_refused(names, loss, lift):
    with pytest.raises(ValueError, match=rf"Received: \({names}\), .* Rename them to \(outputs"):
        lift(loss)
