"""Observations of any space as one array `[N, *shape]` for the network. No TensorFlow here.

| space | what the network sees |
|---|---|
| Box of floats | float32, as it is |
| Box of integers | float32, (x − low) / (high − low); unbounded ones as they are |
| image: uint8 Box of rank 3; of rank 2 or 4 with sides ≥ 7 | uint8; `image_axes`, `image_bounds` |
| Discrete, MultiDiscrete | one-hot |
| MultiBinary | 0 or 1 |
| Dict, Tuple, nested | every entry, flattened, one after the other: float32 `[D]` |

A bound at the limit of an integer type is none: who writes `iinfo.max` does not know a bound, and
divided by it all that is seen would be next to 0. Only uint8's 255 is one, that of pixels.

Entries of other spaces (Text, Graph, …) are left out. Legend: N environments, D entries in all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

Array = np.ndarray
LEAST_SIDE = 7  # of an image whose rank alone does not tell
MOST_CODES = 10**7
"""Inputs of a network for one Discrete entry: 2.5 GB of weights in a first layer of 64 units."""


class Entry(NamedTuple):
    """One entry of an observation space, flattened by its path."""

    path: tuple[Any, ...]  # keys of Dicts and indices of Tuples
    space: spaces.Space
    size: int  # numbers in what the network sees
    encode: Callable[[Array], Array]  # [N, *space.shape] to [N, size]

    @property
    def is_image(self) -> bool:
        """Whether it is for a convolutional network."""
        return image_axes(self.space) is not None

    @property
    def name(self) -> str:
        """The path in words."""
        return ".".join(map(str, self.path)) or "observation"


class Encoder:
    """From the observations of a vector environment to the network's input.

    Attributes:
        entries: What the network sees, in order.
        left_out: The names of what it does not see.
        shape: Of one encoded observation; that of the space if it is a single Box.
        dtype: uint8 for a single image, float32 otherwise.
        encode: Batched observations to `[N, *shape]`.
        is_image: Whether they are a single image.
        has_images: Whether there is an image among the entries.
    """

    def __init__(self, space: spaces.Space, is_exact: bool = False) -> None:
        """Plans the encoding.

        Args:
            space: Of a single observation.
            is_exact: Whether entries that float32 cannot hold (Boxes of float64 and of wide
                integers) are encoded as float64, for a normaliser: a Unix time in float32 has
                steps of minutes.

        Raises:
            ValueError: Nothing in the space can be encoded.
        """
        self._space, leaves = space, list(_leaves(space))
        entries = (_entry(path, leaf, is_exact) for path, leaf in leaves)
        self.entries = [entry for entry in entries if entry]
        kept = {entry.path for entry in self.entries}
        self.left_out = [".".join(map(str, path)) for path, _ in leaves if path not in kept]
        if not self.entries:
            raise ValueError(
                "The observation space must hold a Box, Discrete, MultiDiscrete or MultiBinary, "
                f"alone or in Dicts and Tuples. Received: {space}. Wrap the environment with "
                "gymnasium.wrappers.TransformObservation."
            )
        widest = max(self.entries, key=lambda entry: entry.size)
        if widest.size > MOST_CODES and not isinstance(widest.space, spaces.Box):
            raise ValueError(
                f"Discrete observations must have at most {MOST_CODES:,} values, for each is an "
                f"input of the network. Received: {widest.size:,} of {widest.space}. Describe the "
                "state by a few numbers, as a Box."
            )
        if not any(entry.size for entry in self.entries):
            raise ValueError(
                "The observation space must hold at least one number. Received: "
                f"{space}. Return what the agent can tell states by, such as a constant 1 if there "
                "is only one."
            )
        first = self.entries[0]
        self.shape: tuple[int, ...] = (sum(entry.size for entry in self.entries),)
        self.dtype: type = np.float32
        self.encode: Callable[[Any], Array] = self._encode
        if isinstance(space, spaces.Box):
            self.shape = space.shape
            if first.is_image:
                self.dtype, self.encode = np.uint8, np.asarray
            elif _is_float(space):  # most environments: nothing to do
                self.encode = partial(np.asarray, dtype=_precision(space, is_exact))
        self.is_image = self.dtype is np.uint8
        self.has_images = any(entry.is_image for entry in self.entries)

    @property
    def input_in_words(self) -> str:
        """What your own network is built from, and where each entry is in it."""
        text = f"keras.Input({self.shape})"
        if len(self.entries) == 1:
            return text
        places, start = [], 0
        for entry in self.entries:
            shape = f", of shape {entry.space.shape}" if len(entry.space.shape or ()) > 1 else ""
            places.append(f"{entry.name} at [:, {start}:{start + entry.size}]{shape}")
            start += entry.size
        return f"{text}, which holds {'; '.join(places):.600}"

    def warn_of_left_out(self) -> None:
        """One warning that names what the agent will not see, if there is anything."""
        if self.left_out:
            warnings.warn(
                f"The agent does not see these entries of the observations: "
                f"{', '.join(self.left_out)}. They are of spaces that no network takes.",
                stacklevel=3,
            )

    def _encode(self, observations: Any) -> Array:
        parts = [entry.encode(_at(observations, entry.path)) for entry in self.entries]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return joined.reshape(-1, *self.shape)

    def batch(self, observations: Any) -> tuple[Any, bool]:
        """Observations as a batch, and whether there was but a single one, without its axis.

        Raises:
            ValueError: They differ from the space in structure, shape or kind.
            FloatingPointError: A number in them is NaN or infinite.
        """
        _check_entries(self._space, observations)
        batched = [self._leaf_is_batched(observations, entry) for entry in self.entries]
        if len(set(batched)) > 1:
            raise ValueError(
                "Observations must have the axis of environments in every entry or in none. "
                f"Received: {dict(zip((e.name for e in self.entries), batched, strict=True))}. "
                "Stack them as a vector environment does."
            )
        if not batched[0]:
            observations = _with_axis(observations)
        return observations, not batched[0]

    def _leaf_is_batched(self, observations: Any, entry: Entry) -> bool:
        try:
            part = _at(observations, entry.path)
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"Observations must hold the entry {entry.name!r} of the space. Received: "
                f"{observations!r:.200}. Pass what the environment returned."
            ) from None
        shape, dtype = entry.space.shape or (), np.dtype(entry.space.dtype)
        try:
            array = np.asarray(part)
            received = f"{array.dtype} of shape {list(array.shape)}"
        except ValueError:  # lists of unequal lengths
            array, received = np.empty(0, object), f"{part!r:.80}"
        is_masked = isinstance(part, np.ma.MaskedArray)
        advice = "Reshape them, or cast them with .astype."
        if is_masked:  # NumPy would drop the mask
            received, advice = f"{received} with a mask", "Pass an array without one: .filled(…)."
        fits = shape in (array.shape, array.shape[1:]) and not is_masked
        if not fits or array.dtype.kind not in ("f" if dtype.kind == "f" else "biu"):
            raise ValueError(
                f"Observations must be {dtype} of shape {list(shape)}, or one more axis in front. "
                f"Received: {received} as {entry.name}. {advice}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0].tolist()
            raise FloatingPointError(
                f"The observation must be finite. Received: {array[tuple(at)]} at {at} of "
                f"{entry.name}. Look for a division by zero or log(0) in the environment."
            )
        return array.shape != shape

    @property
    def normalizable(self) -> Array:
        """Which numbers of an encoded observation may be normalised: those of Boxes, no images.

        Bools, of the encoded shape.
        """
        parts = [
            np.full(entry.size, isinstance(entry.space, spaces.Box) and not entry.is_image)
            for entry in self.entries
        ]
        return np.concatenate(parts).reshape(self.shape)


def image_axes(space: spaces.Space) -> tuple[int, ...] | None:
    """The order that brings a space's axes to (height, width, channels…); None: no image.

    The channels are the last axis, or the first one where that is smaller than both others;
    `[frames, height, width, channels]`, as frame stacking gives, ends with both.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    shape = space.shape
    if len(shape) == 3:
        return (1, 2, 0) if shape[0] < min(shape[1:]) and shape[2] > shape[0] else (0, 1, 2)
    if len(shape) == 2 and min(shape) >= LEAST_SIDE:
        return (0, 1)
    if len(shape) == 4 and min(shape[1:3]) >= LEAST_SIDE:
        return (1, 2, 0, 3)
    return None


