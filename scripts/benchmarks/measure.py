"""What `vantage benchmark speed` measures in processes of our own.

    python -m vantage.scripts.benchmarks.measure NAME '{"argument": 1}'

Calls the function of that name and prints its result as one JSON line. TensorFlow is started
as the commands start it. Legend: T steps of a rollout, N environments.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from vantage.scripts.cli.starting import limit_threads, start_tensorflow


def _examples() -> int | None:
    """Examples of one update, from the command line; None in processes that only import this."""
    sizes = json.loads(sys.argv[2]) if __name__ == "__main__" else {}
    return sizes["num_envs"] * sizes["n_steps"] if "num_envs" in sizes else None


limit_threads()
start_tensorflow(examples=_examples())  # before anything below imports it with other settings

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from vantage.agents import A2C, A2CConfig  # noqa: E402
from vantage.envs import make_vec  # noqa: E402
from vantage.envs.make import Vectorization  # noqa: E402
from vantage.scripts.benchmarks import by_hand  # noqa: E402
from vantage.scripts.benchmarks.measure_runs import saving, watching  # noqa: E402
from vantage.scripts.examples import target_range  # noqa: E402
from vantage.training import GAN, train  # noqa: E402
from vantage.training.experience.returns import lambda_returns  # noqa: E402
from vantage.training.experience.transitions import Transition  # noqa: E402

PARTS = ("act", "environments", "observe", "advantages", "update")


def training(
    vectorization: Vectorization, num_envs: int, n_steps: int, updates: int
) -> dict[str, float]:
    """Rates of A2C on CartPole-v1 with curves, and its time by part between two points.

    Returns:
        `total_steps_per_second`, including compilation; between the first and the last point of the
        curves `steps_per_second`, and in percent of the wall clock `act` (`agent.explore`),
        `environments` (`envs.step`), `advantages`, `update`, `storing` (the rest of
        `agent.observe`) and `overhead` (everything else).
    """
    agent, envs = _agent_and_envs(vectorization, num_envs, n_steps)
    spent, points = dict.fromkeys(PARTS, 0.0), []
    agent.explore = _timed(agent.explore, spent, "act")
    envs.step = _timed(envs.step, spent, "environments")
    agent.observe = _timed(_reading_parts(agent.observe, spent), spent, "observe")

    def point(env_steps: int, _) -> None:
        points.append((env_steps, time.perf_counter(), dict(spent)))

    summary = _train(agent, envs, n_steps * num_envs * updates, point)
    (first_steps, began, before), (steps, ended, after) = points[0], points[-1]
    shares = {part: 100 * (after[part] - before[part]) / (ended - began) for part in PARTS}
    observed = shares.pop("observe")
    return {
        "total_steps_per_second": summary["steps_per_second"],
        "steps_per_second": (steps - first_steps) / (ended - began),
        **shares,
        "storing": observed - shares["advantages"] - shares["update"],
        "overhead": 100 - shares["act"] - shares["environments"] - observed,
    }


def _agent_and_envs(vectorization: Vectorization, num_envs: int, n_steps: int):
    envs = make_vec("CartPole-v1", num_envs, seed=0, vectorization=vectorization)
    spaces = envs.single_observation_space, envs.single_action_space
    return A2C(*spaces, A2CConfig(n_steps=n_steps)), envs


def _train(agent, envs, total_steps: int, callback) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        logdir = Path(folder) / "run"
        summary = train(agent, envs, total_steps, logdir=logdir, callbacks=[callback])
    envs.close()
    return summary


def _timed(function: Callable, spent: dict[str, float], part: str) -> Callable:
    clock = time.perf_counter

    def timed(*arguments):
        began = clock()
        result = function(*arguments)
        spent[part] += clock() - began
        return result

    return timed


def _reading_parts(observe: Callable, spent: dict[str, float]) -> Callable:
    """`agent.observe`, which also adds up the seconds that an update reports of its parts."""

    def observing(transition):
        metrics = observe(transition)
        if metrics is not None:
            for part, seconds in metrics["seconds"].items():
                spent[part] += seconds
        return metrics

    return observing


def micro(num_envs: int, n_steps: int, updates: int) -> dict[str, float]:
    """Median seconds per call of the parts of A2C on CartPole-v1.

    Returns:
        Of `[N]`: `act` (`agent.explore`), the environments' steps `sync` and `native`; of a rollout
        `[T, N]`: `returns` (`lambda_returns`), and `update` as the agent reports it, including
        the new weights on the host. Acting and updates alternate, with one prepared transition.
    """
    agent, envs = _agent_and_envs("native", num_envs, n_steps)
    observations, _ = envs.reset(seed=0)
    observations = observations.copy()
    agent.begin(num_envs, n_steps * num_envs * updates)
    flags, ones = np.zeros(num_envs, bool), np.ones(num_envs, np.float32)
    transition = Transition(observations, ones, flags, flags, ones, None)
    seconds: dict[str, list[float]] = {"act": [], "update": []}
    for _ in range(n_steps * updates):
        began = time.perf_counter()
        actions = agent.explore(observations)
        seconds["act"].append(time.perf_counter() - began)
        if metrics := agent.observe(transition):
            seconds["update"].append(metrics["seconds"]["update"])
    calls = n_steps * updates
    medians = {"native": per_call(lambda: envs.step(actions), calls)}
    envs.close()
    envs = make_vec("CartPole-v1", num_envs, seed=0)
    medians["sync"] = per_call(lambda: envs.step(actions), calls)
    envs.close()
    shape, generator = (n_steps, num_envs), np.random.default_rng(0)
    rewards, values = generator.standard_normal((2, *shape), np.float32)
    arrays = rewards, np.full(shape, 0.99, np.float32), values, np.ones(shape, np.float32)
    medians["returns"] = per_call(lambda: lambda_returns(*arrays), updates)
    return medians | {part: statistics.median(each) for part, each in seconds.items()}


def per_call(function: Callable[[], object], calls: int) -> float:
    """Median seconds of several calls."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def regression(epochs: int) -> dict[str, float]:
    """The target range with `Regression` and its history of every epoch.

    Returns:
        median `seconds` of five calls after the first one; `compile_seconds`, the additional time
        of the first one; `first_loss` and `last_loss` of the first call.
    """
    inputs, targets = target_range.sample(1_000, np.random.default_rng(0))
    trainer = target_range.build_trainer(0.1, seed=0)
    seconds, histories = [], []
    for _ in range(6):
        began = time.perf_counter()
        histories.append(trainer.fit(inputs, targets, epochs, report_every=epochs)["loss"])
        seconds.append(time.perf_counter() - began)
    later = statistics.median(seconds[1:])
    losses = {"first_loss": float(histories[0][0]), "last_loss": float(histories[0][-1])}
    return {"seconds": later, "compile_seconds": seconds[0] - later, **losses}


