"""TensorBoard's records: a value of a summary from a text, an image."""

from __future__ import annotations

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
