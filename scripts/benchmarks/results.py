"""The command `vantage benchmark results`: trains, evaluates and renders the declared table.

A run is the folder LOGDIR/ALGO-ENV/seed-S. Beside it, seed-S.log has the output of its commands,
and seed-S.json its result, which is written last.
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
from vantage.scripts.cli.failing import fail
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.training.common.console import say
from vantage.training.common.interrupts import Interrupts
from vantage.training.storage.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class ResultsFlags:
    """Train and evaluate the declared table with the presets, and compare it with its targets.

    Finished runs are not repeated, and stopped runs continue; after a Ctrl-C the runs save their
    work. Put flags of `vantage train` after `--`: benchmark results -- --log-every 100
    """

    only: tuple[str, ...] = ()
    """Algorithms, environments or entries (ALGO-ENV); entries that take days run only if named."""
    seeds: int | None = None
    """Number of seeds of every entry, starting from 0 (default: as declared)."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of runs side by side."""
    logdir: Path = Path("runs/results")
    """Folder of the runs and their results, with one folder per entry."""
    plots: Path | None = None
    """Plot the learning curves of every environment into this folder."""
    render: bool = False
    """Run nothing; only render finished runs."""
    list: bool = False
    """Only print the declared entries."""

    def __post_init__(self) -> None:
        require_at_least(self, seeds=1, jobs=1)


@dataclass(frozen=True)
class Task:
    """One entry with one seed."""

    entry: Entry
    seed: int
    logdir: Path

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.logdir / self.entry.name / f"seed-{self.seed}"

    @property
    def result(self) -> Path:
        """The file of its result."""
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
            f"Every run must succeed. Received: {len(failures)} of {len(tasks)} that failed, "
            f"{', '.join(map(str, failures))}. See above and the .log files in {flags.logdir}, "
            "and run the command again: finished runs are not repeated.",
            code=1,
        )


def _check_extra(modules: Iterable[str]) -> None:
    """Called before the runs, which take hours."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            "Results need SciPy for their intervals and matplotlib for their plots. "
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
    """Runs what is not finished, `jobs` at a time; returns the errors of failed tasks.

    Args:
        tasks: In the order in which they start.
        jobs: Number of runs side by side.
        extra: Flags for `vantage train`.

    Raises:
        KeyboardInterrupt: After SIGINT, once all processes have saved their work and ended.
        SystemExit: With code 143, in the same way after SIGTERM.
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
                # critical: returns soon, because a signal only sets a flag that is read below
                ended, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    _report(tasks_of[future], future, failures)
                if interrupts.received is not None and children.stop():
                    say("stopping; run the same command again to continue")
        except BaseException:  # such as a second Ctrl-C
            children.kill()
            raise
    interrupts.raise_received()
    return failures


def _report(task: Task, future: Future[str], failures: dict[Task, str]) -> None:
    """Prints how a task ended, and stores the error if it failed."""
    try:
        say(f"{task}: {future.result()}")
    except StoppedError:
        pass
    except Exception as error:  # critical: whatever the error, the other runs continue
        failures[task] = " ".join(str(error).split()) or type(error).__name__
        say(f"{task}: failed")


def complete(task: Task, children: Children, extra: Iterable[str] = ()) -> str:
    """Trains or resumes, evaluates, and writes the result; returns it as a sentence.

    Raises:
        ValueError: A command failed, or the environment needs a module that is missing.
        StoppedError: `stop` was called on the children.
    """
    entry, folder = task.entry, task.folder
    module = NEEDS.get(entry.env_id)
    if module is not None and importlib.util.find_spec(module) is None:
        raise ValueError(
            f"{entry.env_id} needs the module {module}. Received: an installation without it. "
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
    """Whether a run has reached its end; a run that a signal stopped has a summary, too."""
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
    entries: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
        (config, ("algorithm", "env_id", "seed", "config", "num_envs", "vectorization")),
        (config, ("total_steps", "stop_at_return")),
        (summary, ("env_steps", "seconds", "steps_per_second", "solved_at_steps")),
        (evaluation, ("mean", "std", "ci95", "episodes")),
        (summary, ("resumed_from", "exactness", "versions", "weights_sha256")),
    )
    return {name: source[name] for source, names in entries for name in names}
