"""The losses of a GAN's players, functions of logits, and checks of a user's own.

Legend: D(x) logits of real examples, D(G(z)) logits of generated ones, σ the sigmoid.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from ..core.losses import is_keras_loss, lift_of, role, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable


def log_sigmoid_loss(
    real_logits: tf.Tensor, fake_logits: tf.Tensor, *, smoothing: float = 0.0
) -> tf.Tensor:
    """The discriminator's loss −E log σ(D(x)) − E log(1 − σ(D(G(z)))), stable at any logits.

    With label smoothing α the label of real examples is 1 − α: the first term becomes
    −E [(1 − α) log σ(D(x)) + α log(1 − σ(D(x)))]. Labels of generated examples stay 0 (one-sided).
    Bind it with `functools.partial(log_sigmoid_loss, smoothing=0.1)`.

    Source: Goodfellow et al. 2014, equation 1; Salimans et al. 2016, section 3.4.

    Raises:
        ValueError: α is not in [0, 0.5].
    """
    smoothing = _smoothing(smoothing)
    real, fake = tf.nn.softplus(-real_logits), tf.nn.softplus(fake_logits)
    if smoothing:
        real += smoothing * real_logits  # softplus(x) − softplus(−x) = x
    return tf.reduce_mean(real) + tf.reduce_mean(fake)


def minimax_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's textbook loss E log(1 − σ(D(G(z)))): flat if the discriminator is sure.

    Source: Goodfellow et al. 2014, equation 1.
    """
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def non_saturating_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss −E log σ(D(G(z))): same fixed point, but steep where minimax is flat.

    Source: Goodfellow et al. 2014, section 3.
    """
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def wasserstein_critic_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The critic's loss E D(G(z)) − E D(x): minus an estimate of the Wasserstein-1 distance.

    It estimates that distance, up to a factor, only if the critic is Lipschitz: pass
    `penalty=WassersteinPenalty(10)` or `clip_weights=0.01` to the GAN.

    Source: Arjovsky et al. 2017, "Wasserstein GAN", equation 2 and algorithm 1.
    """
    return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)


def wasserstein_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss −E D(G(z)), for the Wasserstein critic and for the hinge loss.

    Source: Arjovsky et al. 2017, algorithm 1; Miyato et al. 2018, equation 17.
    """
    return -tf.reduce_mean(fake_logits)


def hinge_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))).

    Its generator has the loss `wasserstein_loss`.

    Source: Lim & Ye 2017, "Geometric GAN", equation 9; Miyato et al. 2018, "Spectral
    Normalization for Generative Adversarial Networks", equation 16.
    """
    real, fake = tf.nn.relu(1.0 - real_logits), tf.nn.relu(1.0 + fake_logits)
    return tf.reduce_mean(real) + tf.reduce_mean(fake)


def least_squares_discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss ½ E (D(x) − 1)² + ½ E D(G(z))².

    Source: Mao et al. 2017, "Least Squares Generative Adversarial Networks", equation 9 (labels
    a = 0 and b = 1).
    """
    real, fake = tf.square(real_logits - 1.0), tf.square(fake_logits)
    return (tf.reduce_mean(real) + tf.reduce_mean(fake)) / 2.0


def least_squares_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss ½ E (D(G(z)) − 1)².

    Source: Mao et al. 2017, equation 9 (the generator's label c = 1).
    """
    return tf.reduce_mean(tf.square(fake_logits - 1.0)) / 2.0


def _smoothing(value: object) -> float:
    is_flag = isinstance(value, bool)
    if is_flag or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 0.5:
        raise ValueError(
            "Label smoothing must be a number from 0 to 0.5, what the label of real examples is "
            f"below 1. Received: smoothing={value!r:.40}. Pass 0.1, or 0 for none."
        )
    return float(value)


def name_of(loss: Callable[..., object]) -> str:
    """What a loss is called in the settings of a run."""
    if isinstance(loss, functools.partial):
        bound = [repr(each) for each in loss.args] + [
            f"{k}={v!r}" for k, v in loss.keywords.items()
        ]
        return f"{name_of(loss.func)}({', '.join(bound)})"
    return str(getattr(loss, "__name__", loss))


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

    def in_our_order(*tensors: tf.Tensor) -> tf.Tensor:
        return one_number(name, loss(*(reversed(tensors) if swaps else tensors)))

    return in_our_order


def one_number(name: str, value: object) -> tf.Tensor:
    """What a player's loss or penalty returned.

    Raises:
        ValueError: It is anything but a number.
    """
    if not tf.is_tensor(value) and not isinstance(value, int | float | np.number | np.ndarray):
        raise ValueError(
            f"{name} must return one number: a GAN has its own metrics. Received: "
            f"{type(value).__name__}. Return a scalar tensor, without metrics; the sum of "
            "several losses."
        )
    return value


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
