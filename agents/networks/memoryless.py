"""Refuses recurrent networks: a policy sees one observation at a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_memoryless(network: keras.Model) -> None:
    """Refuses recurrent layers that see single steps, or that carry a state from call to call.

    Acting, minibatches and episode ends do not handle such a state. A recurrent layer may run over
    several steps within one observation, such as stacked frames.

    Raises:
        ValueError: The network has such a layer.
    """
    for layer, steps in _layers(network, None):
        if not isinstance(layer, keras.layers.RNN):
            continue
        if layer.stateful or steps == 1:
            seen = "stateful=True" if layer.stateful else "one step at a time"
            raise ValueError(
                "A network must be a function of one observation: its state would not be carried "
                f"from step to step. Received: the recurrent layer {layer.name!r} in "
                f"{network.name!r} with {seen}. Use dense layers, or stack the last observations "
                "with gymnasium.wrappers.FrameStackObservation; recurrent policies are not "
                "supported."
            )


def _layers(
    layer: keras.layers.Layer, outer: int | None
) -> Iterator[tuple[keras.layers.Layer, int | None]]:
    """The layer and all layers in it, each with its time steps; wrapped ones have the wrapper's."""
    steps = outer
    with contextlib.suppress(AttributeError, ValueError, TypeError, IndexError):
        steps = layer.input.shape[1]  # fails in a wrapper, and where the layer is called twice
    yield layer, steps
    for each in getattr(layer, "layers", []):
        yield from _layers(each, None)
    for name in ("layer", "forward_layer", "backward_layer"):
        if isinstance(each := getattr(layer, name, None), keras.layers.Layer):
            yield from _layers(each, steps)
