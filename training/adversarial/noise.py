"""The noise of a GAN: its shape, its law, and draws of it.

Legend: Z the shape of one example's noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core import arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    Law = Callable[[np.random.Generator, tuple[int, ...]], ArrayLike]


class Noise:
    """Draws noise of any law.

    Args:
        law: A function of a NumPy generator and a shape `(count, *Z)` that returns noise of this
            shape; None for a standard normal distribution.
        shape: Z.

    Raises:
        ValueError: The law is no such function, or what it draws has another shape or is not
            finite; also from `draw`.
    """

    def __init__(self, law: Law | None, shape: tuple[int, ...]) -> None:
        arguments.check_function("noise", law, "generator", "shape")
        self.law, self.shape = law, shape
        self.draw(np.random.default_rng(0), 2)  # bad laws are refused before any training

    def draw(
        self, generator: np.random.Generator, count: int, *, double: bool = False
    ) -> np.ndarray:
        """Noise `[count, *Z]`, float32; a normal law may draw it in double precision."""
        shape = (count, *self.shape)
        if self.law is None:
            dtype = np.float64 if double else np.float32
            return generator.standard_normal(shape, dtype).astype(np.float32, copy=False)
        try:
            drawn = np.asarray(self.law(generator, shape))
        except Exception as error:
            raise ValueError(
                f"noise must be a function (generator, shape) -> array. Received: one that raised "
                f"{type(error).__name__} for shape {shape}: {error!s:.120}. Draw with the "
                "generator, as lambda generator, shape: generator.uniform(-1, 1, shape)."
            ) from error
        is_number = drawn.dtype.kind in "biuf"
        with np.errstate(over="ignore"):
            converted = drawn.astype(np.float32) if is_number else np.zeros(())
        if drawn.shape != shape or not is_number or not np.isfinite(converted).all():
            what = " that is not finite" if is_number and drawn.shape == shape else ""
            raise ValueError(
                f"noise must return finite numbers of the shape that it receives, {shape}. "
                f"Received: {drawn.dtype}{list(drawn.shape)}{what}. Return one draw for each "
                "number, as lambda generator, shape: generator.uniform(-1, 1, shape)."
            )
        return converted
