"""The command `vantage benchmark fit PEER_PYTHON`: trainings beside Keras's fit and PyTorch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from vantage.scripts.benchmarks.processes import run_process
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.fits.tasks import TASKS
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir
from vantage.training.storage.files import write_json

SECONDS = 3.0  # of a measurement, after the compilation


@dataclass(frozen=True)
class FitFlags:
    """Compare the speed of `Trainer` with Keras's fit and PyTorch, in alternating runs.

    Each side runs in its own process; compilation is not counted.
    """

    python: Annotated[Path, tyro.conf.Positional]
    """A Python with torch, and with lightning to compare it as well, in its own environment."""
    only: tuple[str, ...] = tuple(TASKS)
    """The tasks to measure."""
    rounds: int = 3
    """Number of alternations."""
    logdir: Path = Path("runs/fit-speed")
    """Folder of fit.json, new or empty."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)
        unknown = [name for name in self.only if name not in TASKS]
        if unknown:
            raise ValueError(
                f"--only must name tasks of {', '.join(TASKS)}. Received: {', '.join(unknown)}. "
                "Correct or omit it."
            )


def run(arguments: list[str]) -> None:
    """Reads the flags, measures, and writes fit.json."""
    flags = parse(FitFlags, arguments, prog="vantage benchmark fit")
    peers = ["torch", *(["lightning"] if _has(flags.python, "lightning") else [])]
    if not _has(flags.python, "torch"):
        raise ValueError(
            f"The peer must be a Python that imports torch. Received: {str(flags.python)!r}. "
            "Create one: python3 -m venv peer && peer/bin/pip install torch lightning, then pass "
            "peer/bin/python."
        )
    check_logdir(flags.logdir)
    flags.logdir.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    for task in flags.only:
        sides = ["vantage", "keras", *([] if task.endswith("-dataset") else peers)]
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for k in range(flags.rounds):
            for side in sides if k % 2 == 0 else reversed(sides):
                speeds[side].append(_speed(flags.python, task, side))
        ratios = {
            side: [ours / theirs for ours, theirs in zip(speeds["vantage"], each, strict=True)]
            for side, each in speeds.items()
            if side != "vantage"
        }
        record[task] = {"examples_per_second": speeds, "ratios": ratios}
        shown = "; ".join(
            f"{np.median(each):.2f} × {side} ({min(each):.2f} to {max(each):.2f})"
            for side, each in ratios.items()
        )
        say(f"{task} ({TASKS[task].words}): {np.median(speeds['vantage']):,.0f}/s, {shown}")
        write_json(flags.logdir / "fit.json", record)


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util as u; print(int(u.find_spec({module!r}) is not None))"
    try:
        return run_process(str(python), "-c", code).printed.strip().endswith("1")
    except (OSError, ValueError):
        return False


def _speed(python: Path, task: str, side: str) -> float:
    if side in ("vantage", "keras"):
        command = [sys.executable, "-m", "vantage.scripts.fits.sides"]
    else:
        command = [str(python), str(Path(__file__).with_name("peer_torch.py"))]
    finished = run_process(*command, task, side, str(SECONDS))
    return float(json.loads(finished.printed.splitlines()[-1])["examples_per_second"])
