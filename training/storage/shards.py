"""A growing log, stored as shards: files that are written once and never changed.

    checkpoints/shards/replay-000000000000-000000004096-<sha256>.safetensors   insertions [0, 4096)

A save writes what was inserted since the last save. The manifest of a checkpoint lists the shards
with the live insertions. If there are too many small shards, neighbours are merged into new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .files import read_file, sync_folder, write_file
from .tensors import Arrays, dump_tensors, memory, parse_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARDS = "shards"  # the folder, next to the checkpoints
MOST_BYTES = 2**26  # of a shard, unless a single insertion is larger
MOST_SMALL = 64  # shards smaller than half of that; more are merged until half as many are left
_NAME = re.compile(r"replay-([0-9]{12,})-([0-9]{12,})-([0-9a-f]{16})\.safetensors")
_LEFT_OVER = re.compile(rf"\.{_NAME.pattern}\.[0-9]+")  # from a process that died while writing


class Shard(NamedTuple):
    """The entry of a shard in a manifest."""

    name: str
    start: int  # its insertions are [start, stop)
    stop: int
    size: int  # bytes
    sha256: str


class Kept:
    """The shards in which insertions of a log are already on the disk, and their folder."""

    def __init__(self, folder: Path | None = None, shards: list[Shard] | None = None) -> None:
        self.folder, self.shards = folder, shards or []


class Log:
    """The live insertions `[start, stop)` of a growing log, as a leaf of an agent's state.

    The log of a buffer has `rows`, a function that returns the arrays of insertions `[a, b)`, and
    shares `kept` with the buffer, so that the next save knows what is already stored. A log read
    from a checkpoint has all its arrays or its shards.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        rows: Callable[[int, int], Arrays] | None = None,
        arrays: Arrays | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.start, self.stop, self._rows, self._arrays = start, stop, rows, arrays
        self.kept = kept or Kept()

    def rows(self, a: int, b: int) -> Arrays:
        """The arrays of insertions `[a, b)`.

        Raises:
            ValueError: The log was read from a checkpoint and does not belong to a buffer.
        """
        if self._rows is not None:
            return self._rows(a, b)
        if self._arrays is not None and (a, b) == (self.start, self.stop):
            return self._arrays
        raise ValueError(
            "A log must belong to a buffer to be saved. Received: one that was read from a "
            "checkpoint. Pass its state to a buffer, and save the state of that."
        )

    def pieces(self) -> Iterator[tuple[int, Arrays]]:
        """All insertions in order, in pieces: the number of the first insertion, and arrays.

        The first piece may begin before `start`.

        Raises:
            ValueError: A shard is missing or damaged.
        """
        if self._rows is None and self._arrays is None:
            for shard in self.kept.shards:
                yield shard.start, read_shard(self.kept.folder, shard)
        elif self.start < self.stop:
            yield self.start, self.rows(self.start, self.stop)

    def known(self, folder: Path | None) -> list[Shard]:
        """The shards in `folder` that hold the insertions from `start` up to some later one."""
        if folder is None:
            return []
        shards = [s for s in self.kept.shards if self.start < s.stop <= self.stop]
        reaches_start = bool(shards) and shards[0].start <= self.start
        return shards if reaches_start and all(_is_there(folder, shard) for shard in shards) else []


