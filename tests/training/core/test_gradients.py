"""The gradient core against Keras's own training, eager references, and bad input."""

import gc
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training.core.arguments import check_forward
from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import estimated, external, given
from vantage.training.core.lifts import differentiate

B = 8  # examples
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
Y = RANDOM.normal(size=(B, 2)).astype(np.float32)
WORDS = RANDOM.integers(0, 5, size=(B, 3)).astype(np.int32)  # with repeats
SIGNATURE = tf.TensorSpec((B, 3)), tf.TensorSpec((B, 2))
WORD_SIGNATURE = tf.TensorSpec((B, 3), tf.int32), tf.TensorSpec((B, 2))
SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
LossScale = keras.optimizers.LossScaleOptimizer


def mse(y, targets):
    return tf.reduce_mean(tf.square(y - targets))


def host_mse(y, targets):
    return np.mean((y - targets) ** 2), 2 * (y - targets) / y.size


def sequential(*stack, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *stack])


def network():
    return sequential(layers.Dense(4, activation="tanh"), layers.Dense(2))


def stateful():
    """Everything that a forward pass may change or add: moving averages, seeds, penalties."""
    return sequential(
        layers.Dense(4, activation="tanh", kernel_regularizer="l2", bias_regularizer="l1"),
        layers.BatchNormalization(momentum=0.5),
        layers.Dropout(0.3, seed=1),
        layers.Dense(
            2, kernel_constraint=keras.constraints.MaxNorm(0.7), activity_regularizer="l2"
        ),
    )


def stateful_without_dropout():
    return sequential(
        layers.Dense(4, activation="tanh", kernel_regularizer="l2"),
        layers.BatchNormalization(momentum=0.5),
        layers.Dense(
            2, kernel_constraint=keras.constraints.MaxNorm(0.7), activity_regularizer="l2"
        ),
    )


def twins(make):
    """Two equal models: weights, moving averages and seeds."""
    keras.utils.set_random_seed(0)
    one = make()
    keras.utils.set_random_seed(0)
    two = make()
    for a, b in zip(one.variables, two.variables, strict=True):
        b.assign(a)
    return one, two


def step_for(model, loss_gradient=None, optimizer=None, signature=SIGNATURE, **options):
    return compile_step(
        model,
        differentiate(mse) if loss_gradient is None else loss_gradient,
        model.trainable_variables,
        SGD(0.1) if optimizer is None else optimizer,
        signature,
        **options,
    )


def values(*owners):
    """What an update may change: `variables` of models, and of optimizers laid end to end by kind.

    An optimizer has slots for every variable or for all of them joined: `kernel_momentum` and
    `bias_momentum`, or `parameters_momentum`.
    """
    arrays = []
    for owner in owners:
        if not isinstance(owner, keras.optimizers.Optimizer):
            arrays += [variable.numpy() for variable in owner.variables]
            continue
        kinds = {}
        for variable in owner.variables:
            kind = variable.name.rpartition("_")[2]
            kind = "scalar" if kind.isdigit() or kind == "variable" else kind  # Nadam's has no name
            kinds.setdefault(kind, []).append(variable.numpy().ravel())
        arrays += [np.concatenate(kinds[name]) for name in sorted(kinds)]
    return arrays


