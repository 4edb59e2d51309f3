"""The command `vantage benchmark`: tables of seeds, and speed compared with a peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from vantage.agents.configs.presets import PRESETS
from vantage.scripts.benchmarks import floor, kills, results, speed
from vantage.scripts.benchmarks.processes import check_peer, run_peer, run_vantage
from vantage.scripts.cli.failing import fail
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.fits import comparison as fits
from vantage.scripts.physics import comparison
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir
from vantage.training.storage.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS_FLAGS = ("--seeds", "--logdir", "--help")
USAGE = "usage: vantage benchmark results|seeds|peer|speed|fit|physics|kills [flags]"


@dataclass(frozen=True)
class SeedsFlags:
    """Train and evaluate with several seeds; finished runs are not repeated.

    Put flags of `vantage train` after `--`: benchmark seeds a2c CartPole-v1 -- --no-preset
    """

    algorithm: Annotated[str, tyro.conf.Positional]
    """The algorithm."""
    env_id: Annotated[str, tyro.conf.Positional]
    """The environment."""
    seeds: int = 10
    """Number of seeds, starting from 0."""
    logdir: Path = Path("runs/seeds")
    """Folder of the runs, with one folder per seed."""


@dataclass(frozen=True)
class Setting:
    """Defaults of both sides; the peer's script has its other settings."""

    total_steps: int
    num_envs: int = 8
    n_steps: int | None = None
    env_id: str = "CartPole-v1"
    flags: tuple[str, ...] = ()
    """More flags of ours."""


ZOO_DQN = (
    "--learning-rate",
    "2.3e-3",
    "--lr-schedule",
    "constant",
    "--n-steps",
    "1",
    "--no-double",
)
"""The zoo's settings that our preset changes."""
SETTINGS = {
    "a2c": Setting(300_000, n_steps=5, flags=("--no-preset",)),
    "ppo": Setting(100_000, n_steps=32),
    "dqn": Setting(50_000, num_envs=1, flags=ZOO_DQN),
    "sac": Setting(3_000, num_envs=1, env_id="Pendulum-v1"),
}


