"""Several updates that take turns in one compiled call: players of a game, actor and critics."""

import itertools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from . import arguments, checks
from .compiled import Nest
from .gradients import make_update
from .host_losses import host_of
from .hosts import Hosts
from .losses import LossGradient
from .optimizers import assign
from .step import Step, Update, compile_updates
from .table import DONE


class Turn(NamedTuple):
    """One of the updates: the first arguments of `compile_step`."""

    forward: Callable[[Nest], Nest]
    loss_gradient: LossGradient
    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


class Average(NamedTuple):
    """Variables that follow others, as target networks do: θ' ← τ·θ + (1 − τ)·θ'.

    Source: Polyak & Juditsky 1992; Lillicrap et al. 2016, algorithm 1.
    """

    followers: Sequence[keras.Variable]  # θ'
    leaders: Sequence[keras.Variable]  # θ
    tau: float  # τ; 1 copies

    def move(self, steps: int = 1) -> None:
        """Moves them now, outside of a compiled call, by k steps in which no leader changes.

        These are one step with the factor 1 − (1 − τ)ᵏ. It does not wait for a running update.
        """
        tau = 1.0 - (1.0 - self.tau) ** steps
        for follower, leader in zip(self.followers, self.leaders, strict=True):
            assign(follower.value, _moved(follower, leader, tau))

    def move_if(self, proceeds: tf.Tensor) -> None:
        """Moves them by one step within a compiled call, if `proceeds`."""
        for follower, leader in zip(self.followers, self.leaders, strict=True):
            moved = _moved(follower, leader, self.tau)
            follower.assign(tf.where(proceeds, moved, follower.value))


def _moved(follower: keras.Variable, leader: keras.Variable, tau: float) -> tf.Tensor:
    """τ·θ + (1 − τ)·θ'; for τ = 1 a copy of θ, which may be integers."""
    value = tf.cast(leader.value, follower.value.dtype)
    return value if tau == 1.0 else tau * value + (1.0 - tau) * follower.value


def compile_turns(
    turns: Mapping[str, Turn],
    signature: tuple[Nest, ...],
    *,
    averages: Sequence[Average] = (),
    updates: int | tuple[int, int] | None = None,
    mirror: Sequence[keras.Variable] = (),
    jit_compile: bool | None = None,
) -> Step:
    """Compiles updates, each of different variables, into one call that runs them in turn.

    A turn sees the changes of the turns before it. All receive the same inputs and targets.

    Args:
        turns: The turns by name, in order. A loss on the host runs between compiled parts.
        signature: As in `compile_step`.
        averages: Variables that follow the trained ones; they move after each complete round.
        updates: K rounds in one call, or `(K, M)`: on `rows` of the examples.
        mirror: As in `compile_step`.
        jit_compile: As in `compile_step`.

    Returns:
        A step with the metrics of every turn, as `name_loss`, `name_grad_norm` and so on. After a
        turn that is not finite, later turns change nothing and no average moves; earlier turns
        have changed their weights.

    Raises:
        ValueError: There are no turns, two share an optimizer or a loss on the host, `averages`
            holds anything but an `Average` of as many followers as leaders with τ in [0, 1], or as
            in `compile_step`.
    """
    averages = _as_averages(averages)
    _check_types(turns)
    _check_apart(turns)
    parts = {name: make_update(*turn) for name, turn in turns.items()}

    def update(inputs: Nest, targets: Nest) -> dict[str, tf.Tensor]:
        is_done, metrics = tf.constant(True), dict[str, tf.Tensor]()
        for name, part in parts.items():
            reported = part.function(inputs, targets, is_done)
            is_done = reported.pop("status") == DONE
            user, why = "a step of several turns", ": it cannot be stopped"
            checks.check_names(reported, ["stop"], user, why)
            named = {f"{name}_{key}": value for key, value in reported.items()}
            checks.check_names(named, metrics, "another turn")
            metrics |= named
        for average in averages:
            average.move_if(is_done)
        return {"status": tf.cast(is_done, tf.float32), **metrics}

    joined = [joined for part in parts.values() for joined in part.joined]
    found = {name: host_of(turn.loss_gradient) for name, turn in turns.items()}
    hosts = {name: host for name, host in found.items() if host is not None}
    rounds = Update(update, joined, hosts=Hosts(hosts, len(hosts) == len(turns)), turns=list(parts))
    return compile_updates(rounds, signature, updates, mirror, jit_compile)


