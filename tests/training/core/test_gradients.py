"""The gradient core against Keras's own training and eager references."""

import gc
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    ROWS,
    SGD,
    SIGNATURE,
    WORD_SIGNATURE,
    WORDS,
    Adam,
    B,
    LossScale,
    X,
    Y,
    assert_same,
    assert_unchanged,
    embedding,
    mse,
    naive_step,
    network,
    sequential,
    small_and_stateful,
    stateful,
    stateful_without_dropout,
    step_for,
    twins,
    values,
)
from keras import layers

from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import external, given
from vantage.training.core.lifts import differentiate

# --- any Keras model ------------------------------------------------------------------------------


class AddLoss(layers.Layer):
    """A penalty per example, which Keras sums."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(x**2, axis=-1))
        return x


class Recycling(keras.Model):
    """Subclassed; every layer that has a state is called twice."""

    def __init__(self):
        super().__init__()
        self.first = layers.SpectralNormalization(
            layers.Dense(3, activation="tanh", activity_regularizer="l2")
        )
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=1)
        self.last = layers.Dense(2)
        self(X)

    def call(self, x, training=False):
        for _ in range(2):
            x = self.first(x, training=training)
            x = self.drop(self.norm(x, training=training), training=training)
        return self.last(x)


def frozen_first_layer():
    model = stateful()
    model.layers[0].trainable = False
    return model


def half_precision():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    return sequential(
        layers.Dense(4, activation="tanh", dtype=policy, kernel_regularizer="l2"),
        layers.BatchNormalization(dtype=policy),
        layers.Dense(2, dtype=policy),
    )


MODELS = {
    "stateful": stateful,
    "frozen": frozen_first_layer,
    "recycling": Recycling,
    "add_loss": lambda: sequential(layers.Dense(4), AddLoss(), layers.Dense(2)),
    "spectral": lambda: sequential(layers.SpectralNormalization(layers.Dense(4)), layers.Dense(2)),
    "recurrent": lambda: sequential(
        layers.Reshape((3, 1)), layers.GRU(3, dropout=0.2, seed=1), layers.Dense(2)
    ),
    "half_precision": half_precision,
    "non_negative": lambda: sequential(
        layers.Dense(4, kernel_constraint="non_neg", bias_constraint="non_neg"), layers.Dense(2)
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_model_equals_fit(make):
    model, reference = twins(make)
    ours, keras_own = (Adam(0.02) for _ in range(2))
    if make is half_precision:
        ours, keras_own = LossScale(ours), LossScale(keras_own)
    step = step_for(model, optimizer=ours)
    graph = make in (stateful, Recycling, half_precision)  # the others in half the time
    reference.compile(keras_own, "mse", run_eagerly=not graph)
    for _ in range(4):
        loss = reference.train_on_batch(X, Y)
        assert step(X, Y)["loss"] == pytest.approx(loss, rel=1e-5)
    exact = {"rtol": 1e-6, "atol": 1e-7} if graph else {}
    assert_same(values(model, ours), values(reference, keras_own), **exact)


@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.05}, {"global_clipnorm": 0.05}], ids=str)
def test_embedding_equals_fit(options):
    """Its gradient is a tf.IndexedSlices, and the rows of a word that occurs twice add up."""
    model, reference = twins(embedding)
    ours, keras_own = (Adam(0.02, **options) for _ in range(2))
    step = step_for(model, optimizer=ours, signature=WORD_SIGNATURE)
    reference.compile(keras_own, "mse", run_eagerly=True)
    with tf.GradientTape() as tape:
        loss = mse(model(WORDS), Y)
    gradients = map(tf.convert_to_tensor, tape.gradient(loss, model.trainable_variables))
    assert step(WORDS, Y)["grad_norm"] == pytest.approx(
        float(tf.linalg.global_norm(list(gradients))), rel=1e-5
    )
    reference.train_on_batch(WORDS, Y)
    for _ in range(3):
        step(WORDS, Y), reference.train_on_batch(WORDS, Y)
    assert_same(values(model, ours), values(reference, keras_own))


def several_outputs(pack):
    def make():
        one, two = keras.Input((3,), name="one"), keras.Input((3,), name="two")
        trunk = layers.Dense(4, activation="tanh")(layers.Concatenate()([one, two]))
        a, b = layers.Dense(2, name="a")(trunk), layers.Dense(1, name="b")(trunk)
        return keras.Model({"one": one, "two": two}, pack(a, b, layers.Dense(3)(trunk)))

    return make


OUTPUTS = {
    "dict": lambda a, b, c: {"a": a, "b": b, "c": c},
    "tuple": lambda a, b, c: (a, b, c),
    "list": lambda a, b, c: [a, b, c],
    "nested": lambda a, b, c: {"a": a, "rest": (b, [c])},
}


@pytest.mark.parametrize(
    ("kind", "lift"),
    [
        ("dict", "differentiate"),
        ("dict", "given"),
        ("tuple", "external"),
        ("list", "given"),
        ("list", "external"),
        ("nested", "differentiate"),
        ("nested", "external"),
        ("nested", "given"),
    ],
)
def test_several_inputs_and_outputs(kind, lift):
    pack = OUTPUTS[kind]
    model, reference = twins(several_outputs(pack))
    inputs = {"one": X, "two": 2 * X[::-1]}
    target_arrays = pack(Y, Y[:, :1], np.tile(Y[:, :1], 3))
    specs = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape), (inputs, target_arrays))

    def loss(outputs, targets):
        flat = zip(tf.nest.flatten(outputs), tf.nest.flatten(targets), strict=True)
        return tf.add_n([(k + 1.0) * tf.reduce_sum(y * t) for k, (y, t) in enumerate(flat)])

    def weighted(targets):
        return tf.nest.pack_sequence_as(
            targets, [(k + 1) * t for k, t in enumerate(tf.nest.flatten(targets))]
        )

    lifts = {
        "differentiate": differentiate(loss),
        "external": external(lambda y, t: (loss(y, t).numpy(), weighted(t))),
        "given": given,
    }
    step = step_for(model, lifts[lift], Adam(0.1), specs)
    optimizer = Adam(0.1)
    for _ in range(3):
        metrics = step(inputs, weighted(target_arrays) if lift == "given" else target_arrays)
        expected = naive_step(
            reference, loss, [], reference.trainable_variables, optimizer, inputs, target_arrays
        )
        assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert_same(values(model), values(reference))


def test_a_loss_may_ignore_an_output_and_targets_may_be_nested():
    model, reference = twins(several_outputs(OUTPUTS["dict"]))
    inputs, targets = {"one": X, "two": X}, {"a": Y, "scale": np.float32(3)}
    specs = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape), (inputs, targets))

    def loss(y, t):
        return t["scale"] * mse(y["a"], t["a"])

    reached, mirror = (
        [variable for variable in one.trainable_variables if variable.shape[-1] in (2, 4)]
        for one in (model, reference)
    )  # the trunk and the head "a"
    step = compile_step(model, differentiate(loss), reached, SGD(0.1), specs)
    step(inputs, targets)
    naive_step(reference, loss, [], mirror, SGD(0.1), inputs, targets)
    assert_same(values(model), values(reference))


# --- several models, several calls ----------------------------------------------------------------


def generator():
    return sequential(layers.Dense(4), layers.BatchNormalization(), layers.Dense(3))


def test_two_models_trained_in_one_step():
    pairs = twins(generator), twins(stateful_without_dropout)
    (g, g_reference), (d, d_reference) = pairs

    def through(first, second):
        return lambda x: second(first(x, training=True), training=True)

    variables = g.trainable_variables + d.trainable_variables
    ours, optimizer = (SGD(0.1, momentum=0.9) for _ in range(2))
    step = compile_step(through(g, d), differentiate(mse), variables, ours, SIGNATURE)
    for _ in range(3):
        metrics = step(X, Y)
        loss = naive_step(
            through(g_reference, d_reference),
            mse,
            [g_reference, d_reference],
            g_reference.trainable_variables + d_reference.trainable_variables,
            optimizer,
            X,
            Y,
        )
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same(values(g, d), values(g_reference, d_reference))


def test_one_of_two_models_trained_through_the_other():
    (g, _), (d, _) = twins(generator), twins(network)
    forward = lambda x: d(g(x, training=True), training=True)  # noqa: E731
    step = compile_step(forward, differentiate(mse), g.trainable_variables, SGD(0.1), SIGNATURE)
    before_g, before_d = values(g), values(d)
    step(X, Y)
    assert_unchanged(values(d), before_d)
    assert all(np.any(a != b) for a, b in zip(values(g), before_g, strict=True) if a.ndim == 2)


def test_a_model_called_twice_pays_both_its_penalties():
    keras.utils.set_random_seed(0)
    model = sequential(layers.Dense(2, activity_regularizer="l2", kernel_regularizer="l1"))
    kernel, bias = (tf.Variable(v) for v in model.get_weights())
    forward = lambda x: model(x, training=True) - model(2 * x, training=True)  # noqa: E731
    step = compile_step(forward, differentiate(mse), model.trainable_variables, SGD(1.0), SIGNATURE)
    with tf.GradientTape() as tape:
        one, two = X @ kernel + bias, 2 * X @ kernel + bias
        penalty = 0.01 * (tf.reduce_sum(one**2) + tf.reduce_sum(two**2)) / B
        penalty += 0.01 * tf.reduce_sum(tf.abs(kernel))
        total = mse(one - two, Y) + penalty
    gradients = tape.gradient(total, [kernel, bias])
    metrics = step(X, Y)
    assert metrics["penalty"] == pytest.approx(float(penalty), rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(total), rel=1e-5)
    assert_same(values(model), [kernel - gradients[0], bias - gradients[1]])


def test_a_variable_shared_by_two_models_is_trained_once():
    keras.utils.set_random_seed(0)
    trunk = sequential(layers.Dense(3, activation="tanh"))
    actor = keras.Sequential([trunk, layers.Dense(2)])
    critic = keras.Sequential([trunk, layers.Dense(2)])
    actor(X), critic(X)
    variables = actor.trainable_variables + critic.trainable_variables
    before = trunk.get_weights()
    with tf.GradientTape() as tape:
        loss = mse(actor(X) + critic(X), Y)
    gradients = tape.gradient(loss, trunk.trainable_variables)
    forward = lambda x: actor(x, training=True) + critic(x, training=True)  # noqa: E731
    compile_step(forward, differentiate(mse), variables, SGD(1.0), SIGNATURE)(X, Y)
    assert_same(trunk.get_weights(), [w - g for w, g in zip(before, gradients, strict=True)])


# --- graph, XLA and eager; several updates in one call -------------------------------------------


@pytest.mark.parametrize("make", [stateful_without_dropout, embedding], ids=["stateful", "words"])
def test_xla_equals_graph_equals_eager(make):
    """Without Dropout: the random numbers of XLA are other ones."""
    inputs, signature = (WORDS, WORD_SIGNATURE) if make is embedding else (X, SIGNATURE)
    states, norms = [], []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model, optimizer = make(), Adam(0.02, global_clipnorm=0.1)
        step = step_for(model, None, optimizer, signature, jit_compile=jit_compile)
        norms.append([step(inputs, Y)["grad_norm"] for _ in range(4)])
        states.append(values(model, optimizer))
    keras.utils.set_random_seed(0)
    model, optimizer = make(), Adam(0.02, global_clipnorm=0.1)
    forward = lambda x: model(x, training=True)  # noqa: E731
    for _ in range(4):
        naive_step(forward, mse, [model], model.trainable_variables, optimizer, inputs, Y)
    assert_same(states[0], values(model, optimizer))
    assert_same(states[1], values(model, optimizer), rtol=1e-4)
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


def test_dropout_under_xla_draws_new_masks_and_keeps_their_state():
    model = sequential(layers.Dropout(0.5, seed=1), layers.Dense(2))
    step = step_for(model, optimizer=SGD(0.0), jit_compile=True)
    assert len({step(X, Y)["loss"] for _ in range(4)}) == 4


# --- what is reported -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: SGD(0.0),
        lambda: SGD(0.0, global_clipnorm=1e-3),
        lambda: SGD(0.0, clipvalue=1e-3, loss_scale_factor=512.0),
        lambda: LossScale(SGD(0.0, clipnorm=1e-3)),
    ],
    ids=["plain", "clipped", "scaled", "dynamic"],
)
def test_grad_norm_is_that_before_clipping_and_unscaled(make_optimizer):
    model, _ = twins(stateful_without_dropout)
    step = step_for(model, optimizer=make_optimizer())
    with tf.GradientTape() as tape:
        data_loss = mse(model(X, training=True), Y)
        penalty = tf.add_n(model.losses)
        loss = data_loss + penalty
    norm = tf.linalg.global_norm(tape.gradient(loss, model.trainable_variables))
    metrics = step(X, Y)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["penalty"] == pytest.approx(float(penalty), rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


# --- the models' variables are the truth ----------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_weights_set_between_steps_are_obeyed(jit_compile):
    model, reference = twins(network)
    step = step_for(model, optimizer=SGD(0.1), jit_compile=jit_compile)
    step(X, Y)
    model.set_weights([0 * w + 0.3 for w in model.get_weights()])
    reference.set_weights(model.get_weights())
    step(X, Y)
    naive_step(reference, mse, [], reference.trainable_variables, SGD(0.1), X, Y)
    assert_same(values(model), values(reference))


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, (3, 4)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_mirror_is_the_model_after_the_call(updates, jit_compile):
    model = small_and_stateful()
    scalar = keras.Variable(2.0, trainable=False)
    mirror = [*model.trainable_variables, scalar, *model.non_trainable_variables]
    step = step_for(model, updates=updates, mirror=mirror, jit_compile=jit_compile)
    rows = [] if updates is None else [ROWS[:3]]
    assert_unchanged(step.weights, [v.numpy() for v in mirror])
    for _ in range(3):
        before = step.weights
        step(X, Y, *rows)
        assert_unchanged(step.weights, [v.numpy() for v in mirror])
        assert not np.array_equal(before[0], step.weights[0])  # a snapshot stays what it was
        model.set_weights([w / 2 for w in model.get_weights()])


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_step_keeps_alive_what_it_needs(jit_compile):
    model, optimizer = small_and_stateful(), Adam(0.02)
    step = step_for(model, optimizer=optimizer, jit_compile=jit_compile)
    first = step(X, Y)["loss"]
    del model, optimizer
    gc.collect()
    network()  # takes the memory that was freed
    assert np.diff([first, *(step(X, Y)["loss"] for _ in range(3))]).max() < 0


# --- bad input ------------------------------------------------------------------------------------


def test_unreached_variables_are_named():
    used, unused = network(), network()
    variables = used.trainable_variables + unused.trainable_variables
    with pytest.raises(ValueError, match="must receive a gradient. Received none for") as error:
        compile_step(used, differentiate(mse), variables, SGD(0.1), SIGNATURE)
    for variable in unused.trainable_variables:
        assert variable.path in str(error.value)
    for variable in used.trainable_variables:
        assert variable.path not in str(error.value)


def test_moving_averages_are_not_trainable():
    model = stateful()
    with pytest.raises(ValueError, match="Received none for: .*moving_mean"):
        compile_step(model, differentiate(mse), model.weights[:6], SGD(0.1), SIGNATURE)


def test_no_variables():
    with pytest.raises(ValueError, match="must have variables to train. Received: none. Build"):
        compile_step(network(), differentiate(mse), [], SGD(0.1), SIGNATURE)


# --- the house ------------------------------------------------------------------------------------


def test_weights_change_nowhere_else():
    """No other file applies an optimizer or lets Keras train."""
    root = Path(__file__).parents[3]
    trains = re.compile(
        r"optimizer\w*\.\w*apply|\.(apply|apply_gradients|stateless_apply|train_on_batch)\("
        r"|(model|network|actor|critic|generator|discriminator)\w*\.fit\("
    )
    for line in ("self._actor_optimizer.apply(g, v)", "opt.apply_gradients(z)", "model.fit(x, y)"):
        assert trains.search(line)
    files = [
        path
        for name in ("agents", "envs", "training", "scripts")
        for path in (root / name).rglob("*.py")
    ]
    offenders = {
        path.relative_to(root).as_posix() for path in files if trains.search(path.read_text())
    }
    assert offenders == {
        "training/core/optimizers.py",
        "scripts/benchmarks/by_hand.py",
        "scripts/fits/sides.py",  # Keras's own fit, which is compared
    }
    core = (root / "training" / "core" / "optimizers.py").read_text()
    assert len(trains.findall(core)) == 2
