"""GAN: the losses, who moves whom, what a step does, reports and bad input; the two examples."""

import json
import re
import subprocess
import sys

import forks
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.scripts.commands import gan as command
from vantage.scripts.examples import gan_digits, gan_ring
from vantage.training import GAN
from vantage.training.adversarial.gan import METRICS
from vantage.training.adversarial.losses import (
    log_sigmoid_loss,
    minimax_loss,
    non_saturating_loss,
)
from vantage.training.core.gradients import compile_step
from vantage.training.supervised import inference
from vantage.training.tensorboard.summaries import COLOURS, image_grid, scatter

B, Z, S = 4, 3, 2  # examples per batch, size of the noise, size of an example
DATA = np.random.default_rng(0).normal(size=(10, S)).astype(np.float32)


def players(seed=3, extra=lambda: []):
    keras.utils.set_random_seed(seed)
    generator = [keras.Input((Z,)), layers.Dense(5), *extra(), layers.Dense(S, "tanh")]
    discriminator = [keras.Input((S,)), layers.Dense(6, "tanh"), *extra(), layers.Dense(1)]
    return keras.Sequential(generator), keras.Sequential(discriminator)


def stateful():
    return [layers.BatchNormalization(momentum=0.5), layers.Dropout(0.3)]


def optimizers():
    return keras.optimizers.Adam(0.01, beta_1=0.5), keras.optimizers.SGD(0.1)


def gan(models=None, **options):
    return GAN(*(models or players()), *optimizers(), **{"batch_size": B, **options})


def values(model):
    """All variables: weights, BatchNorm's moments, Dropout's seeds."""
    return [variable.numpy().copy() for variable in model.variables]


def differ(before, after):
    return [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


# --------------------------------------------------------------------------------- the losses


def log_sigmoid(x):
    return np.log(1 / (1 + np.exp(-x)))


NAIVE = {
    log_sigmoid_loss: lambda real, fake: -log_sigmoid(real).mean() - log_sigmoid(-fake).mean(),
    minimax_loss: lambda fake: log_sigmoid(-fake).mean(),
    non_saturating_loss: lambda fake: -log_sigmoid(fake).mean(),
}
LOSSES = pytest.mark.parametrize("loss", NAIVE, ids=lambda loss: loss.__name__)


def logits_for(loss, count=7):
    generator = np.random.default_rng(1)
    return [generator.normal(0, 3, (count, 1)) for _ in range(2 if loss is log_sigmoid_loss else 1)]


@LOSSES
def test_losses_equal_the_log_of_the_sigmoid(loss):
    logits = logits_for(loss)
    single = loss(*(tf.constant(each, tf.float32) for each in logits))
    np.testing.assert_allclose(single, NAIVE[loss](*logits), rtol=1e-6)


@LOSSES
def test_gradients_of_the_losses_equal_finite_differences(loss):
    logits = [tf.constant(each) for each in logits_for(loss)]  # float64
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(*logits)
    for k, gradient in enumerate(tape.gradient(value, logits)):
        for row in range(len(logits[k])):
            moved = [[each.numpy() for each in logits] for _ in range(2)]
            moved[0][k][row] += 1e-6
            moved[1][k][row] -= 1e-6
            difference = (NAIVE[loss](*moved[0]) - NAIVE[loss](*moved[1])) / 2e-6
            np.testing.assert_allclose(gradient[row, 0], difference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "logits", "expected", "slopes"),
    [
        (log_sigmoid_loss, (1000.0, -1000.0), 0.0, (0.0, 0.0)),
        (log_sigmoid_loss, (-1000.0, 1000.0), 2000.0, (-1.0, 1.0)),
        (minimax_loss, (1000.0,), -1000.0, (-1.0,)),
        (minimax_loss, (-1000.0,), 0.0, (0.0,)),  # saturated: a sure discriminator teaches nothing
        (non_saturating_loss, (1000.0,), 0.0, (0.0,)),
        (non_saturating_loss, (-1000.0,), 1000.0, (-1.0,)),
    ],
)
def test_losses_are_exact_at_logits_of_a_thousand(loss, logits, expected, slopes):
    logits = [tf.constant([[each]]) for each in logits]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(*logits)
    assert value.numpy() == expected
    assert [float(each[0, 0]) for each in tape.gradient(value, logits)] == list(slopes)


