"""L-BFGS on full batches: a whole iteration, with its line search, within a compiled call.

Legend: P parameters over all variables, m pairs of the history.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import tensorflow as tf

from ..common.plain import number_or_none, whole
from ..core.losses import lift_of
from ..core.step import Update
from ..core.table import DONE, status_of
from .evaluator import Evaluator, Place, Stock
from .host_rows import HostRows
from .line_search import ENDED, Search, advance, begin
from .memory import Memory, dot

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from ..core.compiled import Nest
    from ..core.objective import Objective
    from ..core.optimizers import Joined

REPORTED = "evaluations", "step_size", "converged"


class LBFGS:
    """Limited-memory BFGS with a line search for the strong Wolfe conditions.

        p = −H·∇L(θ),    θ ← θ + α·p,    L(θ + α·p) ≤ L(θ) + c₁·α·∇Lᵀp,  |∇L(θ + α·p)ᵀp| ≤ c₂·|∇Lᵀp|

    H comes from the last m steps s and changes of the gradient y by the two-loop recursion, from
    H₀ = sᵀy/yᵀy · 1. Pass it to `compile_step` or `Regression` as the optimizer. It is for
    full batches of data that fit into one call, small to medium models, and losses without noise;
    there it needs far fewer evaluations than Adam. One update is one iteration.

    The loss is evaluated once more at the start of every call, so many updates in one call (in
    `Regression.fit`: a `report_every` of more than 1) cost less than many calls.

    Metrics of an update: `loss` and `grad_norm` before the step; `evaluations` of the loss in the
    line search; `step_size` α, 0 if no weight changed; `converged`, 1 once the gradient is below
    the tolerance or no step along it lowers the loss in float32. An update after that changes
    nothing. If no step lowers the loss along p, the history is forgotten, and the next update
    tries −∇L. Where the loss is level within its rounding, a step counts if it lowers the norm of
    the gradient. A trial with a loss that is not finite is too far. BatchNorm's averages move once
    per iteration, with the statistics at the new weights.

    Source: Nocedal & Wright, "Numerical Optimization", 2006, algorithms 7.4, 7.5, 3.5 and 3.6.

    Args:
        history: m, the pairs that are remembered.
        c1: c₁ of sufficient decrease, in (0, ½).
        c2: c₂ of the curvature, in (c₁, 1).
        max_evaluations: Evaluations of one line search at most; the best point counts then.
        gradient_tolerance: The update changes nothing if max |∂L/∂θ| is not greater.

    Attributes:
        variables: All that later updates depend on besides the weights: read them to save the
            optimizer, and assign them to continue. They exist once a step was compiled.

    Raises:
        ValueError: A number is out of range; from `compile_step`: the loss differs from evaluation
            to evaluation (minibatches, Dropout, `estimated`, `given`), a variable is not float32
            or has a constraint, the model computes in float16, or the optimizer was used for other
            variables.
    """

    def __init__(
        self,
        history: int = 10,
        *,
        c1: float = 1e-4,
        c2: float = 0.9,
        max_evaluations: int = 25,
        gradient_tolerance: float = 1e-5,
    ) -> None:
        self._history = whole("history", history, 1)
        self._max_evaluations = whole("max_evaluations", max_evaluations, 1)
        numbers = [number_or_none(n, v) for n, v in {"c1": c1, "c2": c2}.items()]
        self._c1, self._c2 = (math.nan if each is None else each for each in numbers)
        if not 0 < self._c1 < 0.5 or not self._c1 < self._c2 < 1:
            raise ValueError(
                "c1 and c2 must satisfy 0 < c1 < 0.5 and c1 < c2 < 1. Received: "
                f"c1={c1!r:.40}, c2={c2!r:.40}. Pass c1=1e-4 and c2=0.9."
            )
        tolerance = number_or_none("gradient_tolerance", gradient_tolerance)
        if tolerance is None or tolerance < 0:
            raise ValueError(
                "gradient_tolerance must be a number of at least 0. Received: "
                f"gradient_tolerance={gradient_tolerance!r:.40}. Pass 1e-5."
            )
        self._tolerance = tolerance
        self._memory: Memory | None = None

    @property
    def variables(self) -> list[keras.Variable]:
        """All that later updates depend on besides the weights; empty before a compilation."""
        return [] if self._memory is None else list(self._memory.kept)

    def get_config(self) -> Mapping[str, object]:
        """The settings."""
        return {
            "history": self._history,
            "c1": self._c1,
            "c2": self._c2,
            "max_evaluations": self._max_evaluations,
            "gradient_tolerance": self._tolerance,
        }

    def finalize(self) -> None:
        """Does nothing: there are no averages of weights."""

    def make_update(self, objective: Objective, minibatches: bool) -> Update:
        """The update of `compile_step`.

        Raises:
            ValueError: It cannot minimise this.
        """
        _check(objective, minibatches)
        if self._memory is None:
            self._memory = Memory(objective.variables, self._history)
        self._memory.check(objective.variables)
        memory, rows, stock = self._memory, HostRows(objective.host), Stock()

        def update(inputs: Nest, targets: Nest) -> dict[str, tf.Tensor]:
            evaluator = Evaluator(objective, inputs, targets, stock, REPORTED)
            return self._iterate(evaluator, memory, rows)

        # It is a turn, so that the weights are restored if an evaluation at others raises.
        hooks, turns = [cast("Joined", memory)], [type(self).__name__]
        return Update(update, hooks, {}, objective.hosts, turns)

    def _iterate(
        self, evaluator: Evaluator, memory: Memory, rows: HostRows
    ) -> dict[str, tf.Tensor]:
        """One iteration from the current weights."""
        origin, is_known = evaluator.current(), tf.identity(memory.is_current.value)
        blank = evaluator.blank(origin)

        def remembered() -> tuple[tf.Tensor, Place]:
            gradient, metrics = memory.gradient.value, evaluator.last.value
            place = Place(origin, tf.identity(gradient), tf.identity(metrics), blank.states)
            return tf.identity(memory.loss.value), place

        def body(now: Iteration) -> tuple[Iteration]:
            # critical: one evaluation for the start and for every trial, so that the loss at some
            # weights has the same bits in both.
            value, place = tf.cond(
                now.is_first & is_known,
                remembered,
                lambda: evaluator(origin + now.search.alpha * now.direction),
            )
            following = tf.cond(
                now.is_first,
                lambda: self._begin(now, value, place, memory, evaluator, is_known),
                lambda: self._try(now, value, place),
            )
            return (following,)

        (last,) = tf.while_loop(
            lambda now: now.is_first | (now.search.phase != ENDED),
            body,
            (Iteration.blank(blank),),
            parallel_iterations=1,
        )
        self._end(last, origin, memory, evaluator)
        count, is_taken = last.evaluations, last.search.low.alpha > 0
        starts = tf.cast(~is_known, tf.int32)
        rows.settle(count + starts, ~is_known, tf.where(is_taken, last.best_trial + starts, -1))
        norm = tf.sqrt(dot(last.start.gradient, last.start.gradient))
        return {
            "status": last.status,
            "loss": last.search.start.value,
            "grad_norm": norm,
            "evaluations": tf.cast(count, tf.float32),
            "step_size": last.search.low.alpha,
            "converged": tf.cast(last.is_converged, tf.float32),
            **evaluator.metrics(last.start),
        }

    def _begin(
        self,
        now: Iteration,
        value: tf.Tensor,
        place: Place,
        memory: Memory,
        evaluator: Evaluator,
        is_known: tf.Tensor,
    ) -> Iteration:
        """Chooses the direction and the first step, at the weights of the start."""
        gradient = place.gradient
        square = dot(gradient, gradient)
        is_finite = tf.math.is_finite(value) & tf.math.is_finite(square)
        status, proceeds = status_of(is_finite, evaluator.metrics(place))
        is_same = (value == memory.loss.value) & tf.reduce_all(gradient == memory.gradient.value)
        is_converged = tf.reduce_max(tf.abs(gradient)) <= self._tolerance
        is_converged |= memory.is_stalled.value & (is_known | is_same)
        searches = proceeds & ~is_converged

        def chosen() -> tuple[tf.Tensor, ...]:
            direction = -memory.times_inverse_hessian(gradient)
            slope = dot(gradient, direction)
            is_steepest = ~memory.has_pairs | ~(tf.math.is_finite(slope) & (slope < 0))
            direction = tf.where(is_steepest, -gradient, direction)
            slope = tf.where(is_steepest, -square, slope)
            alpha = tf.where(is_steepest, tf.minimum(1.0, 1.0 / tf.sqrt(square)), 1.0)
            return direction, slope, alpha, is_steepest

        nothing = now.direction, now.search.alpha, now.search.alpha, now.is_steepest
        direction, slope, alpha, is_steepest = tf.cond(searches, chosen, lambda: nothing)
        return now._replace(
            is_first=tf.constant(False),
            search=begin(value, slope, alpha, searches),
            direction=direction,
            start=place,
            status=status,
            is_steepest=is_steepest,
            is_converged=proceeds & is_converged,
        )

    def _try(self, now: Iteration, value: tf.Tensor, place: Place) -> Iteration:
        """Goes on from an evaluation at a trial."""
        gradient, first = place.gradient, now.start.gradient
        slope, is_flatter = (
            dot(gradient, now.direction),
            dot(gradient, gradient) < dot(first, first),
        )
        search, is_best = advance(now.search, value, slope, is_flatter, self._c1, self._c2)
        is_last = now.evaluations + 1 >= self._max_evaluations
        search = search._replace(phase=tf.where(is_last, ENDED, search.phase))
        best = tf.nest.map_structure(lambda new, old: tf.where(is_best, new, old), place, now.best)
        is_lost = (search.phase == ENDED) & ~(search.low.alpha > 0)
        return now._replace(
            search=search,
            best=best,
            evaluations=now.evaluations + 1,
            best_trial=tf.where(is_best, now.evaluations, now.best_trial),
            is_converged=is_lost & now.is_steepest,
        )

    def _end(
        self, last: Iteration, origin: tf.Tensor, memory: Memory, evaluator: Evaluator
    ) -> None:
        """Assigns the weights of the best trial, or the old ones, and remembers the iteration."""
        search, start, best = last.search, last.start, last.best
        is_taken, proceeds = search.low.alpha > 0, last.status == DONE
        evaluator.assign_states_if(is_taken, best)
        evaluator.assign(tf.where(is_taken, best.weights, origin))
        memory.learn(
            best.weights - origin, best.gradient - start.gradient, is_taken, last.evaluations > 0
        )
        memory.is_current.assign(proceeds)
        for variable, taken, stayed in (
            (memory.loss, search.low.value, search.start.value),
            (memory.gradient, best.gradient, start.gradient),
            (memory.is_stalled, tf.constant(False), last.is_converged),
            (evaluator.last, best.metrics, start.metrics),
        ):
            new = tf.where(is_taken, taken, stayed)
            variable.assign(tf.where(proceeds, new, variable.value))


class Iteration(NamedTuple):
    """Where an iteration is."""

    is_first: tf.Tensor
    """Whether the weights of the start are still to be evaluated."""
    search: Search
    direction: tf.Tensor
    """p, `[P]`."""
    start: Place
    best: Place
    """The trial `search.low`."""
    evaluations: tf.Tensor
    """Trials so far."""
    best_trial: tf.Tensor
    """Which of them is the best one."""
    status: tf.Tensor
    is_steepest: tf.Tensor
    """Whether p = −∇L."""
    is_converged: tf.Tensor

    @classmethod
    def blank(cls, place: Place) -> Iteration:
        """An iteration that has not evaluated anything."""
        none, no, zero = tf.constant(0), tf.constant(False), tf.constant(0.0)
        search = begin(zero, zero, zero, no)
        direction = tf.zeros_like(place.weights)
        return cls(tf.constant(True), search, direction, place, place, none, none, zero, no, no)


def _check(objective: Objective, minibatches: bool) -> None:
    """Refuses what L-BFGS cannot minimise.

    Raises:
        ValueError: It is such an objective.
    """
    received = {
        "minibatches": minibatches,
        "a loss lifted by `estimated`": lift_of(objective.loss_gradient) == "estimated",
        "`given`, a gradient at one point": lift_of(objective.loss_gradient) == "given",
    }
    for what, is_so in received.items():
        if is_so:
            raise ValueError(
                "LBFGS must have the same loss in every evaluation: full batches and no noise. "
                f"Received: {what}. Pass no batch_size and updates=K, or use an optimizer such as "
                "Adam."
            )
    for variable in objective.variables:
        if variable.dtype != "float32" or variable.constraint is not None:
            constraint = "" if variable.constraint is None else ", with a constraint"
            raise ValueError(
                "LBFGS must train float32 variables without constraints. Received: "
                f"{variable.path}, {variable.dtype}{constraint}. Leave it out of the trained "
                "variables, or use an optimizer such as Adam."
            )
