"""Arguments of a trainer and of its fit that are refused before training, with what to pass."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from regressions import M, X, Y, mse, network, regression

from vantage.training import (
    GAN,
    Regression,
    differentiate,
    external,
)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, Y, 0), {}, r"epochs must be at least 1. Received: 0"),
        ((X, Y[:4], 1), {}, r"equally many examples.*Received: \[4, 10\].*Pass equally long"),
        ((X, Y, 1), {"batch_size": 11}, r"batch_size=11.*smaller batch_size"),
        ((X, Y, 1), {"batch_size": 0}, r"batch_size must be at least 1. Received: 0"),
        ((X, 1.0, 1), {}, r"first axis counts the examples. Received: 1.0"),
        ((X, Y, 2.5), {}, r"epochs must be a whole number.*Received: epochs=2.5"),
        ((X, Y, True), {}, r"Received: epochs=True"),
        ((X, Y), {}, r"whole number.*Received: epochs=None"),
        ((X, Y, 1), {"batch_size": 2.5}, r"whole number.*batch_size=2.5"),
        ((X, Y, 1), {"seed": -1}, r"seed must be at least 0. Received: -1"),
        (((), (), 1), {}, r"equally many examples.*Received: \[\] examples"),
        ((X[:0], Y[:0], 1), {}, r"at least one minibatch. Received: \[0\]"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        regression(**options).fit(*arguments)


def test_counts_may_be_numpys():
    history = regression(batch_size=np.int64(M)).fit(X, Y, np.int32(4), report_every=2.0)
    assert len(history["loss"]) == 4


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (X, "must be a pair.*Received: ndarray"),
        ((X, Y, Y), "must be a pair.*Received: tuple of 3.*weights of examples"),
        ((X, Y[:3]), r"equally many examples.*Received: \[3, 10\]"),
        ((X[:0], Y[:0]), r"Received: \[0\]"),
        ((X[:, :2], Y), "inputs that the model takes.*float32.10, 2."),
        ((X, Y[:, :1].repeat(3, 1)), "targets that the loss takes.*float32.10, 3."),
        ((X, Y.astype(str)), "targets that the loss takes"),
        ((X, None), "validation's targets must be arrays.*None"),
    ],
)
def test_bad_validations_are_refused_before_an_epoch_is_trained(validation, message, tmp_path):
    trainer = regression()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, Y, 1, validation=validation, logdir=tmp_path / "run")
    assert trainer.epochs == 0 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("validation_data", "validation=\\(inputs, targets\\)"),
        ("validation_split", "Split the arrays"),
        ("sample_weight", "weights"),
        ("batch_size", "to the trainer itself"),
        ("shuffle", "new permutation"),
    ],
)
def test_arguments_of_keras_fit_are_refused_with_what_to_pass(name, advice):
    with pytest.raises(ValueError, match=f"Received: {name}=.*{advice}"):
        regression().fit(X, Y, 1, **{name: None})
    with pytest.raises(
        TypeError, match="Regression.fit got an unexpected keyword argument 'epoch'"
    ):
        regression().fit(X, Y, 1, epoch=3)


class Late:
    """What is called, and does nothing by that."""

    def __init__(self, epoch, metrics):
        pass

    async def __call__(self, epoch, metrics):
        return False

    @staticmethod
    async def awaited(epoch, metrics):
        return False

    @staticmethod
    def yielded(epoch, metrics):
        yield False


class Beginning:
    def begin(self):
        pass

    def __call__(self, epoch, metrics):
        pass


def test_a_callback_that_returns_what_has_not_run_is_refused():
    with pytest.raises(ValueError, match="must run when they are called. Received: .*generator"):
        regression().fit(X, Y, 1, callbacks=[lambda *both: Late.yielded(*both)])


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (keras.callbacks.History(), "Pass a list"),
        ([3], "Received: 3. Pass a function of two arguments"),
        ([lambda epoch: None], "function of two arguments"),
        ([print, "x"], "Received: 'x'"),
        (lambda epoch, metrics: None, "Pass a list of functions"),
        ({}, "Received: {}. Pass a list of functions"),
        ("", "Received: ''. Pass a list of functions"),
        ([{}], "Received: {}. Pass a function of two arguments"),
        ([Late], "Received: the class Late. Pass an instance of it"),
        ([Late.awaited], "awaited.* async or has a yield.*def and return"),
        ([functools.partial(Late.yielded)], "yielded.* async or has a yield"),
        ([Late(1, 2)], "Late object.* async or has a yield"),
        ([Beginning()], r"begin must be a method of one argument.*Write begin\(self, writer\)"),
    ],
)
@pytest.mark.parametrize("trainer", ["regression", "gan"])
def test_what_is_no_callback_is_refused_before_training(trainer, callbacks, message, tmp_path):
    options = {"callbacks": callbacks, "logdir": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        if trainer == "regression":
            regression().fit(X, Y, 1, **options)
        else:
            adversaries().fit(X[:, :2], 1, **options)
    assert not (tmp_path / "run").exists()


def adversaries():
    generator = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    discriminator = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    optimizers = keras.optimizers.SGD(), keras.optimizers.SGD()
    return GAN(generator, discriminator, *optimizers, batch_size=M)


def test_callbacks_may_come_from_a_generator():
    calls = []
    regression().fit(X, Y, 4, callbacks=(lambda n, _: calls.append(n) for _ in range(1)))
    assert calls == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logdir": 3}, "logdir must be a path. Received: logdir=3"),
        ({"logdir": __file__}, "logdir must be a folder"),
        ({"config": [1]}, r"config must be a dict.*Received: config=\[1\]"),
        ({"config": {1: 2}}, "config must be a dict"),
        ({"compare": 3}, "compare must be a function. Received: 3"),
        ({"compare": lambda y, t: y}, r"compare must be .*\(outputs\). Received: .*\(y, t\)"),
        ({"verbose": "no"}, "verbose must be True or False. Received: verbose='no'"),
    ],
)
def test_odd_destinations_are_refused_before_training(options, message):
    trainer = regression()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, Y, 1, **options)
    assert trainer.epochs == 0


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        ("x", keras.optimizers.SGD(), "model must be a Keras model or layer. Received: 'x'"),
        (keras.Sequential, keras.optimizers.SGD(), "Keras model.*Received: <class"),
        (lambda x: x, keras.optimizers.SGD(), "compile_step"),
        (network(), "adam", r"optimizer must be a Keras optimizer. Received: 'adam'.*Adam\("),
        (network(), keras.optimizers.Adam, "Received: <class"),
        (network(), None, "Received: None"),
    ],
)
def test_models_and_optimizers_that_are_none(model, optimizer, message):
    with pytest.raises(ValueError, match=message):
        Regression(model, differentiate(mse), optimizer)


def named(lift, name):
    """A loss with a metric of that name."""
    if lift is differentiate:
        return differentiate(lambda y, t: (tf.reduce_mean((y - t) ** 2), {name: 1.0}))
    return external(lambda y, t: (np.mean((y - t) ** 2), 2 * (y - t) / y.size, {name: 1.0}))


OF_THE_FIT = {"validation_loss": {"validation": (X, Y)}, "bad_updates": {"on_bad_numbers": "skip"}}


@pytest.mark.parametrize("lift", [differentiate, external])
@pytest.mark.parametrize(("name", "options"), OF_THE_FIT.items(), ids=OF_THE_FIT)
def test_metrics_are_not_named_like_those_of_the_fit(name, options, lift, tmp_path):
    trainer = regression(named(lift, name))
    before = trainer.model.get_weights()
    with pytest.raises(ValueError, match=f"does not use itself. Received: {name}. Rename it"):
        trainer.fit(X, Y, 4, report_every=2, logdir=tmp_path / "run", **options)
    for now, then in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert lift is external or not (tmp_path / "run").exists()  # a host loss tells when it runs
    assert trainer.fit(X, Y, 2)[name].tolist() == [1.0, 1.0]  # of a fit that reports no other


def test_a_fit_is_not_stopped_by_a_metric():
    trainer = regression(named(differentiate, "stop"))
    with pytest.raises(ValueError, match="Received: stop. Rename it; a callback that returns Fal"):
        trainer.fit(X, Y, 1)


def test_the_compiler_is_chosen_by_a_truth_value():
    with pytest.raises(ValueError, match="True, False or None. Received: jit_compile='yes'"):
        regression(jit_compile="yes")
