"""One step of a GAN as a compiled update: n steps of the discriminator, then one of the generator.

Legend: B examples per batch, n discriminator steps per step, m metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from ..core.gradients import make_update
from ..core.host_losses import host_of
from ..core.hosts import Hosts
from ..core.step import Step, Update, compile_updates, scan
from ..core.table import DONE
from ..core.turns import Average, Turn, compile_turns
from .penalties import clipped
from .players import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras

    from ..core.compiled import Nest


class Rounds:
    """The compiled steps of a GAN.

    Args:
        models: "discriminator" and "generator".
        turns: Their turns, by the same names.
        specs: What one example of a batch looks like: a `Batch` of specs without leading axes.
        batch_size: B.
        critic_steps: n.
        averages: Variables that follow the trained ones after each complete step.
        limit: To what the discriminator's weights are clipped after each of its steps, or None.
    """

    def __init__(
        self,
        models: Mapping[str, keras.Model],
        turns: Mapping[str, Turn],
        specs: Batch,
        batch_size: int,
        critic_steps: int,
        averages: Sequence[Average],
        limit: float | None,
    ) -> None:
        self._models, self._turns, self._specs = models, turns, specs
        self._batch_size, self._critic_steps = batch_size, critic_steps
        self._averages, self._limit = averages, limit
        self._steps: dict[tuple[object, ...], Step] = {}  # by steps in one call, and `trained`

    def run(self, batch: Batch, count: int, trained: tuple[object, ...]) -> dict[str, np.ndarray]:
        """Makes `count` steps; metrics `[count]`, those of the discriminator as means over n."""
        rows = np.arange(count * self._batch_size, dtype=np.int32).reshape(count, -1)
        metrics = self.compiled(count, trained)(batch, (), rows)
        if self._critic_steps == 1:
            return metrics
        keys = [name.split("_", 2)[2] for name in metrics if name.startswith("discriminator_1_")]
        for key in keys:
            each = [metrics[f"discriminator_{k + 1}_{key}"] for k in range(self._critic_steps)]
            metrics[f"discriminator_{key}"] = np.mean(each, 0, dtype=np.float32)
        return metrics

    def compiled(self, count: int, trained: tuple[object, ...]) -> Step:
        """The compiled call of `count` steps, for players of which these parts are trained."""
        key = count, trained
        if key not in self._steps:
            turns = {
                name: turn._replace(variables=self._models[name].trainable_variables)
                for name, turn in self._turns.items()
            }
            with clipped(turns["discriminator"].variables, self._limit):
                self._steps[key] = compile_round(
                    turns,
                    self._signature(count * self._batch_size),
                    self._critic_steps,
                    self._averages,
                    (count, self._batch_size),
                )
        return self._steps[key]

    def _signature(self, rows: int) -> Batch:
        def spec(each: tf.TensorSpec, parts: int) -> tf.TensorSpec:
            leading = (rows, parts) if parts > 1 else (rows,)
            return tf.TensorSpec((*leading, *each.shape), each.dtype)

        real, noise, labels, mix = self._specs
        n = self._critic_steps
        real, labels, mix = tf.nest.map_structure(lambda s: spec(s, n), (real, labels, mix))
        return Batch(real, spec(noise, n + 1), labels, mix)


def compile_round(
    turns: Mapping[str, Turn],
    signature: Batch,
    critic_steps: int,
    averages: Sequence[Average],
    updates: tuple[int, int],
) -> Step:
    """Compiles steps without XLA, which takes four times as long.

    With n > 1 critic steps their metrics are `discriminator_1_loss`, …, `discriminator_n_loss` and
    so on. After an update that is not finite, later ones of the call change nothing.

    Args:
        turns: "discriminator" and "generator".
        signature: A `Batch` of specs `[rows, ...]`; with n > 1 `[rows, n, ...]`, and noise
            `[rows, n + 1, *Z]`.
        critic_steps: n.
        averages: Variables that follow the trained ones after each complete step.
        updates: Steps in one call, and B.
    """
    if critic_steps == 1:
        return compile_turns(
            turns, (signature, ()), averages=averages, updates=updates, jit_compile=False
        )
    critic, generator = (make_update(*turns[name]) for name in ("discriminator", "generator"))
    steps = np.arange(critic_steps, dtype=np.int32)
    named = [f"discriminator_{k + 1}" for k in steps]

    def update(inputs: Nest, _: Nest) -> dict[str, tf.Tensor]:
        names: list[str] = []

        def judge(k: tf.Tensor) -> tf.Tensor:
            metrics = critic.function(_part(inputs, k), ())
            names[:] = metrics
            return tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])

        bounds, rows = tf.constant([0, critic_steps]), tf.constant(steps)
        table = scan(judge, (rows,), critic_steps, bounds, rows)  # [n, m]
        is_judged = table[-1, 0] == DONE  # a loop ends at the first step that is not finite
        metrics = {
            f"{name}_{key}": table[k, column]
            for k, name in enumerate(named)
            for column, key in enumerate(names)
            if key != "status"
        }
        played = generator.function(_part(inputs, critic_steps - 1), (), is_judged)
        is_done = played.pop("status") == DONE
        for average in averages:
            average.move_if(is_done)
        of_generator = {f"generator_{key}": value for key, value in played.items()}
        return {"status": tf.cast(is_done, tf.float32), **metrics, **of_generator}

    joined = [*critic.joined, *generator.joined]
    found = {name: host_of(turn.loss_gradient) for name, turn in turns.items()}
    hosts = {name: host for name, host in found.items() if host is not None}
    rounds = Update(update, joined, hosts=Hosts(hosts), turns=[*named, "generator"])
    return compile_updates(rounds, (signature, ()), updates, (), False)


def _part(batch: Batch, k: tf.Tensor | int) -> Batch:
    """The k-th part of a batch `[B, n, ...]`, with noise k and k + 1."""
    take = lambda leaf: tf.gather(leaf, k, axis=1)  # noqa: E731
    noise = tf.gather(batch.noise, tf.stack([k, k + 1]), axis=1)
    real, labels, mix = tf.nest.map_structure(take, (batch.real, batch.labels, batch.mix))
    return Batch(real, noise, labels, mix)
