"""What TensorBoard shows: a summary's value from a text or an image, and images in a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def text_value(markdown: str) -> dict[str, Any]:
    """A text, shown as Markdown."""
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text.metadata import create_summary_metadata

    tensor = {
        "dtype": "DT_STRING",
        "tensor_shape": TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        "string_val": [markdown.encode()],
    }
    return {"tensor": tensor, "metadata": create_summary_metadata("", "")}


def image_value(pixels: np.ndarray) -> dict[str, Any]:
    """An image, uint8 `[height, width, channels]`."""
    import tensorflow as tf

    height, width, channels = pixels.shape
    png = tf.io.encode_png(pixels).numpy()
    image = {"height": height, "width": width, "colorspace": channels}
    return {"image": {**image, "encoded_image_string": png}}


def image_grid(images: np.ndarray, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Images side by side, uint8 `[height, width, C]`; `low` is black and `high` is white.

    Args:
        images: `[n, H, W]`, `[n, H, W, C]`, or square ones lying flat, `[n, H·H]`.
        low: The value that is black.
        high: The value that is white.

    Raises:
        ValueError: The shape is none of these.
    """
    images = np.asarray(images, np.float32)
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise ValueError(
            "Images must have shape [n, H, W], [n, H, W, 1, 3 or 4] or [n, H·H]. "
            f"Received: {list(images.shape)}. Pass `draw` to make pictures of other examples."
        )
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + 1, width + 1, channels), np.uint8)
    shades = (images - low) / ((high - low) or 1.0)
    cells[:count, :height, :width] = np.rint(np.clip(shades, 0, 1) * 255)
    cells = cells.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return cells.reshape(rows * (height + 1), columns * (width + 1), channels)
