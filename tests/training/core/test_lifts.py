"""The four lifts: host losses against TensorFlow's, finite differences, statistics, bad input."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import estimated, external, given
from vantage.training.core.lifts import differentiate
from vantage.training.core.losses import lift_of

B = 8  # examples
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
Y = RANDOM.normal(size=(B, 2)).astype(np.float32)
SIGNATURE = tf.TensorSpec((B, 3)), tf.TensorSpec((B, 2))


def network(dtype="float32"):
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(4, activation="tanh", dtype=dtype), layers.Dense(2, dtype=dtype)]
    return keras.Sequential([keras.Input((3,), dtype=dtype), *stack])


def step_for(model, loss_gradient, signature=SIGNATURE, rate=0.1, **options):
    optimizer = keras.optimizers.SGD(rate)
    return compile_step(
        model, loss_gradient, model.trainable_variables, optimizer, signature, **options
    )


def squared(y, targets):
    return tf.reduce_mean((y - targets) ** 2)


def host_squared(y, targets):
    return np.mean((y - targets) ** 2), 2 * (y - targets) / y.size


def finite_differences(function, arrays, epsilon=1e-6):
    """Central differences of a number with respect to every entry of float64 arrays."""
    slopes = [np.zeros_like(array) for array in arrays]
    for array, slope in zip(arrays, slopes, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + epsilon
            above = function(arrays)
            array[index] = kept - epsilon
            slope[index] = (above - function(arrays)) / (2 * epsilon)
            array[index] = kept
    return slopes


class Free:
    """Outputs that are themselves the variables: an SGD step of rate 1 shows dL/dy as it is."""

    def __init__(self, loss_gradient, targets, **outputs):
        self.start = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
        self.variables = {name: keras.Variable(value) for name, value in self.start.items()}
        self.targets = targets
        self.step = compile_step(
            lambda _: {name: tf.identity(v.value) for name, v in self.variables.items()},
            loss_gradient,
            list(self.variables.values()),
            keras.optimizers.SGD(1.0),
            (tf.TensorSpec(()), tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape), targets)),
        )

    def gradient(self):
        """dL/dy of each output, and the metrics, at the starting point."""
        for name, variable in self.variables.items():
            variable.assign(self.start[name])
        metrics = self.step(np.float32(0), self.targets)
        return {n: self.start[n] - v.numpy() for n, v in self.variables.items()}, metrics

    def repeat(self, times):
        """Gradients `[times, ...]` per output, and metrics `[times]`."""
        gradients, metrics = zip(*(self.gradient() for _ in range(times)), strict=True)
        stack = lambda rows: {name: np.stack([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
        return stack(gradients), stack(metrics)


# --- external and given ---------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [None, (3, 4)])
def test_external_equals_differentiate(updates):
    models, metrics = [], []
    rows = [] if updates is None else [RANDOM.integers(0, B, updates)]
    for lift in (external(host_squared), differentiate(squared)):
        models.append(network())
        step = step_for(models[-1], lift, updates=updates)
        metrics.append([step(X, Y, *rows) for _ in range(4)][-1])
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[0][name], metrics[1][name], rtol=1e-5)


def test_external_pull_back_equals_finite_differences():
    """In float64, through the whole network, with a loss that no tape could see."""
    model = network("float64")
    x, t = X.astype(np.float64), Y.astype(np.float64)
    weights = [w.copy() for w in model.get_weights()]

    def forward(weights):
        return np.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3]

    def loss(y):
        return np.sum(np.abs(y - t) ** 1.5 * np.sin(y))

    def host(y, targets):
        d = y - targets
        slope = 1.5 * np.sign(d) * np.abs(d) ** 0.5 * np.sin(y) + np.abs(d) ** 1.5 * np.cos(y)
        return loss(y), slope

    specs = tf.TensorSpec((B, 3), tf.float64), tf.TensorSpec((B, 2), tf.float64)
    step_for(model, external(host), specs, rate=1.0)(x, t)
    expected = finite_differences(lambda weights: loss(forward(weights)), weights)
    for before, after, slope in zip(weights, model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(before - after, slope, rtol=1e-5, atol=1e-7)


def test_external_metrics_are_reported_with_the_rest():
    def host(y, targets):
        return (*host_squared(y, targets), {"worst": np.abs(y - targets).max(), "count": B})

    model = network()
    worst = np.abs(model(X).numpy() - Y).max()
    metrics = step_for(model, external(host))(X, Y)
    assert list(metrics) == ["loss", "grad_norm", "worst", "count"]
    assert metrics["worst"] == pytest.approx(worst, rel=1e-5) and metrics["count"] == B
    rows = np.arange(B).reshape(2, 4)
    model = network()
    worst = np.abs(model(X[rows[0]]).numpy() - Y[rows[0]]).max()
    metrics = step_for(model, external(host), updates=(2, 4))(X, Y, rows)
    assert metrics["worst"].shape == (2,)
    assert metrics["worst"][0] == pytest.approx(worst, rel=1e-5)


@pytest.mark.thinned
@pytest.mark.parametrize("calls", [(True, False), (False, True)], ids=["less", "more"])
@pytest.mark.parametrize("updates", [None, 2])
def test_external_metrics_are_the_same_in_every_call(calls, updates):
    turns = iter(calls * 2)

    def loss(y, targets):
        return *host_squared(y, targets), {"mine": 1.0} if next(turns) else {}

    model = network()
    step = step_for(model, external(loss), updates=updates)
    with pytest.raises(ValueError, match="same metrics in every call"):
        for _ in range(2):
            before = model.get_weights()
            step(X, Y)
    if updates is None:
        assert all(map(np.array_equal, before, model.get_weights()))


def test_given_is_the_gradient_itself():
    gradients, metrics = Free(given, {"y": 2 * Y}, y=Y).gradient()
    np.testing.assert_allclose(gradients["y"], 2 * Y, rtol=1e-5, atol=1e-6)
    assert metrics["loss"] == pytest.approx(np.sum(2 * Y * Y), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(2 * Y), rel=1e-5)


def test_given_equals_the_tape_of_the_linear_loss():
    models = network(), network()
    step_for(models[0], given)(X, Y)
    step_for(models[1], differentiate(lambda y, g: tf.reduce_sum(y * g)), jit_compile=True)(X, Y)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_host_arrays_are_read_only_and_may_be_kept():
    kept = []

    def host(y, targets):
        kept.append((y, y.copy(), targets))
        return host_squared(y, targets)

    step = step_for(network(), external(host))
    for _ in range(5):
        step(X, Y)
    for y, copied, targets in kept:
        np.testing.assert_array_equal(y, copied)
        np.testing.assert_array_equal(targets, Y)
        assert not y.flags.writeable and not targets.flags.writeable


@pytest.mark.parametrize("victim", [0, 1])
def test_mutating_a_host_array_is_an_error(victim):
    harmful = True

    def host(*arrays):
        if harmful:
            arrays[victim] *= 2
        return host_squared(*arrays)

    model, untouched = network(), network()
    targets = Y.copy()
    step = step_for(model, external(host))
    with pytest.raises(ValueError, match="read-only"):
        step(X, targets)
    np.testing.assert_array_equal(targets, Y)
    harmful = False
    assert step(X, targets) == step_for(untouched, external(host_squared))(X, Y)


def test_scalars_and_nests_reach_the_host_as_arrays():
    seen = []

    def host(y, targets):
        seen.append(targets)
        return 0.0, targets["scale"] * np.ones_like(y)

    targets = {"scale": np.float32(3), "words": (np.arange(B),)}
    specs = {"scale": tf.TensorSpec(()), "words": (tf.TensorSpec((B,), tf.int64),)}
    model = network()
    step_for(model, external(host), (SIGNATURE[0], specs))(X, targets)
    assert seen[0]["scale"].shape == () and seen[0]["scale"] == 3
    np.testing.assert_array_equal(seen[0]["words"][0], np.arange(B))


class LaboratoryError(Exception):
    pass


@pytest.mark.thinned
@pytest.mark.parametrize("kind", [LaboratoryError, StopIteration, KeyboardInterrupt])
@pytest.mark.parametrize("updates", [None, (3, 4)])
def test_exceptions_of_the_host_reach_the_caller(kind, updates):
    error, calls = kind("the pump is empty"), []

    def host(y, targets):
        calls.append(0)
        if len(calls) == (1 if updates is None else 2):
            raise error
        return (*host_squared(y, targets), {"calls": len(calls)})

    rows = [] if updates is None else [RANDOM.integers(0, B, updates)]
    model, reference = network(), network()
    step = step_for(model, external(host), updates=updates)
    with pytest.raises(kind) as caught:
        step(X, Y, *rows)
    assert caught.value is error
    if updates is None:
        assert all(map(np.array_equal, model.get_weights(), reference.get_weights()))
    reference.set_weights(model.get_weights())
    expected = step_for(reference, differentiate(squared), updates=updates)(X, Y, *rows)
    metrics = step(X, Y, *rows)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    assert np.shape(metrics["calls"]) == np.shape(metrics["loss"])


def test_metrics_outlive_no_error_that_is_not_the_hosts():
    """What an update that TensorFlow itself refused leaves behind belongs to no later call."""
    model = network()

    def forward(x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0)]):
            return model(tf.identity(x), training=True)

    host = external(lambda y, t: (*host_squared(y, t), {"one": 1}))
    variables, optimizer = model.trainable_variables, keras.optimizers.SGD(0.1)
    step = compile_step(forward, host, variables, optimizer, SIGNATURE, updates=(2, 4))
    rows = np.arange(B).reshape(2, 4)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(np.where(np.arange(B)[:, None] == 7, 1000, X), Y, rows)
    assert step(X, Y, rows)["one"].shape == (2,)


BAD_RETURNS = {
    "a number": (lambda y, t: 1.0, r"return \(L, dL/dy\).* Received: float"),
    "nothing": (lambda y, t: None, r"return \(L, dL/dy\).* Received: NoneType"),
    "vector": (lambda y, t: (y[:, 0], y), r"must be one number. Received: shape \(8,\)"),
    "shape": (lambda y, t: (1.0, y[:, :1]), r"shaped like the outputs, float32\[8, 2\]. .*8, 1"),
    "scalar": (lambda y, t: (1.0, 0.0), r"shaped like the outputs.* Received: float64\[\]"),
    "none": (lambda y, t: (1.0, None), "shaped like the outputs.* Return zeros"),
    "nested": (lambda y, t: (1.0, (y, y)), "nested and shaped like the outputs"),
    "reserved": (lambda y, t: (1.0, y, {"loss": 2.0}), "name of its own.* Received: loss = 2.0"),
    "metric": (lambda y, t: (1.0, y, {"all": y[0]}), "must be a scalar, .*Received: all = "),
}


@pytest.mark.parametrize(("host", "message"), BAD_RETURNS.values(), ids=BAD_RETURNS)
def test_what_an_external_loss_must_return(host, message):
    model, reference = network(), network()
    step = step_for(model, external(host))
    with pytest.raises(ValueError, match=message):
        step(X, Y)
    assert all(map(np.array_equal, model.get_weights(), reference.get_weights()))


def test_gradients_of_two_outputs_cannot_be_swapped():
    """A tuple for a dict would be taken in the order of the sorted keys."""
    targets, outputs = {"y": Y}, {"log_std": Y, "mean": Y}
    free = Free(external(lambda y, t: (0.0, (y["mean"], y["log_std"]))), targets, **outputs)
    with pytest.raises(ValueError, match="nested and shaped like the outputs.*'log_std'"):
        free.gradient()


@pytest.mark.parametrize(
    "spec",
    [tf.TensorSpec((B, 1)), tf.TensorSpec((2,)), (SIGNATURE[1], SIGNATURE[1]), {"y": SIGNATURE[1]}],
    ids=["column", "row", "tuple", "dict"],
)
def test_given_refuses_what_would_broadcast(spec):
    with pytest.raises(ValueError, match="must be nested and shaped like the outputs.*Received"):
        step_for(network(), given, (SIGNATURE[0], spec))


# --- estimated ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "gradient"), [(None, None), ((), ()), (3.0, 3.0), (Y, None)])
def test_given_takes_arrays(outputs, gradient):
    with pytest.raises(ValueError, match="of real numbers. Received: .* Pass `given` itself"):
        given(outputs, gradient)


def test_given_takes_real_numbers():
    signature = SIGNATURE[0], tf.TensorSpec(SIGNATURE[1].shape, tf.string)
    with pytest.raises(ValueError, match=r"arrays of real numbers. Received: .*string\[8, 2\]"):
        step_for(network(), given, signature)


def test_estimate_is_the_gradient_of_the_smoothed_loss():
    """E sin(a(y + σε)) = sin(ay) exp(−a²σ²/2): a bias of 33 % if σ were ignored, say."""
    a, scale, times = 3.0, 0.3, 800
    damping = np.exp(-((a * scale) ** 2) / 2)

    def score(y, targets):
        return np.sum(np.sin(a * y["y"]) * targets, axis=1)

    free = Free(estimated(score, scale=scale, samples=4), Y, y=X[:, :2])
    gradients, metrics = free.repeat(times)
    expected = a * np.cos(a * X[:, :2]) * damping * Y / B
    error = gradients["y"].std(0, ddof=1) / np.sqrt(times)
    z = (gradients["y"].mean(0) - expected) / error
    assert np.abs(z).max() < 4.5 and 0.3 < np.mean(z**2) < 2.5
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(expected)  # else this shows nothing
    smoothed = np.mean(np.sum(np.sin(a * X[:, :2]) * Y, axis=1)) * damping
    spread = metrics["loss"].std(ddof=1) / np.sqrt(times)
    assert abs(metrics["loss"].mean() - smoothed) < 4.5 * spread < 0.05


@pytest.mark.parametrize("samples", [2, 8])
@pytest.mark.parametrize("whole", [False, True], ids=["per_example", "per_batch"])
def test_standard_error_is_that_of_repeated_estimates(samples, whole):
    def score(y, targets):
        scores = np.sum((y["y"] - targets) ** 2, axis=1)
        return scores.mean() if whole else scores

    gradients, metrics = Free(estimated(score, samples=samples), Y, y=X[:, :2]).repeat(600)
    variance = gradients["y"].var(0, ddof=1).sum()
    assert np.mean(metrics["standard_error"] ** 2) == pytest.approx(variance, rel=0.2)


def test_estimate_equals_finite_differences_and_one_score_is_noisier():
    """A quadratic has the gradient of its smoothed self, so the mean must be exact."""

    def scores(y, targets):
        return np.sum((y - targets) ** 2, axis=1) + y[:, 0] * y[:, 1]

    def score(y, targets):
        return scores(y["y"], targets)

    start = X[:, :2].astype(np.float64)
    (expected,) = finite_differences(lambda y: scores(y[0], Y).mean(), [start])
    variances = []
    for lift in (score, lambda y, t: score(y, t).mean()):
        gradients, _ = Free(estimated(lift), Y, y=start).repeat(400)
        mean, variance = gradients["y"].mean(0), gradients["y"].var(0, ddof=1)
        assert np.sum((mean - expected) ** 2) < 2.5 * variance.sum() / 400
        variances.append(variance.sum())
    assert B / 2 < variances[1] / variances[0] < 2 * B


def test_estimate_of_several_outputs():
    def score(y, targets):
        return np.sum((y["a"] - targets) ** 2, axis=1) + 3 * y["b"] * targets[:, 0]

    free = Free(estimated(score, samples=64), Y, a=X[:, :2], b=X[:, 2])
    gradients, metrics = free.repeat(100)
    for name, expected in {"a": 2 * (X[:, :2] - Y) / B, "b": 3 * Y[:, 0] / B}.items():
        mean, error = gradients[name].mean(0), gradients[name].std(0) / 10
        assert np.abs(mean - expected).max() < 5 * error.max() < 0.1
    total = sum(gradient.var(0, ddof=1).sum() for gradient in gradients.values())
    assert np.mean(metrics["standard_error"] ** 2) == pytest.approx(total, rel=0.25)


@pytest.mark.parametrize("kind", [bool, np.uint8, int, list])
def test_scores_of_any_number_type(kind):
    """Wins and losses may come as bools or small integers, which must not wrap around."""

    def score(y, targets):
        wins = y["y"][:, 0] > targets[:, 0]
        return wins.tolist() if kind is list else wins.astype(kind)

    gradients, metrics = Free(estimated(score, scale=1.0), Y, y=X[:, :2]).repeat(50)
    assert np.all(gradients["y"][..., 0].mean(0) > 0) and np.all(metrics["loss"] <= 1)
    assert np.abs(gradients["y"]).max() < 1


def test_estimates_are_reproducible():
    def run(seed):
        return Free(estimated(lambda y, t: y["y"][:, 0] ** 2, seed=seed), Y, y=X).repeat(2)[0]["y"]

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1)[0], run(1)[1]) and not np.array_equal(run(1), run(2))


def test_estimated_trains_a_network():
    model = network()
    step = step_for(model, estimated(lambda y, t: np.sum((y - t) ** 2, axis=1), samples=16))
    losses = [step(X, Y)["loss"] for _ in range(100)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-50, 1e50, True, "x", None])
def test_the_scale_of_an_estimate_is_a_number_of_its_outputs(scale):
    with pytest.raises(
        ValueError, match=re.escape(f"Received: scale={scale!r}. Pass about a tenth")
    ):
        estimated(lambda y, t: 0.0, scale=scale)


@pytest.mark.parametrize(
    "options", [{"samples": 1}, {"samples": 2.5}, {"samples": True}, {"seed": -1}, {"seed": 1.5}]
)
def test_samples_and_seed_of_an_estimate_are_whole_numbers(options):
    with pytest.raises(ValueError, match="must be .*at least [02]. Received: "):
        estimated(lambda y, t: 0.0, **options)


def test_numbers_of_any_kind_estimate_the_same():
    arrays = np.ones((8, 2), np.float32), np.zeros((8, 2), np.float32)
    one = estimated(lambda y, t: y[:, 0], scale=0.5, samples=4)(*arrays)
    other = estimated(lambda y, t: y[:, 0], scale=np.float64(0.5), samples=np.int64(4))(*arrays)
    np.testing.assert_array_equal(one[1], other[1])


def test_a_score_of_another_shape_or_value():
    step = step_for(network(), estimated(lambda y, t: y))
    with pytest.raises(ValueError, match=r"shape \(8,\), one number per .* Received: \(8, 2\)"):
        step(X, Y)
    step = step_for(network(), estimated(lambda y, t: y[:, 0] * np.nan))
    with pytest.raises(FloatingPointError, match="loss=nan"):
        step(X, Y)


def test_whoever_wraps_a_loss_can_ask_which_lift_it_has_and_for_the_loss_inside():
    lifts = {
        "differentiate": differentiate(squared),
        "external": external(host_squared),
        "estimated": estimated(lambda y, targets: y[:, 0]),
        "given": given,
        None: squared,
    }
    assert {lift: lift_of(loss) for lift, loss in lifts.items()} == {lift: lift for lift in lifts}
    assert lifts["differentiate"].loss is squared
