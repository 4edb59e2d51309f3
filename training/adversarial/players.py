"""The players of a GAN: their forward functions, and checks of them.

Legend: B examples per batch, S the shape of one example, Z that of its noise.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, NamedTuple

import keras
import tensorflow as tf

from ..common.plain import whole
from ..supervised.examples import as_examples
from .losses import one_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    from ..core.compiled import Nest
    from .penalties import Penalty

KEEPS = {
    *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape"),
    *("Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "Slice", "StridedSlice"),
    *("AvgPool", "Max", "MaxPool", "Mean"),
}
"""Operations whose results lie between the smallest and the largest of their inputs."""


class Batch(NamedTuple):
    """What both players of a step receive; with n critic steps, `[B, n, ...]` (noise n + 1)."""

    real: tf.Tensor  # [B, *S]
    noise: tf.Tensor  # [B, 2, *Z], one part for each player
    labels: Nest = ()  # of the real examples, [B, ...]
    mix: Nest = ()  # ε of points between real and generated examples, [B, 1]


def joint(first: Nest, labels: Nest) -> Nest:
    """The inputs of a player: noise or examples alone, or `[noise, labels]`.

    A tuple or list of labels is several inputs: `[noise, *labels]`.
    """
    if isinstance(labels, tuple | list):
        return [first, *labels] if labels else first
    return [first, labels]


def discriminate(
    generator: keras.Model, discriminator: keras.Model, penalties: Sequence[Penalty]
) -> Callable[[Nest], Nest]:
    """The discriminator's forward: `Batch -> (real logits, fake logits, penalty)`."""

    def judged(examples: tf.Tensor, labels: Nest, place: str) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(examples)
            logits = discriminator(joint(examples, labels), training=True)
        here = [penalty for penalty in penalties if penalty.at == place]
        if not here:
            return logits, []
        slopes = tf.reshape(tape.gradient(logits, examples), [examples.shape[0], -1])
        slopes = tf.cast(slopes, tf.float32)  # of examples in half precision
        return logits, [one_number("A penalty", penalty(slopes)) for penalty in here]

    def forward(inputs: Nest) -> Nest:
        real, noise, labels, mix = Batch(*inputs)
        real_logits, of_real = judged(real, labels, "real")
        # Two separate batches, because BatchNorm must not mix the statistics of real and generated.
        fake = frozen(generator, joint(noise[:, 0], labels))
        fake_logits, of_fake = judged(fake, labels, "fake")
        terms = [*of_real, *of_fake]
        if any(penalty.at == "between" for penalty in penalties):
            share = tf.reshape(mix, [-1, *[1] * (len(real.shape) - 1)])
            point = share * real + (1.0 - share) * tf.cast(fake, real.dtype)
            terms += judged(point, labels, "between")[1]
        return real_logits, fake_logits, tf.add_n(terms) if terms else tf.zeros(())

    return forward


def generate(generator: keras.Model, discriminator: keras.Model) -> Callable[[Nest], Nest]:
    """The generator's forward: `Batch -> fake logits`, from its part of the noise."""

    def forward(inputs: Nest) -> Nest:
        _, noise, labels, _ = Batch(*inputs)
        fake = generator(joint(noise[:, 1], labels), training=True)
        return frozen(discriminator, joint(fake, labels))

    return forward


def example_of(generator: keras.Model, noise: np.ndarray, labels: Nest = ()) -> tf.Tensor:
    """The generator's examples from noise `[B, *Z]`; builds the generator if necessary.

    Raises:
        ValueError: The generator does not take such noise, or such labels.
    """
    try:
        return generator(joint(noise, labels), training=False)
    except Exception as error:  # a layer may raise anything
        takes = "noise [B, *Z]" if isinstance(labels, tuple) and not labels else "[noise, labels]"
        raise ValueError(
            f"A generator must take {takes}. Received: noise_shape={noise.shape[1:]}, with "
            f"which it raised {type(error).__name__}; its input_shape is "
            f"{getattr(generator, 'input_shape', None)}. Pass the shape of one example's noise, or "
            "leave noise_shape out if the generator has a known input shape."
        ) from error