def assert_same(received, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_unchanged(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def naive_step(forward, loss, models, variables, optimizer, inputs, targets):
    """One eager update with one tape, as a tutorial writes it."""
    with tf.GradientTape() as tape:
        total = loss(forward(inputs), targets)
        total += sum(tf.add_n(model.losses) for model in models if model.losses)
        scaled = optimizer.scale_loss(total)
    gradients = tape.gradient(scaled, variables)
    optimizer.apply(gradients, variables)
    return float(total)


# --- every Keras optimizer ------------------------------------------------------------------------

OPTIMIZERS = [
    value
    for value in vars(keras.optimizers).values()
    if inspect.isclass(value)
    and issubclass(value, keras.optimizers.Optimizer)
    and value is not keras.optimizers.Optimizer
]
OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "decay": {"weight_decay": 0.05, "loss_scale_factor": 64.0},
    "all_else": {
        "weight_decay": 0.05,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 2,
        "loss_scale_factor": 64.0,
    },
}


def make_optimizer(kind, **options):
    """A new class in Keras is made like the others, or fails here."""
    if kind.__name__ == "LossScaleOptimizer":
        return kind(Adam(0.01, **options), initial_scale=64.0, dynamic_growth_steps=3)
    if kind.__name__ == "MultiOptimizer":
        scale = options.pop("loss_scale_factor", None)
        choices = {".*bias": SGD(0.05, **options)}
        choose = keras.optimizers.OptimizerMap(Adam(0.01, **options), choices)
        return kind(choose, loss_scale_factor=scale)
    return kind(learning_rate=0.01, **options)


def test_the_optimizers_are_all_found():
    names = {kind.__name__ for kind in OPTIMIZERS}
    assert names >= {"SGD", "Adam", "RMSprop", "Ftrl", "Lion", "Lamb", "LossScaleOptimizer"}


@pytest.fixture(scope="module")
def dense_twins():
    return twins(lambda: sequential(layers.Dense(2, activation="tanh")))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_optimizer_equals_fit(kind, options, dense_twins):
    model, reference = dense_twins
    for one in dense_twins:
        one.set_weights([np.tanh(X[:3, :2]), X[3, :2]])
    ours, keras_own = (make_optimizer(kind, **OPTIONS[options]) for _ in range(2))
    step = step_for(model, optimizer=ours)
    # Keras's graph takes longer to trace than ours, so only the plain form is held against it.
    reference.compile(keras_own, "mse", run_eagerly=options != "plain")
    keras_own.build(reference.trainable_variables)  # as `fit` does, and `train_on_batch` does not
    before = values(model)
    for _ in range(3):
        metrics = step(X, Y)
        loss = reference.train_on_batch(X, Y)
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] > 0.05  # else no option clips
    assert not np.allclose(before[0], values(model)[0], rtol=0, atol=1e-6)
    exact = options == "plain"  # Ftrl cancels; eager and graph round differently
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if exact else {"rtol": 1e-4, "atol": 1e-5}
    assert_same(values(model, ours), values(reference, keras_own), **tolerance)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_many_weights_clipped_equal_fit(jit_compile):
    """Their norm is added up in another order, and taken once."""
    wide = lambda: sequential(layers.Dense(200, "tanh"), layers.Dense(200), layers.Dense(2))  # noqa: E731
    model, reference = twins(wide)
    ours, keras_own = (Adam(0.01, global_clipnorm=0.05) for _ in range(2))
    step = step_for(model, optimizer=ours, jit_compile=jit_compile)
    reference.compile(keras_own, "mse", run_eagerly=True)
    for _ in range(3):
        metrics = step(X, Y)
        with tf.GradientTape() as tape:
            loss = mse(reference(X, training=True), Y)
        gradients = tape.gradient(loss, [v.value for v in reference.trainable_variables])
        assert metrics["grad_norm"] == pytest.approx(float(tf.linalg.global_norm(gradients)), 1e-5)
        assert metrics["grad_norm"] > 0.05
        reference.train_on_batch(X, Y)
    assert_same(values(model, ours), values(reference, keras_own), rtol=1e-4, atol=1e-5)
    assert ours.global_clipnorm == 0.05


def test_learning_rate_schedule_equals_fit():
    model, reference = twins(network)
    ours, keras_own = (
        Adam(keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.0]))
        for _ in range(2)
    )
    step = step_for(model, optimizer=ours)
    reference.compile(keras_own, "mse", run_eagerly=True)
    for _ in range(6):
        before = values(model)
        step(X, Y), reference.train_on_batch(X, Y)
    assert_same(values(model, ours), values(reference, keras_own))
    assert_unchanged(values(model), before)  # the rate is 0 by now


