"""Observations of any space as one array `[N, *shape]` for the network. No TensorFlow here.

| space | what the network sees |
|---|---|
| Box of floats | float32, as it is |
| Box of integers | float32, (x − low) / (high − low); unbounded ones as they are |
| image: uint8 Box of rank 3; of rank 2 or 4 with sides ≥ 7 | uint8; `image_axes`, `image_bounds` |
| Discrete, MultiDiscrete | one-hot |
| MultiBinary | 0 or 1 |
| Dict, Tuple, nested | all entries, flattened and concatenated: float32 `[D]` |

A bound at the limit of an integer type counts as no bound: environments write `iinfo.max` where
they know none, and divided by it every observation would be close to 0. Only uint8's 255 counts:
it is the bound of pixels.

Entries of other spaces (Text, Graph, …) are left out. Legend: N environments, D numbers in total.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Array = np.ndarray
Observations: TypeAlias = Any
"""Arrays as their space nests them, in dicts by key and tuples: unchecked, for users pass them."""
Path: TypeAlias = tuple[str | int, ...]
"""Keys of Dicts and indices of Tuples, from the whole space to an entry."""

LEAST_SIDE = 7  # of images of rank 2 and 4, whose rank alone does not identify them
MOST_CODES = 10**7
"""Inputs of a network for one Discrete entry: 2.5 GB of weights in a first layer of 64 units."""


class Entry(NamedTuple):
    """One entry of an observation space, flattened by its path."""

    path: Path
    space: spaces.Space[object]
    size: int  # numbers that the network sees
    encode: Callable[[Array], Array]  # [N, *space.shape] to [N, size]

    @property
    def image(self) -> spaces.Box | None:
        """The space of an entry that goes through convolutions; None of other entries."""
        is_image = image_axes(self.space) is not None
        return self.space if isinstance(self.space, spaces.Box) and is_image else None

    @property
    def name(self) -> str:
        """The path in words."""
        return ".".join(map(str, self.path)) or "observation"


class Encoder:
    """From the observations of a vector environment to the network's input.

    Attributes:
        entries: The entries that the network sees, in order.
        left_out: The names of the entries that it does not see.
        shape: The shape of an encoded observation; that of the space if it is a single Box.
        dtype: uint8 for a single image, float32 otherwise.
        encode: From batched observations to `[N, *shape]`.
        is_image: Whether the observation is a single image.
        has_images: Whether any entry is an image.
    """

    def __init__(self, space: spaces.Space[object], is_exact: bool = False) -> None:
        """Plans the encoding.

        Args:
            space: The space of a single observation.
            is_exact: Whether entries that float32 cannot hold (Boxes of float64 and of wide
                integers) are encoded as float64, for a normaliser: a Unix time in float32 has
                steps of minutes.

        Raises:
            ValueError: Nothing in the space can be encoded.
        """
        self._space, leaves = space, list(_leaves(space))
        entries = (_entry(path, leaf, is_exact) for path, leaf in leaves)
        self.entries = [entry for entry in entries if entry]
        seen = {entry.path for entry in self.entries}
        self.left_out = [".".join(map(str, path)) for path, _ in leaves if path not in seen]
        if not self.entries:
            raise ValueError(
                "The observation space must hold a Box, Discrete, MultiDiscrete or MultiBinary, "
                f"alone or in Dicts and Tuples. Received: {space}. Wrap the environment with "
                "gymnasium.wrappers.TransformObservation."
            )
        widest = max(self.entries, key=lambda entry: entry.size)
        if widest.size > MOST_CODES and not isinstance(widest.space, spaces.Box):
            raise ValueError(
                f"Discrete observations must have at most {MOST_CODES:,} values: each is an "
                f"input of the network. Received: {widest.size:,} of {widest.space}. Describe the "
                "state by a few numbers, as a Box."
            )
        if not any(entry.size for entry in self.entries):
            raise ValueError(
                "The observation space must hold at least one number. Received: "
                f"{space}. Return numbers that describe the state, such as a constant 1 if there "
                "is only one state."
            )
        first = self.entries[0]
        self.shape: tuple[int, ...] = (sum(entry.size for entry in self.entries),)
        self.dtype: type = np.float32
        self.encode: Callable[[Observations], Array] = self._encode
        if isinstance(space, spaces.Box):
            self.shape = space.shape
            if first.image is not None:
                self.dtype, self.encode = np.uint8, np.asarray
            elif _is_float(space):  # most environments: no Python calls per step
                self.encode = partial(np.asarray, dtype=_precision(space, is_exact))
        self.is_image = self.dtype is np.uint8
        self.has_images = any(entry.image is not None for entry in self.entries)

    @property
    def input_in_words(self) -> str:
        """The input that a network of the user's needs, and where each entry is in it."""
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
        """Warns once of all entries that the agent does not see."""
        if self.left_out:
            warnings.warn(
                f"The agent does not see these entries of the observations: "
                f"{', '.join(self.left_out)}. No network accepts their spaces.",
                stacklevel=3,
            )

    def _encode(self, observations: Observations) -> Array:
        parts = [entry.encode(_at(observations, entry.path)) for entry in self.entries]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return joined.reshape(-1, *self.shape)

    def batch(self, observations: Observations) -> tuple[Observations, bool]:
        """Observations as a batch, and whether they were a single one, without the batch axis.

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

    def _leaf_is_batched(self, observations: Observations, entry: Entry) -> bool:
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
            received, advice = (
                f"{received} with a mask",
                "Pass an array without it: .filled(…).",
            )
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
        """Which numbers of an encoded observation may be normalised: those of Boxes, not of images.

        Bools, of the encoded shape.
        """
        parts = [
            np.full(entry.size, isinstance(entry.space, spaces.Box) and entry.image is None)
            for entry in self.entries
        ]
        return np.concatenate(parts).reshape(self.shape)


def image_axes(space: spaces.Space[object]) -> tuple[int, ...] | None:
    """The order that brings an image's axes to (height, width, channels…); None for no image.

    Channels are the last axis, or the first one where that is smaller than both others. Stacked
    frames, `[frames, height, width, channels]`, become (height, width, frames, channels).
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


