"""The command `vantage benchmark speed PEER_PYTHON`: the figures of docs/benchmarks.md.

Every experiment below is one round of its rows: the two sides run one after the other, each in
its own process, and rounds alternate between them. A round returns its raw numbers and one figure
per row; the table has medians over the rounds.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vantage.scripts.benchmarks.figures import Figure, shown, summarised, table
from vantage.scripts.benchmarks.processes import (
    Finished,
    check_peer,
    run_measurement,
    run_peer,
    run_process,
    run_vantage,
)
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir
from vantage.training.storage.checkpoint import versions
from vantage.training.storage.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

TOTAL_STEPS = 300_000  # of the runs of sync and native
SCALES = {1: 3_000, 8: 3_000, 64: 3_000, 256: 1_000, 1_024: 1_000}  # environments: updates
IMAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ppo-images": (
        ("--num-envs", "8", "--n-steps", "64", "--total-steps", "8192"),
        ("--batch-size", "128", "--n-epochs", "4"),
    ),
    "dqn-images": (
        ("--num-envs", "1", "--total-steps", "6000"),
        (
            *("--batch-size", "32", "--buffer-size", "10000", "--learning-starts", "500"),
            *("--target-update-interval", "1000", "--train-freq", "4", "--gradient-steps", "1"),
        ),
    ),
}
"""Flags of both sides for a run on images, and flags of ours only: the peer's script has them."""


@dataclass(frozen=True)
class SpeedFlags:
    """Compare our speed with the peer's and with eager loops; writes speed.json."""

    python: Annotated[Path, tyro.conf.Positional]
    """A Python with stable-baselines3, in its own virtual environment."""
    rounds: int = 5
    """Alternations."""
    only: tuple[str, ...] = ()
    """Names of the rows to measure (default: all)."""
    logdir: Path = Path("runs/speed")
    """Folder of speed.json and the runs, new or empty."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)
        unknown = [name for name in self.only if name not in NAMES]
        if unknown:
            raise ValueError(
                f"--only must be names of rows. Received: {' '.join(unknown)}. "
                f"Choose among {', '.join(NAMES)}"
            )


@dataclass(frozen=True)
class Round:
    """One round of the experiments."""

    python: Path
    """The peer's."""
    seed: int
    """Seed of its runs, and its number."""
    folder: Path
    """Folder of its runs."""
    rows: tuple[str, ...]
    """Rows to measure."""

    def train(self, name: str, *arguments: str) -> tuple[Finished, dict[str, Any]]:
        """Runs `vantage train a2c CartPole-v1`; returns the process and the summary."""
        folder = self.folder / f"{name}-{self.seed}"
        common = ("--seed", str(self.seed), "--logdir", str(folder))
        done = run_vantage("train", "a2c", "CartPole-v1", *arguments, *common)
        return done, read_json(folder / "summary.json")

    def train_peer(self, *arguments: str) -> tuple[Finished, dict[str, Any]]:
        """Runs the peer's A2C on CartPole-v1 with its defaults; the process and the summary."""
        done = run_peer(self.python, "--seed", str(self.seed), *arguments)
        return done, done.json()


Result = tuple[dict[str, Any], list[Figure]]


def run(arguments: list[str]) -> None:
    """Reads the flags, measures, prints the tables and writes speed.json."""
    flags = parse(SpeedFlags, arguments, prog="vantage benchmark speed")
    check_logdir(flags.logdir)
    chosen = tuple(name for name in NAMES if name in flags.only or not flags.only)
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
        "versions": {**versions(), **check_peer(flags.python)},
    }
    flags.logdir.mkdir(parents=True, exist_ok=True)
    raw: dict[str, list[Any]] = {}
    rows: list[dict[str, Any]] = []
    for experiment, names in EXPERIMENTS.items():
        if not set(names) & set(chosen):
            continue
        rounds = []
        for seed in range(flags.rounds):
            values, figures = experiment(Round(flags.python, seed, flags.logdir, chosen))
            rounds.append([figure for figure in figures if figure.row in chosen])
            raw.setdefault(experiment.__name__, []).append(values)
            for figure in rounds[-1]:
                value = shown(figure.value, figure.unit)
                say(f"{figure.row}, round {seed}: {figure.what}: {value}")
        rows += [summarised(figures) for figures in zip(*rounds, strict=True)]
        write_json(flags.logdir / "speed.json", {"machine": machine, "rows": rows, "raw": raw})
    say(f"\n{table(rows)}\n\n{flags.logdir / 'speed.json'}")


