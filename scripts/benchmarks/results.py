"""The command `vantage benchmark results`: the declared table, trained, evaluated and rendered.

A run is the folder LOGDIR/ALGO-ENV/seed-S. Beside it, seed-S.log is what its commands printed, and
seed-S.json its result, which is written once all else is done.
"""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vantage.scripts.benchmarks import declared
from vantage.scripts.benchmarks.children import Children, StoppedError
from vantage.scripts.benchmarks.declared import NEEDS, Entry, chosen, listed
from vantage.scripts.cli.flags import fail, parse, require_at_least
from vantage.training.common.console import say
from vantage.training.common.interrupts import Interrupts
from vantage.training.storage.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class ResultsFlags:
    """Train and evaluate the declared table by the presets, and compare it with what is asked.

    What is finished is not run again, what was stopped goes on; a Ctrl-C lets the runs keep what
    they have done. Flags of `vantage train` go behind `--`: benchmark results -- --log-every 100
    """

    only: tuple[str, ...] = ()
    """Algorithms, environments or entries (ALGO-ENV); entries that take days run only if named."""
    seeds: int | None = None
    """Of every entry, from 0 (default: as declared)."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs side by side."""
    logdir: Path = Path("runs/results")
    """Where the runs and their results go, one folder an entry."""
    plots: Path | None = None
    """Draw the learning curves of every environment into this folder."""
    render: bool = False
    """Run nothing, only render what is finished."""
    list: bool = False
    """Only print the declared entries."""

    def __post_init__(self) -> None:
        require_at_least(self, seeds=1, jobs=1)


@dataclass(frozen=True)
class Task:
    """One entry from one seed."""

    entry: Entry
    seed: int
    logdir: Path

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.logdir / self.entry.name / f"seed-{self.seed}"

    @property
    def result(self) -> Path:
        """What is left of it in the end."""
        return self.folder.with_name(f"{self.folder.name}.json")

    def __str__(self) -> str:
        return f"{self.entry.name} seed {self.seed}"


def run(arguments: list[str]) -> None:
    """Reads the flags, runs what is not finished, and prints the table; exit code 1 on failures."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parse(ResultsFlags, arguments[:cut], prog="vantage benchmark results")
    if flags.list:
        say(listed(chosen(declared.TABLE, flags.only, existing=True)))
        return
    entries = chosen(declared.TABLE, flags.only, existing=flags.render)
    _check_extra(["scipy"] + ["matplotlib"] * (flags.plots is not None))
    tasks = [
        Task(entry, seed, flags.logdir)
        for entry in entries
        for seed in range(flags.seeds or entry.seeds)
    ]
    failures: dict[Task, str] = {}
    if not flags.render:
        failures = run_all(tasks, flags.jobs, arguments[cut + 1 :])
    _render(tasks, flags)
    if failures:
        for task, error in failures.items():
            say(f"failed: {task}: {error}", error=True)
        fail(
            f"Every run must end well. Received: {len(failures)} of {len(tasks)} that did not, "
            f"{', '.join(map(str, failures))}. See above and the .log files in {flags.logdir}, "
            "and run the command again: what is finished is kept.",
            code=1,
        )


def _check_extra(modules: Iterable[str]) -> None:
    """Before the runs: hours of them would be in vain."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            "The results must have SciPy for their intervals and matplotlib for their plots. "
            f"Received: an environment without {' and '.join(missing)}. "
            "Install the extra: pip install 'vantage-rl[results]'."
        )


def _render(tasks: list[Task], flags: ResultsFlags) -> None:
    from vantage.scripts.benchmarks import tables
    from vantage.scripts.reading import bands

    finished = [task for task in tasks if task.result.exists()]
    records: dict[Entry, list[dict[str, Any]]] = {}
    folders: dict[str, dict[str, list[Path]]] = {}
    for task in finished:
        entry = task.entry
        records.setdefault(entry, []).append(read_json(task.result))
        folders.setdefault(entry.env_id, {}).setdefault(entry.algorithm, []).append(task.folder)
    if not records:
        say(f"nothing is finished in {flags.logdir}")
        return
    say(tables.table(records))
    if flags.plots is not None:
        for env_id, runs in folders.items():
            say(bands.draw(env_id, runs, flags.plots))