# --------------------------------------------------------------------------------- the players


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_player_moves_in_its_own_step_only(penalty):
    trainer = gan(players(extra=stateful), gradient_penalty=penalty)
    noise = np.random.default_rng(2).normal(size=(B, 2, Z)).astype(np.float32)
    signature = ((tf.TensorSpec((B, S)), tf.TensorSpec(noise.shape)), ())
    steps = {name: compile_step(*turn, signature) for name, turn in trainer._turns.items()}
    generator, discriminator = trainer.generator, trainer.discriminator

    before = values(generator), values(discriminator)
    steps["discriminator"]((DATA[:B], noise), ())
    assert not any(differ(before[0], values(generator)))
    assert all(differ(before[1], values(discriminator)))  # its moments and seeds too

    before = values(generator), values(discriminator)
    steps["generator"]((DATA[:B], noise), ())
    assert all(differ(before[0], values(generator)))
    assert not any(differ(before[1], values(discriminator)))


@pytest.mark.thinned
@pytest.mark.parametrize("loss", [minimax_loss, non_saturating_loss])
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_steps_equal_an_eager_loop_written_by_hand(loss, penalty):
    trainer = gan(generator_loss=loss, gradient_penalty=penalty, seed=5)
    (generator, discriminator), (own, other) = players(), optimizers()
    *_, random = np.random.default_rng(5).spawn(3)
    for step in range(4):
        real = tf.constant(DATA[step : step + B])
        metrics = trainer.step(real.numpy())
        noise = random.standard_normal((B, 2, Z), np.float32).swapaxes(0, 1)
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(real)
                real_logits = discriminator(real)
            slopes = inner.gradient(real_logits, real)
            fake_logits = discriminator(generator(noise[0]))
            judged = log_sigmoid_loss(real_logits, fake_logits)
            judged += penalty / 2 * tf.reduce_sum(slopes**2) / B
        gradients = tape.gradient(judged, discriminator.trainable_weights)
        other.apply(gradients, discriminator.trainable_variables)
        with tf.GradientTape() as tape:
            played = loss(discriminator(generator(noise[1])))
        fooled = tape.gradient(played, generator.trainable_weights)
        own.apply(fooled, generator.trainable_variables)
        expected = {
            "generator_loss": played,
            "discriminator_loss": judged,
            "generator_grad_norm": tf.linalg.global_norm(fooled),
            "discriminator_grad_norm": tf.linalg.global_norm(gradients),
            "discriminator_real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "discriminator_fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }
        assert tuple(metrics) == METRICS == tuple(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    for ours, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for a, b in zip(values(ours), values(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_player_is_traced_once():
    traced = []

    def generator_loss(fake_logits):
        traced.append("generator")
        return non_saturating_loss(fake_logits)

    def discriminator_loss(real_logits, fake_logits):
        traced.append("discriminator")
        return log_sigmoid_loss(real_logits, fake_logits)

    trainer = gan(generator_loss=generator_loss, discriminator_loss=discriminator_loss)
    trainer.fit(DATA, 5)
    trainer.fit(DATA[:7], 5)
    assert sorted(traced) == ["discriminator", "generator"]
    assert trainer.steps == 10


def test_batch_norm_in_the_generator_keeps_its_state_for_sampling():
    trainer = gan(players(extra=lambda: [layers.BatchNormalization(momentum=0.5)]))
    norm = trainer.generator.layers[1]
    assert not norm.moving_mean.numpy().any()
    trainer.fit(DATA + 3, 20)
    assert norm.moving_mean.numpy().all()
    moments = norm.moving_mean.numpy().copy()
    noise = np.random.default_rng(3).normal(size=(5, Z))
    one_by_one = np.concatenate([trainer.generate(row[None]) for row in noise])
    np.testing.assert_allclose(trainer.generate(noise), one_by_one, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(norm.moving_mean, moments)  # sampling moves nothing


def test_subclassed_models_without_shapes_and_patches_of_logits():
    class Generator(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(16, "tanh")

        def call(self, noise):
            return keras.ops.reshape(self.dense(noise), (-1, 4, 4, 1))

    discriminator = keras.Sequential([layers.Conv2D(2, 3, activation="relu"), layers.Conv2D(1, 1)])
    trainer = gan((Generator(), discriminator), noise_shape=(Z,), gradient_penalty=1.0)
    history = trainer.fit(np.zeros((9, 4, 4, 1)), 3)
    assert trainer.sample(5).shape == (5, 4, 4, 1)
    assert np.isfinite(history["discriminator_loss"]).all()
    assert trainer.generator.built and trainer.discriminator.built


def test_regularisers_count_in_their_player_alone():
    penalised = keras.regularizers.L2(0.5)
    models = players()
    judge = keras.Sequential([keras.Input((S,)), layers.Dense(1, kernel_regularizer=penalised)])
    plain = keras.models.clone_model(judge)
    plain.layers[0].kernel_regularizer = plain.layers[0].kernel.regularizer = None
    plain.set_weights(judge.get_weights())
    ours, bare = (gan((models[0], each)).step(DATA[:B]) for each in (judge, plain))
    assert ours["discriminator_loss"] > bare["discriminator_loss"]


# ---------------------------------------------------------------------------------------- fit


def test_batches_of_an_epoch_are_a_permutation():
    trainer = gan()
    batches = trainer._batches(np.arange(10))
    epochs = [np.concatenate([next(batches), next(batches)]) for _ in range(6)]  # 8 of 10
    assert all(len(set(epoch.tolist())) == 8 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6
    assert set(np.concatenate(epochs).tolist()) == set(range(10))


def test_equal_seeds_train_equally_whatever_is_reported_drawn_or_sampled(tmp_path):
    plain, busy = gan(seed=4), gan(seed=4)
    expected = plain.fit(DATA, 12)
    busy.sample(5)
    draw = lambda each: image_grid(each.sample(4)[:, :1].repeat(4, 1))  # noqa: E731
    history = busy.fit(DATA, 12, report_every=5, sample_every=4, draw=draw, logdir=tmp_path)
    for name in METRICS:
        assert history[name].shape == (12,)
        np.testing.assert_array_equal(history[name], expected[name])
    assert not any(differ(values(plain.generator), values(busy.generator)))
    assert plain.sample(1100).shape == (1100, S) and plain.sample(3).dtype == np.float32
    assert gan(seed=5).fit(DATA, 1)["generator_loss"] != expected["generator_loss"][:1]


def test_tensorboard_has_means_and_pictures_and_goes_on_in_a_second_fit(tmp_path):
    keras.utils.set_random_seed(0)
    pixels = keras.Sequential([keras.Input((Z,)), layers.Dense(9, "tanh")])
    judge = keras.Sequential([keras.Input((9,)), layers.Dense(1)])
    trainer = gan((pixels, judge))
    images = np.random.default_rng(0).uniform(-1, 1, (8, 9))
    seen = []
    options = {
        "logdir": tmp_path,
        "callbacks": [lambda step, metrics: seen.append((step, metrics))],
    }
    first = trainer.fit(images, 7, report_every=3, sample_every=5, **options)
    second = trainer.fit(images, 2, report_every=3, **options)

    assert [step for step, _ in seen] == [3, 6, 7, 9]
    losses = np.concatenate([first["generator_loss"], second["generator_loss"]])
    means = [losses[:3].mean(), losses[3:6].mean(), losses[6], losses[7:].mean()]
    np.testing.assert_allclose([metrics["generator_loss"] for _, metrics in seen], means, rtol=1e-6)

    points: dict[str, list] = {}
    pictures = []
    for file in sorted(tmp_path.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            points.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
        for tag in events.Tags()["images"]:
            pictures += [(tag, e.step, e.encoded_image_string) for e in events.Images(tag)]
    assert set(points) == {f"train/{name}" for name in METRICS}
    assert sorted(step for step, _ in points["train/generator_loss"]) == [3, 6, 7, 9]
    assert [(tag, step) for tag, step, _ in pictures] == [("samples", k) for k in (0, 5, 7)]
    drawn = tf.io.decode_png(pictures[-1][2]).numpy()
    assert drawn.shape == (8 * 4, 8 * 4, 1) and np.ptp(drawn) > 0


def test_looks_settings_and_both_graphs(tmp_path):
    class Painter:
        def begin(self, writer):
            self.writer = writer

        def __call__(self, step, metrics):
            self.writer.scalars(step, {"own": 1.0})

    draw = lambda each: np.zeros((1, 1, 1), np.uint8)  # noqa: E731
    trainer = gan(gradient_penalty=0.5)
    options = {"draw": draw, "logdir": tmp_path, "callbacks": [Painter()], "config": {"note": "x"}}
    trainer.fit(DATA, 8, report_every=4, sample_every=4, **options)
    events = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert [event.step for event in events.Scalars("own")] == [4, 8]
    for tag, examples in (("real", DATA), ("fake", trainer.generate(judged_noise()))):
        looks = events.Tensors(f"discriminator/{tag}")
        assert [event.step for event in looks] == [0, 4, 8]
        logits = trainer.discriminator(examples).numpy()
        table = tf.make_ndarray(looks[-1].tensor_proto)
        assert table[:, 2].sum() == logits.size
        np.testing.assert_allclose(
            (table[0, 0], table[-1, 1]), (logits.min(), logits.max()), rtol=1e-5
        )
    (text,) = events.Tensors("run/config")
    shown = json.loads(tf.make_ndarray(text.tensor_proto)[0])
    assert (shown["note"], shown["gradient_penalty"], shown["steps"]) == ("x", 0.5, 8)
    assert shown["generator_loss"] == "non_saturating_loss"
    scopes = {node.name.split("/")[0] for node in events.Graph().node}
    assert scopes == {"generator", "discriminator"}
    assert "_hparams_/session_end_info" in events.Tags()["tensors"]


def judged_noise():
    return np.random.default_rng(0).standard_normal((256, Z), np.float32)


def test_scatter_plots():
    corners = np.array([[0.0, 0.0], [1.0, 1.0]])
    pixels = scatter(corners, np.array([[0.0, 1.0], [np.nan, 0.0], [9.0, -9.0]]), size=14)
    grey, blue = COLOURS[:2]
    assert (pixels[11:13, 1:3] == grey).all() and (pixels[1:3, 11:13] == grey).all()
    assert (pixels[1:3, 1:3] == blue).all() and (pixels[12:14, 12:14] == blue).all()
    assert (pixels < 255).any(2).sum() == 16
    assert scatter(np.zeros((3, 2))).shape == (256, 256, 3)


@pytest.mark.parametrize("no", [False, np.False_])
def test_a_callback_that_returns_false_stops(no):
    trainer = gan()
    calls = []

    def stop(step, metrics):
        calls.append(step)
        return no if step >= 6 else None

    history = trainer.fit(DATA, 50, report_every=3, callbacks=[stop, lambda *_: True])
    assert calls == [3, 6] and trainer.steps == 6
    assert {len(column) for column in history.values()} == {6}


def test_prints_reports_only_when_asked(capfd):
    gan().fit(DATA, 4, report_every=2)
    assert capfd.readouterr().out == ""
    gan().fit(DATA, 4, report_every=2, verbose=True)
    captured = capfd.readouterr()
    lines = captured.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "2"], ["step", "4"]]
    assert all(name in lines[0] for name in METRICS) and captured.err == ""


def test_image_grids():
    images = np.stack([np.full((2, 3), value) for value in (-1.0, 0.0, 1.0)])
    grid = image_grid(images)
    expected = np.zeros((6, 8, 1), np.uint8)  # 2 x 2 cells of 2 x 3 pixels and a gap
    expected[:2, 4:7], expected[3:5, :3] = 128, 255
    np.testing.assert_array_equal(grid, expected)
    np.testing.assert_array_equal(image_grid(images / 2 + 0.5, 0.0, 1.0), expected)
    assert image_grid(np.zeros((4, 5, 5, 3))).shape == (12, 12, 3)
    assert image_grid(np.zeros((1, 16)), 0.0, 0.0).shape == (5, 5, 1)


# ----------------------------------------------------------------------------------- bad input


def shared_layer():
    layer = layers.Dense(S)
    generator = keras.Sequential([keras.Input((S,)), layer])
    return generator, keras.Sequential([keras.Input((S,)), layer, layers.Dense(1)])


def two_inputs():
    inputs = [keras.Input((Z,)), keras.Input((Z,))]
    generator = keras.Model(inputs, layers.Dense(S)(layers.Concatenate()(inputs)))
    return generator, players()[1]


class Judge(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, inputs, training=None):
        return tf.nn.sigmoid(self.dense(inputs))


@tf.function
def unchanged(inputs):
    return inputs


def judging(*end):
    return keras.Sequential([keras.Input((S,)), layers.Dense(1), *end])


SIGMOIDS = {
    "layer": lambda: judging(layers.Activation("sigmoid")),
    "nested": lambda: judging(keras.Sequential([layers.Dense(1, "sigmoid")])),
    "flattened": lambda: judging(layers.Dense(1, "sigmoid"), layers.Flatten()),
    "reshaped": lambda: judging(layers.Activation("sigmoid"), layers.Reshape((1, 1))),
    "linear": lambda: judging(layers.Activation("sigmoid"), layers.Activation("linear")),
    "dropped": lambda: judging(layers.Activation("sigmoid"), layers.Dropout(0.5)),
    "keras.ops": lambda: judging(layers.Lambda(keras.ops.sigmoid)),
    "compiled": lambda: judging(layers.Lambda(tf.function(lambda x: tf.sigmoid(x)))),
    "handed_on": lambda: judging(
        layers.Activation("sigmoid"), layers.Lambda(tf.function(lambda inputs: unchanged(inputs)))
    ),
    "subclass": Judge,
    "half": lambda: judging(layers.Activation("sigmoid", dtype="mixed_float16")),
    "patches": lambda: judging(
        layers.Dense(4, "sigmoid"), layers.Reshape((4, 1)), layers.GlobalAveragePooling1D()
    ),
}


@pytest.mark.parametrize("make", SIGMOIDS.values(), ids=SIGMOIDS)
def test_a_sigmoid_at_the_end_is_refused_wherever_it_comes_from(make):
    with pytest.raises(ValueError, match="logits.*Received: a sigmoid as its last layer"):
        gan((players()[0], make()))


@pytest.mark.parametrize(
    "end",
    [
        [layers.Activation("sigmoid"), layers.Dense(1)],
        [layers.Activation("silu")],
        [layers.Dense(2, "softmax")],
        [layers.Lambda(lambda x: 4 * tf.sigmoid(x) - 2)],
        [layers.Lambda(unchanged)],
    ],
    ids=["hidden", "silu", "softmax", "scaled", "handed_on"],
)
def test_what_is_no_sigmoid_at_the_end_is_left(end):
    gan((players()[0], judging(*end)))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (players, {"batch_size": 0}, "batch_size must be at least 1. Received: 0"),
        (players, {"gradient_penalty": -1.0}, "Received: .*gradient_penalty=-1.0"),
        (players, {"gradient_penalty": np.nan}, "Received: .*gradient_penalty=nan"),
        (shared_layer, {}, "own variables. Received: a shared layer"),
        (two_inputs, {}, "one input of known shape"),
        (players, {"noise_shape": 2}, r"a tuple of whole .* Received: noise_shape=2. Pass"),
        (players, {"noise_shape": (2.5,)}, r"a tuple of whole .* Received: noise_shape=\(2.5,\)"),
        (lambda: (keras.Sequential([layers.Dense(S)]), players()[1]), {}, "pass noise_shape"),
        (
            players,
            {"noise_shape": (7,)},
            r"take noise .* Received: noise_shape=\(7,\), with .* \(None, 3\). Pass the shape",
        ),
        (
            lambda: (keras.Sequential([layers.Conv2D(1, 2), layers.Flatten()]), players()[1]),
            {"noise_shape": (16,)},
            r"take noise .* Received: noise_shape=\(16,\), .*input_shape is None. Pass",
        ),
        (
            lambda: (players()[0], keras.Sequential([layers.Conv2D(1, 2), layers.Dense(1)])),
            {},
            r"take the generator's examples. Received: examples \[4, 2\], for which it raised",
        ),
        (
            lambda: (players()[0], keras.Sequential([keras.Input((7,)), layers.Dense(1)])),
            {},
            r"take the generator's examples. Received: examples \[4, 2\], input_shape=\(None, 7\)",
        ),
    ],
)
def test_bad_players(models, options, message):
    with pytest.raises(ValueError, match=message):
        gan(models(), **options)


def test_players_must_not_share_an_optimizer():
    optimizer = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="Received: one optimizer for both. Make two."):
        GAN(*players(), optimizer, optimizer)


@pytest.mark.parametrize(
    ("examples", "steps", "options", "message"),
    [
        (DATA, 0, {}, "steps must be at least 1. Received: 0"),
        (DATA, None, {}, "steps must be a whole number.*Received: steps=None"),
        (DATA, 1.5, {}, "Received: steps=1.5"),
        (DATA, 1, {"report_every": 0}, "report_every must be at least 1. Received: 0"),
        (DATA, 1, {"sample_every": 0}, "sample_every must be at least 1. Received: 0"),
        (DATA, 1, {"verbose": "no"}, "verbose must be True or False. Received: verbose='no'"),
        (DATA, 1, {"draw": lambda: 0}, r"draw must be .*\(gan\). Received: one .*\(\)"),
        (DATA[:3], 1, {}, r"N >= batch_size=4. Received: \[3, 2\]"),
        (DATA[:, :1], 1, {}, r"shape \[N, 2\].* Received: \[10, 1\]"),
        (3.0, 1, {}, r"first axis counts the examples. Received: 3.0"),
        (None, 1, {}, "Received: None"),
        (DATA.tolist(), 1, {}, "numpy.asarray"),
        (DATA.astype(object), 1, {}, r"Received: object\[10, 2\]"),
        (DATA.astype(str), 1, {}, "floating-point numbers. Received: <U"),
        (DATA + 1j, 1, {}, "floating-point numbers. Received: complex"),
        (DATA.astype(float) * 1e39, 1, {}, "fit float32.*in example 1. Scale"),
        ((DATA, DATA), 1, {}, "one array"),
        (
            np.where(np.arange(10)[:, None] == 7, np.inf, DATA),
            1,
            {},
            "inf in example 7, and 1 of 10",
        ),
        ((DATA * 9).astype(np.uint8), 1, {}, "floating-point numbers. Received: uint8 from"),
        (np.full((9, S), np.nan), 1, {}, "finite.* Received: nan in example 0, and 9 of 9"),
        (DATA, 1, {"sample_every": 1}, r"Received: \[64, 2\]. Pass `draw`"),
    ],
)
def test_bad_fits_leave_no_trace(examples, steps, options, message, tmp_path):
    trainer = gan()
    with pytest.raises(ValueError, match=message):
        trainer.fit(examples, steps, logdir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists() and trainer.steps == 0


def test_samples_are_at_least_one():
    with pytest.raises(ValueError, match="count must be at least 1. Received: 0"):
        gan().sample(0)


@pytest.mark.parametrize("noise", [np.zeros((2, Z + 1)), np.zeros(Z), np.zeros((0, Z))])
def test_noise_of_another_shape_is_refused(noise):
    with pytest.raises(ValueError, match=r"Noise must have shape \[n, 3\].*Received: \["):
        gan().generate(noise)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("discriminator_loss", keras.losses.BinaryCrossentropy(from_logits=True)),
        ("discriminator_loss", keras.losses.binary_crossentropy),
        ("generator_loss", keras.losses.BinaryCrossentropy()),
        ("generator_loss", "minimax"),
        ("generator_loss", log_sigmoid_loss),
        ("discriminator_loss", minimax_loss),
    ],
)
def test_losses_that_are_none_of_a_gan(name, loss):
    with pytest.raises(ValueError, match=f"{name} must be a function of .*logits. Received: "):
        gan(**{name: loss})


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("generator_loss", lambda fake: (minimax_loss(fake), {"mean": tf.reduce_mean(fake)})),
        ("discriminator_loss", lambda real, fake: (log_sigmoid_loss(real, fake), {})),
        ("discriminator_loss", lambda fake, real: None),
    ],
)
def test_losses_return_one_number(name, loss, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must return one number.*(tuple|NoneType). Ret"):
        gan(**{name: loss}).fit(DATA, 1, logdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", range(4))
def test_what_is_no_model_or_optimizer_is_refused(place):
    parts: list = [*players(), *optimizers()]
    parts[place] = "adam"
    with pytest.raises(ValueError, match="must be a Keras (model|optimizer).*Received: 'adam'"):
        GAN(*parts)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "validation_data"])
