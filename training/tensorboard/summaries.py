"""TensorBoard's records as fields of an event: texts, images, histograms, graphs, tables."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import keras

Fields: TypeAlias = dict[str, Any]
"""The fields of a record, as protobuf takes them: numbers, strings, lists, dicts, records."""

KINDS: dict[type, tuple[str, str]] = {
    bool: ("BOOL", "bool_value"),
    str: ("STRING", "string_value"),
}
"""How the HParams table stores settings; all other types are numbers."""
BUCKETS = 30  # of a histogram, as in TensorBoard
COLOURS = ((190, 190, 190), (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (0, 0, 0))
"""The colours of a scatter plot's clouds: grey, blue, orange, green, pink and black."""


def text(tag: str, markdown: str) -> Fields:
    """A text that TensorBoard shows as Markdown."""
    tensor = {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": 1}]},
        "string_val": [markdown.encode()],
    }
    return _summary({"tag": tag, "tensor": tensor, "metadata": _plugin("text")})


def image(tag: str, pixels: np.ndarray) -> Fields:
    """An image, uint8 `[height, width, channels]`."""
    import tensorflow as tf

    return video(tag, tf.io.encode_png(pixels).numpy(), pixels.shape)


def video(tag: str, encoded: bytes, shape: Sequence[int]) -> Fields:
    """An encoded image, PNG or GIF; `shape` is `[..., height, width, channels]`."""
    height, width, channels = shape[-3:]
    picture = {"height": height, "width": width, "colorspace": channels}
    return _summary({"tag": tag, "image": {**picture, "encoded_image_string": encoded}})


def histograms(values: Mapping[str, np.ndarray]) -> Fields:
    """A histogram of each array, as the tensor that the Histograms and Distributions tabs read."""
    shape = {"dim": [{"size": BUCKETS}, {"size": 3}]}
    return _summary(
        *(
            {
                "tag": tag,
                "tensor": {
                    "dtype": "DT_DOUBLE",
                    "tensor_shape": shape,
                    "tensor_content": histogram(array).tobytes(),
                },
                "metadata": _plugin("histograms"),
            }
            for tag, array in values.items()
        )
    )


def histogram(values: np.ndarray) -> np.ndarray:
    """Buckets of equal width over all finite numbers: left, right, count, `[30, 3]`.

    As in TensorBoard, equal numbers are all in the last bucket and the buckets have no width;
    without numbers the table is zero.
    """
    values = np.asarray(values, np.float64).ravel()
    values = values[np.abs(values) < 1e300]  # so that their differences are finite
    table = np.zeros((BUCKETS, 3), "<f8")
    if values.size:
        low, high = float(values.min()), float(values.max())
        width = (high - low) / BUCKETS
        table[:, 0] = low + width * np.arange(BUCKETS)
        table[:-1, 1], table[-1, 1] = table[1:, 0], high
        if width > 0:
            buckets = np.minimum((values - low) / width, BUCKETS - 1).astype(np.intp)
            table[:, 2] = np.bincount(buckets, minlength=BUCKETS)
        else:
            table[-1, 2] = values.size
    return table


def layout(charts: Mapping[str, Mapping[str, Sequence[str]]]) -> Fields:
    """The Custom Scalars tab: category → chart → regular expressions of its tags."""
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    categories = [
        {
            "title": category,
            "chart": [
                {"title": title, "multiline": {"tag": list(tags)}} for title, tags in each.items()
            ],
        }
        for category, each in charts.items()
    ]
    content = Layout(category=categories).SerializeToString()
    tensor = {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [content]}
    tag = "custom_scalars__config__"  # the tag that TensorBoard looks for
    return _summary({"tag": tag, "tensor": tensor, "metadata": _plugin("custom_scalars")})


def hparams(config: Mapping[str, object], metrics: Sequence[str] = (), group: str = "") -> Fields:
    """This run's row of the HParams table: its settings, and the last point of its curves.

    Without `metrics` TensorBoard chooses the columns: the settings of all runs, those that differ
    first, and all curves in alphabetical order, five of them visible at first. With `metrics` it
    shows these curves, but the settings of only one of the runs.

    Args:
        config: Settings. Numbers, bools and strings keep their type; nested settings are named
            `a.b`; everything else, None included, becomes a string.
        metrics: Tags of scalars.
        group: Runs of the same group share a row with averaged curves; by default each run has its
            own row.
    """
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    start = SessionStartInfo(group_name=group, start_time_secs=time.time())
    infos = []
    for name, value in _flat(config):
        kind, field = KINDS.get(type(value), ("FLOAT64", "number_value"))
        setattr(start.hparams[name], field, value)
        domain = [True, False] if kind == "BOOL" else [value] if kind == "STRING" else None
        infos.append({"name": name, "type": f"DATA_TYPE_{kind}", "domain_discrete": domain})
    values = [_hparams_value(metadata.SESSION_START_INFO_TAG, session_start_info=start)]
    if metrics:
        experiment = {
            "time_created_secs": start.start_time_secs,
            "hparam_infos": infos,
            "metric_infos": [{"name": {"tag": tag}} for tag in metrics],
        }
        values.append(_hparams_value(metadata.EXPERIMENT_TAG, experiment=experiment))
    return _summary(*values)