def rates(this: Round) -> Result:
    """Equal hyperparameters, with curves and compilation; one run of the peer for both rows."""
    size = ("--num-envs", "8", "--n-steps", "5", "--total-steps", str(TOTAL_STEPS))
    raw: dict[str, Any] = {}
    for name in ("sync", "native"):
        if name in this.rows:
            ours = ("--no-preset", *size, "--vectorization", name)
            _, raw[name] = this.train(name, *ours)
            _, raw[f"{name}, overlap_update"] = this.train(f"{name}-ov", *ours, "--overlap-update")
    _, theirs = this.train_peer(*size)
    figures = []
    for name, values in raw.items():
        vectorization, _, option = name.partition(", ")
        figures.append(
            Figure(
                vectorization,
                f"8 {vectorization} environments × 5 steps{option and f', {option}'}: steps/s ÷ "
                "Stable-Baselines3's",
                values["steps_per_second"] / theirs["steps_per_second"],
                asked={"sync": ">= 4", "native": ">= 5"}[vectorization],
            )
        )
    return {**raw, "peer": theirs}, figures


def solve(this: Round) -> Result:
    """Time until solved, each with its best shipped setting; an unsolved run counts as 0 ×."""
    process, ours = this.train("solve")
    stop = ("--total-steps", "500000", "--stop-at-return", "475")
    their_process, theirs = this.train_peer(*stop)
    seconds, steps = ours["solved_at_seconds"], ours["solved_at_steps"]
    their_seconds = theirs["solved_at_seconds"] or theirs["seconds"]  # at least
    whole = their_process.seconds / process.seconds
    what = "CartPole-v1 to solved:"
    return {
        "ours": ours,
        "peer": theirs,
        "seconds_of_process": {"ours": process.seconds, "peer": their_process.seconds},
    }, [
        Figure(
            "solve",
            f"{what} Stable-Baselines3's seconds ÷ ours",
            their_seconds / seconds if seconds else 0.0,
            asked=">= 8",
        ),
        Figure("solve", f"{what} our seconds", seconds or ours["seconds"], "s"),
        Figure("solve", f"{what} our steps", steps or ours["env_steps"], "steps"),
        Figure("solve", f"{what} Stable-Baselines3's seconds", their_seconds, "s"),
        Figure("solve", f"{what} Stable-Baselines3's steps", theirs["env_steps"], "steps"),
        Figure(
            "process",
            f"{what} the same from process start to exit",
            whole if seconds else 0.0,
            asked=">= 3",
        ),
        Figure("process", f"{what} our process", process.seconds, "s"),
        Figure("process", f"{what} Stable-Baselines3's process", their_process.seconds, "s"),
    ]


def large(this: Round) -> Result:
    """One size in two processes: a training run, and its parts separately."""
    size = {"num_envs": 512, "n_steps": 32}
    whole = run_measurement("training", vectorization="native", updates=400, **size)
    parts = run_measurement("micro", updates=50, **size)
    alone = 512 * 32 / (32 * (parts["act"] + parts["native"]) + parts["update"])
    rate, what = whole["steps_per_second"], "512 native environments × 32 steps:"
    return {"training": whole, "micro": parts}, [
        Figure("large", f"{what} steady rate", rate, "steps/s", ">= 500000"),
        Figure(
            "large", f"{what} ÷ the rate of act + step + update alone", rate / alone, "×", ">= 0.8"
        ),
        Figure("large", f"{what} total rate", whole["total_steps_per_second"], "steps/s"),
        Figure("large", f"{what} rate of act + step + update alone", alone, "steps/s"),
    ]


