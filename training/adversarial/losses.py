"""The losses of a GAN's players, functions of logits, and checks of a user's own.

Legend: D(x) logits of real examples, D(G(z)) logits of generated ones, σ the sigmoid.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np
import tensorflow as tf

from ..core.host_losses import host_of
from ..core.lifts import differentiate
from ..core.losses import is_keras_loss, lift_of, role, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.compiled import Nest
    from ..core.losses import LossGradient


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


def name_of(loss: Any) -> str:
    """What a loss is called in the settings of a run."""
    if isinstance(loss, functools.partial):
        bound = [repr(each) for each in loss.args] + [
            f"{k}={v!r}" for k, v in loss.keywords.items()
        ]
        return f"{name_of(loss.func)}({', '.join(bound)})"
    if lift_of(loss) is not None and hasattr(loss, "loss"):
        return f"{lift_of(loss)}({name_of(loss.loss)})"
    return str(getattr(loss, "__name__", type(loss).__name__))


def loss_of_discriminator(loss: Any, shows_penalty: bool) -> LossGradient:
    """The discriminator's loss of the outputs of `discriminate`, and its metrics.

    Args:
        loss: A function of real and fake logits, or a lifted loss of outputs (real, fake) and
            targets ().
        shows_penalty: Whether the penalty is a metric.

    Raises:
        ValueError: It is no such loss.
    """

    def metrics_of(outputs: Nest) -> dict[str, tf.Tensor]:
        real_logits, fake_logits, penalty = outputs
        metrics = {
            "real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }
        return {**metrics, "gradient_penalty": penalty} if shows_penalty else metrics

    if lift_of(loss) is not None:
        return LiftedJudge(check_lift("discriminator_loss", loss), metrics_of)
    function = in_order("discriminator_loss", loss, 2)

    def of_logits(outputs: Nest, _: Nest) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        real_logits, fake_logits, penalty = outputs
        return function(real_logits, fake_logits) + penalty, metrics_of(outputs)

    return differentiate(of_logits)


def loss_of_generator(loss: Any) -> LossGradient:
    """The generator's loss of the logits of its examples.

    Args:
        loss: A function of logits, or a lifted loss of logits and targets ().

    Raises:
        ValueError: It is no such loss.
    """
    if lift_of(loss) is not None:
        return check_lift("generator_loss", loss)
    function = in_order("generator_loss", loss, 1)
    return differentiate(lambda fake_logits, _: function(fake_logits))


class LiftedJudge:
    """A lifted loss of (real, fake) logits, as one of the outputs of `discriminate`."""

    def __init__(
        self, loss_gradient: LossGradient, metrics_of: Callable[[Nest], dict[str, tf.Tensor]]
    ) -> None:
        self.lift, self.host = lift_of(loss_gradient), host_of(loss_gradient)
        self._loss_gradient, self._metrics_of = loss_gradient, metrics_of

    def __call__(self, outputs: Nest, _: Nest) -> tuple[tf.Tensor, Nest, dict[str, tf.Tensor]]:
        """L with the penalty, its gradient at each output, and the metrics."""
        real_logits, fake_logits, penalty = outputs
        loss, gradient, _ = self._loss_gradient((real_logits, fake_logits), ())
        seeds = (*gradient, tf.ones_like(penalty))
        return loss + penalty, seeds, self._metrics_of(outputs)


def check_lift(name: str, loss: Any) -> LossGradient:
    """Refuses `given`, which has no targets here to be the gradient.

    Raises:
        ValueError: It is `given`.
    """
    if lift_of(loss) == "given":
        raise ValueError(
            f"{name} must be a function of logits, or lifted by `external`, `estimated` or "
            "`differentiate`. Received: `given`, whose gradient would be the targets, and there "
            "are none. Pass `external` of a function that computes it."
        )
    return cast("LossGradient", loss)


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
