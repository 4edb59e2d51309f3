"""The files of a run: its folder, JSON written whole or not at all, and checkpoints.

A checkpoint is a plain directory, `manifest.json` and `tensors.safetensors`: loading one reads
arrays and numbers and never executes anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1


def check_logdir(logdir: str | Path, resume: bool = False) -> None:
    """Refuses a folder that holds anything; with `resume`, a run without a checkpoint will do.

    Raises:
        FileExistsError: It does.
    """
    folder = Path(logdir)
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if resume and not any(folder.glob("checkpoints/[!.]*")):  # it died early: nothing to lose
        ours = ("config.json", "checkpoints", "events.")
        held = [name for name in held if not name.startswith(ours)]
    if held or folder.is_file():
        raise FileExistsError(
            "A log directory must be new or empty, so that no run is overwritten. Received: "
            f"logdir={str(logdir)!r}, which holds {', '.join(held[:3]) or 'a file'}. "
            "Choose another one, or move that one away."
        )


def start_run(logdir: str | Path, config: Mapping[str, Any], resume: bool = False) -> Path:
    """Makes the folder of a new run and writes its `config.json`.

    Raises:
        FileExistsError: The folder already holds a run, which is never overwritten.
    """
    check_logdir(logdir, resume)
    folder = Path(logdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    return folder


def newest_checkpoint(logdir: str | Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return max((Path(logdir) / "checkpoints").glob("step-*"), default=None)


def required_checkpoint(logdir: str | Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        ValueError: There is none.
    """
    newest = newest_checkpoint(logdir)
    if newest is None:
        raise ValueError(
            f"A run must hold a checkpoint. Received: {str(logdir)!r}, which has none under "
            "checkpoints/. Pass the folder of a run that was trained with a log directory."
        )
    return newest


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data` to `path`: readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: The file is missing or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name} must be a readable JSON file. Received: {str(path)!r} ({error}). "
            "Pass the folder of a run or of a saved agent."
        ) from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path.name} must hold a JSON object. Received: {str(path)!r}, which holds a "
            f"{type(data).__name__}. Pass the folder of a run or of a saved agent."
        )
    return data


def save_checkpoint(
    path: str | Path, tensors: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> None:
    """Writes a checkpoint directory under a temporary name, then renames it to `path`.

    Raises:
        FileExistsError: `path` exists and is no checkpoint; an existing checkpoint is replaced.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.exists() and not (path / "manifest.json").exists():
        raise FileExistsError(
            "A checkpoint must go to a new path or replace a checkpoint. Received: "
            f"{str(path)!r}, which is neither. Choose another path."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process killed with the same number
    temporary.mkdir()
    try:
        arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        save_file(arrays, temporary / "tensors.safetensors")
        write_json(temporary / "manifest.json", {"schema": SCHEMA, **manifest})
        if path.exists():
            shutil.rmtree(path)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a checkpoint directory: its tensors by name, and its manifest.

    Raises:
        ValueError: `path` is no checkpoint, or one of a newer schema.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    manifest = read_json(path / "manifest.json")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"A checkpoint must have schema {SCHEMA}. Received: {manifest.get('schema')!r} in "
            f"{str(path)!r}. Load it with the version that wrote it."
        )
    try:
        return load_file(path / "tensors.safetensors"), manifest
    except (OSError, SafetensorError) as error:
        raise ValueError(
            "A checkpoint must hold a readable tensors.safetensors. Received: "
            f"{str(path)!r} ({error}). Use another checkpoint."
        ) from None
