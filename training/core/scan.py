"""Many updates in one compiled call: on all examples, or one per row of indices.

Legend: K updates, M examples per update.
"""

from collections.abc import Callable

import tensorflow as tf

from . import checks
from .compiled import Nest


def scan(
    update: Callable[..., tf.Tensor],
    arrays: Nest,
    count: int,
    bounds: tf.Tensor,
    rows: tf.Tensor | None,
) -> tf.Tensor:
    """Metrics `[K, metrics]` of updates `[begin, end)` of K; ends at one not made.

    Args:
        update: `arrays -> metrics [metrics]`, the first of them being the status.
        arrays: Those of all examples.
        count: K.
        bounds: `[begin, end]`. A call in pieces makes the same updates as a whole one, to the same
            bits, for they are iterations of the same loop.
        rows: The examples of each update, `[K, M]`; None for all.
    """

    def body(k, _, table):
        batch = arrays
        if rows is not None:
            batch = tf.nest.map_structure(lambda array: tf.gather(array, rows[k]), arrays)
        metrics = update(*batch)
        return k + 1, metrics[0] == checks.MADE, table.write(k, metrics)

    _, _, table = tf.while_loop(
        lambda k, made, _: (k < bounds[1]) & made,
        body,
        (bounds[0], tf.constant(True), tf.TensorArray(tf.float32, size=count)),
        parallel_iterations=1,
    )
    return table.stack()
