"""The players of a GAN: their losses, their forward functions, and checks of both.

Legend: B examples per batch, S the shape of one example, Z that of its noise.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from ..common.plain import whole
from ..core.losses import Loss, is_keras_loss, lift_of, role, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorflow.core.framework.node_def_pb2 import NodeDef

    from ..core.compiled import Nest

KEEPS = {
    *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape"),
    *("Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "Slice", "StridedSlice"),
    *("AvgPool", "Max", "MaxPool", "Mean"),
}
"""Operations whose results lie between the smallest and the largest of their inputs."""


def log_sigmoid_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss −E log σ(D(x)) − E log(1 − σ(D(G(z)))), stable at any logits."""
    real, fake = tf.nn.softplus(-real_logits), tf.nn.softplus(fake_logits)
    return tf.reduce_mean(real) + tf.reduce_mean(fake)


def minimax_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's textbook loss E log(1 − σ(D(G(z)))): flat if the discriminator is sure."""
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def non_saturating_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss −E log σ(D(G(z))): same fixed point, but steep where minimax is flat."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


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


def in_order(name: str, loss: Callable[..., tf.Tensor], logits: int) -> Callable[..., tf.Tensor]:
    """A player's loss as a function of (real, fake) or (fake), whatever its parameters' order.

    Raises:
        ValueError: The loss does not take this many tensors of logits; or, when it is called,
            returns anything but a number.
    """
    check_loss(name, loss, logits)
    try:
        first, second = [each.lower() for each in [*signature_of(loss).parameters, "", ""][:2]]
    except (TypeError, ValueError):
        first, second = "", ""
    swaps = logits == 2 and ("fake" in first or "generated" in first) and "real" in second

    def one_number(*tensors: tf.Tensor) -> tf.Tensor:
        value = loss(*(reversed(tensors) if swaps else tensors))
        if not tf.is_tensor(value) and not isinstance(value, int | float | np.number | np.ndarray):
            raise ValueError(
                f"{name} must return one number: a GAN has its own metrics. Received: "
                f"{type(value).__name__}. Return a scalar tensor, without metrics; the sum of "
                "several losses."
            )
        return value

    return one_number


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


def check_loss(name: str, loss: object, logits: int) -> None:
    """Refuses a loss that does not take this many tensors of logits, and Keras losses.

    Keras losses take labels first and cannot know which logits are real; the wrong loss would be
    trained without an error.

    Raises:
        ValueError: It is such a loss.
    """
    module = str(getattr(loss, "__module__", ""))
    is_refused = isinstance(loss, keras.losses.Loss) or module.startswith("keras.")
    is_refused |= is_keras_loss(loss) or lift_of(loss) is not None or inspect.isclass(loss)
    try:
        takes = callable(loss) and bool(signature_of(loss).bind(*range(logits)))
        names = signature_of(loss).parameters if callable(loss) and takes else ()
        is_refused |= bool({role(each) for each in names} & {"true", "predicted"})
    except TypeError:
        takes = False
    except ValueError:  # a function without a signature
        takes = True
    if is_refused or not takes:
        received = " ".join(repr(loss).split())[:80]
        raise ValueError(
            f"{name} must be a function of {'real and fake logits' if logits == 2 else 'logits'}. "
            f"Received: {received}. Pass {'log_sigmoid_loss' if logits == 2 else 'minimax_loss'} "
            f"or a TensorFlow function such as lambda {'real, ' * (logits - 1)}fake: "
            "tf.reduce_mean(tf.nn.softplus(-fake))."
        )


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
