"""A model's outputs in inference mode, for any number of examples, in bounded memory.

Legend: B examples, n examples per call.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ..core.compiled import Nest, nodes_of
from ..core.forward import Marks, marked, marks_of

if TYPE_CHECKING:
    from collections.abc import Callable

FEWEST = 32  # examples per call at least, as in Keras's own `predict`
MOST_BYTES = 2**26  # that all operations of a call with more examples may compute


Called: TypeAlias = tuple[Nest, tf.Tensor, list[Marks]]
"""Outputs, added losses `[]`, and the marks of each output, which predictions do not need."""


class Inference:
    """Calls a model in inference mode on at most n examples at once.

    n is the number of examples for which all operations together compute 64 MiB, but at least 32,
    so memory holds the outputs and the results for n examples. Calls with exactly n examples are
    compiled, and so are all calls of `observe`. A model that has an output without an axis of
    examples is called once for all examples.
    """

    def __init__(self, model: keras.Layer) -> None:
        self._model = model
        self._sizes: dict[str, float] = {}
        self._compiled: dict[str, Callable[[Nest], Called]] = {}

    def predict(self, inputs: Nest) -> Nest:
        """The outputs as NumPy arrays; assignments of the model (its random seeds, say) remain."""
        if _count(inputs) <= self._size(inputs):
            return tf.nest.map_structure(np.asarray, self._model(inputs, training=False))
        return self._in_parts(inputs, True)[0]

    def observe(self, inputs: Nest) -> tuple[Nest, float]:
        """The outputs, and the penalties that Keras adds to a validation loss.

        Penalties are the regularisers of the trained variables, and the means over the examples of
        activity regularisers and `add_loss`. Nothing is assigned, so training is not affected. The
        outputs carry the masks and logits that Keras's losses use.
        """
        if _count(inputs) <= self._size(inputs):
            outputs, penalty, marks = self._compiled_for(inputs, False)(inputs, False)
        else:
            outputs, penalty, marks = self._in_parts(inputs, False)
        trained = self._model.trainable_variables
        weights = [v.regularizer(v.value) for v in trained if v.regularizer is not None]
        return marked(outputs, marks), float(penalty) + sum(float(each) for each in weights)

    def sample(self, inputs: Nest) -> Nest:
        """The outputs of a few examples; nothing is assigned or compiled."""
        return self._call(inputs, False)[0]

    def _in_parts(self, inputs: Nest, assigns: bool) -> tuple[Nest, float, list[Marks]]:
        """Outputs, the mean of the added losses, and marks, computed in parts of n examples."""
        count, size = _count(inputs), int(self._size(inputs))
        results: Nest = None
        total = 0.0
        for begin in range(0, count, size):
            part = tf.nest.map_structure(lambda a: a[begin : begin + size], inputs)  # noqa: B023
            is_once = assigns and _count(part) < size  # the remaining examples of a prediction
            call = self._call if is_once else self._compiled_for(part, assigns)
            outputs, added, marks = call(part, assigns)
            computed = tf.nest.map_structure(np.asarray, (outputs, marks))
            if results is None:
                results = tf.nest.map_structure(partial(_empty, count), computed)
            for array, rows in zip(*map(tf.nest.flatten, (results, computed)), strict=True):
                array[begin : begin + size] = rows
            total += float(added) * _count(part)
        outputs, marks = results
        return outputs, total / count, tf.nest.map_structure(tf.constant, marks)

    def _call(self, inputs: Nest, assigns: bool) -> Called:
        # The scope also prevents layers from storing tensors of a trace as their losses.
        with keras.StatelessScope(collect_losses=True) as scope:
            outputs = self._model(inputs, training=False)
        for variable in self._model.variables if assigns else ():
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        losses = [tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in scope.losses]
        marks = [] if assigns else marks_of(outputs)
        return outputs, tf.add_n(losses) if losses else tf.zeros(()), marks

    def _compiled_for(self, inputs: Nest, assigns: bool) -> Callable[[Nest, bool], Called]:
        signature = _signature(inputs, _count(inputs))
        key = repr((signature, assigns))
        if key not in self._compiled:
            traced = tf.function(lambda part: self._call(part, assigns), autograph=False)
            self._compiled[key] = traced.get_concrete_function(signature)
        function = self._compiled[key]
        return lambda part, _: function(tf.nest.map_structure(tf.constant, part))

    def _size(self, inputs: Nest) -> float:
        """The n for inputs of these shapes; infinity if an output has no axis of examples."""
        if _count(inputs) <= FEWEST:
            return FEWEST
        signature = _signature(inputs, FEWEST)
        key = repr(signature)
        if key not in self._sizes:
            self._sizes[key] = self._examples_per_call(signature)
        return self._sizes[key]

    def _examples_per_call(self, signature: Nest) -> float:
        try:
            traced = tf.function(self._call, autograph=False).get_concrete_function(
                signature, False
            )
        except Exception:  # cannot be traced for 32 examples; the call itself raises the error
            return FEWEST
        outputs = tf.nest.flatten(traced.structured_outputs[0])
        if any(output.shape.rank == 0 or output.shape[0] != FEWEST for output in outputs):
            return math.inf
        return max(FEWEST, FEWEST * MOST_BYTES // max(1, _computed_bytes(traced.graph)))


def _count(inputs: Nest) -> int:
    return len(tf.nest.flatten(inputs)[0])


def _empty(count: int, part: np.ndarray) -> np.ndarray:
    return np.empty((count, *part.shape[1:]), part.dtype)


def _signature(inputs: Nest, count: int) -> Nest:
    return tf.nest.map_structure(lambda a: tf.TensorSpec((count, *a.shape[1:]), a.dtype), inputs)


def _computed_bytes(graph: tf.Graph) -> int:
    """The bytes that all operations compute, an upper bound; unknown shapes count as 0."""
    definition = graph.as_graph_def(add_shapes=True)
    total = 0
    for node in nodes_of(definition):
        if node.op not in ("Const", "Placeholder", "ReadVariableOp"):
            for shape in node.attr["_output_shapes"].list.shape:
                sizes = [-1] if shape.unknown_rank else [axis.size for axis in shape.dim]
                total += 4 * math.prod(sizes) if min(sizes, default=1) >= 0 else 0
    return total