def overhead(this: Round) -> Result:
    """The time of training by part, with 8 environments × 5 steps."""
    raw, figures = {}, []
    for name, updates in (("sync", 4_000), ("native", 6_000)):
        raw[name] = values = run_measurement(
            "training", vectorization=name, num_envs=8, n_steps=5, updates=updates
        )
        what = f"8 {name} environments × 5 steps:"
        outside = f"{what} outside act, step, advantages, update"
        figures.append(Figure("overhead", outside, values["overhead"], "%", "<= 10"))
        for part in ("act", "environments", "storing", "advantages", "update"):
            figures.append(Figure("overhead", f"{what} {part}", values[part], "%"))
    return raw, figures


def update(this: Round) -> Result:
    """A bare update; the peer has the faster of one and two threads."""
    ours = run_measurement("micro", num_envs=40, n_steps=1, updates=2_000)["update"]
    theirs = [
        run_peer(this.python, "--threads", threads, "--batch", "40", script="peer_torch.py").json()
        for threads in ("1", "2")
    ]
    faster = min(each["seconds"] for each in theirs)
    what = "bare update, batch 40:"
    return {"ours": ours, "peer": theirs}, [
        Figure("update", f"{what} PyTorch's seconds ÷ ours", faster / ours, asked=">= 1.6"),
        Figure("update", f"{what} ours", 1e6 * ours, "µs"),
        Figure("update", f"{what} PyTorch", 1e6 * faster, "µs"),
    ]


def memory(this: Round) -> Result:
    """Peak resident memory of the process."""
    process, _ = this.train("memory")
    bare = run_process(sys.executable, "-c", "import tensorflow")
    ratio = process.peak / bare.peak
    return {"ours": process.peak, "tensorflow": bare.peak}, [
        Figure("memory", "peak memory ÷ that of `import tensorflow`", ratio, asked="<= 1.3"),
        Figure("memory", "peak memory of `vantage train a2c CartPole-v1`", process.peak, "MB"),
        Figure("memory", "peak memory of `import tensorflow`", bare.peak, "MB"),
    ]


def regression(this: Round) -> Result:
    """1,000 epochs of the target range, each on all 1,000 examples."""
    ours = run_measurement("regression", epochs=1_000)
    eager = run_measurement("regression_by_hand", epochs=1_000, compiled=False)
    compiled = run_measurement("regression_by_hand", epochs=1_000, compiled=True)
    return {"ours": ours, "eager": eager, "compiled": compiled}, [
        *_beside_hand("regression", "1,000 full-batch epochs:", ours, eager, compiled, 1_000),
        Figure("regression", "1,000 full-batch epochs: eager loop", eager["seconds"], "s"),
    ]


def gan(this: Round) -> Result:
    """A GAN of 784 pixels with batches of 64."""
    ours = run_measurement("gan", steps=2_000)
    eager = run_measurement("gan_by_hand", steps=200, compiled=False)
    compiled = run_measurement("gan_by_hand", steps=2_000, compiled=True)
    what = "GAN of 784 pixels, batch 64:"
    return {"ours": ours, "eager": eager, "compiled": compiled}, [
        *_beside_hand("gan", what, ours, eager, compiled, 15),
        Figure("gan", f"{what} eager loop", 1e3 * eager["seconds"], "ms"),
    ]