def test_arguments_of_keras_fit_are_refused(name):
    with pytest.raises(ValueError, match=f"GAN.fit must be called.*Received: {name}="):
        gan().fit(DATA, 1, **{name: 1})


@pytest.fixture(scope="module")
def expected():
    """A GAN with noise in both players after one fit of twelve steps."""
    trainer = gan(players(extra=stateful))
    trainer.fit(DATA, 12)
    return trainer


@pytest.mark.parametrize("fits", [[(12, 3)], [(12, 12)], [(5, 1), (4, 2), (3, 1)]])
def test_reports_and_fits_do_not_change_what_is_trained(fits, expected):
    """To the last bit, with noise in both players; two batches are an epoch of ten examples."""
    other = gan(players(extra=stateful))
    for steps, every in fits:
        other.fit(DATA, steps, report_every=every)
    for model in ("generator", "discriminator"):
        assert not any(differ(values(getattr(expected, model)), values(getattr(other, model))))


class Always(layers.Dropout):
    """Draws in inference, too."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def test_looks_draw_nothing_from_the_training(tmp_path):
    draw = lambda gan: np.zeros((1, 1, 1), np.uint8)  # noqa: E731
    trainers = [gan(players(extra=lambda: [Always(0.3)])) for _ in range(2)]
    trainers[0].fit(DATA, 4)
    trainers[1].fit(DATA, 4, sample_every=2, draw=draw, logdir=tmp_path)
    for model in ("generator", "discriminator"):
        pair = [values(getattr(trainer, model)) for trainer in trainers]
        assert not any(differ(*pair))


def test_samples_take_bounded_memory(monkeypatch):
    """Parts of 32 examples where the generator computes much."""
    monkeypatch.setattr(inference, "MOST_BYTES", 0)
    trainer = gan()
    calls = []
    call = trainer.generator.call
    monkeypatch.setattr(
        trainer.generator, "call", lambda z, **more: (calls.append(z.shape[0]), call(z, **more))[1]
    )
    noise = np.random.default_rng(0).standard_normal((100, Z), np.float32)
    made = trainer.generate(noise)
    np.testing.assert_allclose(made, call(tf.constant(noise), training=False), rtol=1e-5)
    assert max(calls) == 32


def test_the_event_files_of_another_run_are_left_alone(tmp_path):
    gan().fit(DATA, 1, logdir=tmp_path)
    with pytest.raises(FileExistsError, match="must be new or empty.*Received: logdir="):
        gan().fit(DATA, 1, logdir=tmp_path)


def test_a_loss_that_is_not_finite_says_after_how_many_steps():
    trainer = gan()
    trainer.fit(DATA, 2)
    trainer.discriminator.layers[-1].bias.assign([np.inf])
    before = values(trainer.generator), values(trainer.discriminator)
    with pytest.raises(FloatingPointError, match="After 2 steps: .* must be finite"):
        trainer.fit(DATA, 2)
    assert not any(differ(before[0], values(trainer.generator)))
    assert not any(differ(before[1], values(trainer.discriminator)))


# -------------------------------------------------------------------------------- the examples


def learn_ring(steps, **options):
    trainer = gan_ring.build_trainer(steps, seed=0, **options)
    trainer.fit(gan_ring.sample(10_000, np.random.default_rng(0)), steps)
    return gan_ring.mode_shares(trainer.sample(2_000))


def test_the_ring_is_learnt():
    """A third of the example's steps: all modes already, their points not yet as narrow."""
    shares = learn_ring(1_500)
    assert shares.min() >= 0.05 and shares.sum() >= 0.75, shares