def _leaves(space: spaces.Space, path: tuple = ()) -> Iterator[tuple[tuple, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        children: Any = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
    else:
        yield path, space
        return
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _entry(path: tuple, space: spaces.Space, is_exact: bool) -> Entry | None:
    if isinstance(space, spaces.Box):
        return Entry(path, space, math.prod(space.shape), _box_encoding(space, is_exact))
    if isinstance(space, spaces.Discrete):
        sizes, start = np.array([space.n]), np.array([space.start])
        return Entry(path, space, int(space.n), partial(_one_hot, sizes=sizes, start=start))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, start = space.nvec.ravel(), space.start.ravel()
        return Entry(path, space, int(sizes.sum()), partial(_one_hot, sizes=sizes, start=start))
    if isinstance(space, spaces.MultiBinary):
        return Entry(path, space, math.prod(space.shape), _flat)
    return None


def _is_float(space: spaces.Box) -> bool:
    return np.issubdtype(space.dtype, np.floating)


def _precision(space: spaces.Box, is_exact: bool) -> type:
    """The type that a Box is encoded in: float64 if asked to be exact where float32 is not."""
    return np.float64 if is_exact and space.dtype.itemsize >= 4 + _is_float(space) else np.float32


def image_bounds(space: spaces.Box) -> tuple[int, int]:
    """The least and the greatest number of an image: 0 and 255, or what its space says."""
    low, high = int(space.low.min(initial=255)), int(space.high.max(initial=0))
    return (low, high) if low < high else (0, 255)


def _box_encoding(space: spaces.Box, is_exact: bool) -> Callable[[Array], Array]:
    dtype = _precision(space, is_exact)
    if _is_float(space) or image_axes(space) is not None:
        return partial(_flat, dtype=dtype)
    number = np.dtype(np.float64)  # what x − low is computed in
    low, high = space.low.astype(number).ravel(), space.high.astype(number).ravel()
    span = high - low
    if max(np.abs(low).max(initial=0), np.abs(high).max(initial=0)) >= 2.0**53:
        # critical: floats have steps of 256 near 2**60; whole numbers are subtracted as such
        number, low, high = space.dtype, space.low.ravel(), space.high.ravel()
        span = (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)  # modulo 2**64
    bounded = span < 2.0**31 - 1
    if space.dtype.kind in "iu" and space.dtype != np.uint8:
        limits = np.iinfo(space.dtype)
        bounded &= (space.high.ravel() < limits.max) & (
            (space.low.ravel() > limits.min) | (limits.min == 0)
        )
    low, width = np.where(bounded, low, number.type(0)), np.where(bounded & (span > 0), span, 1.0)
    return lambda x: ((_flat(x, number) - low) / width).astype(dtype)


def _flat(x: Any, dtype: Any = np.float32) -> Array:
    x = np.asarray(x, dtype)
    return x.reshape(len(x), -1)


def _one_hot(x: Any, sizes: Array, start: Array) -> Array:
    """Every component's one-hot code, one after the other: `[N, Σ sizes]`."""
    indices = np.asarray(x, np.int64).reshape(-1, len(sizes)) - start
    if ((indices < 0) | (indices >= sizes)).any():
        raise ValueError(
            f"Discrete observations must be from {start.tolist()} on, and less than "
            f"{(start + sizes).tolist()}. Received: {np.asarray(x).tolist()!r:.200}. "
            "Correct the environment or its space; `vantage check` looks for this."
        )
    encoded = np.zeros((len(indices), sizes.sum()), np.float32)
    offsets = np.cumsum(sizes) - sizes
    np.put_along_axis(encoded, indices + offsets, 1.0, axis=1)
    return encoded


def _at(observations: Any, path: tuple) -> Any:
    for key in path:
        observations = observations[key]
    return observations


def _check_entries(space: spaces.Space, observations: Any) -> None:
    """Refuses observations with more than the space has, of which nothing would be seen.

    Raises:
        ValueError: They have a key or an index more, or come with the info.
    """
    is_tuple = isinstance(space, spaces.Tuple)
    if not is_tuple and isinstance(observations, tuple) and len(observations) == 2:
        if isinstance(observations[1], Mapping):
            raise ValueError(
                "Observations must come without the info. Received: a tuple (observation, info), "
                "as reset returns it. Pass its first entry."
            )
    if isinstance(space, spaces.Dict) and isinstance(observations, Mapping):
        children: Any = space.spaces
        more = [key for key in observations if key not in children]
    elif is_tuple and isinstance(observations, tuple | list):
        children = dict(enumerate(space.spaces))
        more = list(range(len(children), len(observations)))
    else:
        return
    if more:
        raise ValueError(
            f"Observations must hold no other entries than the space: {list(children)!r:.200}. "
            f"Received: {more!r:.200} as well. Leave them out, or add them to the space."
        )
    for key, child in children.items():
        if key in observations if isinstance(observations, Mapping) else key < len(observations):
            _check_entries(child, observations[key])


def _with_axis(observations: Any) -> Any:
    """A single observation as a batch of one."""
    if isinstance(observations, dict):
        return {key: _with_axis(value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_with_axis(value) for value in observations)
    return np.asarray(observations)[None]