def _beside_hand(row: str, what: str, ours, eager, compiled, bound: int) -> list[Figure]:
    """The eager loop's time ÷ ours, beside the same loop compiled by hand."""
    own, hand = ours["seconds"], compiled["seconds"]
    ratio, floor = eager["seconds"] / own, eager["seconds"] / hand
    return [
        Figure(row, f"{what} eager loop's time ÷ ours", ratio, asked=f">= {bound}"),
        Figure(row, f"{what} eager loop's time ÷ the same loop's, compiled by hand", floor),
        Figure(row, f"{what} ours", 1e3 * own, "ms"),
        Figure(row, f"{what} the loop compiled by hand", 1e3 * hand, "ms"),
        Figure(row, f"{what} ours, compilation", ours["compile_seconds"], "s"),
    ]


def lbfgs(this: Round) -> Result:
    """A network of 2,017 parameters and Rosenbrock's function of 100, both to their minimum."""
    raw: dict[str, Any] = {}
    figures = []
    for name, updates in (("network", 700), ("rosenbrock", 600)):
        ours = run_measurement("lbfgs", problem=name, updates=updates)
        theirs = run_measurement("lbfgs_by_scipy", problem=name)
        ends = [min(each["losses"]) for each in (ours, theirs)]
        counts = [
            next(
                n
                for n, loss in zip(each.pop("evaluations"), each.pop("losses"), strict=True)
                if loss <= max(ends) + 1e-6
            )
            for each in (ours, theirs)
        ]
        raw[name] = {"ours": ours, "scipy": theirs, "losses": ends, "evaluations": counts}
        what, ratio = f"L-BFGS, {name}:", ours["seconds"] / theirs["seconds"]
        figures += [
            Figure("lbfgs", f"{what} time ÷ that of SciPy driving Keras", ratio, asked="<= 0.3"),
            Figure("lbfgs", f"{what} evaluations ÷ SciPy's", counts[0] / counts[1], "×", "<= 1.2"),
            Figure("lbfgs", f"{what} loss − SciPy's", ends[0] - ends[1], "", "<= 1e-6"),
            Figure("lbfgs", f"{what} ours", 1e3 * ours["seconds"], "ms"),
            Figure("lbfgs", f"{what} SciPy", 1e3 * theirs["seconds"], "ms"),
            Figure("lbfgs", f"{what} ours, compilation", ours["compile_seconds"], "s"),
        ]
    return raw, figures


def growth(this: Round) -> Result:
    """Memory over 10⁶ steps, and whether anything was traced again."""
    raw = run_measurement("growth", num_envs=8, n_steps=5, total_steps=1_000_000)
    what = "10⁶ steps:"
    return raw, [
        Figure("growth", f"{what} memory per 10⁵ steps", raw["slope"], "MB", "<= 1"),
        Figure("growth", f"{what} most traces of a function", raw["traces"], "", "<= 1"),
        Figure("growth", f"{what} compiled functions", raw["functions"], ""),
    ]


def saving(this: Round) -> Result:
    """Time and size of checkpoints, of a small and of a large network."""
    raw: dict[str, Any] = {}
    figures = []
    for width in (64, 512):
        raw[str(width)] = one = run_measurement("saving", net_arch=[width, width], saves=50)
        what = f"checkpoint of two {width} × {width} networks:"
        cost = 100 * one["seconds"] / 10
        figures += [
            Figure("saving", f"{what} every 10 s, of the time", cost, "%", "<= 2"),
            Figure("saving", f"{what} time of a save", 1e3 * one["seconds"], "ms"),
            Figure("saving", f"{what} size", one["bytes"] / 1e3, "kB"),
        ]
    return raw, figures


def watching(this: Round) -> Result:
    """The cost in steps/s and the size of what a run writes by default, without videos."""
    raw: dict[str, Any] = {}
    figures = []
    for num_envs, n_steps, steps, bound in ((8, 5, 200_000, 5), (64, 16, 1_000_000, 2)):
        what = f"{num_envs} sync × {n_steps}:"
        size = {"num_envs": num_envs, "n_steps": n_steps, "total_steps": steps}
        raw[what] = one = run_measurement("watching", **size, pairs=3)
        cost, inside, megabytes = 100 * one["cost"], 100 * one["inside"], one["bytes"] / 1e6
        figures += [
            Figure(
                "watching", f"{what} steps/s lost to the run's folder", cost, "%", f"<= {bound}"
            ),
            Figure("watching", f"{what} time inside the calls that write it", inside, "%"),
            Figure("watching", f"{what} event file after {steps:,} steps", megabytes, "MB"),
        ]
    return raw, figures


