"""A physics-informed network solves the heat equation u_t = 0.4 u_xx, u(x, 0) = sin(πx)."""

import keras
import numpy as np
import tensorflow as tf

from vantage.training import compile_step, derivatives


def solution(points):
    """exp(−0.4π²t)·sin(πx), with u = 0 at x = 0 and x = 1; points `[B, 2]` are (x, t)."""
    return np.exp(-0.4 * np.pi**2 * points[:, 1:]) * np.sin(np.pi * points[:, :1])


def points(inside: int = 1000, edge: int = 80, seed: int = 0):
    """Points within x, t ∈ [0, 1]², and on its edges x = 0, x = 1 and t = 0."""
    generator = np.random.default_rng(seed)
    on_edge = generator.uniform(size=(3 * edge, 2)).astype("float32")
    on_edge[:edge, 0], on_edge[edge : 2 * edge, 0], on_edge[2 * edge :, 1] = 0, 1, 0
    return generator.uniform(size=(inside, 2)).astype("float32"), on_edge


def solve(inside, on_edge, values, calls: int, wanted: float = 0.0, updates: int = 100):
    """Trains a network until its relative L2 error is below `wanted`; returns it and the errors."""
    layers = [keras.layers.Dense(20, "tanh") for _ in range(3)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1)])

    def forward(inputs):
        within, edge = inputs
        u = derivatives(model, within, order=2, columns=[0])
        return u.first[:, 0, 1] - 0.4 * u.second[:, 0, 0], model(edge)

    def loss(outputs, values):
        residual, u = outputs
        return tf.reduce_mean(residual**2) + tf.reduce_mean((u - values) ** 2)

    inputs = inside, on_edge
    signature = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape), (inputs, values))
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, calls * updates))
    weights = model.trainable_variables
    step = compile_step(forward, loss, weights, adam, signature, updates=updates)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 50)]), 2).reshape(-1, 2)
    true, errors = solution(grid), []
    while len(errors) < calls and not (errors and errors[-1] < wanted):
        step(inputs, values)
        off = model(grid).numpy() - true
        errors.append(np.linalg.norm(off) / np.linalg.norm(true))
    return model, errors


def main(calls: int = 30) -> float:
    """Prints and returns the relative L2 error."""
    keras.utils.set_random_seed(0)
    inside, on_edge = points()
    values = solution(on_edge).astype("float32")
    _, errors = solve(inside, on_edge, values, calls)
    print(f"relative L2 error {errors[-1]:.2%}; after every 500 updates", np.round(errors[4::5], 4))
    return float(errors[-1])


if __name__ == "__main__":
    main()
