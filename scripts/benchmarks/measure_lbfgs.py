"""What `vantage benchmark speed` measures of L-BFGS: ours, and SciPy's that drives the same model.

Both start from the same weights, compute in float32, and remember ten pairs.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vantage.training import LBFGS, compile_step, differentiate

TOLERANCE = 1e-5  # of the gradient, on both sides


class Point(keras.layers.Layer):
    """Its outputs `[1, 100]` are its weights, which start as in Moré, Garbow & Hillstrom 1981."""

    def build(self, shape):
        """Creates the weights."""
        start = tf.constant(np.tile([-1.2, 1.0], 50), tf.float32)
        self.point = self.add_weight(shape=(100,), initializer=lambda shape, dtype=None: start)

    def call(self, inputs):
        """The weights, whatever the inputs."""
        return self.point[None] + 0 * inputs


def _rosenbrock(outputs, _):
    x = outputs[0]
    return tf.reduce_sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _squares(outputs, targets):
    return tf.reduce_mean((outputs - targets) ** 2)


def _problem(name: str):
    """A model, a loss, inputs and targets.

    `network` is 20-40-28-1 with 2,017 parameters, tanh, and an L2 penalty of 0.02, on 512 examples.
    """
    keras.utils.set_random_seed(0)
    nothing = np.zeros((1, 1), np.float32)
    if name == "rosenbrock":
        return keras.Sequential([keras.Input((1,)), Point()]), _rosenbrock, nothing, nothing
    penalty = keras.regularizers.L2(0.02)
    penalties = {"kernel_regularizer": penalty, "bias_regularizer": penalty}
    hidden = [keras.layers.Dense(width, "tanh", **penalties) for width in (40, 28)]
    model = keras.Sequential([keras.Input((20,)), *hidden, keras.layers.Dense(1, **penalties)])
    inputs = np.random.default_rng(0).normal(size=(512, 20)).astype(np.float32)
    return model, _squares, inputs, np.sin(inputs[:, :5].sum(1, keepdims=True))


def lbfgs(problem: str, updates: int) -> dict[str, Any]:
    """Ours, all updates in one call.

    Returns:
        `seconds` of a call; `compile_seconds`; for each update `losses` before it, and
        `evaluations` up to it.
    """
    model, loss, inputs, targets = _problem(problem)
    optimizer = LBFGS(gradient_tolerance=TOLERANCE)
    signature = tf.TensorSpec(inputs.shape), tf.TensorSpec(targets.shape)
    began, start = time.perf_counter(), model.get_weights()
    arguments = model, differentiate(loss), model.trainable_variables, optimizer, signature
    step = compile_step(*arguments, updates=updates)
    step(inputs, targets)
    compile_seconds = time.perf_counter() - began
    model.set_weights(start)
    for variable in optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    began = time.perf_counter()
    metrics = step(inputs, targets)
    seconds = time.perf_counter() - began
    evaluations = 1 + np.concatenate([[0], np.cumsum(metrics["evaluations"][:-1])])
    return {
        "seconds": seconds,
        "compile_seconds": compile_seconds - seconds,
        "losses": metrics["loss"].tolist(),
        "evaluations": evaluations.tolist(),
    }


def lbfgs_by_scipy(problem: str) -> dict[str, Any]:
    """SciPy's L-BFGS-B with a compiled loss and gradient of the same model.

    Returns:
        `seconds` after the compilation; `losses` of all evaluations, and `evaluations`, 1, 2, ….
    """
    from scipy.optimize import minimize

    model, loss, inputs, targets = _problem(problem)
    variables, losses = model.trainable_variables, []
    cuts = np.cumsum([variable.numpy().size for variable in variables])[:-1]
    inputs, targets = tf.constant(inputs), tf.constant(targets)

    @tf.function
    def evaluate():
        with tf.GradientTape() as tape:
            value = tf.add_n([loss(model(inputs, training=True), targets), *model.losses])
        return value, tf.concat(
            [tf.reshape(g, [-1]) for g in tape.gradient(value, variables)], axis=0
        )

    def objective(vector):
        for variable, piece in zip(variables, np.split(vector, cuts), strict=True):
            variable.assign(piece.reshape(variable.shape))
        value, gradient = evaluate()
        losses.append(float(value))
        return losses[-1], gradient.numpy().astype(float)

    start = np.concatenate([variable.numpy().ravel() for variable in variables])
    objective(start)
    losses.clear()
    options = {"maxiter": 10_000, "maxfun": 10_000, "maxcor": 10, "ftol": 0.0, "gtol": TOLERANCE}
    began = time.perf_counter()
    minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    seconds = time.perf_counter() - began
    evaluations = list(range(1, len(losses) + 1))
    return {"seconds": seconds, "losses": losses, "evaluations": evaluations}