def regression_by_hand(epochs: int, compiled: bool) -> dict[str, float]:
    """The same data, model and loss in a hand-written loop.

    Returns:
        `seconds` of a call; if compiled, the median of five calls after the first one; `first_loss`
        and `last_loss` of the first call.
    """
    inputs, targets = target_range.sample(1_000, np.random.default_rng(0))
    model = target_range.build_trainer(0.1, seed=0).model
    loop = by_hand.regression(model, keras.optimizers.Adam(0.01), inputs, targets, epochs, compiled)
    seconds, histories = [], []
    for _ in range(6 if compiled else 1):
        began = time.perf_counter()
        histories.append(loop())
        seconds.append(time.perf_counter() - began)
    first, last = map(float, histories[0][[0, -1]])
    later = statistics.median(seconds[1:] or seconds)
    return {"seconds": later, "first_loss": first, "last_loss": last}


def gan(steps: int) -> dict[str, float]:
    """The dense GAN of 784 pixels with `GAN.fit`: `seconds` of a batch, `compile_seconds`."""
    began = time.perf_counter()
    trainer = GAN(*_players(), batch_size=64)
    trainer.fit(_pixels(), 16, report_every=16)
    compiled = time.perf_counter()
    trainer.fit(_pixels(), steps, report_every=steps)
    seconds = (time.perf_counter() - compiled) / steps
    return {"seconds": seconds, "compile_seconds": compiled - began}


def gan_by_hand(steps: int, compiled: bool) -> dict[str, float]:
    """The same models and losses in a hand-written loop: `seconds` of a batch."""
    loop = by_hand.gan(*_players(), _pixels(), 64, compiled)
    loop(10)  # warms up
    began = time.perf_counter()
    loop(steps)
    return {"seconds": (time.perf_counter() - began) / steps}


def _players() -> tuple[Any, Any, Any, Any]:
    """Generator 100-128-784, discriminator 784-128-1, and an optimizer for each."""
    keras.utils.set_random_seed(0)
    dense, inputs = keras.layers.Dense, keras.Input
    generator = keras.Sequential([inputs((100,)), dense(128, "relu"), dense(784, "tanh")])
    discriminator = keras.Sequential([inputs((784,)), dense(128, "relu"), dense(1)])
    optimizers = [keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in range(2)]
    return generator, discriminator, optimizers[0], optimizers[1]


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (1_000, 784)).astype(np.float32)


def growth(num_envs: int, n_steps: int, total_steps: int) -> dict[str, float]:
    """Trains A2C on CartPole-v1, native environments.

    Returns:
        `slope` of resident memory in MB per 10⁵ steps, after the first fifth; `functions`, the
        number of `tf.function`s, and `traces`, the most traces of one.
    """
    memory, functions, make = [], [], tf.function

    def recording(*arguments, **keywords):
        functions.append(make(*arguments, **keywords))
        return functions[-1]

    with mock.patch.object(tf, "function", recording):
        agent, envs = _agent_and_envs("native", num_envs, n_steps)
        _train(agent, envs, total_steps, lambda steps, _: memory.append((steps, _resident())))
    late = [(steps, megabytes) for steps, megabytes in memory if steps >= total_steps / 5]
    traces = max(function.experimental_get_tracing_count() for function in functions)
    return {"slope": slope(late), "functions": len(functions), "traces": traces}


def _resident() -> float:
    """Resident memory of this process in MB, from Linux's /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def slope(points: list[tuple[float, float]]) -> float:
    """Growth of `y` per 10⁵ of `x`, by least squares through points `(x, y)`."""
    x, y = np.transpose(points)
    return float(1e5 * np.polyfit(x, y, 1)[0])


MEASUREMENTS = {
    function.__name__: function
    for function in (
        training,
        micro,
        regression,
        regression_by_hand,
        gan,
        gan_by_hand,
        growth,
        saving,
        watching,
    )
}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))))