def micro(this: Round) -> Result:
    """The parts of A2C, each measured alone in a loop."""
    raw, figures = {}, []
    for num_envs, n_steps, updates in ((8, 5, 1_000), (512, 32, 50)):
        size = f"{num_envs} environments × {n_steps} steps"
        raw[size] = run_measurement("micro", num_envs=num_envs, n_steps=n_steps, updates=updates)
        for name, seconds in raw[size].items():
            what = f"{name} environments' step" if name in ("sync", "native") else name
            figures.append(Figure("micro", f"{size}: {what}", 1e6 * seconds, "µs"))
    return raw, figures


def images(this: Round) -> Result:
    """Images of 84 × 84 × 4 through the Nature network, equal hyperparameters, on all cores."""
    raw: dict[str, Any] = {}
    figures = []
    for row, (size, settings) in IMAGES.items():
        if row not in this.rows:
            continue
        algorithm = row.partition("-")[0]
        folder = this.folder / f"{row}-{this.seed}"
        flags = ("--seed", str(this.seed), "--logdir", str(folder), *size, *settings)
        screens = "vantage.scripts.benchmarks.screens"
        run_vantage("train", algorithm, f"{screens}:vantage/Screens-v0", *flags)
        ours = read_json(folder / "summary.json")["steps_per_second"]
        threads = ("--threads", str(os.cpu_count()))
        theirs = this.train_peer("--algorithm", row, *size, *threads)[1]["steps_per_second"]
        raw[row] = {"ours": ours, "peer": theirs}
        what = f"{algorithm} on 84 × 84 × 4:"
        figures += [
            Figure(row, f"{what} ours ÷ Stable-Baselines3's", ours / theirs, asked=">= 1"),
            Figure(row, f"{what} ours", ours, "steps/s"),
            Figure(row, f"{what} Stable-Baselines3", theirs, "steps/s"),
        ]
    return raw, figures


def scaling(this: Round) -> Result:
    """Steady rates by number of native environments; the peer's where it is fast enough."""
    raw: dict[str, Any] = {}
    figures = []
    for num_envs, updates in SCALES.items():
        what = f"native environments × 5 steps: {num_envs:,}"
        size = {"num_envs": num_envs, "n_steps": 5, "updates": updates}
        ours = run_measurement("training", vectorization="native", **size)["steps_per_second"]
        raw[str(num_envs)] = {"ours": ours}
        figures.append(Figure("scaling", f"{what}, ours", ours, "steps/s"))
        if num_envs <= 64:
            words = ("--num-envs", str(num_envs), "--total-steps", str(num_envs * 5_000))
            theirs = this.train_peer(*words)[1]["steps_per_second"]
            raw[str(num_envs)]["peer"] = theirs
            figures.append(Figure("scaling", f"{what}, Stable-Baselines3", theirs, "steps/s"))
            figures.append(Figure("scaling", f"{what}, ours ÷ theirs", ours / theirs))
    return raw, figures


EXPERIMENTS: dict[Callable[[Round], Result], tuple[str, ...]] = {
    rates: ("sync", "native"),
    solve: ("solve", "process"),
    large: ("large",),
    overhead: ("overhead",),
    update: ("update",),
    memory: ("memory",),
    regression: ("regression",),
    gan: ("gan",),
    lbfgs: ("lbfgs",),
    growth: ("growth",),
    saving: ("saving",),
    watching: ("watching",),
    micro: ("micro",),
    scaling: ("scaling",),
    images: ("ppo-images", "dqn-images"),
}
NAMES = tuple(name for names in EXPERIMENTS.values() for name in names)