def test_learning_rate_may_be_assigned_between_steps():
    model, reference = twins(network)
    optimizer = SGD(0.1)
    step = step_for(model, optimizer=optimizer)
    optimizer.learning_rate = 0.0
    step(X, Y)
    assert_unchanged(values(model), values(reference))
    optimizer.learning_rate = 0.1
    step(X, Y)
    naive_step(reference, mse, [reference], reference.trainable_variables, SGD(0.1), X, Y)
    assert_same(values(model), values(reference))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_overflow_skips_the_update_and_halves_the_scale(jit_compile):
    model, optimizer = network(), LossScale(Adam(0.01), initial_scale=3e38)
    step = step_for(model, optimizer=optimizer, jit_compile=jit_compile)
    before = values(model, optimizer.inner_optimizer)
    metrics = step(X, 100 * Y)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert_unchanged(values(model, optimizer.inner_optimizer), before)
    assert float(optimizer.dynamic_scale) == pytest.approx(1.5e38)


def test_recovery_from_overflow_equals_fit():
    model, reference = twins(stateful)
    ours, keras_own = (LossScale(Adam(0.01), initial_scale=3e38) for _ in range(2))
    step = step_for(model, optimizer=ours)
    reference.compile(keras_own, "mse", run_eagerly=True)
    norms = [(step(X, Y)["grad_norm"], reference.train_on_batch(X, Y))[0] for _ in range(8)]
    assert not np.isfinite(norms[0]) and 0.1 < norms[-1] < 10
    assert_same(values(model, ours), values(reference, keras_own))


def test_loss_scaled_nan_is_an_error_not_an_overflow():
    model, optimizer = network(), LossScale(Adam(0.01))
    step = step_for(model, optimizer=optimizer)
    before = values(model, optimizer)
    with pytest.raises(FloatingPointError, match="loss=nan"):
        step(X, Y * np.nan)
    assert_unchanged(values(model, optimizer), before)


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


def embedding(**options):
    return sequential(layers.Embedding(10, 4, **options), layers.Flatten(), layers.Dense(2))


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


def test_half_precision_activity_regularizer_under_loss_scaling():
    """Keras cannot add up such a loss; here the penalty is taken in single precision."""
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    keras.utils.set_random_seed(0)
    model = sequential(layers.Dense(2, dtype=policy, activity_regularizer="l2"))
    step = step_for(model, optimizer=LossScale(SGD(0.1)))
    half = X.astype(np.float16).astype(np.float32)
    y = half @ model.get_weights()[0]
    penalty = 0.01 * np.sum(y**2) / B
    metrics = step(half, Y)
    assert metrics["penalty"] == pytest.approx(penalty, rel=1e-2)
    assert metrics["loss"] == pytest.approx(np.mean((y - Y) ** 2) + penalty, rel=1e-2)
    assert np.isfinite(metrics["grad_norm"])


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


