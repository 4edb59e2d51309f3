"""Checkpoints: plain directories of arrays and JSON. Loading reads them and executes nothing.

    manifest.json         all JSON: schema, versions, size and SHA-256 of every other file, state
    tensors.safetensors   all arrays

A checkpoint is written under a temporary name, flushed to the disk, and renamed, so it exists
completely or not at all. The manifest has exactly one valid spelling and contains its own digest,
so a flipped bit is always detected.
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
    """Writes a checkpoint to `path`, and replaces an older one there.

    Args:
        path: The directory of the checkpoint.
        arrays: Arrays of finite numbers, by name.
        manifest: Everything else to store, as JSON values.

    Raises:
        FileExistsError: `path` exists and is not a checkpoint.
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
    try:  # critical: never write what cannot be read again
        check_items(sealed)
        if len(sealed) > MOST_JSON:
            raise ValueError(f"{len(sealed):,} bytes")
    except ValueError as error:
        raise ValueError(
            f"A checkpoint's {MANIFEST} must have at most {MOST_JSON:,} bytes and few items. "
            f"Received: {error}. Store numbers in arrays, which have their own file."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _remove(temporary)  # left by a killed process with the same number
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
    """A manifest in its one valid spelling; the order of its keys is preserved."""
    return json.dumps(manifest, indent=1, allow_nan=False).encode()


def _sealed(manifest: Mapping[str, object]) -> bytes:
    """The same, with its digest as the last entry."""
    return _spelled({**manifest, "digest": hashlib.sha256(_spelled(manifest)).hexdigest()})


def _replace(path: Path, new: Path) -> None:
    """Renames, so that at every moment there is the old checkpoint or the new one."""
    aside = _aside(path)
    if path.exists():
        _remove(aside)
        os.rename(path, aside)
    os.rename(new, path)
    _remove(aside)


def _aside(path: Path) -> Path:
    """Where the old checkpoint is while the new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _remove(folder: Path) -> None:
    """Deletes a folder, if it exists; what cannot be deleted stays until the next time."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Reads a checkpoint and verifies every bit: returns its arrays by name, and its manifest.

    Raises:
        ValueError: `path` is not a checkpoint, is damaged, or has another schema.
    """
    path = Path(path)
    if not path.exists() and _aside(path).is_dir():
        path = _aside(path)  # a replacement was interrupted
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
    """Removes the shards that no checkpoint lists; none if a manifest cannot be read."""
    if not (checkpoints / SHARDS).is_dir():
        return
    try:
        paths = [
            *checkpoints.glob("step-*"),
            *checkpoints.glob("best"),
            *checkpoints.glob(".*.old"),
        ]
        manifests = [_load_manifest(path) for path in paths]
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
    except (ValueError, RecursionError):  # a number that a float cannot represent
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"A checkpoint's {MANIFEST} must be as it was written. Received: {str(path)!r}, where "
            "it was changed or truncated. Use another checkpoint."
        )
    return manifest


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python, Vantage and the packages that results depend on."""
    names = ("vantage-rl", "tensorflow", "keras", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
