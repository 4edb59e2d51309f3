"""How good generated examples are: the Fréchet distance, and the modes that they cover.

The functions take arrays. The callbacks compute them at every report of `GAN.fit`, from samples
that do not affect the training, and add them to its metrics.

Legend: N real and M generated examples, D features, K modes.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..common.plain import whole
from ..core import arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from ..core.compiled import Nest
    from .gan import GAN


def frechet_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """The Fréchet distance of two normal distributions that are fitted to features.

        d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)

    The trace of (Σ₁ Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½. Both roots are computed
    from eigenvalues of symmetric matrices, so the result is stable also where a covariance is
    singular, as with fewer examples than features. It depends on the numbers of examples: compare
    distances of equal numbers only.

    Source: Dowson & Landau 1982, equation 4; Heusel et al. 2017, "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium", section 3.

    Args:
        real: Features of real examples `[N, D]`, of any network or the examples themselves.
        fake: Features of generated examples `[M, D]`.

    Returns:
        d², at least 0; the FID if the features are those of Inception's pool.

    Raises:
        ValueError: They are no finite matrices with the same D, or of fewer than two examples.
    """
    one, other = _features("real", real), _features("fake", fake)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            "Real and generated examples must have equally many features. Received: "
            f"{one.shape[1]} and {other.shape[1]}. Compute them by the same network."
        )
    means = one.mean(0), other.mean(0)
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (one, other)]
    roots = [_root(covariance) for covariance in covariances]
    common = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    trace = sum(map(np.trace, covariances)) - 2 * common
    return max(float(np.sum((means[0] - means[1]) ** 2) + trace), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Σ^½ of a symmetric matrix; eigenvalues within rounding errors of 0 are 0."""
    values, vectors = np.linalg.eigh(covariance)
    errors = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    root: np.ndarray = (vectors * np.sqrt(np.where(values > errors, values, 0))) @ vectors.T
    return root


class Coverage(NamedTuple):
    """Which modes samples cover."""

    modes: float
    """The share of modes that have at least one good sample, 0 to 1."""
    samples: float
    """The share of good samples, 0 to 1."""


def mode_coverage(samples: ArrayLike, modes: ArrayLike, radius: float) -> Coverage:
    """The share of modes that samples hit, and the share of good samples.

    A sample is good if its distance ‖x − c‖ from the nearest mode c is at most `radius`, and hits
    this mode. Source: Srivastava et al. 2017, "VEEGAN: Reducing Mode Collapse in GANs using
    Implicit Variational Learning", section 4.1, with a radius of 3σ.

    Args:
        samples: Generated examples `[M, *S]`.
        modes: The centres of the modes `[K, *S]`.
        radius: In units of the examples.

    Raises:
        ValueError: They have different shapes, are not finite, or the radius is not positive.
    """
    points, centres = np.asarray(samples, np.float64), np.asarray(modes, np.float64)
    if points.ndim < 1 or points.shape[1:] != centres.shape[1:] or not points.size * centres.size:
        raise ValueError(
            "Samples [M, *S] and modes [K, *S] must have the same shape but for their number. "
            f"Received: {list(points.shape)} and {list(centres.shape)}. Reshape them."
        )
    if not np.isfinite(points).all() or not np.isfinite(centres).all():
        raise ValueError(
            "Samples and modes must be finite. Received: NaN or infinity. Leave them out."
        )
    if not isinstance(radius, numbers.Real) or not 0 < float(radius) < math.inf:
        raise ValueError(
            f"radius must be a finite number above 0. Received: radius={radius!r:.40}. Pass 3σ."
        )
    points, centres = points.reshape(len(points), -1), centres.reshape(len(centres), -1)
    distances = np.stack([np.linalg.norm(points - centre, axis=1) for centre in centres], 1)
    is_good = distances.min(1) <= float(radius)
    hit = np.unique(distances.argmin(1)[is_good])
    return Coverage(len(hit) / len(centres), float(is_good.mean()))


class FrechetDistance:
    """A callback of `GAN.fit` that adds `frechet_distance` to the metrics of every report.

    Args:
        gan: The trainer, whose `sample` is called.
        features: A function of examples `[n, *S]` that returns their features `[n, D]`: a Keras
            model, or any other.
        real: Real examples `[N, *S]`.
        count: M, the number of generated examples; N by default.
        labels: Their labels `[M, ...]`, for a conditional GAN.

    Raises:
        ValueError: `features` is no such function, or `count` is less than 2; at a report also as
            `frechet_distance` does.
    """

    def __init__(
        self,
        gan: GAN,
        features: Callable[[np.ndarray], ArrayLike],
        real: np.ndarray,
        *,
        count: int | None = None,
        labels: Nest = None,
    ) -> None:
        arguments.check_function("features", features, "examples")
        self._gan, self._compute, self._labels = gan, features, labels
        self._count = whole("count", len(real) if count is None else count, 2)
        self._real = _features("real", features(np.asarray(real, np.float32)))

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the distance to the metrics."""
        samples = self._gan.sample(self._count, self._labels)
        metrics["frechet_distance"] = frechet_distance(self._real, self._compute(samples))


class ModeCoverage:
    """A callback of `GAN.fit` that adds `modes_hit` and `good_samples` to every report.

    Args:
        gan: The trainer, whose `sample` is called.
        modes: The centres of the modes `[K, *S]`.
        radius: As in `mode_coverage`.
        count: M, the number of generated examples.
        labels: Their labels `[M, ...]`, for a conditional GAN.

    Raises:
        ValueError: `count` is less than 1; at a report also as `mode_coverage` does.
    """

    def __init__(
        self, gan: GAN, modes: ArrayLike, radius: float, *, count: int = 1000, labels: Nest = None
    ) -> None:
        self._gan, self._modes, self._radius, self._labels = gan, modes, radius, labels
        self._count = whole("count", count, 1)
        mode_coverage(modes, modes, radius)  # bad ones are refused before any training

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Adds both shares to the metrics."""
        samples = self._gan.sample(self._count, self._labels)
        coverage = mode_coverage(samples, self._modes, self._radius)
        metrics["modes_hit"], metrics["good_samples"] = coverage


def _features(name: str, features: ArrayLike) -> np.ndarray:
    array = np.asarray(features)
    is_matrix = array.ndim == 2 and len(array) >= 2 and array.dtype.kind in "biuf"
    if not is_matrix or not np.isfinite(array).all():
        what = ", not all finite" if is_matrix else ""
        raise ValueError(
            "Features must be finite numbers [n, D] of at least two examples. Received: "
            f"{name}, {array.dtype}{list(array.shape)}{what}. Flatten them, and leave out examples "
            "that are not finite."
        )
    return array.astype(np.float64)
