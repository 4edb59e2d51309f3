"""Measurements of `vantage benchmark speed` on complete runs: the cost of a run's folder.

Imported by `measure.py` once TensorFlow is started.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.monitoring.monitor import Monitor
from vantage.training.runs.checkpointer import Checkpointer
from vantage.training.runs.run import Run


def watching(num_envs: int, n_steps: int, total_steps: int, pairs: int) -> dict[str, float]:
    """A2C on CartPole-v1, sync environments, alternately with a folder and without one.

    The folder has everything that is on by default: curves, histograms, texts, diagnosis,
    checkpoints.

    Returns:
        `cost`, the median share of steps/s that is lost, `least` and `most` of the pairs; `inside`,
        the median share of time spent at the beginning, at the end and in the tasks between, which
        the machine's load does not blur; `bytes` of the event file.
    """
    costs, shares, size = [], [], 0
    config = A2CConfig(n_steps=n_steps)

    def trained(logdir: Path | None) -> tuple[float, float]:
        envs = make_vec("CartPole-v1", num_envs, seed=0)
        agent = A2C(envs.single_observation_space, envs.single_action_space, config)
        with _timed_run() as seconds:
            summary = train(agent, envs, total_steps, logdir=logdir)
        return summary["steps_per_second"], sum(seconds) / summary["seconds"]

    for number in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            first, second = (run, None) if number % 2 else (None, run)
            made = {logdir: trained(logdir) for logdir in (first, second)}
            size = sum(path.stat().st_size for path in run.glob("events*"))
        costs.append(1.0 - made[run][0] / made[None][0])
        shares.append(made[run][1])
    return {
        "cost": statistics.median(costs),
        "bytes": size,
        "least": min(costs),
        "most": max(costs),
        "inside": statistics.median(shares),
    }


@contextmanager
def _timed_run() -> Iterator[list[float]]:
    """Seconds of every call in which a run does something other than learning."""
    seconds: list[float] = []
    with (
        mock.patch.object(Run, "updated", _timing(Run.updated, seconds)),
        mock.patch.object(Monitor, "begin", _timing(Monitor.begin, seconds)),
        mock.patch.object(Run, "finish", _timing(Run.finish, seconds)),
    ):
        yield seconds


def saving(net_arch: list[int], saves: int) -> dict[str, float]:
    """Checkpoints of A2C on CartPole-v1, 16 native environments × 5 steps, in a temporary folder.

    Returns:
        median `seconds` of a save, and `bytes` on the disk.
    """
    envs = make_vec("CartPole-v1", 16, seed=0, vectorization="native")
    config = A2CConfig(net_arch=tuple(net_arch))
    agent = A2C(envs.single_observation_space, envs.single_action_space, config)
    seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Checkpointer, "write", _timing(Checkpointer.write, seconds)),
    ):
        run = Path(folder) / "run"
        train(agent, envs, 16 * 5 * 10 * saves, logdir=run, checkpoint_every=10)
        newest = max(run.glob("checkpoints/step-*"))
        size = sum(path.stat().st_size for path in newest.iterdir())
    return {"seconds": statistics.median(seconds), "bytes": size}


def _timing(function: Callable, seconds: list[float]) -> Callable:
    def timed(*arguments, **options):
        began = time.perf_counter()
        result = function(*arguments, **options)
        seconds.append(time.perf_counter() - began)
        return result

    return timed
