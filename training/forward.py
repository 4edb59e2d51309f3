"""The forward pass of a step: what it would assign and what it adds to the loss are held back.

Layer states (BatchNorm, Dropout) are assigned later, behind the gate of the update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from .compiled import Nest


class Scope(keras.StatelessScope):
    """Holds back what a forward pass would assign (BatchNorm, Dropout), and keeps its losses.

    Keras itself forgets a model's losses when the model is called a second time. A trained variable
    that the pass assigns (SpectralNormalization) is differentiated at every value it takes, as the
    tape of `fit` does.
    """

    def __init__(self, tape: tf.GradientTape, variables: Sequence[keras.Variable]) -> None:
        values = [tf.convert_to_tensor(variable.value) for variable in variables]  # read once
        mapping = list(zip(variables, values, strict=True))
        super().__init__(state_mapping=mapping, collect_losses=True)
        self.tape = tape
        self.leaves = {id(variable): [value] for variable, value in mapping}
        self.penalties: list[tf.Tensor] = []
        self.states: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        tape.watch(self.leaves)

    def add_loss(self, loss: tf.Tensor) -> None:
        """Keeps a penalty, `[]` in single precision."""
        super().add_loss(loss)
        self.penalties.append(tf.reduce_sum(tf.cast(loss, tf.float32)))

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        """Keeps an assignment; reading the variable gives the new value within the scope."""
        variable, value = update
        if id(variable) in self.leaves:
            value = tf.stop_gradient(value)
            self.tape.watch(value)
            self.leaves[id(variable)].append(value)
        super().add_update((variable, value))
        self.states[id(variable)] = variable, value


def run_forward(
    forward: Callable[[Nest], Nest], inputs: Nest, variables: Sequence[keras.Variable]
) -> tuple[Scope, Nest]:
    """The scope of a forward pass, and its outputs in single precision or better."""
    tape = tf.GradientTape(watch_accessed_variables=False)
    with tape, Scope(tape, variables) as scope:
        outputs = tf.nest.map_structure(_at_least_float32, forward(inputs))
        for variable in variables:
            if variable.regularizer is not None:
                scope.add_loss(variable.regularizer(variable.value))
    return scope, outputs


def _at_least_float32(output: tf.Tensor) -> tf.Tensor:
    return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output
