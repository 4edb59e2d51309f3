"""The command `vantage benchmark physics PEER_PYTHON`: a differential equation, beside DeepXDE.

Both sides solve the heat equation u_t = 0.4 u_xx by a network with the same points, initial weights
and schedule of Adam, one after the other, each in its own process. A round has its own points and
weights, in a file that both read.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from vantage.scripts.benchmarks.processes import run_process
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir
from vantage.training.storage.files import write_json

SIZES = (2, 20, 20, 20, 1)
ALPHA, WANTED, RATE = 0.4, 1e-2, 1e-2
MOST, EVERY = 3_000, 100  # updates, of which every 100th is followed by a measurement


@dataclass(frozen=True)
class PhysicsFlags:
    """Compare the time to solve the heat equation to 1 % with DeepXDE's, in alternating runs.

    Both sides have the same points, initial weights, Adam and schedule. The peer has its faster of
    1 and 2 threads. Our time includes compilation.
    """

    python: Annotated[Path, tyro.conf.Positional]
    """A Python with deepxde and torch, in its own virtual environment."""
    rounds: int = 5
    """Number of alternations."""
    logdir: Path = Path("runs/physics")
    """Folder of physics.json and the points, new or empty."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)


def problem(seed: int) -> dict[str, Any]:
    """Points, values, initial weights (Glorot uniform) and settings of one round."""
    generator = np.random.default_rng(seed)
    inside, edge = generator.uniform(size=(1_000, 2)), generator.uniform(size=(240, 2))
    edge[:80, 0], edge[80:160, 0], edge[160:, 1] = 0, 1, 0  # (x, t)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 50)]), 2).reshape(-1, 2)
    arrays = {"inside": inside, "edge": edge, "grid": grid}
    arrays |= {"values": solution(edge), "solution": solution(grid)}
    layers = 0
    for fan_in, fan_out in itertools.pairwise(SIZES):
        bound = np.sqrt(6 / (fan_in + fan_out))
        for array in (generator.uniform(-bound, bound, (fan_in, fan_out)), np.zeros(fan_out)):
            arrays[f"weight_{layers}"] = array
            layers += 1
    settings = {"alpha": ALPHA, "wanted": WANTED, "rate": RATE, "most": MOST, "every": EVERY}
    arrays |= {name: np.array(value) for name, value in {**settings, "layers": layers}.items()}
    whole = ("most", "every", "layers")
    return {k: array if k in whole else array.astype(np.float32) for k, array in arrays.items()}


def solution(points: np.ndarray) -> np.ndarray:
    """exp(−0.4π²t)·sin(πx) at points `[B, 2]`, (x, t)."""
    return np.exp(-ALPHA * np.pi**2 * points[:, 1:]) * np.sin(np.pi * points[:, :1])


def run(arguments: list[str]) -> None:
    """Reads the flags, measures, and writes physics.json."""
    flags = parse(PhysicsFlags, arguments, prog="vantage benchmark physics")
    peer_versions = check_peer(flags.python)
    check_logdir(flags.logdir)
    flags.logdir.mkdir(parents=True, exist_ok=True)
    rounds: list[dict[str, Any]] = []
    threads = 0
    for seed in range(flags.rounds):
        file = flags.logdir / f"round-{seed}.npz"
        np.savez(file, **problem(seed))
        ours = _ours(file)
        threads = threads or _faster_threads(flags.python, file)
        theirs = _peer(flags.python, file, threads)
        rounds.append({"ours": ours, "peer": theirs})
        say(f"round {seed}: ours {_shown(ours)}; DeepXDE {_shown(theirs)}")
    reached = [r["ours"]["error"] < WANTED for r in rounds]
    record: dict[str, Any] = {"rounds": rounds, "versions": peer_versions}
    for what in ("seconds", "processor_seconds"):  # other work on the machine blurs the first more
        ratios = [each["peer"][what] / each["ours"][what] for each in rounds]
        record[what] = float(np.median(ratios))
        say(
            f"DeepXDE's {what.replace('_', ' ')} ÷ ours: median of pairwise ratios "
            f"{record[what]:.2f}, from {min(ratios):.2f} to {max(ratios):.2f}"
        )
    say(f"{sum(reached)} of {len(rounds)} rounds of ours reached {WANTED:.0%}")
    write_json(flags.logdir / "physics.json", record)


def _ours(file: Path) -> dict[str, Any]:
    return run_process(sys.executable, "-m", "vantage.scripts.physics.solving", str(file)).json()


def _peer(python: Path, file: Path, threads: int, *more: str) -> dict[str, Any]:
    script = Path(__file__).with_name("peer_deepxde.py")
    words = (str(file), "--threads", str(threads), *more)
    return run_process(str(python), str(script), *words).json()


def _faster_threads(python: Path, file: Path) -> int:
    """The peer's faster number of threads, 1 or 2, by the faster of two runs of 300 updates."""
    seconds = {1: np.inf, 2: np.inf}
    for n in (1, 2, 2, 1):
        run = _peer(python, file, n, "--updates", str(3 * EVERY))
        seconds[n] = min(seconds[n], run["seconds"])
    one, two = seconds[1], seconds[2]
    say(f"{3 * EVERY} updates of DeepXDE: {one:.2f} s with 1 thread, {two:.2f} s with 2")
    return min(seconds, key=lambda n: seconds[n])


def _shown(run: dict[str, Any]) -> str:
    compiled = f", of which {run['compile_seconds']:.1f} s" if "compile_seconds" in run else ""
    kind = " before the second call" if compiled else f" with {run.get('threads')} threads"
    return (
        f"{run['seconds']:.1f} s{compiled}{kind}, {run['updates']:,} updates, "
        f"error {run['error']:.2%}"
    )


def check_peer(python: Path) -> dict[str, str]:
    """Refuses a Python without DeepXDE; returns the versions of its packages.

    Raises:
        ValueError: The Python does not exist, or cannot import it.
    """
    code = (
        "import os; os.environ['DDE_BACKEND'] = 'pytorch'; import json, deepxde, torch; "
        "print(json.dumps({'torch': torch.__version__, 'deepxde': deepxde.__version__}))"
    )
    try:
        return json.loads(run_process(str(python), "-c", code).printed.splitlines()[-1])
    except (OSError, ValueError, IndexError):
        raise ValueError(
            f"The peer must be a Python that imports deepxde and torch. Received: {str(python)!r}. "
            "Create one: python3 -m venv peer && peer/bin/pip install torch deepxde, then pass "
            "peer/bin/python."
        ) from None