@dataclass(frozen=True)
class PeerFlags:
    """Compare the speed of an algorithm with Stable-Baselines3's, in alternating runs.

    a2c has Stable-Baselines3's defaults on CartPole; ppo, dqn (CartPole) and sac (Pendulum) have RL
    Baselines3 Zoo's settings. The peer has its faster of 1 and 2 threads. With sac the command also
    prints how long the matrix products of one of our updates take alone, in NumPy on one thread.
    """

    python: Annotated[Path, tyro.conf.Positional]
    """A Python with stable-baselines3, in its own virtual environment."""
    algorithm: Literal["a2c", "ppo", "dqn", "sac"] = "a2c"
    """The algorithm of both sides."""
    rounds: int = 5
    """Number of alternations."""
    total_steps: int | None = None
    """Environment steps per run (default: a2c 300,000, ppo 100,000, dqn 50,000, sac 3,000)."""
    vectorization: str = "sync"
    """How our environments are stepped; the peer uses its DummyVecEnv."""
    overlap_update: bool = False
    """Our side updates on the other core (not sac)."""
    num_envs: int | None = None
    """Environments stepped together, on both sides (default: a2c and ppo 8, dqn and sac 1)."""
    n_steps: int | None = None
    """Steps per update, on both sides (default: a2c 5, ppo 32; dqn and sac have none)."""
    stop_at_return: float | None = None
    """Stop both sides once the last 100 episodes reach this mean return."""
    logdir: Path = Path("runs/peer")
    """Folder of the runs."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, total_steps=1, num_envs=1, n_steps=1)
        if self.overlap_update and self.algorithm == "sac":
            raise ValueError(
                "overlap_update must be an option of the algorithm. Received: --overlap-update for "
                "sac. Leave it out."
            )
        if self.n_steps is not None and SETTINGS[self.algorithm].n_steps is None:
            raise ValueError(
                "n_steps needs an algorithm with rollouts. Received: "
                f"--n-steps {self.n_steps} for {self.algorithm}. Leave out --n-steps."
            )


def run(arguments: list[str]) -> None:
    """Reads the name of the benchmark, and runs it."""
    benchmarks: dict[str, Callable[[list[str]], None]] = {
        "results": results.run,
        "seeds": _seeds,
        "peer": _peer,
        "speed": speed.run,
        "fit": fits.run,
        "physics": comparison.run,
        "kills": kills.run,
    }
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        say(f"{USAGE}\n\nresults: {results.ResultsFlags.__doc__}")
        say(f"seeds: {SeedsFlags.__doc__}\npeer: {PeerFlags.__doc__}")
        say(f"speed: {speed.SpeedFlags.__doc__}\nfit: {fits.FitFlags.__doc__}")
        say(f"physics: {comparison.PhysicsFlags.__doc__}")
        say(f"kills: {kills.KillsFlags.__doc__}")
    elif name in benchmarks:
        benchmarks[name](arguments[1:])
    else:
        fail(f"The benchmark must be one of {', '.join(benchmarks)}. Received: {name!r}. {USAGE}")


def _seeds(arguments: list[str]) -> None:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    unknown = [word for word in arguments[:cut] if word.startswith("--")]
    unknown = [word for word in unknown if word.split("=")[0] not in SEEDS_FLAGS]
    if unknown:
        fail(
            "Flags of `vantage train` must come after --. Received: "
            f"{' '.join(unknown):.200} before it. Write: vantage benchmark seeds ALGO ENV_ID -- "
            f"{unknown[0]} …"
        )
    flags = parse(SeedsFlags, arguments[:cut], prog="vantage benchmark seeds")
    extra = arguments[cut + 1 :]
    rows = []
    for seed in range(flags.seeds):
        folder = flags.logdir / f"seed-{seed}"
        if not results.is_trained(folder):
            train = ("train", flags.algorithm, flags.env_id, *extra)
            run_vantage(*train, "--seed", str(seed), "--logdir", str(folder), "--resume")
        if not (folder / "evaluation.json").exists():
            run_vantage("evaluate", str(folder), "--env", flags.env_id)
        rows.append(read_json(folder / "summary.json") | read_json(folder / "evaluation.json"))
        say(f"seed {seed}: {_row(rows[-1])}")
    say(_table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    """The runs in Markdown, and their means; with the steps until solved if any run was solved."""
    steps = [row["solved_at_steps"] or np.inf for row in rows]
    is_solved = np.isfinite(steps)
    head = "solved at step" if is_solved.any() else "steps"
    lines = [f"| seed | {head} | seconds | evaluation, {rows[0]['episodes']} episodes |"]
    lines.append("|---|---|---|---|")
    for seed, row in enumerate(rows):
        step = row["solved_at_steps"] if is_solved.any() else row["env_steps"]
        cells = (seed, f"{step:,}" if step else "not solved", f"{row['seconds']:.1f}")
        lines.append(f"| {' | '.join(map(str, cells))} | {row['mean']:.1f} ± {row['std']:.1f} |")
    seconds = np.median([row["seconds"] for row in rows])
    means = [row["mean"] for row in rows]
    lines.append(
        f"evaluation: mean of the seeds {np.mean(means):.1f}, worst {min(means):.1f}; "
        f"seconds: median {seconds:.2f}"
    )
    if is_solved.any():
        low, high = median_interval(steps)
        lines.append(
            f"solved: {is_solved.sum()} of {len(rows)}; steps to solved: median "
            f"{np.median(steps):,.0f}, 95 % interval [{low:,.0f}, {high:,.0f}]"
        )
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    solved = f"solved at {row['solved_at_steps']} steps, " if row["solved_at_steps"] else ""
    return f"{solved}{row['seconds']:.1f} s, evaluation {row['mean']:.1f}"


def _peer(arguments: list[str]) -> None:
    flags = parse(PeerFlags, arguments, prog="vantage benchmark peer")
    check_peer(flags.python)
    setting = SETTINGS[flags.algorithm]
    total_steps = flags.total_steps or setting.total_steps
    shared: dict[str, Any] = {
        "num-envs": flags.num_envs or setting.num_envs,
        "n-steps": flags.n_steps or setting.n_steps,
        "total-steps": total_steps,
        "stop-at-return": flags.stop_at_return,
    }
    shared = {name: value for name, value in shared.items() if value is not None}
    words = [word for name, value in shared.items() for word in (f"--{name}", str(value))]
    peer = ("--algorithm", flags.algorithm, "--env-id", setting.env_id, *words)
    name = f"{flags.algorithm}-{flags.vectorization}" + "-overlap" * flags.overlap_update
    folders = [flags.logdir / f"{name}-{seed}" for seed in range(flags.rounds)]
    for folder in folders:
        check_logdir(folder)
    threads = _faster_threads(flags.python, peer, total_steps)
    rounds = []
    for seed, folder in enumerate(folders):
        ours = ("train", flags.algorithm, setting.env_id, *setting.flags, "--seed", str(seed))
        stop = () if "stop-at-return" in shared else ("--stop-at-return", "None")
        overlap = ("--overlap-update",) if flags.overlap_update else ()
        ours += (*words, *stop, *overlap, "--vectorization", flags.vectorization)
        run_vantage(*ours, "--logdir", str(folder))
        mine = read_json(folder / "summary.json")
        seeded = ("--seed", str(seed), "--threads", str(threads))
        theirs = run_peer(flags.python, *peer, *seeded).json()
        rounds.append({"ours": mine, "peer": theirs})
        ratio = mine["steps_per_second"] / theirs["steps_per_second"]
        say(
            f"round {seed}: {mine['steps_per_second']:,.0f} against "
            f"{theirs['steps_per_second']:,.0f} steps/s, ratio {ratio:.2f}",
        )
    ratios = [r["ours"]["steps_per_second"] / r["peer"]["steps_per_second"] for r in rounds]
    say(f"steps/s, ours ÷ Stable-Baselines3's: median of pairwise ratios {np.median(ratios):.2f}")
    if flags.stop_at_return is not None:
        for who in ("ours", "peer"):
            steps = [r[who]["solved_at_steps"] or np.inf for r in rounds]
            low, high = median_interval(steps)
            say(
                f"steps to solved, {who}: median {np.median(steps):,.0f}, 95 % interval "
                f"[{low:,.0f}, {high:,.0f}], solved {np.isfinite(steps).sum()} of {len(steps)}"
            )
    record: dict[str, Any] = {"algorithm": flags.algorithm, "threads": threads, "rounds": rounds}
    if flags.algorithm == "sac":
        record["floor"] = _floor([r["ours"] for r in rounds])
    write_json(flags.logdir / "peer.json", {**record, "median_ratio": np.median(ratios)})


def _floor(summaries: list[dict[str, Any]]) -> dict[str, float]:
    """Prints the milliseconds of an update of SAC in training, and of its matrix products alone."""
    each = [1e3 * summary["seconds"] / summary["updates"] for summary in summaries]
    config = PRESETS["sac", "Pendulum-v1"].config
    products = floor.products_of_sac(3, 1, config.net_arch, config.batch_size)
    update, least = float(np.median(each)), 1e3 * floor.seconds_of(products)
    say(
        f"an update of ours: {update:.2f} ms with all around it, of which its "
        f"{len(products)} matrix products alone, in NumPy on one thread: {least:.2f} ms"
    )
    return {"update_ms": update, "products_ms": least}


def _faster_threads(python: Path, peer: tuple[str, ...], total_steps: int) -> int:
    """The peer's faster number of threads, 1 or 2, measured by short alternating runs.

    The faster of two runs counts for each number: other work on the machine only slows runs down.
    """
    short = ("--total-steps", str(max(total_steps // 4, 1)), "--stop-at-return", "inf")
    rates = {1: 0.0, 2: 0.0}
    for threads in (1, 2, 2, 1):
        run = run_peer(python, *peer, *short, "--threads", str(threads)).json()
        rates[threads] = max(rates[threads], run["steps_per_second"])
    faster = max(rates, key=lambda threads: rates[threads])
    say(
        f"threads of the peer: {faster} ({rates[1]:,.0f} steps/s with 1, {rates[2]:,.0f} with 2)",
    )
    return faster


def median_interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """A 95 % percentile-bootstrap interval of the median (Efron 1979)."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(values, (draws, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5], method="nearest")
    return float(low), float(high)