def _check_types(turns: Mapping[str, Turn]) -> None:
    """Refuses anything but a dict of `Turn`."""
    is_dict = isinstance(turns, Mapping)
    wrong = [each for each in turns.values() if not isinstance(each, Turn)] if is_dict else [turns]
    if wrong:
        raise ValueError(
            f"`turns` must be a dict of Turn by name. Received: {type(wrong[0]).__name__}. "
            'Pass {"name": Turn(forward, loss_gradient, variables, optimizer)}.'
        )
    for name, turn in turns.items():
        if not isinstance(name, str) or not name:
            raise ValueError(
                "The keys of `turns` must be names, such as 'actor'. Received: "
                f"{name!r:.60}. Metrics are named after them."
            )
        arguments.check_optimizer(f"The optimizer of turn {name!r}", turn.optimizer)


def _check_apart(turns: Mapping[str, Turn]) -> None:
    """Refuses an empty dict, and optimizers, losses on the host or metrics that turns share."""
    if not turns:
        raise ValueError(
            "A step must have turns. Received: none. Pass them by name, as in "
            "turns={'critic': Turn(...)}."
        )
    if shared := _shared({name: turn.optimizer for name, turn in turns.items()}):
        raise ValueError(
            "Each turn must have an optimizer of its own. Received: the same one for "
            f"{shared}. Pass one optimizer for each."
        )
    hosts = {name: host_of(turn.loss_gradient) for name, turn in turns.items()}
    if shared := _shared({name: host for name, host in hosts.items() if host is not None}):
        raise ValueError(
            "Each turn must have a lift of its own, which keeps what the loss reports. Received: "
            f"the same one for {shared}. Call `external` or `estimated` for each turn."
        )
    for one, other in itertools.permutations(turns, 2):
        if hosts[one] is not None and other.startswith(f"{one}_"):
            raise ValueError(
                "The names of turns must not begin with that of a turn whose loss is on the host, "
                f"for metrics are named after both. Received: {one!r} and {other!r}. Rename one."
            )


def _shared(parts: Mapping[str, object]) -> str:
    """The names of those that are the same object; empty if all differ."""
    ids = [id(part) for part in parts.values()]
    return ", ".join(name for name, each in zip(parts, ids, strict=True) if ids.count(each) > 1)


def _as_averages(averages: Sequence[Average]) -> list[Average]:
    """Averages, each with lists of as many followers as leaders.

    Raises:
        ValueError: One is not an `Average`, or its followers do not fit its leaders, or its τ is
            out of range.
    """
    is_list = isinstance(averages, tuple | list) and not isinstance(averages, Average)
    wrong = [each for each in averages if not isinstance(each, Average)] if is_list else [averages]
    if wrong:
        raise ValueError(
            f"`averages` must be a list of Average. Received: {type(wrong[0]).__name__}. "
            "Pass [Average(followers, leaders, tau)]."
        )
    listed = []
    for followers, leaders, tau in averages:
        followers = arguments.as_variables("followers", followers)
        leaders = arguments.as_variables("leaders", leaders)
        is_share = isinstance(tau, numbers.Real) and 0 <= float(tau) <= 1
        if len(followers) != len(leaders) or not is_share:
            raise ValueError(
                "An Average must have as many followers as leaders, and tau from 0 to 1. Received: "
                f"{len(followers)} and {len(leaders)}, tau={tau!r:.40}. Pass the weights of two "
                "models that are built alike, and the share of the distance that followers move."
            )
        for follower, leader in zip(followers, leaders, strict=True):
            _check_pair(follower, leader, float(tau))
        listed.append(Average(followers, leaders, float(tau)))
    return listed


def _check_pair(follower: keras.Variable, leader: keras.Variable, tau: float) -> None:
    are_floats = all(keras.backend.is_float_dtype(each.dtype) for each in (follower, leader))
    can_move = are_floats or (tau == 1.0 and follower.dtype == leader.dtype)  # copied
    if not can_move or follower.shape != leader.shape:
        shown = [f"{each.path} {each.dtype}{list(each.shape)}" for each in (follower, leader)]
        raise ValueError(
            "A follower in an Average must be of floats and have its leader's shape. Received: "
            f"{shown[0]} that follows {shown[1]}. Pass the `weights` (not the `variables`, which "
            "hold seeds) of two models that are built alike."
        )
