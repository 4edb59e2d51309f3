"""Losses as people write them: Keras's order and objects, shapes, what else they read, targets."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import (
    GAN,
    Regression,
    Turn,
    compile_step,
    compile_turns,
    differentiate,
    estimated,
    external,
    given,
    train,
)
from vantage.training.core.lifts import lifted
from vantage.training.core.losses import in_our_order

B = 16  # examples
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
OTHER = RANDOM.normal(size=(B, 3)).astype(np.float32)
BINARY = (X[:, :1] > 0).astype(np.float32)
CLASSES = np.arange(B) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
ONES = np.ones((B, 4), np.float32)
SHARE = 0.9


def network(units=1, activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(units, activation)]
    )


def sgd():
    return keras.optimizers.SGD(0.2)


def assert_same(one, other, tolerance=1e-6):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def fitted(loss, targets, model, epochs=5):
    """A model that Keras has trained."""
    model.compile(sgd(), loss)
    model.fit(X, targets, batch_size=B, shuffle=False, epochs=epochs, verbose=0)
    return model


def trained(loss, targets, model, epochs=5):
    Regression(model, loss, sgd()).fit(X, targets, epochs)
    return model


# --- order ----------------------------------------------------------------------------------------


def pinball(y_true, y_pred):
    below = y_true - y_pred
    return tf.reduce_mean(tf.maximum(SHARE * below, (SHARE - 1) * below))


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
    "complex": (external(lambda y, t: (0.0, y * 1j)), "dL/dy must be of real numbers"),
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


# --- players and agents ---------------------------------------------------------------------------


def gan(**losses):
    generator = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    discriminator = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    return GAN(generator, discriminator, sgd(), sgd(), batch_size=4, **losses)


def test_a_player_named_the_other_way_round():
    """θ after one step is the same for (real, fake) and (fake, real), traced or not."""

    def swapped(fake_logits, real_logits):
        return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)

    traced = tf.function(swapped).get_concrete_function(*[tf.TensorSpec((4, 1))] * 2)
    weights = []
    for loss in (lambda real, fake: swapped(fake, real), swapped, traced):
        keras.utils.set_random_seed(0)
        players = gan(discriminator_loss=loss)
        players.step(np.ones((4, 1), np.float32))
        weights.append(players.discriminator.get_weights())
    np.testing.assert_array_equal(weights[0][0], weights[1][0])
    np.testing.assert_array_equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize("player", ["generator_loss", "discriminator_loss"])
@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.BinaryCrossentropy(from_logits=True),
        "mse",
        keras.losses.hinge,
        pinball,
        lambda: 0.0,
        differentiate(pinball),
        None,
    ],
)
def test_players_take_functions_of_logits_alone(player, loss):
    with pytest.raises(ValueError, match="loss must be a function of .*logits"):
        gan(**{player: loss})


def a2c(loss):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    keras.utils.set_random_seed(0)
    return A2C(*spaces, A2CConfig(n_steps=4), auxiliary_loss=loss), envs


def test_the_order_of_an_auxiliary_loss():
    losses = (
        lambda outputs, targets: tf.reduce_mean(outputs[1][:, 0] * targets.returns),
        lambda y_true, y_pred: tf.reduce_mean(y_pred[1][:, 0] * y_true.returns),
    )
    weights = []
    for loss in losses:
        agent, envs = a2c(loss)
        train(agent, envs, 16)
        weights.append(agent.network.get_weights())
    assert all(map(np.array_equal, *weights))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mse", "must be a TensorFlow function of the outputs"),
        (keras.losses.MeanSquaredError(), "must be a TensorFlow function of the outputs"),
        (differentiate(pinball), "not lifted yet"),
        (lambda outputs: 0.0, "two arguments"),
    ],
)
def test_what_is_no_auxiliary_loss(loss, message):
    with pytest.raises(ValueError, match=message):
        a2c(loss)


def test_an_auxiliary_loss_that_broadcasts_values_and_returns():
    """Values `[B, 1]` minus returns `[B]` are `[B, B]`."""
    agent, envs = a2c(lambda y, targets: tf.reduce_mean((y[1] - targets.returns) ** 2))
    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(8, 1\) and \(8,\)"):
        train(agent, envs, 16)


@pytest.mark.parametrize("name", ["value_loss", "auxiliary_loss", "learning_rate", "seconds"])
def test_metrics_of_an_auxiliary_loss_are_not_named_like_the_agents(name):
    agent, envs = a2c(lambda y, targets: (tf.reduce_mean(y[0]), {name: 1.0}))
    with pytest.raises(ValueError, match=f"the agent does not use itself. Received: {name}. Ren"):
        train(agent, envs, 16)


# --- shapes ---------------------------------------------------------------------------------------


def squared(y, t):
    return tf.reduce_mean((y - tf.cast(t, tf.float32)) ** 2)


ALIGNED = {
    "floats": (squared, BINARY[:, 0]),
    "integers": (squared, BINARY[:, 0].astype(np.int64)),
    "closure": (lambda y, t: tf.reduce_mean(OTHER[:, :1] * (y - t) ** 2), BINARY[:, 0]),
    "compiled": (tf.function(squared), BINARY[:, 0]),
}


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
    refused = "must be read as it is after that pass.*batch_normal.*/moving_.*Leave out @tf.func"
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


# --- targets of host losses -----------------------------------------------------------------------

AS_GIVEN = {
    "float64": 1.7e9 + np.arange(B)[:, None] * 0.5,
    "int64": 2**53 + np.arange(B) * 2 + 1,
    "str": np.array([f"é{k}.wav" for k in range(B)]),
    "str_rows": np.array([[f"{k}", "b"] for k in range(B)]),
    "bytes": np.array([b"raw" * k for k in range(B)]),
    "datetime": np.datetime64("2024-01-01") + np.arange(B),
    "timedelta": np.arange(B).astype("timedelta64[s]"),
    "objects": np.array([{"k": k} for k in range(B)]),
    "bool": np.arange(B) % 2 == 0,
    "longdouble": np.arange(B, dtype=np.longdouble)[:, None] / 3,
}


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("name", AS_GIVEN)
def test_targets_reach_a_host_loss_as_given(name, size):
    """Bit for bit, with their dtype, in the rows of the minibatch, and in a validation."""
    given_, seen = AS_GIVEN[name], []

    def loss(y, t):
        seen.append((t["number"], t["it"]))
        return np.mean(y**2), 2 * y / y.size

    targets = {"number": np.arange(B), "it": given_}
    trainer = Regression(network(), external(loss), sgd(), batch_size=size)
    trainer.fit(X, targets, 2, validation=(X[:3], {"number": np.arange(3), "it": given_[:3]}))
    assert len(seen) == 2 * (1 if size is None else 4) + 2
    for numbers, it in seen:
        assert it.dtype == given_.dtype
        np.testing.assert_array_equal(it, given_[numbers])


def test_texts_reach_a_host_loss_of_a_step_as_given():
    """A `tf.string` of the signature stands for them, in one update and in several."""
    names, seen = np.array([f"é{k}" for k in range(B)]), []
    loss = external(lambda y, t: seen.append(t) or (np.mean(y**2), 2 * y / y.size))
    specs = tf.TensorSpec(X.shape), tf.TensorSpec((B,), tf.string)
    rows = np.array([[3, 1], [0, 2]], np.int32)
    for updates, arguments in ((None, ()), (2, ()), ((2, 2), (rows,))):
        model = network()
        step = compile_step(model, loss, model.trainable_variables, sgd(), specs, updates=updates)
        step(X, names, *arguments)
    assert [t.tolist() for t in seen[:3]] == [names.tolist()] * 3
    assert [t.tolist() for t in seen[3:]] == names[rows].tolist()
    with pytest.raises(ValueError, match=r"Target 0 .* shaped \[16\].* Received: <U3\[4\]"):
        step(X, names[:4], rows)
    with pytest.raises(ValueError, match="structure of the signature"):
        step(X, {"a": names}, rows)


def test_times_and_objects_are_no_targets_of_a_tensorflow_loss():
    for name in ("datetime", "objects"):
        with pytest.raises(ValueError, match="lifted by `external`"):
            trained(differentiate(squared), AS_GIVEN[name], network())


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


# --- compiled functions within a model ------------------------------------------------------------


class CompiledCall(keras.Model):
    """A model that TensorFlow compiles by itself, as subclassed ones often are."""

    def __init__(self, *stack):
        super().__init__()
        self.stack = list(stack)

    @tf.function
    def call(self, inputs, training=False):
        for layer in self.stack:
            inputs = layer(inputs, training=training)
        return inputs


def compiled_twice(*more):
    """Two of the same weights, traced before anybody trains them."""
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        stack = layers.Dense(4, "tanh", kernel_regularizer="l2"), *more, layers.Dense(1)
        models.append(CompiledCall(*stack))
        models[-1](X)
    return models


@pytest.mark.parametrize("training", [False, True], ids=["new", "traced"])
def test_a_compiled_function_within_a_model_has_its_gradient(training):
    """It holds the variables themselves, in whatever step it was traced.

    The penalties alone would reach every kernel.
    """
    one, other = compiled_twice()
    other(X, training=training)
    expected = fitted("mse", BINARY, one, epochs=6)
    trainer = Regression(other, "mse", sgd())
    for epochs, every in ((1, 1), (2, 2), (3, 3)):  # a step for each
        trainer.fit(X, BINARY, epochs, report_every=every)
    assert_same(other, expected, 1e-5)


@pytest.mark.parametrize("is_traced", [False, True])
def test_what_a_compiled_function_assigns_is_refused(is_traced):
    """A refused update could not leave it as it is."""
    model, _ = compiled_twice(layers.BatchNormalization())
    if is_traced:
        model(X, training=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match="must be assigned outside.*Leave out @tf.function"):
        trained("mse", BINARY, model)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_gradients_in_half_precision_are_scaled_within_compiled_functions():
    keras.utils.set_random_seed(0)
    half = layers.Dense(4, "tanh", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((3,)), half, layers.Dense(1)])
    before = model.get_weights()
    step = compile_step(
        tf.function(lambda x: model(x, training=True)),
        lambda y, t: 1e-9 * squared(y, t),
        model.trainable_variables,
        keras.optimizers.SGD(1e8),
        (tf.TensorSpec(X.shape), tf.TensorSpec(BINARY.shape)),
    )
    step(X, BINARY)
    assert not any(map(np.array_equal, before, model.get_weights()))
