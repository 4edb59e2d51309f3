"""Losses of PyTorch and JAX compared with the same in TensorFlow; skipped where one is missing."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from vantage.training import Regression, compile_step, differentiate, from_jax, from_torch

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 3)).astype(np.float32)
MISSING = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed (extra {name})"
    )
    for name in ("torch", "jax")
}
EACH = [pytest.param(name, marks=MISSING[name]) for name in MISSING]
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization")  # no driver for a CUDA build
BRIDGES = {"torch": from_torch, "jax": from_jax}


def models():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    heads = {"mean": keras.layers.Dense(2)(inputs), "logits": keras.layers.Dense(4)(inputs)}
    return keras.Model(inputs, heads)


TARGETS = {
    "mean": GENERATOR.normal(size=(12, 2)),
    "label": GENERATOR.integers(0, 4, 12),
    "short": GENERATOR.integers(0, 4, 12).astype(np.int32),
}
SIGNATURE = (
    tf.TensorSpec((12, 3)),
    {
        "mean": tf.TensorSpec((12, 2), tf.float64),
        "label": tf.TensorSpec((12,), tf.int64),
        "short": tf.TensorSpec((12,), tf.int32),
    },
)


def in_tensorflow(y, t):
    squares = tf.reduce_mean((y["mean"] - tf.cast(t["mean"], tf.float32)) ** 2)
    chosen = tf.nn.sparse_softmax_cross_entropy_with_logits(t["label"], y["logits"])
    return squares + tf.reduce_mean(chosen), {"squares": squares}


def bridged(name, seen):
    """The same loss; it records the dtypes that it receives."""
    if name == "torch":
        import torch

        def loss(y, t):
            seen.append({key: str(v.dtype).removeprefix("torch.") for key, v in t.items()})
            squares = ((y["mean"] - t["mean"].float()) ** 2).mean()
            chosen = torch.nn.functional.cross_entropy(y["logits"], t["label"])
            return squares + chosen, {"squares": squares}

        return from_torch(loss)
    import jax
    import jax.numpy as jnp

    def loss(y, t):
        seen.append({key: str(v.dtype) for key, v in t.items()})
        squares = ((y["mean"] - t["mean"].astype("float32")) ** 2).mean()
        log = jax.nn.log_softmax(y["logits"])
        chosen = -jnp.take_along_axis(log, t["label"][:, None], 1).mean()
        return squares + chosen, {"squares": squares}

    return from_jax(loss)


@pytest.mark.parametrize("name", EACH)
def test_updates_are_those_of_tensorflow(name):
    """Nests, integer targets and metrics; dtypes are kept."""
    seen = []
    one, other = models(), models()
    steps = [
        compile_step(m, lift, m.trainable_variables, keras.optimizers.Adam(0.01), SIGNATURE)
        for m, lift in ((one, differentiate(in_tensorflow)), (other, bridged(name, seen)))
    ]
    for _ in range(5):
        expected, found = (step(X, TARGETS) for step in steps)
        assert set(found) == {"loss", "grad_norm", "squares"}
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert seen[0] == {"mean": "float64", "label": "int64", "short": "int32"}


def regression(lift, targets=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    trainer = Regression(model, lift, keras.optimizers.Adam(0.1))
    before = model.get_weights()
    try:
        return trainer.fit(X, X.sum(1, keepdims=True) if targets is None else targets, epochs=30)
    except BaseException:
        assert all(map(np.array_equal, before, model.get_weights()))
        raise


@pytest.mark.parametrize("name", EACH)
def test_a_trainer_learns_with_it(name):
    history = regression(BRIDGES[name](lambda y, t: ((y - t) ** 2).mean()))
    assert history["loss"][-1] < 0.5 * history["loss"][0]


@MISSING["torch"]
def test_losses_of_torch_itself_and_in_keras_order():
    import torch

    for loss in (torch.nn.HuberLoss(), torch.nn.functional.mse_loss):
        assert regression(from_torch(loss))["loss"][-1] < 0.2
    history = regression(from_torch(lambda y_true, y_pred: (y_pred - 0 * y_true).mean()))
    assert history["loss"][-1] < -0.5  # the outputs are pushed down


@MISSING["jax"]
def test_a_compiled_loss_of_jax():
    import jax

    history = regression(from_jax(jax.jit(lambda y, t: ((y - t) ** 2).mean())))
    assert history["loss"][-1] < 0.2


@pytest.mark.parametrize("name", EACH)
def test_outputs_are_not_copied(name):
    """The loss sees the memory that the array is in, if it is aligned as the framework needs it."""
    pointers = []

    def loss(y, t):
        data = t.data_ptr() if name == "torch" else t.unsafe_buffer_pointer()
        pointers.append(data)
        return (y * t).sum()

    lift = BRIDGES[name](loss)
    arrays = [np.ones((32, 2), np.float32) for _ in range(200)]
    targets = next(each for each in arrays if each.ctypes.data % 64 == 0)  # as TensorFlow's are
    seen = targets.view()
    seen.flags.writeable = False  # as a lift passes them on
    lift._loss(np.ones((32, 2), np.float32), seen)
    assert pointers == [targets.ctypes.data]


@pytest.mark.parametrize("name", EACH)
def test_an_output_that_the_loss_ignores_has_zeros(name):
    lift = BRIDGES[name](lambda y, t: (y["a"] ** 2).sum())
    outputs = {k: np.ones((2, 1), np.float32) for k in "ab"}
    _, gradient, _ = lift._loss(outputs, ())
    assert gradient["a"].tolist() == [[2], [2]] and gradient["b"].tolist() == [[0], [0]]
    assert gradient["a"].dtype == gradient["b"].dtype == np.float32


@pytest.mark.parametrize("name", EACH)
def test_a_gradient_that_happens_to_be_zero_is_no_mistake(name):
    lift = BRIDGES[name](lambda y, t: ((y - t) ** 2).mean())
    y = np.ones((3, 1), np.float32)
    value, gradient, _ = lift._loss(y, y)
    assert value == 0 and not gradient.any()


def stopped(name):
    if name == "torch":
        return lambda y: y.detach()
    import jax

    return jax.lax.stop_gradient


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda stop: lambda y, t: (y - t) ** 2, r"one number. Received: shape \(12, 1\)"),
        (lambda stop: lambda y, t: (t**2).mean(), "must depend on the outputs"),
        (lambda stop: lambda y, t: ((stop(y) - t) ** 2).mean(), "must depend on the outputs"),
        (lambda stop: lambda y, t: 1.0, "must return L.*Received: float"),
        (lambda stop: lambda y, t: ((y - t).mean(), y), "must return L.*Received: tuple of"),
        (lambda stop: lambda y, t: None, "Received: NoneType"),
        (lambda stop: lambda y: y.mean(), "two arguments"),
        (lambda stop: "mse", "must be a function of the framework's arrays. Received: mse"),
    ],
)
def test_losses_that_are_refused(name, make, message):
    loss = make(stopped(name))
    with pytest.raises(ValueError, match=message):
        regression(BRIDGES[name](loss))


@pytest.mark.parametrize("name", EACH)
def test_errors_of_the_loss_are_unchanged(name):
    class OwnError(Exception):
        pass

    def loss(y, t):
        raise OwnError("a word")

    with pytest.raises(OwnError) as caught:
        regression(BRIDGES[name](loss))
    assert caught.value.args == ("a word",)


@MISSING["torch"]
def test_targets_that_are_changed_in_place():
    with pytest.raises(ValueError, match="must leave its targets unchanged"):
        regression(from_torch(lambda y, t: (y - t.mul_(2)).mean()))


@pytest.mark.parametrize("name", EACH)
def test_targets_that_are_no_numbers(name):
    targets = np.array(["a"] * 12)
    with pytest.raises(ValueError, match="arrays of numbers that the framework has. Received: <U1"):
        regression(BRIDGES[name](lambda y, t: y.mean()), targets)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"must find.*pip install 'vantage-rl\[{name}\]'"):
        BRIDGES[name](lambda y, t: y)
