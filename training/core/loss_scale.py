"""The factor that keeps gradients from vanishing where a model computes in half precision.

float16 has no number below 6·10⁻⁸, and the gradients of a mean over many outputs are smaller. So
they are computed of s·L and divided by s. As Keras's `fit` does under `mixed_float16`:

    s = 2¹⁵ at first; s ← s / 2 after an overflow, whose update is not made; s ← 2·s after 2,000
    updates without one

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from .compiled import nodes_of

FIRST, PATIENCE = 2.0**15, 2000


class LossScale:
    """s of an optimizer that has none of its own."""

    def __init__(self) -> None:
        self.factor = keras.Variable(FIRST, trainable=False, dtype="float32", name="loss_scale")
        self.updates = keras.Variable(0, trainable=False, dtype="int32", name="updates_since")

    @classmethod
    def of(cls, optimizer: keras.optimizers.Optimizer) -> LossScale | None:
        """Of an optimizer without a scale of its own, where what was traced casts to float16."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return None
        if optimizer.loss_scale_factor is not None:
            return None
        if optimizer not in _SCALES and _casts_to_half():
            with tf.init_scope():  # at once: a trace asks for it
                _SCALES[optimizer] = cls()
        return _SCALES.get(optimizer)

    def move_if(self, made: tf.Tensor, finite: tf.Tensor) -> None:
        """After an update that is `made`, or would be if its gradient were `finite`."""
        factor, updates = self.factor.value, self.updates + 1
        grows = finite & (updates >= PATIENCE)
        moved = tf.where(finite, tf.where(grows, 2 * factor, factor), factor / 2)
        self.factor.assign(tf.where(made, moved, factor))
        self.updates.assign(tf.where(made, tf.where(finite & ~grows, updates, 0), updates - 1))


_SCALES: WeakKeyDictionary[keras.optimizers.Optimizer, LossScale] = WeakKeyDictionary()


def _casts_to_half() -> bool:
    """Whether the graph in progress, or a function that it calls, casts to float16."""
    if tf.executing_eagerly():
        return False
    nodes = nodes_of(tf.compat.v1.get_default_graph().as_graph_def())
    half = tf.float16.as_datatype_enum
    return any(node.op == "Cast" and node.attr["DstT"].type == half for node in nodes)
