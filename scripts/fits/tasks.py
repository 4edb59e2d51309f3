"""The tasks of `vantage benchmark fit`, in NumPy alone: every side imports them."""

from typing import NamedTuple

import numpy as np

BATCH = 64


class Task(NamedTuple):
    """A training."""

    words: str
    examples: int
    rate: float
    is_sgd: bool = False


TASKS = {
    "mlp": Task("MLP 20-64-64-1, arrays", 16_384, 1e-3),
    "mlp-dataset": Task("the same, a tf.data.Dataset", 16_384, 1e-3),
    "cnn": Task("CNN 16 + 32 filters on 28 × 28, arrays", 2_048, 1e-3),
    "lstm": Task("LSTM 32 on 30 steps of 8, arrays", 2_048, 1e-3),
    "embedding": Task("Embedding 600,000 × 64, SGD, arrays", 4_096, 1e-2, True),
}


def data_of(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets `[B, 1]`, float32; ids of words for the embedding."""
    generator, count = np.random.default_rng(0), TASKS[task].examples
    if task == "embedding":
        ids = generator.integers(0, 600_000, (count, 20)).astype(np.int32)
        return ids, (ids % 2).mean(1, keepdims=True).astype(np.float32)
    shape = {"cnn": (28, 28, 1), "lstm": (30, 8)}.get(task, (20,))
    inputs = generator.normal(size=(count, *shape)).astype(np.float32)
    return inputs, np.tanh(inputs.reshape(count, -1)[:, :4].sum(1, keepdims=True))