def hparams_end(status: str) -> Fields:
    """When the run ended, and how: `success` or `failure`."""
    from tensorboard.plugins.hparams import metadata

    end = {"status": f"STATUS_{status.upper()}", "end_time_secs": time.time()}
    return _summary(_hparams_value(metadata.SESSION_END_INFO_TAG, session_end_info=end))


def _hparams_value(tag: str, **content: object) -> Fields:
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = metadata.create_summary_metadata(HParamsPluginData(**content))
    return {"tag": tag, "tensor": metadata.NULL_TENSOR, "metadata": data}


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
            continue
        value = value.item() if isinstance(value, np.generic) else value
        is_number = isinstance(value, (int, float)) and math.isfinite(value)  # bool is an int
        yield f"{prefix}{name}", value if is_number else str(value)


def graph(models: Iterable[tuple[str, keras.Layer]]) -> Fields:
    """The layers of Keras models, given as pairs of a scope and a model, as a TensorFlow graph.

    Functional and sequential models, also nested ones, become their layers with the tensors between
    them; any other layer or model is one node with the number of its parameters.
    """
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    nodes: dict[str, Fields] = {}
    for name, model in models:
        _add_nodes(nodes, model, name, [])
    return {"graph_def": GraphDef(node=list(nodes.values())).SerializeToString()}


def _add_nodes(
    nodes: dict[str, Fields], layer: keras.Layer, name: str, inputs: list[str]
) -> list[str]:
    """Adds a layer or model under an unused name; returns the nodes of its outputs."""
    while any(each == name or each.startswith(f"{name}/") for each in nodes):
        name += "_"
    wired = getattr(layer, "_functional", layer)  # critical: the graph of a built sequential model
    if hasattr(wired, "_nodes_by_depth"):
        return _add_functional(nodes, wired, name, inputs)
    if wired is None:
        for each in layer.layers:
            inputs = _add_nodes(nodes, each, f"{name}/{each.name}", inputs)
        return inputs
    kind, weights = type(layer).__name__, getattr(layer, "weights", [])
    attributes = {"parameters": {"i": sum(math.prod(weight.shape) for weight in weights)}}
    nodes[name] = {"name": name, "op": kind, "input": inputs, "attr": attributes}
    return [name]


def _add_functional(
    nodes: dict[str, Fields], model: keras.Model, name: str, inputs: list[str]
) -> list[str]:
    makers = {id(tensor): [maker] for tensor, maker in zip(model.inputs, inputs, strict=False)}
    for _, calls in sorted(model._nodes_by_depth.items(), reverse=True):  # noqa: SLF001
        for call in calls:
            tensors = call.output_tensors if call.is_input else call.input_tensors
            made_by = [maker for tensor in tensors for maker in makers.get(id(tensor), [])]
            operation = call.operation
            outputs = _add_nodes(nodes, operation, f"{name}/{operation.name}", made_by)
            one_each = len(outputs) == len(call.output_tensors)
            for index, tensor in enumerate(call.output_tensors):
                makers[id(tensor)] = [outputs[index]] if one_each else outputs
    return [maker for tensor in model.outputs for maker in makers[id(tensor)]]


def _summary(*values: Fields) -> Fields:
    return {"summary": {"value": list(values)}}


def _plugin(name: str) -> Fields:
    """The metadata that assigns a tensor to a plugin."""
    return {"plugin_data": {"plugin_name": name}}


def scatter(*clouds: np.ndarray, size: int = 256) -> np.ndarray:
    """Draws the points `[n, 2]` of each cloud in its colour of `COLOURS`, uint8 `[size, size, 3]`.

    Both axes, x to the right and y upwards, span the numbers of the first cloud plus a tenth on
    either side. Points further out lie on the edge; points that are not finite are left out. A
    point is two by two pixels; later clouds cover earlier ones.
    """
    pixels = np.full((size, size, 3), 255, np.uint8)
    low, high = np.min(clouds[0]), np.max(clouds[0])
    margin = 0.1 * (high - low) or 1.0
    for index, cloud in enumerate(clouds):
        points = np.asarray(cloud)[np.isfinite(cloud).all(1)]
        shares = np.clip((points - low + margin) / (high - low + 2 * margin), 0, 1)
        x, y = (shares * (size - 2)).astype(np.intp).T
        for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pixels[size - 2 - y + down, x + right] = COLOURS[index % len(COLOURS)]
    return pixels


def image_grid(images: np.ndarray, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Images side by side, uint8 `[height, width, C]`; `low` is black and `high` is white.

    Args:
        images: `[n, H, W]`, `[n, H, W, C]`, or flattened square images, `[n, H·H]`.
        low: The value shown as black.
        high: The value shown as white.

    Raises:
        ValueError: The images have another shape.
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
