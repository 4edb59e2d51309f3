"""The command `vantage benchmark kills`: runs that are killed again and again, and must not notice.

Each run is killed by SIGKILL at random times of its training and resumed after every kill; in the
end its weights must be, bit for bit, those of the same run left in peace.
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
    """Kill runs at random times, resume them, and compare them with a run left in peace.

    Flags of `vantage train` go behind `--`: benchmark kills -- --vectorization sync
    """

    kills: int = 200
    """SIGKILLs in all."""
    kills_per_run: int = 10
    """How often a run is killed before it is resumed to its end."""
    total_steps: int = 200_000
    """Environment steps of a run."""
    jobs: int = 2
    """Runs side by side."""
    logdir: Path = Path("runs/kills")
    """Where the runs go, new or empty."""

    def __post_init__(self) -> None:
        require_at_least(self, kills=1, kills_per_run=1, total_steps=1, jobs=1)


def run(arguments: list[str]) -> None:
    """Reads the flags, kills, and prints what became of the runs; exit code 1 if one differs."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parse(KillsFlags, arguments[:cut], prog="vantage benchmark kills")
    check_logdir(flags.logdir)
    train = (*TRAIN, "--total-steps", str(flags.total_steps), *arguments[cut + 1 :])
    results = compare(train, flags.logdir, flags.kills, flags.kills_per_run, flags.jobs)
    write_json(flags.logdir / "kills.json", results)
    equal = sum(each["equal"] for each in results["runs"])
    say(f"{results['kills']} kills; {equal} of {len(results['runs'])} runs equal the one in peace")
    if equal < len(results["runs"]):
        raise SystemExit(1)


def compare(train: tuple[str, ...], folder: Path, kills: int, per_run: int, jobs: int) -> dict:
    """One run in peace, and killed ones until there were enough kills; some end before theirs."""
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
            except BaseException:  # such as a signal, of which the threads know nothing
                stop.set()
                end_all()
                pool.shutdown(cancel_futures=True)
                raise
        if not any(each["kills"] for each in new):
            raise ValueError(
                "A run must be long enough to be killed. Received: runs that ended before. Pass a "
                "larger --total-steps."
            )
        runs += new
        counted = sum(each["kills"] for each in runs)
    return {"kills": counted, "weights_sha256": expected["weights_sha256"], "runs": runs}


SAME = ("weights_sha256", "env_steps", "updates", "episodes", "mean_return_100", "exactness")
"""What a killed run's summary must share with that of a run in peace."""


def kill(
    train: tuple[str, ...],
    path: Path,
    kills: int,
    generator: np.random.Generator,
    stop: threading.Event | None = None,
) -> list[str]:
    """Starts, kills and resumes a run, then lets it end; the newest checkpoint after each kill.

    Raises:
        ValueError: The run fails, or `stop` is set.
    """
    left: list[str] = []
    command = [sys.executable, "-m", "vantage.scripts.main", *train, "--logdir", str(path)]
    while len(left) < kills:
        with tempfile.TemporaryFile("w+") as said:
            if stop is not None and stop.is_set():
                raise ValueError(
                    "A measurement must not be stopped. Received: a signal. Repeat it."
                )
            with running([*command, "--resume"], stdout=said, stderr=said) as process:
                before = _newest(path)
                while process.poll() is None and _newest(path) == before:  # it does not train yet
                    time.sleep(0.01)
                time.sleep(generator.uniform(0.0, 0.5))
                process.kill()
                process.wait()
            said.seek(0)
            if process.returncode > 0:
                raise ValueError(f"`{' '.join(command)}` must succeed. Received: {said.read()}")
        if process.returncode == 0:
            return left  # it was faster
        left.append(_newest(path))
    run_vantage(*train, "--logdir", str(path), "--resume")
    return left


def _newest(path: Path) -> str:
    newest = newest_checkpoint(path)
    return "" if newest is None else newest.name
