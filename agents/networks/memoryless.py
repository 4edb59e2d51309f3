"""A policy sees one observation at a time: networks with a memory of their own are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def check_memoryless(network: Any) -> None:
    """Refuses recurrent layers that see single steps, or carry a state from call to call.

    Acting, the minibatches and the episodes' ends know of no such state. A recurrent layer over
    several steps that are in one observation, such as stacked frames, is fine.

    Raises:
        ValueError: There is one.
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


def _layers(layer: Any, outer: int | None) -> Iterator[tuple[Any, int | None]]:
    """The layer and all in it, each with its time steps; a wrapper's layer has the wrapper's."""
    steps = outer
    with contextlib.suppress(AttributeError, ValueError, TypeError, IndexError):
        steps = layer.input.shape[1]  # else it is in a wrapper, or called several times
    yield layer, steps
    for each in getattr(layer, "layers", []):
        yield from _layers(each, None)
    for name in ("layer", "forward_layer", "backward_layer"):
        if isinstance(each := getattr(layer, name, None), keras.layers.Layer):
            yield from _layers(each, steps)
