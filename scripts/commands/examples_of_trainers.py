"""What `vantage regression` and `vantage gan` share: the folder of an example, new or to resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vantage.training.runs.folder import check_logdir, newest_checkpoint
from vantage.training.storage.files import read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAY_CHANGE = ("report_every", "sample_every")
"""Flags of a run that a resumed one may change; learning rates depend on the number of steps."""


def entries_of(example: str, flags: DataclassInstance) -> dict[str, Any]:
    """What `config.json` says of a run, besides its trainer."""
    named = {n: v for n, v in asdict(flags).items() if n not in ("logdir", "resume")}
    return {"example": example, **named}


def check_folder(example: str, flags: Any) -> None:
    """Refuses a folder that cannot be the run's, before anything is imported.

    Raises:
        FileExistsError: It holds something.
        ValueError: There is nothing to resume, or the run had other settings.
    """
    if flags.logdir is None:
        if flags.resume:
            raise ValueError(
                "--resume needs the folder of the run to resume. Received: --resume without "
                "--logdir. Pass --logdir RUN_DIR."
            )
        return
    check_logdir(flags.logdir, flags.resume)
    if not flags.resume or newest_checkpoint(flags.logdir) is None:
        return
    saved, own = read_json(flags.logdir / "config.json"), entries_of(example, flags)
    changed = [n for n, v in own.items() if n not in MAY_CHANGE and saved.get(n) != v]
    if changed:
        given = ", ".join(f"{name}={own[name]!r}" for name in changed)
        raise ValueError(
            f"A run must be resumed with its settings. Received: {given}, and "
            f"{', '.join(f'{name}={saved.get(name)!r}' for name in changed):.200} in config.json. "
            "Pass the same flags."
        )