def test_a_generator_that_helps_the_discriminator_does_not_learn_the_ring():
    shares = learn_ring(300, loss=lambda fake_logits: -non_saturating_loss(fake_logits))
    assert shares.min() < 0.05 and shares.sum() < 0.75, shares


def test_mode_shares_count_what_lies_within_four_sigma():
    real = gan_ring.sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(gan_ring.mode_shares(real), 1 / 8, atol=0.02)
    assert gan_ring.mode_shares(real).sum() > 0.999
    assert gan_ring.mode_shares(np.array([[1.19, 0.0], [1.21, 0.0], [0.0, 0.0]])).sum() == 1 / 3


def test_the_digits_are_scaled_up_in_one_order():
    images, labels = gan_digits.load(np.random.default_rng(0))
    again, _ = gan_digits.load(np.random.default_rng(0))
    assert images.shape == (1797, 784) and labels.shape == (1797,)
    assert images.min() == -1 and images.max() == 1
    corners = images.reshape(-1, 28, 28)[:, ::9, ::9]  # pixel 9 k is pixel 3 k of the framed digit
    assert (corners[:, 0] == -1).all() and (corners[:, -1] == -1).all()
    np.testing.assert_array_equal(images, again)


def vantage(*arguments):
    line = [sys.executable, "-m", "vantage.scripts.main", "gan", *map(str, arguments)]
    return forks.run(line, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("example", [pytest.param("ring", marks=pytest.mark.slow), "digits"])
def test_the_command_keeps_the_run_and_never_overwrites_it(example, tmp_path):
    folder = tmp_path / "run"
    flags = (example, "--steps", 20, "--sample-every", 10, "--seed", 1, "--logdir", folder)
    done = vantage(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.match(r"done: 20 steps in .* s; .*summary.json", done.stdout.splitlines()[-1])
    config, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary")
    )
    assert config["example"] == example and config["seed"] == 1 and config["steps"] == 20
    assert summary["steps"] == 20 and summary["seconds"] > 0
    found = "modes_found" if example == "ring" else "classes_found"
    assert summary[found] < 8  # twenty steps must not be enough, or the figure means nothing
    if example == "digits":
        assert summary["classifier_accuracy"] > 0.95 and min(summary["sure_counts_real"]) >= 10
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Images("samples")] == [0, 10, 20]
    assert [event.step for event in events.Tensors("discriminator/fake")] == [0, 10, 20]
    assert [event.value for event in events.Scalars(f"final/{found}")] == [summary[found]]
    with pytest.raises(FileExistsError, match="must be new or empty"):
        command.run([str(flag) for flag in flags])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must be one of ring, digits. Received: None"),
        (["square"], "Received: 'square'"),
        (["ring", "--steps", "0"], "steps must be at least 1. Received: 0"),
        (["ring", "--gradient-penalty", "-1"], "gradient_penalty must be .* Received: -1.0"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as stop:
        command.run(arguments)
    said = f"{stop.value} {' '.join(capsys.readouterr().err.split())}"
    assert re.search(message, said), said


def test_digits_without_scikit_learn_name_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "vantage-rl\[digits\]"'):
        command.run(["digits", "--logdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_help_and_usage_errors_need_no_tensorflow():
    program = (
        "import sys; from vantage.scripts.commands import gan as g\n"
        "for words in (['--help'], ['ring', '--help'], ['square'], ['ring', '--steps', '0']):\n"
        "    try: g.run(words)\n"
        "    except (SystemExit, ValueError): pass\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_a_fit_ends_with_the_averages_in_the_generator():
    momentum, rate = 0.5, 0.1
    own = keras.optimizers.SGD(rate, use_ema=True, ema_momentum=momentum)
    averaged = GAN(*players(), own, keras.optimizers.SGD(0.1), batch_size=B)
    plain = GAN(*players(), keras.optimizers.SGD(rate), keras.optimizers.SGD(0.1), batch_size=B)
    expected = None
    for _ in range(3):
        plain.fit(DATA, 1)
        now = plain.generator.get_weights()
        before = expected or now  # Keras's average starts with the first update
        expected = [momentum * e + (1 - momentum) * w for e, w in zip(before, now, strict=True)]
    averaged.fit(DATA, 3, report_every=1)
    for a, b in zip(averaged.generator.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_frozen_between_two_fits_stays():
    trainer = gan()
    trainer.fit(DATA, 2)
    layer = trainer.generator.layers[0]
    before = [values(layer), values(trainer.generator)]
    layer.trainable = False
    trainer.fit(DATA, 2)
    assert not any(differ(before[0], values(layer)))
    assert any(differ(before[1], values(trainer.generator)))
    layer.trainable = True
    trainer.fit(DATA, 2)
    assert all(differ(before[0], values(layer)))