@pytest.mark.parametrize("updates", [None, (3, 4)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_traced_exactly_once(updates, jit_compile):
    model, optimizer = small_and_stateful(), Adam(0.02)
    runs = {"forward": 0, "loss": 0}

    def forward(x):
        runs["forward"] += 1
        return model(x, training=True)

    def loss(y, t):
        runs["loss"] += 1
        return mse(y, t)

    step = compile_step(
        forward,
        differentiate(loss),
        model.trainable_variables,
        optimizer,
        SIGNATURE,
        updates=updates,
        jit_compile=jit_compile,
    )
    rows = [] if updates is None else [np.zeros(updates, np.int64)]
    for inputs in (X, X.astype(np.float64), np.asfortranarray(X), X.astype(int), tf.constant(X)):
        step(inputs, Y, *rows)
        optimizer.learning_rate = float(optimizer.learning_rate) / 2
        model.set_weights(model.get_weights())
    assert runs == {"forward": 1, "loss": 1}


ROWS = RANDOM.integers(0, B, size=(5, 4))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_several_updates_on_all_examples_equal_single_ones(jit_compile):
    model, reference = twins(small_and_stateful)
    ours, other = Adam(0.02), Adam(0.02)
    many = step_for(model, None, ours, updates=5, jit_compile=jit_compile)
    one = step_for(reference, None, other)
    received, expected = many(X, Y), [one(X, Y) for _ in range(5)]
    for name, column in received.items():
        np.testing.assert_allclose(column, [each[name] for each in expected], rtol=1e-4)
    assert_same(values(model, ours), values(reference, other))
    with pytest.raises(ValueError, match="structure of the signature"):
        many(X, Y, ROWS.astype(np.int32))


@pytest.mark.parametrize("case", ["graph", "xla", "host", "words", "scaled"])
def test_several_updates_equal_single_ones(case):
    make = {"words": embedding, "xla": stateful_without_dropout}.get(case, stateful)
    inputs, dtype = (WORDS, tf.int32) if make is embedding else (X, tf.float32)
    specs = [(tf.TensorSpec((size, 3), dtype), tf.TensorSpec((size, 2))) for size in (B, 4)]
    model, reference = twins(make)
    one, many = (Adam(0.02) for _ in range(2))
    if case == "scaled":  # the first updates overflow, and stop nothing
        one, many = (LossScale(Adam(0.02), initial_scale=3e38) for _ in range(2))
    loss = external(host_mse) if case == "host" else differentiate(mse)
    step = step_for(reference, loss, one, specs[1])
    rows = np.concatenate([ROWS, ROWS]) if case == "scaled" else ROWS
    expected = [step(inputs[row], Y[row]) for row in rows]
    several = step_for(
        model,
        loss,
        many,
        specs[0],
        updates=rows.shape,
        jit_compile=None if case == "xla" else False,
    )
    metrics = several(inputs, Y, rows)
    assert metrics.keys() == expected[0].keys()
    for name, column in metrics.items():
        assert column.shape == (len(rows),)
        np.testing.assert_allclose(column, [row[name] for row in expected], rtol=1e-4)
    assert_same(values(model, many), values(reference, one))


@pytest.mark.parametrize("updates", [None, 3, ROWS.shape], ids=str)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_what_is_prepared_is_what_every_update_sees(updates, jit_compile):
    """It is made once, of all examples, and assigns nothing: not even what layers would."""
    model, reference = twins(stateful_without_dropout)
    teacher, again = twins(stateful_without_dropout)
    kept, optimizers = teacher.get_weights(), (Adam(0.02), Adam(0.02))
    runs = []

    def prepare(inputs, targets):
        runs.append(inputs.shape)
        return inputs * 0.5, targets + teacher(inputs, training=True)

    steps = [
        compile_step(
            m, differentiate(mse), m.trainable_variables, optimizer, SIGNATURE,
            updates=updates, jit_compile=jit_compile, prepare=how,
        )
        for m, optimizer, how in zip(
            (model, reference), optimizers, (prepare, None), strict=True
        )
    ]  # fmt: skip
    rows = [ROWS.astype(np.int32)] if updates == ROWS.shape else []
    received = steps[0](X, Y, *rows)
    expected = steps[1](X * np.float32(0.5), Y + again(X, training=True).numpy(), *rows)
    assert runs == [X.shape]
    for name, column in received.items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-4)
    assert_same(values(model, optimizers[0]), values(reference, optimizers[1]))
    for before, after in zip(kept, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


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


def test_metrics_are_those_of_the_loss_and_no_others():
    def loss(y, t):
        return mse(y, t), {"mean": tf.reduce_mean(y), "count": tf.constant(B)}

    model = network()
    mean = model(X).numpy().mean()
    metrics = step_for(model, differentiate(loss))(X, Y)
    assert list(metrics) == ["loss", "grad_norm", "mean", "count"]
    assert all(type(value) is float for value in metrics.values())
    assert metrics["mean"] == pytest.approx(mean, rel=1e-5) and metrics["count"] == B


# --- the finite check -----------------------------------------------------------------------------


def infinite_gradient(y, targets):
    factor = tf.where(tf.reduce_any(targets > 50), np.float32(np.inf), 1.0)
    poisoned = tf.custom_gradient(lambda y: (tf.identity(y), lambda upstream: upstream * factor))
    return mse(poisoned(y), tf.minimum(targets, 1.0))


def host_infinite_gradient(y, targets):
    loss, gradient = host_mse(y, np.minimum(targets, 1))
    return loss, gradient * (np.inf if np.any(targets > 50) else 1)


BAD_STEPS = {
    "nan_graph": (lambda: differentiate(mse), np.nan, False),
    "nan_xla": (lambda: differentiate(mse), np.nan, True),
    "nan_host": (lambda: external(host_mse), np.nan, False),
    "nan_given": (lambda: given, np.nan, False),
    "inf_gradient_graph": (lambda: differentiate(infinite_gradient), 99, False),
    "inf_gradient_xla": (lambda: differentiate(infinite_gradient), 99, True),
    "inf_gradient_host": (lambda: external(host_infinite_gradient), 99, False),
}


def small_and_stateful():
    """Compiled by XLA in half the time."""
    return sequential(layers.BatchNormalization(), layers.Dense(2, kernel_regularizer="l2"))


@pytest.mark.parametrize("use_ema", [False, True], ids=["joined", "per_variable"])
@pytest.mark.parametrize(("make_loss", "bad", "jit_compile"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_bad_update_changes_nothing_and_a_good_one_follows(make_loss, bad, jit_compile, use_ema):
    model = small_and_stateful() if jit_compile else stateful()
    optimizer = Adam(0.02, use_ema=use_ema)
    step = step_for(model, make_loss(), optimizer, jit_compile=jit_compile)
    bad_targets = Y.copy()
    bad_targets[3, 1] = bad
    step(X, Y)
    variables = model.variables + optimizer.variables
    before = [variable.numpy() for variable in variables]
    good, after = step(X, Y), [variable.numpy() for variable in variables]
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    with pytest.raises(FloatingPointError, match="must be finite. Received: loss=") as error:
        step(X, bad_targets)
    if bad == 99:
        assert not re.search("loss=(nan|inf)", str(error.value))
        assert re.search("grad_norm=(nan|inf)", str(error.value))
    assert_unchanged([variable.numpy() for variable in variables], before)
    assert step(X, Y) == good
    assert_unchanged([variable.numpy() for variable in variables], after)


@pytest.mark.parametrize("case", ["graph", "xla", "host"])
def test_updates_before_a_bad_one_count_and_none_after(case):
    rows = np.array([[0, 1, 2], [2, 3, 4], [5, 6, 7], [0, 1, 2]])  # example 7 is bad
    loss = external(host_mse) if case == "host" else differentiate(mse)
    model, reference = twins(small_and_stateful if case == "xla" else stateful)
    ours, other = Adam(0.02), Adam(0.02)
    options = {"jit_compile": case == "xla", "mirror": model.variables[:3]}
    step = step_for(model, loss, ours, updates=(4, 3), **options)
    bad_inputs = X.copy()
    bad_inputs[7] = np.nan
    with pytest.raises(FloatingPointError, match="in update 3 of 4: loss=nan"):
        step(bad_inputs, Y, rows)
    single = step_for(reference, loss, other, (tf.TensorSpec((3, 3)), tf.TensorSpec((3, 2))))
    for row in rows[:2]:
        single(X[row], Y[row])
    assert_same(values(model, ours), values(reference, other))
    assert_unchanged(step.weights, values(model)[:3])
    metrics = step(X, Y, rows)
    assert all(column.shape == (4,) for column in metrics.values())


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


SHARED = network()
BAD_ARGUMENTS = {
    **{
        f"updates={each}": (
            {"updates": each},
            f"K updates, .* Received: updates={re.escape(repr(each))}",
        )
        for each in (0, -1, True, "2", 2.5, (2,), (2, 0), (2, None), (2, 4, 8), [2, 4])
    },
    **{
        f"jit_compile={each}": ({"jit_compile": each}, f"True, False or None. Rec.*={each!r}")
        for each in ("yes", 0, 1.0)
    },
    "variables_model": ({"variables": SHARED}, "`variables` must be a list .*: <Sequential"),
    "variables_tf": ({"variables": tf.Variable(1.0)}, "`variables` .*: <tf.Variable"),
    "variables_of_tf": ({"variables": [tf.Variable(1.0)]}, "`variables` .*: <tf.Variable"),
    "variables_one": ({"variables": SHARED.weights[0]}, "`variables` .*: <Variable"),
    "variables_none": ({"variables": None}, "`variables` .*: None"),
    "signature_none": ({"signature": None}, r"a pair of nests .* Received: None"),
    "signature_one": ({"signature": SIGNATURE[0]}, r"a pair of nests .* Received: TensorSpec"),
    "signature_single": (
        {"signature": SIGNATURE[:1]},
        r"a pair .* Received: \(TensorSpec",
    ),
    "signature_scalar": (
        {"signature": (SIGNATURE[0], tf.TensorSpec(())), "updates": (2, 4)},
        r"first axis of examples. Received: \('float32\[8, 3\]', 'float32\[\]'\)",
    ),
    "forward_none": ({"forward": None}, "`forward` must be .*Received: None"),
    "forward_text": ({"forward": "relu"}, "`forward` must be .*Received: 'relu'"),
    "forward_class": ({"forward": layers.Dense}, "`forward` must be .*Received: <class"),
    "forward_two": (
        {"forward": lambda x, y: x},
        r"`forward` must be .*\(inputs\). Received: .*\(x, y\). Pass lambda inputs",
    ),
    "forward_no": ({"forward": tf.function(lambda: 0.0)}, r"`forward` must be .*rameters \(\)"),
    "prepare_three": ({"prepare": lambda x, y, z: x}, r"prepare .*\(inputs, targets\). Received"),
    "prepare": ({"prepare": 3}, "prepare must be a function. Received: 3"),
    "prepare_one": ({"prepare": lambda x, y: x}, "`prepare` must return a pair.*: <tf.Tensor"),
    "mirror_model": ({"mirror": SHARED}, "`mirror` must be a list .*: <Sequential"),
    "mirror_none": ({"mirror": None}, "`mirror` must be a list .*: None"),
    "mirror_double": ({"mirror": [keras.Variable(1.0, dtype="float64")]}, "float32 .*: .*float64"),
    "gradients": ({"gradients": 3}, "variable of .* floats, .*Received: 3"),
    "gradients_short": (
        {"gradients": keras.Variable([0.0])},
        r"Received: .*shape=\(1,\)",
    ),
    "optimizer": ({"optimizer": "adam"}, "optimizer must be .*Received: 'adam'"),
}


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_arguments_of_another_type(options, message):
    model = network()
    required = {
        "forward": model,
        "loss_gradient": differentiate(mse),
        "variables": model.trainable_variables,
        "optimizer": SGD(0.1),
        "signature": SIGNATURE,
    }
    with pytest.raises(ValueError, match=message):
        compile_step(**required | options)


def test_a_forward_may_take_more_arguments_than_the_inputs():
    """Those with defaults, any number of them, and those of a builtin, which nobody knows."""
    theta = keras.Variable(np.ones(2, np.float32))
    for forward in (lambda *x: x[0] * theta, lambda x, by=theta: x * by):
        rest = differentiate(mse), [theta], SGD(0.0), (SIGNATURE[1], SIGNATURE[1])
        compile_step(forward, *rest)(Y, Y)
    check_forward(max)


def test_mirrored_variables_may_come_one_by_one():
    model = network()
    step = step_for(model, mirror=iter(model.weights))
    step(X, Y)
    assert_unchanged(step.weights, model.get_weights())


def test_updates_may_be_a_number_of_any_kind():
    for updates in (np.int64(2), 2.0):
        assert step_for(network(), updates=updates)(X, Y)["loss"].shape == (2,)


BAD_CALLS = {
    "shape": ((X[:4], Y), r"Argument 0 .* float32\[8, 3\].* Received: float32\[4, 3\]"),
    "rank": ((X, Y[:, 0]), r"Argument 1 .* float32\[8, 2\].* Received: float32\[8\]"),
    "strings": ((X.astype(str), Y), r"Argument 0 .* Received: <U32\[8, 3\]"),
    "none": ((None, Y), r"Argument 0 .* Received: object\[\]"),
    "structure": (((X, X), Y), "structure of the signature"),
    "keys": (({"x": X}, Y), "structure of the signature.*'x'"),
    "rows": ((X, Y, ROWS), r"structure of the signature.*int64\[5, 4\]"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_arguments_that_differ_from_the_signature(arguments, message):
    model = network()
    step = step_for(model)
    before = values(model)
    with pytest.raises(ValueError, match=message):
        step(*arguments)
    assert_unchanged(values(model), before)


def test_floats_are_no_integers_and_dict_keys_are_compared():
    step = step_for(embedding(), signature=WORD_SIGNATURE)
    with pytest.raises(ValueError, match=r"int32\[8, 3\] .* Received: float64\[8, 3\]"):
        step(WORDS.astype(float), Y)
    specs = tf.TensorSpec((B, 3)), {"a": tf.TensorSpec((B, 2)), "b": tf.TensorSpec((B, 2))}
    step = step_for(network(), differentiate(lambda y, t: mse(y, t["a"] - t["b"])), None, specs)
    step(X, {"b": Y, "a": 0 * Y})
    for targets in ({"a": Y, "c": Y}, (Y, Y), {"a": Y}):
        with pytest.raises(ValueError, match="Pass the same tuples, lists and dict keys"):
            step(X, targets)


@pytest.mark.parametrize("value", [2**32 + 1, -(2**31) - 1])
def test_whole_numbers_that_the_signature_cannot_hold_are_refused(value):
    """NumPy would wrap them around to others."""
    signature = tf.TensorSpec((2, 3)), tf.TensorSpec((2, 2), tf.int32)
    loss = differentiate(lambda y, t: mse(y, tf.cast(t, tf.float32)))
    step = step_for(network(), loss, signature=signature)
    with pytest.raises(ValueError, match=f"must fit int32.*Received: int64 from .*{value}"):
        step(X[:2], np.array([[0, 0], [0, value]]))
    step(X[:2], np.array([[0, 0], [0, 2**31 - 1]]))


@pytest.mark.parametrize("bad", [-1, B])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_rows_must_index_examples(bad, jit_compile):
    step = step_for(network(), updates=(2, 2), jit_compile=jit_compile)
    with pytest.raises(ValueError, match=f"index the {B} examples.* Received: rows from"):
        step(X, Y, np.array([[0, 1], [2, bad]]))
    with pytest.raises(ValueError, match=r"Argument 2 .*int32\[2, 2\].* Received: float64"):
        step(X, Y, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="structure of the signature"):
        step(X, Y)


@pytest.mark.parametrize("spec", [tf.TensorSpec((None, 3)), tf.TensorSpec(None), X])
def test_signature_must_be_of_known_shape(spec):
    with pytest.raises(ValueError, match="tf.TensorSpecs of known shape. Received"):
        step_for(network(), signature=(spec, SIGNATURE[1]))


BAD_LOSSES = {
    "vector": (lambda y, t: tf.square(y - t), r"must be a scalar. Received: .*\(8, 2\)"),
    "constant": (lambda y, t: 3.0, "must depend on the outputs"),
    "of_targets": (lambda y, t: tf.reduce_sum(t), "must depend on the outputs"),
    "reserved": (lambda y, t: (mse(y, t), {"grad_norm": 1.0}), "name of its own.*grad_norm"),
    "metric": (lambda y, t: (mse(y, t), {"all": y}), "scalar or a vector, .*Received: all"),
}


@pytest.mark.parametrize(("loss", "message"), BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_bad_losses(loss, message):
    with pytest.raises(ValueError, match=message):
        step_for(network(), differentiate(loss))


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, LossScale], ids=["adam", "scaled"])
def test_an_optimizer_of_other_variables(wrap):
    optimizer = wrap(Adam())
    optimizer.build(network().trainable_variables)
    with pytest.raises(ValueError, match="with the variables it was built for. Received: "):
        step_for(network(), optimizer=optimizer)


@pytest.mark.parametrize("lift", [external(host_mse), estimated(lambda y, t: y[:, 0])])
def test_a_host_loss_cannot_go_through_xla(lift):
    with pytest.raises(ValueError, match="without XLA. Received: jit_compile=True"):
        step_for(network(), lift, jit_compile=True)


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
    }
    core = (root / "training" / "core" / "optimizers.py").read_text()
    assert len(trains.findall(core)) == 2


# --- vectors and stops ----------------------------------------------------------------------------


def line(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_metric_may_be_a_vector_of_one_number_per_example(jit_compile):
    def loss(y, t):
        errors = y[:, 0] - t
        return tf.reduce_mean(errors**2), {"error": errors, "mean": tf.reduce_mean(errors)}

    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(8, 1)).astype(np.float32), np.arange(8, dtype=np.float32)
    signature = tf.TensorSpec((8, 1)), tf.TensorSpec((8,))
    model = line()
    expected = model(x)[:, 0].numpy() - t
    step = compile_step(
        model, differentiate(loss), model.variables, sgd(), signature, jit_compile=jit_compile
    )
    metrics = step(x, t)
    np.testing.assert_allclose(metrics["error"], expected, rtol=1e-5)
    assert metrics["mean"] == pytest.approx(expected.mean(), rel=1e-5)
    rows = generator.integers(8, size=(3, 4)).astype(np.int32)
    model = line()
    many = compile_step(
        model,
        differentiate(loss),
        model.variables,
        sgd(),
        signature,
        updates=(3, 4),
        mirror=model.variables,
        jit_compile=jit_compile,
    )
    metrics = many(x, t, rows)
    assert metrics["error"].shape == (3, 4) and metrics["mean"].shape == (3,)
    np.testing.assert_allclose(metrics["error"][0], expected[rows[0]], rtol=1e-5)
    np.testing.assert_allclose(metrics["error"].mean(1), metrics["mean"], rtol=1e-4)
    np.testing.assert_array_equal(many.weights[0], model.get_weights()[0])


def sgd():
    return keras.optimizers.SGD(0.05)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_loss_may_stop_the_call(jit_compile):
    """The update that it stops at, and those after it, are not made: as if K had been less."""

    def loss(y, t):
        value = tf.reduce_mean((y[:, 0] - t) ** 2)
        return value, {"stop": value < 0.5, "twice": 2 * value}

    x, t = np.ones((4, 1), np.float32), np.full(4, 3, np.float32)
    signature = tf.TensorSpec((4, 1)), tf.TensorSpec((4,))
    one, many = line(), line()
    single = compile_step(one, differentiate(loss), one.variables, sgd(), signature)
    optimizer = sgd()
    step = compile_step(
        many,
        differentiate(loss),
        many.variables,
        optimizer,
        signature,
        updates=40,
        jit_compile=jit_compile,
    )
    metrics = step(x, t)
    made = len(metrics["loss"])
    assert 2 < made < 40 and (metrics["loss"] >= 0.5).all()
    assert int(optimizer.iterations.numpy()) == made
    losses = [single(x, t)["loss"] for _ in range(made)]
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(many.get_weights()[0], one.get_weights()[0], rtol=1e-5)
    assert len(step(x, t)["loss"]) == 0  # it stops at once from now on
    before = one.get_weights()[0]
    assert single(x, t)["stop"] == 1.0
    np.testing.assert_array_equal(one.get_weights()[0], before)
