"""Many updates in one compiled call: on all examples, or one per row of indices.

Legend: K updates, M examples per update.
"""

from collections.abc import Callable

import tensorflow as tf

from . import checks
from .compiled import Nest


def scan(
    update: Callable[..., tf.Tensor], arrays: Nest, count: int, rows: tf.Tensor | None
) -> tf.Tensor:
    """Metrics `[K, metrics]` of K updates, on all examples or a row each; ends at one not made."""

    def body(k, _, table):
        batch = arrays
        if rows is not None:
            batch = tf.nest.map_structure(lambda array: tf.gather(array, rows[k]), arrays)
        metrics = update(*batch)
        return k + 1, metrics[0] == checks.MADE, table.write(k, metrics)

    _, _, table = tf.while_loop(
        lambda k, made, _: (k < count) & made,
        body,
        (tf.constant(0), tf.constant(True), tf.TensorArray(tf.float32, size=count)),
        parallel_iterations=1,
    )
    return table.stack()
