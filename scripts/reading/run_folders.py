"""Finds the folders of runs, and reads their `config.json`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vantage.training.runs.folder import CHECKPOINTS
from vantage.training.storage.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXAMPLES = {
    "target-range": "regression",
    "arm": "regression",
    "ring": "gan",
    "digits": "gan",
}
"""The command of each example; the `config.json` of a run has the name of the example."""


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The runs in some folders and their subfolders, each once, sorted by name.

    A run is a folder with a `config.json` or with event files, or one that cannot be read. Hidden
    folders and checkpoints are not searched, and links are not followed.

    Raises:
        ValueError: One of the folders does not exist.
    """
    found: dict[Path, None] = {}

    def add(error: OSError) -> None:
        found[Path(error.filename)] = None

    for folder in folders:
        check_folder(folder)
        for path, below, files in os.walk(folder, onerror=add):
            below[:] = sorted(
                (name for name in below if name != CHECKPOINTS and not name.startswith(".")),
                key=_natural,
            )
            if "config.json" in files or any(is_event_file(name) for name in files):
                found[Path(path)] = None
    return list(found)


def check_folder(folder: Path) -> None:
    """Refuses a path that is not a folder.

    Raises:
        ValueError: It is not a folder.
    """
    if not folder.is_dir():
        raise ValueError(
            f"A folder of runs must exist. Received: {str(folder)!r}, which is "
            f"{'a file' if folder.exists() else 'not there'}. Pass the folder of a run, or one "
            "that holds runs."
        )


def is_event_file(name: str) -> bool:
    """Whether TensorBoard reads files of this name."""
    return ".tfevents." in name and not name.startswith(".")


def _natural(name: str) -> tuple[Any, ...]:
    """Sort key: `seed-2` comes before `seed-10`. `²` is a digit, but not a number."""
    digits = re.findall("[0-9]+", name)
    words = re.sub("[0-9]", " ", name).split()
    return (*words[:1], tuple(map(int, digits)), name)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's `config.json`; empty if there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / "config.json"
    return read_json(path) if os.path.lexists(path) else {}


def entry(config: Mapping[str, Any], name: str) -> Any:
    """An entry of a run's `config.json`, or of the algorithm's settings in it; None if missing."""
    settings = config.get("config")
    if name in config or not isinstance(settings, dict):
        return config.get(name)
    return settings.get(name)


def kind(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Algorithm and environment of a run; for an example, its command and its name."""
    example = config.get("example")
    if isinstance(example, str):
        return EXAMPLES.get(example), example
    algorithm, env_id = config.get("algorithm"), config.get("env_id")
    return (
        algorithm if isinstance(algorithm, str) else None,
        env_id if isinstance(env_id, str) else None,
    )
