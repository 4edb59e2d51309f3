"""The command `vantage benchmark`: tables of seeds, and speed in alternation with a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from vantage.scripts import kills, results, speed
from vantage.scripts.flags import fail, parse
from vantage.scripts.processes import check_peer, run_peer, run_vantage
from vantage.training.files import read_json, write_json

USAGE = "usage: vantage benchmark results|seeds|peer|speed|kills [flags]"


@dataclass(frozen=True)
class SeedsFlags:
    """Train and evaluate from several seeds; what is finished is not run again.

    Flags of `vantage train` go behind `--`: benchmark seeds a2c CartPole-v1 -- --no-preset
    """

    algorithm: Annotated[str, tyro.conf.Positional]
    """The algorithm."""
    env_id: Annotated[str, tyro.conf.Positional]
    """The environment."""
    seeds: int = 10
    """How many, from 0."""
    logdir: Path = Path("runs/seeds")
    """Where the runs go, one folder a seed."""


@dataclass(frozen=True)
class PeerFlags:
    """A2C at Stable-Baselines3's setting, in alternation with it."""

    python: Annotated[Path, tyro.conf.Positional]
    """A Python with stable-baselines3 in an environment of its own."""
    rounds: int = 5
    """Alternations."""
    total_steps: int = 300_000
    """Environment steps of a run."""
    vectorization: str = "sync"
    """Of ours; the peer's is its DummyVecEnv."""
    num_envs: int = 8
    """Environments stepped together, of both."""
    n_steps: int = 5
    """Steps per update, of both."""
    stop_at_return: float | None = None
    """Let both stop once the last 100 episodes reach it."""
    logdir: Path = Path("runs/peer")
    """Where the runs go."""


def run(arguments: list[str]) -> None:
    """Reads which benchmark, and runs it."""
    benchmarks: dict[str, Callable[[list[str]], None]] = {
        "results": results.run,
        "seeds": _seeds,
        "peer": _peer,
        "speed": speed.run,
        "kills": kills.run,
    }
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(f"{USAGE}\n\nresults: {results.ResultsFlags.__doc__}")
        print(f"seeds: {SeedsFlags.__doc__}\npeer: {PeerFlags.__doc__}")
        print(f"speed: {speed.SpeedFlags.__doc__}\nkills: {kills.KillsFlags.__doc__}")
    elif name in benchmarks:
        benchmarks[name](arguments[1:])
    else:
        fail(f"The benchmark must be one of {', '.join(benchmarks)}. Received: {name!r}. {USAGE}")


def _seeds(arguments: list[str]) -> None:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parse(SeedsFlags, arguments[:cut], prog="vantage benchmark seeds")
    extra = arguments[cut + 1 :]
    rows = []
    for seed in range(flags.seeds):
        folder = flags.logdir / f"seed-{seed}"
        if not (folder / "summary.json").exists():
            train = ("train", flags.algorithm, flags.env_id, *extra)
            run_vantage(*train, "--seed", str(seed), "--logdir", str(folder))
        if not (folder / "evaluation.json").exists():
            run_vantage("evaluate", str(folder), "--env", flags.env_id)
        rows.append(read_json(folder / "summary.json") | read_json(folder / "evaluation.json"))
        print(f"seed {seed}: {_row(rows[-1])}", flush=True)
    print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    """The runs in Markdown, and what they come to; when they were solved, if any was."""
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
    shared: dict[str, float] = {"num-envs": flags.num_envs, "n-steps": flags.n_steps}
    shared |= {"total-steps": flags.total_steps}
    if flags.stop_at_return is not None:
        shared |= {"stop-at-return": flags.stop_at_return}
    words = [word for name, value in shared.items() for word in (f"--{name}", str(value))]
    rounds = []
    for seed in range(flags.rounds):
        folder = flags.logdir / f"{flags.vectorization}-{seed}"
        ours = ("train", "a2c", "CartPole-v1", "--no-preset", "--seed", str(seed), *words)
        run_vantage(*ours, "--vectorization", flags.vectorization, "--logdir", str(folder))
        mine = read_json(folder / "summary.json")
        theirs = run_peer(flags.python, "--seed", str(seed), *words).json()
        rounds.append({"ours": mine, "peer": theirs})
        ratio = mine["steps_per_second"] / theirs["steps_per_second"]
        print(
            f"round {seed}: {mine['steps_per_second']:,.0f} against "
            f"{theirs['steps_per_second']:,.0f} steps/s, ratio {ratio:.2f}",
            flush=True,
        )
    ratios = [r["ours"]["steps_per_second"] / r["peer"]["steps_per_second"] for r in rounds]
    print(f"steps/s, ours ÷ Stable-Baselines3's: median of pairwise ratios {np.median(ratios):.2f}")
    if flags.stop_at_return is not None:
        for who in ("ours", "peer"):
            steps = [r[who]["solved_at_steps"] or np.inf for r in rounds]
            low, high = median_interval(steps)
            print(
                f"steps to solved, {who}: median {np.median(steps):,.0f}, 95 % interval "
                f"[{low:,.0f}, {high:,.0f}], solved {np.isfinite(steps).sum()} of {len(steps)}"
            )
    write_json(flags.logdir / "peer.json", {"rounds": rounds, "median_ratio": np.median(ratios)})


def median_interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """A 95 % percentile-bootstrap interval of the median (Efron 1979)."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(values, (draws, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5], method="nearest")
    return float(low), float(high)
