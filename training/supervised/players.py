"""The players of a GAN: their forward functions, and checks of them.

Legend: B examples per batch, S the shape of one example, Z that of its noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from ..common.plain import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    from ..core.compiled import Nest
    from ..core.losses import Loss

KEEPS = {
    *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape"),
    *("Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "Slice", "StridedSlice"),
    *("AvgPool", "Max", "MaxPool", "Mean"),
}
"""Operations whose results lie between the smallest and the largest of their inputs."""


def discriminate(
    generator: keras.Model, discriminator: keras.Model, gamma: float
) -> Callable[[Nest], Nest]:
    """The discriminator's forward: `(real, noise) -> (real logits, fake logits, R1 penalty)`.

    Noise `[B, 2, *Z]` has one part for each player.
    """

    def forward(inputs: Nest) -> Nest:
        real, noise = inputs
        with tf.GradientTape() as tape:
            tape.watch(real)
            real_logits = discriminator(real, training=True)
        penalty = tf.zeros(())
        if gamma:
            slopes = tf.reshape(tape.gradient(real_logits, real), [real.shape[0], -1])
            penalty = gamma / 2 * tf.reduce_mean(tf.reduce_sum(slopes**2, 1))
        # Two separate batches, because BatchNorm must not mix the statistics of real and generated.
        return real_logits, discriminator(frozen(generator, noise[:, 0]), training=True), penalty

    return forward


def generate(generator: keras.Model, discriminator: keras.Model) -> Callable[[Nest], Nest]:
    """The generator's forward: `(real, noise) -> fake logits`, from its part of the noise."""

    def forward(inputs: Nest) -> Nest:
        return frozen(discriminator, generator(inputs[1][:, 1], training=True))

    return forward


def with_metrics(discriminator_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Loss:
    """The discriminator's loss of the outputs of `discriminate`, and its metrics."""

    def loss(outputs: Nest, _: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        real_logits, fake_logits, penalty = outputs
        metrics = {
            "real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }
        return discriminator_loss(real_logits, fake_logits) + penalty, metrics

    return loss


def example_of(generator: keras.Model, noise: np.ndarray) -> tf.Tensor:
    """The generator's examples from noise `[B, *Z]`; builds the generator if necessary.

    Raises:
        ValueError: The generator does not take such noise.
    """
    try:
        return generator(noise, training=False)
    except Exception as error:  # a layer may raise anything
        raise ValueError(
            f"A generator must take noise [B, *Z]. Received: noise_shape={noise.shape[1:]}, with "
            f"which it raised {type(error).__name__}; its input_shape is "
            f"{getattr(generator, 'input_shape', None)}. Pass the shape of one example's noise, or "
            "leave noise_shape out if the generator has a known input shape."
        ) from error


def frozen(opponent: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The opponent's outputs in training mode, without its assignments (BatchNorm)."""
    with keras.StatelessScope():
        return opponent(inputs, training=True)


def noise_shape(generator: keras.Model, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Z: the given shape, or that of the generator's input.

    Raises:
        ValueError: Z is unknown or not a shape.
    """
    if shape is not None:
        try:
            return tuple(whole("noise_shape", size, 1) for size in shape)
        except (TypeError, ValueError):
            raise ValueError(
                "noise_shape must be a tuple of whole numbers of at least 1. Received: "
                f"noise_shape={shape!r:.60}. Pass the shape of one example's noise, as in (100,)."
            ) from None
    shape = getattr(generator, "input_shape", None)
    shape = shape[1:] if isinstance(shape, tuple) else (None,)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            "A generator must have one input of known shape [B, *Z]. Received: "
            f"input_shape={getattr(generator, 'input_shape', None)}, Z={tuple(shape)}. "
            "Start it with `keras.Input((100,))`, or pass noise_shape=(100,)."
        )
    return tuple(shape)


def check_discriminator(discriminator: keras.Model, examples: tf.Tensor) -> None:
    """Refuses a discriminator that takes other examples or does not return logits.

    Raises:
        ValueError: It is such a discriminator.
    """
    takes = getattr(discriminator, "input_shape", None)
    if isinstance(takes, tuple) and not tf.TensorShape(takes).is_compatible_with(examples.shape):
        raise ValueError(
            "A discriminator must take the generator's examples. Received: examples "
            f"{list(examples.shape)}, input_shape={takes}. Change one of the two models."
        )
    try:
        logits = discriminator(examples, training=False)  # also builds it if necessary
    except Exception as error:  # a layer may raise anything
        raise ValueError(
            "A discriminator must take the generator's examples. Received: examples "
            f"{list(examples.shape)}, for which it raised {type(error).__name__}. Change one of "
            "the two models."
        ) from error
    is_one = tf.is_tensor(logits)
    if not is_one or _ends_in_sigmoid(discriminator, examples):
        raise ValueError(
            "A discriminator must return one tensor of logits: the losses apply the sigmoid. "
            f"Received: {'a sigmoid as its last layer' if is_one else type(logits)}. "
            "End it with a layer without activation, such as `keras.layers.Dense(1)`."
        )


def _ends_in_sigmoid(model: keras.Model, examples: tf.Tensor) -> bool:
    """Whether the outputs come from a sigmoid, in whichever layer or function it is."""

    def call(inputs: Nest) -> Nest:
        with keras.StatelessScope(collect_losses=True):  # layers must not store traced tensors
            return model(inputs, training=False)

    spec = tf.TensorSpec(examples.shape, examples.dtype)
    try:
        traced = tf.function(call, autograph=False).get_concrete_function(spec)
    except Exception:  # the training step itself will raise the error
        return False
    definition = traced.graph.as_graph_def()
    bodies = {each.signature.name: each for each in definition.library.function}
    nodes, tensor = {node.name: node for node in definition.node}, traced.outputs[0].name
    # The callers of the current function: their nodes, and the function's inputs by argument.
    callers: list[tuple[dict[str, NodeDef], dict[str, str]]] = []
    while True:
        name, *output = tensor.split(":")
        node, index = nodes.get(name), int(output[-1]) if output else 0
        if node is None:  # the tensor is an argument of the function
            nodes, inputs = callers.pop()
            tensor = inputs[name]
        elif node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            body = bodies[node.attr["f"].func.name]
            arguments = [each.name for each in body.signature.input_arg]
            callers.append((nodes, dict(zip(arguments, node.input, strict=False))))
            nodes = {each.name: each for each in body.node_def}
            tensor = body.ret[body.signature.output_arg[index].name]
        elif node.op in KEEPS:
            tensor = node.input[index if node.op == "IdentityN" else 0]
        else:
            return bool(node.op == "Sigmoid")