def frozen(opponent: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The opponent's outputs in training mode, without its assignments (BatchNorm)."""
    with keras.StatelessScope():
        return opponent(inputs, training=True)


def noise_shape(generator: keras.Model, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Z: the given shape, or that of the generator's first input.

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
    if isinstance(shape, list) and shape:
        shape = shape[0]
    shape = shape[1:] if isinstance(shape, tuple) else (None,)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            "A generator must have one input of known shape [B, *Z]. Received: "
            f"input_shape={getattr(generator, 'input_shape', None)}, Z={tuple(shape)}. "
            "Start it with `keras.Input((100,))`, or pass noise_shape=(100,)."
        )
    return tuple(shape)


def label_specs(generator: keras.Model, discriminator: keras.Model, given: Nest) -> Nest:
    """The specs of labels without the axis of examples: given, or from the generator's inputs.

    Raises:
        ValueError: Only one player takes labels, or they are not arrays of known shapes.
    """
    if given is not None:
        return tf.nest.map_structure(_spec_of, as_examples(given, "labels"))
    inputs = [_declared(each) for each in (generator, discriminator)]
    counts = [len(each) if isinstance(each, tuple | list | dict) else 1 for each in inputs]
    are_lists = all(isinstance(each, tuple | list) for each in inputs)
    if (min(counts) != max(counts) and min(counts) == 1) or (max(counts) > 1 and not are_lists):
        raise ValueError(
            "A generator must have one input of known shape [B, *Z]; or both players must take "
            "labels, the generator [noise, labels] and the discriminator [examples, labels]. "
            f"Received: {counts[0]} and {counts[1]} inputs, input_shape="
            f"{getattr(generator, 'input_shape', None)}. Give both models the same labels, as "
            "inputs in a list after the first one."
        )
    if max(counts) == 1:
        return ()
    labels = inputs[0][1:]
    return tf.nest.map_structure(_spec_of, labels[0] if len(labels) == 1 else tuple(labels))


def _declared(model: keras.Model) -> Nest:
    """The nest of a model's inputs, or None where it does not declare them."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _spec_of(leaf: keras.KerasTensor | np.ndarray) -> tf.TensorSpec:
    shape = tuple(leaf.shape[1:])
    if None in shape or str(leaf.dtype) == "string":
        raise ValueError(
            "Labels must be numbers of a known shape. Received: an input for them of "
            f"{leaf.dtype}[{tuple(leaf.shape)}]. Start the models with inputs such as "
            'keras.Input((), dtype="int32").'
        )
    return tf.TensorSpec(shape, str(leaf.dtype))


def as_share(ema: object) -> float | None:
    """The share that an average keeps, or None.

    Raises:
        ValueError: It is neither None nor in [0, 1).
    """
    if ema is None:
        return None
    is_flag = isinstance(ema, bool)
    if is_flag or not isinstance(ema, numbers.Real) or not 0 <= float(ema) < 1:
        raise ValueError(
            f"ema must be a number from 0 to below 1. Received: ema={ema!r:.40}. Pass 0.999, or "
            "None for no average."
        )
    return float(ema)


def average_of(generator: keras.Model, noise: np.ndarray, labels: Nest) -> keras.Model:
    """Another generator with the same weights, which follows the first one.

    Raises:
        ValueError: The generator cannot be created from its configuration.
    """
    try:
        if isinstance(generator, keras.Sequential) or hasattr(generator, "operations"):
            twin = keras.models.clone_model(generator)
        else:
            twin = type(generator).from_config(generator.get_config())
        twin(joint(noise, labels), training=False)
        twin.set_weights(generator.get_weights())
    except Exception as error:  # a layer may raise anything
        raise ValueError(
            "With ema= a generator must be one that Keras can create a second time. Received: "
            f"{type(generator).__name__}, whose copy raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}. Give it get_config, or leave ema out."
        ) from error
    return twin


def check_discriminator(discriminator: keras.Model, examples: tf.Tensor, labels: Nest = ()) -> None:
    """Refuses a discriminator that takes other examples or does not return logits.

    Raises:
        ValueError: It is such a discriminator.
    """
    takes = getattr(discriminator, "input_shape", None)
    first = takes[0] if isinstance(takes, list) and takes else takes
    if isinstance(first, tuple) and not tf.TensorShape(first).is_compatible_with(examples.shape):
        raise ValueError(
            "A discriminator must take the generator's examples. Received: examples "
            f"{list(examples.shape)}, input_shape={takes}. Change one of the two models."
        )
    inputs = joint(examples, tf.nest.map_structure(tf.convert_to_tensor, labels))
    try:
        logits = discriminator(inputs, training=False)  # also builds it if necessary
    except Exception as error:  # a layer may raise anything
        raise ValueError(
            "A discriminator must take the generator's examples. Received: examples "
            f"{list(examples.shape)}, for which it raised {type(error).__name__}. Change one of "
            "the two models."
        ) from error
    is_one = tf.is_tensor(logits)
    if not is_one or _ends_in_sigmoid(discriminator, inputs):
        raise ValueError(
            "A discriminator must return one tensor of logits: the losses apply the sigmoid. "
            f"Received: {'a sigmoid as its last layer' if is_one else type(logits)}. "
            "End it with a layer without activation, such as `keras.layers.Dense(1)`."
        )


def _ends_in_sigmoid(model: keras.Model, inputs: Nest) -> bool:
    """Whether the outputs come from a sigmoid, in whichever layer or function it is."""

    def call(inputs: Nest) -> Nest:
        with keras.StatelessScope(collect_losses=True):  # layers must not store traced tensors
            return model(inputs, training=False)

    spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), inputs)
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
