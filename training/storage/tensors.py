"""Arrays as the bytes of a safetensors file, and back without trusting them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Arrays: TypeAlias = dict[str, np.ndarray]

DTYPES = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
DTYPES |= {"bool", "float16", "float32", "float64"}
MOST_HEADER = 2**22  # bytes of the names and shapes of all tensors


def dump_tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file with the arrays.

    Raises:
        FloatingPointError: An array holds NaN or infinity, from which training could not continue.
        ValueError: There are too many arrays.
    """
    from safetensors.numpy import save

    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(
                f"A checkpoint must hold finite numbers. Received: NaN or infinity in {name}. "
                "Nothing was saved; earlier checkpoints are unchanged."
            )
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    if _header(data) > MOST_HEADER:
        raise ValueError(
            f"Names and shapes must take at most {MOST_HEADER:,} bytes. Received: {len(arrays):,} "
            f"arrays, whose names take {_header(data):,}. Join arrays."
        )
    return data


def parse_tensors(data: bytes) -> Arrays:
    """The arrays in the bytes of a file.

    Raises:
        ValueError: The bytes are not such a file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if _header(data) > MOST_HEADER:
        raise ValueError(f"its header has {_header(data):,} bytes, more than {MOST_HEADER:,}")
    try:
        return load(data)
    except (SafetensorError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(str(error)) from None


def _header(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def memory() -> int:
    """The machine's memory in bytes; larger files are not read."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**36
