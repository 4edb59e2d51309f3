"""The command `vantage benchmark kills`: kills runs again and again, and checks their results.

Each run is killed by SIGKILL at random times of its training and resumed after every kill. At the
end its weights must equal, bit for bit, those of the same run without interruption.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vantage.scripts.benchmarks.processes import end_all, run_vantage, running
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir, newest_checkpoint
from vantage.training.storage.files import read_json, write_json

TRAIN = ("train", "a2c", "CartPole-v1", "--stop-at-return", "None", "--checkpoint-every", "3")


@dataclass(frozen=True)
class KillsFlags:
    """Kill runs at random times, resume them, and compare them with an undisturbed run.

    Put flags of `vantage train` after `--`: benchmark kills -- --vectorization sync
    """

    kills: int = 200
    """Total number of SIGKILLs."""
    kills_per_run: int = 10
    """Number of kills before a run is resumed to its end."""
    total_steps: int = 200_000
    """Environment steps per run."""
    jobs: int = 2
    """Number of runs side by side."""
    logdir: Path = Path("runs/kills")
    """Folder of the runs, new or empty."""

    def __post_init__(self) -> None:
        require_at_least(self, kills=1, kills_per_run=1, total_steps=1, jobs=1)


def run(arguments: list[str]) -> None:
    """Reads the flags, kills runs, and prints how they ended; exits with code 1 if one differs."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parse(KillsFlags, arguments[:cut], prog="vantage benchmark kills")
    check_logdir(flags.logdir)
    train = (*TRAIN, "--total-steps", str(flags.total_steps), *arguments[cut + 1 :])
    results = compare(train, flags.logdir, flags.kills, flags.kills_per_run, flags.jobs)
    write_json(flags.logdir / "kills.json", results)
    equal = sum(each["equal"] for each in results["runs"])
    count = len(results["runs"])
    say(f"{results['kills']} kills; {equal} of {count} runs equal the undisturbed one")
    if equal < count:
        raise SystemExit(1)


def compare(train: tuple[str, ...], folder: Path, kills: int, per_run: int, jobs: int) -> dict:
    """Makes an undisturbed run, then killed ones until there are enough kills."""
    run_vantage(*train, "--logdir", str(folder / "peace"))
    expected = read_json(folder / "peace" / "summary.json")

    def killed(number: int, share: int) -> dict:
        path = folder / f"killed-{number}"
        points = kill(train, path, share, np.random.default_rng([number, kills]), stop)
        summary = read_json(path / "summary.json")
        result = {
            "kills": len(points),
            "newest_checkpoints": points,
            "exactness": summary["exactness"],
            "weights_sha256": summary["weights_sha256"],
            "equal": all(summary[name] == expected[name] for name in SAME),
        }
        say(f"{path.name}: {len(points)} kills, equal: {result['equal']}")
        return result

    runs: list[dict] = []
    counted, stop = 0, threading.Event()
    while counted < kills:
        shares = [min(per_run, kills - done) for done in range(counted, kills, per_run)]
        with ThreadPoolExecutor(jobs) as pool:
            try:
                new = list(pool.map(killed, range(len(runs), len(runs) + len(shares)), shares))
            except BaseException:  # such as a signal, which does not reach the threads
                stop.set()
                end_all()
                pool.shutdown(cancel_futures=True)
                raise
        if not any(each["kills"] for each in new):
            raise ValueError(
                "A run must be long enough to be killed. Received: runs that ended earlier. Pass a "
                "larger --total-steps."
            )
        runs += new
        counted = sum(each["kills"] for each in runs)
    return {"kills": counted, "weights_sha256": expected["weights_sha256"], "runs": runs}


SAME = ("weights_sha256", "env_steps", "updates", "episodes", "mean_return_100", "exactness")
"""Entries of the summary that a killed run must share with an undisturbed one."""


def kill(
    train: tuple[str, ...],
    path: Path,
    kills: int,
    generator: np.random.Generator,
    stop: threading.Event | None = None,
) -> list[str]:
    """Starts, kills and resumes a run, then lets it end; returns the checkpoint after each kill.

    Raises:
        ValueError: The run fails, or `stop` is set.
    """
    checkpoints: list[str] = []
    command = [sys.executable, "-m", "vantage.scripts.main", *train, "--logdir", str(path)]
    while len(checkpoints) < kills:
        with tempfile.TemporaryFile("w+") as output:
            if stop is not None and stop.is_set():
                raise ValueError(
                    "A measurement must not be stopped. Received: a signal. Repeat it."
                )
            with running([*command, "--resume"], stdout=output, stderr=output) as process:
                before = _newest(path)
                while process.poll() is None and _newest(path) == before:  # it is not training yet
                    time.sleep(0.01)
                time.sleep(generator.uniform(0.0, 0.5))
                process.kill()
                process.wait()
            output.seek(0)
            if process.returncode > 0:
                raise ValueError(f"`{' '.join(command)}` must succeed. Received: {output.read()}")
        if process.returncode == 0:
            return checkpoints  # it ended before the kill
        checkpoints.append(_newest(path))
    run_vantage(*train, "--logdir", str(path), "--resume")
    return checkpoints


def _newest(path: Path) -> str:
    newest = newest_checkpoint(path)
    return "" if newest is None else newest.name
