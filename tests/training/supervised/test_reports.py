"""What a fit prints and writes: curves, looks at predictions, settings, the row of the table."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from regressions import B, M, X, Y, hparams, mse, read, regression, scalars, status

from vantage.training import (
    Regression,
    differentiate,
)
from vantage.training.tensorboard.summaries import COLOURS


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


def test_tensorboard_has_every_epoch_and_goes_on_in_a_second_fit(tmp_path):
    trainer = regression()
    histories = [trainer.fit(X, Y, epochs=n, report_every=3, logdir=tmp_path) for n in (6, 3)]
    curves = scalars(tmp_path)
    assert set(curves) == {"train/loss", "train/grad_norm", "train/bias"}
    points = curves["train/loss"]
    assert [point.step for point in points] == list(range(1, 10))
    losses = np.concatenate([history["loss"] for history in histories])
    np.testing.assert_allclose([point.value for point in points], losses, rtol=1e-6)
    with pytest.raises(FileExistsError, match="must be new or empty.*Pass --resume"):
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
    assert len(list(tmp_path.glob("events.*"))) == 1


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
