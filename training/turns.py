"""Several updates that take turns in one compiled call: players of a game, actor and critics."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from . import checks
from .compiled import Nest
from .gradients import LossGradient, Step, compile_updates, make_update


class Turn(NamedTuple):
    """One of the updates: the first arguments of `compile_step`."""

    forward: Callable[[Nest], Nest]
    loss_gradient: LossGradient
    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


class Average(NamedTuple):
    """Variables that follow others: θ' ← τ·θ + (1 − τ)·θ', as target networks do.

    Source: Polyak & Juditsky 1992; Lillicrap et al. 2016, algorithm 1.
    """

    followers: Sequence[keras.Variable]  # θ'
    leaders: Sequence[keras.Variable]  # θ
    tau: float  # 1 copies

    def move_if(self, made: tf.Tensor) -> None:
        """Moves them one step, within a compiled call, where `made`."""
        for follower, leader in zip(self.followers, self.leaders, strict=True):
            moved = self.tau * leader.value + (1.0 - self.tau) * follower.value
            follower.assign(tf.where(made, moved, follower.value))


def compile_turns(
    turns: Mapping[str, Turn],
    signature: tuple[Nest, ...],
    *,
    averages: Sequence[Average] = (),
    updates: int | tuple[int, int] | None = None,
    mirror: Sequence[keras.Variable] = (),
    jit_compile: bool | None = None,
) -> Step:
    """Compiles updates, each of its own variables, into one call that makes them in turn.

    A turn sees what the turns before it have changed. All receive the same inputs and targets.

    Args:
        turns: By name, in order; none has a loss on the host.
        signature: As of `compile_step`, like what follows.
        averages: What follows the trained variables; moved after each round that was made.
        updates: K rounds in one call, or `(K, M)`: on `rows` of the examples.
        mirror: As of `compile_step`.
        jit_compile: As of `compile_step`.

    Returns:
        A step whose metrics are those of every turn, as `name_loss`, `name_grad_norm` and so on.
        After a turn that is not finite, the later ones change nothing either.

    Raises:
        ValueError: There are no turns, one has a loss on the host, or as `compile_step`.
    """
    checks.check_turns(turns)
    made = {name: make_update(*turn) for name, turn in turns.items()}

    def update(inputs: Nest, targets: Nest) -> dict[str, tf.Tensor]:
        is_made, metrics = tf.constant(True), dict[str, tf.Tensor]()
        for name, each in made.items():
            own = each.update(inputs, targets, is_made)
            is_made = own.pop("status") == checks.MADE
            metrics |= {f"{name}_{key}": value for key, value in own.items()}
        for average in averages:
            average.move_if(is_made)
        return {"status": tf.cast(is_made, tf.float32), **metrics}

    joined = [one for each in made.values() for one in each.joined]
    return compile_updates(
        update, joined, None, signature, updates, mirror, jit_compile, several=True
    )
