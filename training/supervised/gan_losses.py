"""The losses of a GAN's players, functions of logits, and checks of a user's own.

Legend: D(x) logits of real examples, D(G(z)) logits of generated ones, σ the sigmoid.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from ..core.losses import is_keras_loss, lift_of, role, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable


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
