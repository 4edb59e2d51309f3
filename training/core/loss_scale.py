"""The factor that keeps gradients from vanishing where a model computes in half precision.

float16 has no positive number below 6·10⁻⁸, and gradients of a mean over many outputs are smaller.
Therefore the gradient of s·L is computed and divided by s, as in Keras's `fit` under
`mixed_float16`:

    s = 2¹⁵ at first; s ← s / 2 after an overflow, whose update is skipped; s ← 2·s after 2,000
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
    """The factor s for an optimizer that has no loss scale itself."""

    def __init__(self) -> None:
        self.factor = keras.Variable(FIRST, trainable=False, dtype="float32", name="loss_scale")
        self.updates = keras.Variable(0, trainable=False, dtype="int32", name="updates_since")

    @classmethod
    def of(cls, optimizer: keras.optimizers.Optimizer) -> LossScale | None:
        """The factor of an optimizer without a loss scale; None unless the graph uses float16."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return None
        if optimizer.loss_scale_factor is not None:
            return None
        if optimizer not in _SCALES and _casts_to_half():
            with tf.init_scope():  # create it now, outside the trace that asks for it
                cls.create(optimizer)
        return _SCALES.get(optimizer)

    @classmethod
    def create(cls, optimizer: keras.optimizers.Optimizer) -> None:
        """Gives an optimizer a factor, if it has none."""
        if optimizer not in _SCALES:
            _SCALES[optimizer] = cls()

    @staticmethod
    def variables_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
        """The state of an optimizer's factor; empty before its first update in half precision."""
        scale = _SCALES.get(optimizer)
        return [] if scale is None else [scale.factor, scale.updates]

    def move_if(self, proceeds: tf.Tensor, finite: tf.Tensor) -> None:
        """Adapts s, if the update `proceeds`, to whether its gradient is `finite`."""
        factor, updates = self.factor.value, self.updates + 1
        grows = finite & (updates >= PATIENCE)
        moved = tf.where(finite, tf.where(grows, 2 * factor, factor), factor / 2)
        self.factor.assign(tf.where(proceeds, moved, factor))
        self.updates.assign(tf.where(proceeds, tf.where(finite & ~grows, updates, 0), updates - 1))


_SCALES: WeakKeyDictionary[keras.optimizers.Optimizer, LossScale] = WeakKeyDictionary()


def _casts_to_half() -> bool:
    """Whether the current graph, or a function that it calls, casts to float16."""
    if tf.executing_eagerly():
        return False
    nodes = nodes_of(tf.compat.v1.get_default_graph().as_graph_def())
    half = tf.float16.as_datatype_enum
    return any(node.op == "Cast" and node.attr["DstT"].type == half for node in nodes)