def _leaves(
    space: spaces.Space[object], path: Path = ()
) -> Iterator[tuple[Path, spaces.Space[object]]]:
    children: Iterable[tuple[str | int, spaces.Space[object]]]
    if isinstance(space, spaces.Dict):
        children = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
    else:
        yield path, space
        return
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _entry(path: Path, space: spaces.Space[object], is_exact: bool) -> Entry | None:
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
    """The type of an encoded Box: float64 if it must be exact and float32 would not be."""
    return np.float64 if is_exact and space.dtype.itemsize >= 4 + _is_float(space) else np.float32


def image_bounds(space: spaces.Box) -> tuple[int, int]:
    """The smallest and the largest number of an image: the bounds of its space, or 0 and 255."""
    low, high = int(space.low.min(initial=255)), int(space.high.max(initial=0))
    return (low, high) if low < high else (0, 255)


def _box_encoding(space: spaces.Box, is_exact: bool) -> Callable[[Array], Array]:
    dtype = _precision(space, is_exact)
    if _is_float(space) or image_axes(space) is not None:
        return partial(_flat, dtype=dtype)
    own: np.dtype = space.dtype
    number: np.dtype = np.dtype(np.float64)  # the type in which x − low is computed
    low: Array = space.low.astype(number).ravel()
    high: Array = space.high.astype(number).ravel()
    span = high - low
    if max(np.abs(low).max(initial=0), np.abs(high).max(initial=0)) >= 2.0**53:
        # critical: floats have steps of 256 near 2**60; integers are subtracted as integers
        number, low, high = own, space.low.ravel(), space.high.ravel()
        span = (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)  # modulo 2**64
    bounded = span < 2.0**31 - 1
    if own.kind in "iu" and own != np.uint8:
        limits = np.iinfo(own)
        bounded &= (space.high.ravel() < limits.max) & (
            (space.low.ravel() > limits.min) | (limits.min == 0)
        )
    low, width = np.where(bounded, low, number.type(0)), np.where(bounded & (span > 0), span, 1.0)

    def encode(x: Array) -> Array:
        scaled: Array = ((_flat(x, number) - low) / width).astype(dtype)
        return scaled

    return encode


def _flat(x: Array, dtype: DTypeLike = np.float32) -> Array:
    x = np.asarray(x, dtype)
    return x.reshape(len(x), -1)


def _one_hot(x: Array, sizes: Array, start: Array) -> Array:
    """The one-hot codes of all components, concatenated: `[N, Σ sizes]`."""
    indices = np.asarray(x, np.int64).reshape(-1, len(sizes)) - start
    if ((indices < 0) | (indices >= sizes)).any():
        raise ValueError(
            f"Discrete observations must be at least {start.tolist()} and less than "
            f"{(start + sizes).tolist()}. Received: {np.asarray(x).tolist()!r:.200}. "
            "Correct the environment or its space; `vantage check` looks for this."
        )
    encoded = np.zeros((len(indices), sizes.sum()), np.float32)
    offsets = np.cumsum(sizes) - sizes
    np.put_along_axis(encoded, indices + offsets, 1.0, axis=1)
    return encoded


def _at(observations: Observations, path: Path) -> Observations:
    for key in path:
        observations = observations[key]
    return observations


def _check_entries(space: spaces.Space[object], observations: Observations) -> None:
    """Refuses observations with entries that the space has not, which no network would see.

    Raises:
        ValueError: There is an additional key or index, or the info.
    """
    is_pair = isinstance(observations, tuple) and len(observations) == 2
    if is_pair and not isinstance(space, spaces.Tuple):
        if isinstance(observations[1], Mapping):
            raise ValueError(
                "Observations must come without the info. Received: a tuple (observation, info), "
                "as reset returns it. Pass its first entry."
            )
    children: dict[Any, spaces.Space[object]]
    if isinstance(space, spaces.Dict) and isinstance(observations, Mapping):
        children, present = space.spaces, list(observations)
    elif isinstance(space, spaces.Tuple) and isinstance(observations, tuple | list):
        children, present = dict(enumerate(space.spaces)), list(range(len(observations)))
    else:
        return
    more = [key for key in present if key not in children]
    if more:
        raise ValueError(
            f"Observations must hold no other entries than the space: {list(children)!r:.200}. "
            f"Received: {more!r:.200} as well. Leave them out, or add them to the space."
        )
    for key in present:
        _check_entries(children[key], observations[key])


def _with_axis(observations: Observations) -> Observations:
    """A single observation as a batch of one."""
    if isinstance(observations, dict):
        return {key: _with_axis(value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_with_axis(value) for value in observations)
    return np.asarray(observations)[None]