def save_log(log: Log, folder: Path) -> dict[str, Any]:
    """Writes new insertions as shards; returns the entry of the log for a manifest.

    Raises:
        FloatingPointError: An array is not finite.
        OSError: The disk failed; earlier shards are unchanged.
    """
    groups = [[shard] for shard in log.known(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    begin = groups[-1][-1].stop if groups else log.start
    if begin < log.stop:
        step = _rows_of_a_shard(log.rows(log.stop - 1, log.stop))
        for start in range(begin, log.stop, step):
            groups.append([_write(log, folder, start, min(start + step, log.stop))])
    shards = []
    for group in _merged(groups):
        start, stop = max(group[0].start, log.start), group[-1].stop
        shards.append(group[0] if len(group) == 1 else _write(log, folder, start, stop))
    sync_folder(folder)
    log.kept.folder, log.kept.shards = folder, shards
    return {"start": log.start, "stop": log.stop, "shards": [s._asdict() for s in shards]}


def _rows_of_a_shard(row: Arrays) -> int:
    return max(1, MOST_BYTES // sum(array.nbytes for array in row.values()))


def _merged(groups: list[list[Shard]]) -> list[list[Shard]]:
    """Groups neighbours to merge into one shard, the smallest first, if too many are small."""

    def size(group: list[Shard]) -> int:
        return sum(shard.size for shard in group)

    def small() -> int:
        return sum(size(group) < MOST_BYTES // 2 for group in groups)

    if small() <= MOST_SMALL:
        return groups
    while small() > MOST_SMALL // 2:
        pairs = [size(a) + size(b) for a, b in itertools.pairwise(groups)]
        index = int(np.argmin(pairs))
        if pairs[index] > MOST_BYTES:
            break
        groups = [*groups[:index], groups[index] + groups[index + 1], *groups[index + 2 :]]
    return groups


def _write(log: Log, folder: Path, start: int, stop: int) -> Shard:
    data = dump_tensors(log.rows(start, stop))
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"replay-{start:012d}-{stop:012d}-{sha256[:16]}.safetensors"
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        write_file(temporary, data)
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Shard(name, start, stop, len(data), sha256)


def _is_there(folder: Path, shard: Shard) -> bool:
    try:
        return os.lstat(folder / shard.name).st_size == shard.size
    except OSError:
        return False


def read_shard(folder: Path | None, shard: Shard) -> Arrays:
    """The arrays of a shard, after verifying every bit.

    Raises:
        ValueError: The shard is missing or damaged.
    """
    try:
        if folder is None:
            raise ValueError("its folder is unknown")
        data = read_file(folder / shard.name, shard.size)
        if len(data) != shard.size or hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ValueError("it is not the file that the manifest was written for")
        return parse_tensors(data)
    except (MemoryError, OSError, ValueError) as error:
        raise ValueError(
            f"A checkpoint must have the shards of its manifest. Received: {shard.name} in "
            f"{str(folder)!r} ({error!r}). Use another checkpoint."
        ) from None


def load_log(packed: Any, folder: Path | None) -> Log:
    """The log that `packed` describes; its shards are read only when the log is read.

    Args:
        packed: The result of `save_log`, or the start, the stop and all arrays.
        folder: The folder of the shards.

    Raises:
        ValueError: `packed` is neither, or the shards leave gaps or overlap.
    """
    try:
        start, stop = _integer(packed["start"]), _integer(packed["stop"])
        if start > stop:
            raise ValueError(f"insertions [{start}, {stop})")
        if "arrays" in packed:
            arrays = packed["arrays"]
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("no arrays")
            return Log(start, stop, arrays=arrays)
        shards = [_shard(entry) for entry in packed["shards"]]
        ends = [shard.stop for shard in shards]
        begins = [max(shard.start, start) for shard in shards]
        if [*begins, stop] != [start, *ends] or not all(start < end for end in ends):
            raise ValueError(f"shards that do not make up [{start}, {stop})")
        if any(a.stop != b.start for a, b in itertools.pairwise(shards)):
            raise ValueError("shards that overlap")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "A saved log must list its shards, in order and without a gap. Received: one that "
            f"does not ({error!r:.200}). Use another checkpoint."
        ) from None
    return Log(start, stop, kept=Kept(folder, shards))


def _shard(entry: Any) -> Shard:
    shard = Shard(**entry)
    match = _NAME.fullmatch(shard.name)
    if match is None or not re.fullmatch("[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"the name {shard.name!r:.80}")
    if (int(match[1]), int(match[2])) != (_integer(shard.start), _integer(shard.stop)):
        raise ValueError(f"{shard.name} for [{shard.start}, {shard.stop})")
    if shard.start >= shard.stop or not shard.sha256.startswith(match[3]):
        raise ValueError(f"{shard.name} for {shard.sha256}")
    if _integer(shard.size) > memory():
        raise ValueError(f"{shard.name} of {shard.size:,} bytes")
    return shard


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.80} is no count")
    return value


def remove_shards(folder: Path, listed: set[str]) -> None:
    """Removes the shards that are not listed; what cannot be removed stays until the next time."""
    for name in os.listdir(folder):
        is_ours = _NAME.fullmatch(name) or _LEFT_OVER.fullmatch(name)
        if is_ours and name not in listed:
            with contextlib.suppress(OSError):
                os.unlink(folder / name)