def run_all(tasks: list[Task], jobs: int, extra: Iterable[str] = ()) -> dict[Task, str]:
    """Runs what is not finished, `jobs` at a time; the errors of the tasks that failed.

    Args:
        tasks: In the order in which they are begun.
        jobs: Side by side.
        extra: Flags for `vantage train`.

    Raises:
        KeyboardInterrupt: After SIGINT, once all processes have kept what they have done and ended.
        SystemExit: With code 143, after SIGTERM likewise.
    """
    open_tasks = [task for task in tasks if not task.result.exists()]
    done = len(tasks) - len(open_tasks)
    say(f"{len(tasks)} runs: {done} finished, {len(open_tasks)} to do, {jobs} at a time")
    children, failures = Children(), dict[Task, str]()
    with Interrupts() as interrupts, ThreadPoolExecutor(jobs) as pool:
        tasks_of = {pool.submit(complete, task, children, extra): task for task in open_tasks}
        pending: set[Future[str]] = set(tasks_of)
        try:
            while pending:
                # critical: ends soon, for a signal only sets a flag that is looked at in between
                ended, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    _report(tasks_of[future], future, failures)
                if interrupts.received is not None and children.stop():
                    say("stopping; the same command goes on from here")
        except BaseException:  # such as a second Ctrl-C
            children.kill()
            raise
    interrupts.raise_received()
    return failures


def _report(task: Task, future: Future[str], failures: dict[Task, str]) -> None:
    """Prints how a task ended, and keeps the error if it failed."""
    try:
        say(f"{task}: {future.result()}")
    except StoppedError:
        pass
    except Exception as error:  # critical: whatever it is, the other runs go on
        failures[task] = " ".join(str(error).split()) or type(error).__name__
        say(f"{task}: failed")


def complete(task: Task, children: Children, extra: Iterable[str] = ()) -> str:
    """Trains, or goes on with it, evaluates, and writes the result; in words what came of it.

    Raises:
        ValueError: A command failed, or the environment needs a module that is missing.
        StoppedError: The command is to stop.
    """
    entry, folder = task.entry, task.folder
    module = NEEDS.get(entry.env_id)
    if module is not None and importlib.util.find_spec(module) is None:
        raise ValueError(
            f"{entry.env_id} must have the module {module}. Received: an environment without it. "
            "Install the extra: pip install 'vantage-rl[envs]'."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    if not is_trained(folder):
        train = ("train", entry.algorithm, entry.env_id, "--seed", str(task.seed))
        children.run_vantage(log, *train, "--logdir", str(folder), "--resume", *extra)
    children.run_vantage(log, "evaluate", str(folder), "--env", entry.env_id)
    record = _record(task)
    write_json(task.result, record)
    return (
        f"{record['mean']:,.1f} ± {record['std']:,.1f} after {record['env_steps']:,} steps in "
        f"{record['seconds']:,.0f} s"
    )


def is_trained(folder: Path) -> bool:
    """Whether a run has got to its end; one that a signal stopped has a summary, too."""
    if not (folder / "summary.json").exists():
        return False
    config, summary = read_json(folder / "config.json"), read_json(folder / "summary.json")
    solved = config["stop_at_return"] is not None and summary["solved_at_steps"] is not None
    return solved or summary["env_steps"] >= config["total_steps"]


def _record(task: Task) -> dict[str, Any]:
    """The result of a finished run."""
    config, summary, evaluation = (
        read_json(task.folder / f"{name}.json") for name in ("config", "summary", "evaluation")
    )
    kept: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
        (config, ("algorithm", "env_id", "seed", "config", "num_envs", "vectorization")),
        (config, ("total_steps", "stop_at_return")),
        (summary, ("env_steps", "seconds", "steps_per_second", "solved_at_steps")),
        (evaluation, ("mean", "std", "ci95", "episodes")),
        (summary, ("resumed_from", "exactness", "versions", "weights_sha256")),
    )
    return {name: source[name] for source, names in kept for name in names}
