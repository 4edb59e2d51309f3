"""Samples of a GAN's generator, and what its discriminator makes of them.

Legend: S shape of one example, Z shape of its noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from ..supervised.inference import Inference
from .data import split
from .players import joint

if TYPE_CHECKING:
    import keras

    from ..core.compiled import Nest
    from .data import Pair

MOST = 1024  # examples that are generated at once
PARTS = 4  # of the examples that the discriminator judges


class Samples:
    """Generates examples in inference mode.

    Args:
        generator: The generator, or its average.
        discriminator: The discriminator.
        noise: The noise `[count, *Z]` of every picture.
    """

    def __init__(
        self, generator: keras.Model, discriminator: keras.Model, noise: np.ndarray
    ) -> None:
        self._generating, self._judging = Inference(generator), Inference(discriminator)
        self._noise = noise

    def generate(self, noise: np.ndarray, labels: Nest) -> np.ndarray:
        """Examples `[k, *S]`, float32, from noise `[k, *Z]`; layers may advance their seeds."""
        parts = split((noise, labels), math.ceil(len(noise) / MOST))
        made = [self._generating.predict(joint(*part)) for part in parts]
        return np.concatenate([np.asarray(each, np.float32) for each in made])

    def picture(self, labels: Nest) -> np.ndarray:
        """The examples of a picture, from fixed noise and labels of real examples."""
        return self._observed(self._noise, _spread(labels, len(self._noise)))

    def logits(self, real: Pair, noise: np.ndarray) -> dict[str, np.ndarray]:
        """The logits of real examples, and of those from noise and the labels of the real ones."""
        pair = noise, _spread(real[1], len(noise))
        fake = ((self._observed(*part), part[1]) for part in split(pair, PARTS))
        judged = {"real": split(real, PARTS), "fake": fake}
        return {
            f"discriminator/{name}": np.concatenate([self._logits(*part) for part in parts])
            for name, parts in judged.items()
        }

    def _logits(self, examples: np.ndarray, labels: Nest) -> np.ndarray:
        return np.asarray(self._judging.observe(joint(examples, labels))[0])

    def _observed(self, noise: np.ndarray, labels: Nest) -> np.ndarray:
        """Assigns nothing, not even the seeds of layers."""
        return np.asarray(self._generating.observe(joint(noise, labels))[0], np.float32)


def _spread(labels: Nest, count: int) -> Nest:
    """`count` of the labels, from all places, more than once if necessary."""
    return tf.nest.map_structure(
        lambda leaf: leaf[np.linspace(0, len(leaf) - 1, count).astype(int)], labels
    )
