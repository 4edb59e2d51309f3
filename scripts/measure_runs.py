"""What `vantage benchmark speed` measures of whole runs: what a run's folder costs.

Imported by `measure.py` once TensorFlow is started.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.run import Run


def watching(num_envs: int, n_steps: int, total_steps: int, pairs: int) -> dict[str, float]:
    """A2C on CartPole-v1, sync environments, with a folder and without one, in turn.

    With it there is all that is on by default: curves, histograms, texts, diagnosis, checkpoints.

    Returns:
        `cost`, the median share of steps/s that is lost, `least` and `most` of the pairs; `bytes`,
        what the event file holds.
    """
    costs, size = [], 0
    config = A2CConfig(n_steps=n_steps)

    def rate(logdir: Path | None) -> float:
        envs = make_vec("CartPole-v1", num_envs, seed=0)
        agent = A2C(envs.single_observation_space, envs.single_action_space, config)
        return train(agent, envs, total_steps, logdir=logdir)["steps_per_second"]

    for number in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            first, second = (run, None) if number % 2 else (None, run)
            rates = {logdir: rate(logdir) for logdir in (first, second)}
            size = sum(path.stat().st_size for path in run.glob("events*"))
        costs.append(1.0 - rates[run] / rates[None])
    return {
        "cost": statistics.median(costs),
        "bytes": size,
        "least": min(costs),
        "most": max(costs),
    }


def saving(net_arch: list[int], saves: int) -> dict[str, float]:
    """Checkpoints of A2C on CartPole-v1, 16 native environments × 5 steps, in a temporary folder.

    Returns:
        `seconds` of a save, the median, and `bytes` on the disk.
    """
    envs = make_vec("CartPole-v1", 16, seed=0, vectorization="native")
    config = A2CConfig(net_arch=tuple(net_arch))
    agent = A2C(envs.single_observation_space, envs.single_action_space, config)
    seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Run, "save", _timing(Run.save, seconds)),
    ):
        run = Path(folder) / "run"
        train(agent, envs, 16 * 5 * 10 * saves, logdir=run, checkpoint_every=10)
        newest = max(run.glob("checkpoints/step-*"))
        size = sum(path.stat().st_size for path in newest.iterdir())
    return {"seconds": statistics.median(seconds), "bytes": size}


def _timing(function: Callable, seconds: list[float]) -> Callable:
    def timed(self):
        began = time.perf_counter()
        result = function(self)
        seconds.append(time.perf_counter() - began)
        return result

    return timed
