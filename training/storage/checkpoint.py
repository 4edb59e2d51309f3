"""Checkpoints: plain directories of arrays and JSON, which loading reads and never executes.

    manifest.json         schema, versions, size and SHA-256 of every other file, all that is JSON
    tensors.safetensors   all that is an array

A checkpoint is written under a temporary name, given to the disk, and renamed: it is there whole
or not at all. The manifest has one spelling and a digest of itself: no flipped bit goes unseen.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import MOST_JSON, check_items, parse_json, read_file, sync_folder, write_file
from .packing import LOG
from .shards import SHARDS, Shard, load_log, read_shard, remove_shards
from .tensors import Arrays, dump_tensors, memory, parse_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

SCHEMA = 2
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"


def save_checkpoint(
    path: str | Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, object]
) -> None:
    """Writes a checkpoint to `path`, where there may be an older one.

    Args:
        path: The checkpoint's own directory.
        arrays: By name; finite numbers.
        manifest: What else is to be kept, as JSON values.

    Raises:
        FileExistsError: `path` exists and is no checkpoint; an existing checkpoint is replaced.
        FloatingPointError: An array is not finite.
        OSError: The disk failed; what was at `path` is still there.
        ValueError: The manifest is too long to be read again.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).exists():
        raise FileExistsError(
            "A checkpoint must go to a new path or replace a checkpoint. Received: "
            f"{str(path)!r}, which is neither. Choose another path."
        )
    tensors = dump_tensors(arrays)
    files = {TENSORS: {"size": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}}
    sealed = _sealed({"schema": SCHEMA, "versions": versions(), "files": files, **manifest})
    try:  # critical: what is written here can be read again
        check_items(sealed)
        if len(sealed) > MOST_JSON:
            raise ValueError(f"{len(sealed):,} bytes")
    except ValueError as error:
        raise ValueError(
            f"A checkpoint's {MANIFEST} must have at most {MOST_JSON:,} bytes and few items. "
            f"Received: {error}. Keep numbers in arrays: they are stored beside it."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _remove(temporary)  # of a process killed with the same number
    try:
        os.mkdir(temporary)
        write_file(temporary / TENSORS, tensors)
        write_file(temporary / MANIFEST, sealed)
        sync_folder(temporary)
        _replace(path, temporary)
        sync_folder(path.parent)
    finally:
        _remove(temporary)


def _spelled(manifest: Mapping[str, object]) -> bytes:
    """A manifest in its one spelling; the order of its keys is kept, somebody may rely on it."""
    return json.dumps(manifest, indent=1, allow_nan=False).encode()


def _sealed(manifest: Mapping[str, object]) -> bytes:
    """The same with its digest in it."""
    return _spelled({**manifest, "digest": hashlib.sha256(_spelled(manifest)).hexdigest()})


def _replace(path: Path, new: Path) -> None:
    """Renames; at no moment is there neither the old checkpoint nor the new one."""
    aside = _aside(path)
    if path.exists():
        _remove(aside)
        os.rename(path, aside)
    os.rename(new, path)
    _remove(aside)


def _aside(path: Path) -> Path:
    """Where the old one is while the new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _remove(folder: Path) -> None:
    """Deletes a folder that need not exist; what cannot be deleted stays for the next time."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Reads a checkpoint, every bit of it checked: its arrays by name, and its manifest.

    Raises:
        ValueError: `path` is no checkpoint, a damaged one, or one of another schema.
    """
    path = Path(path)
    if not path.exists() and _aside(path).is_dir():
        path = _aside(path)  # a replacement was cut short
    manifest = _load_manifest(path)
    files = manifest.get("files")
    expected = files.get(TENSORS) if isinstance(files, dict) and set(files) == {TENSORS} else None
    try:
        if not isinstance(expected, dict):
            raise ValueError("its manifest lists other files")
        size = expected.get("size")
        if not isinstance(size, int) or not 0 <= size <= memory():
            raise ValueError(f"its size is {size!r:.40}")
        data = read_file(path / TENSORS, size)
        if expected != {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
            raise ValueError("it is not the file that the manifest was written for")
        arrays = parse_tensors(data)
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(
            f"A checkpoint must hold the {TENSORS} of its manifest. Received: "
            f"{str(path)!r} ({error}). Use another checkpoint."
        ) from None
    for shard in listed_shards(manifest):
        read_shard(path.parent / SHARDS, shard)
    return arrays, manifest


def listed_shards(manifest: Mapping[str, object]) -> list[Shard]:
    """The shards of all logs in a manifest.

    Raises:
        ValueError: A log is damaged.
    """
    found, rest = list[Shard](), list[object]([manifest])
    while rest:
        nest = rest.pop()
        if isinstance(nest, dict) and set(nest) == {LOG}:
            if not isinstance(nest[LOG], dict) or "arrays" not in nest[LOG]:
                found += load_log(nest[LOG], None).kept.shards
        elif isinstance(nest, dict | list):
            rest.extend(nest.values() if isinstance(nest, dict) else nest)
    return found


def prune_shards(checkpoints: Path) -> None:
    """Removes the shards that no checkpoint lists; none while a manifest cannot be read."""
    if not (checkpoints / SHARDS).is_dir():
        return
    try:
        kept = [*checkpoints.glob("step-*"), *checkpoints.glob("best"), *checkpoints.glob(".*.old")]
        manifests = [_load_manifest(path) for path in kept]
        listed = {shard.name for manifest in manifests for shard in listed_shards(manifest)}
        remove_shards(checkpoints / SHARDS, listed)
    except (OSError, ValueError):
        return


def _load_manifest(path: Path) -> dict[str, Any]:
    try:
        data = read_file(path / MANIFEST, MOST_JSON)
        manifest = parse_json(data)
        if not isinstance(manifest, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"A checkpoint must hold a readable {MANIFEST}. Received: {str(path)!r} ({error}). "
            "Pass a checkpoint of a run or the folder of a saved agent."
        ) from None
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"A checkpoint must have schema {SCHEMA}. Received: {manifest.get('schema')!r:.80} in "
            f"{str(path)!r}. Load it with the version that wrote it."
        )
    manifest.pop("digest", None)
    try:
        is_whole = _sealed(manifest) == data
    except (ValueError, RecursionError):  # a number that no float holds
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"A checkpoint's {MANIFEST} must be as it was written. Received: {str(path)!r}, where "
            "it was changed or cut. Use another checkpoint."
        )
    return manifest


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python, of Vantage and of what its results depend on."""
    names = ("vantage-rl", "tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
