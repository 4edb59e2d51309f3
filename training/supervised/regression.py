"""Supervised training: any Keras model on any lifted loss, many epochs in one compiled call.

Legend: B examples, M examples per minibatch, U = ⌈B / M⌉ updates per epoch.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ..common.interrupts import Interrupts
from ..common.plain import flag, whole
from ..core import arguments, checks
from ..core.forward import at_least_float32
from ..core.gradients import compile_step
from ..core.host_losses import host_of
from ..core.lifts import lifted
from ..core.objective import EvaluatingOptimizer, check_optimizer, end_training
from ..core.optimizers import trainable_state
from ..experience.bad_numbers import Policy, check_policy
from ..monitoring.progress import Progress
from ..monitoring.reports import describe, report, session, settings
from ..tensorboard.summaries import scatter
from . import states
from .examples import as_examples, as_pair, check_inputs, dtype_of
from .fit import Refusals
from .fit_callbacks import FitCallbacks
from .fit_folder import FitFolder
from .inference import Inference
from .saving import SavedTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from ..core.compiled import Nest
    from ..core.losses import LossGradient
    from ..core.step import Step
    from ..core.table import NonfiniteUpdate
    from ..storage.packing import State
    from ..tensorboard.writer import Writer

SHOWN = 1_000  # examples in a comparison of predictions and targets
COMPARISONS = 5  # per fit at most, because each takes some milliseconds


class Regression(SavedTrainer):
    """Trains a model on a loss of its outputs: `loss_gradient(model(inputs), targets)`.

    Without `batch_size` an epoch is one update on all examples. With it, an epoch is U = ⌈B / M⌉
    updates on minibatches of a new permutation; the last one is shorter if M does not divide B.

    Args:
        model: Any Keras model or layer; the first `fit` builds it if necessary.
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`. A
            Keras loss, its name, or a TensorFlow function without a lift is differentiated. A host
            loss receives targets unchanged, also float64, strings, times and objects.
        optimizer: Any Keras optimizer that is used for nothing else, or `LBFGS` or `SAM`.
        batch_size: M, or None for full batches.
        seed: The seed of the permutations; the weights come from the model's initialisers.
        jit_compile: Whether to use XLA. By default only where one call makes several updates of a
            TensorFlow loss.

    Attributes:
        epochs: Epochs trained so far, over all calls of `fit`: the x-axis of every report.

    Raises:
        ValueError: The model or the optimizer is not one of Keras, or a number is out of range.
    """

    def __init__(
        self,
        model: keras.Layer,
        loss_gradient: LossGradient,
        optimizer: keras.optimizers.Optimizer | EvaluatingOptimizer,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        jit_compile: bool | None = None,
    ) -> None:
        arguments.check_model("model", model)
        check_optimizer("optimizer", optimizer)
        if batch_size is not None:
            batch_size = whole("batch_size", batch_size, 1)
        self.model, self.epochs = model, 0
        self._loss_gradient, self._optimizer = lifted(loss_gradient), optimizer
        self._is_host = host_of(self._loss_gradient) is not None  # it receives unchanged targets
        self._batch_size = batch_size
        self._jit_compile = arguments.as_jit_compile(jit_compile)
        self._generator = np.random.default_rng(whole("seed", seed, 0))
        self._inference = Inference(model)
        self._steps: dict[str, Step] = {}
        self._logdirs: set[Path] = set()

    def fit(
        self,
        inputs: Nest,
        targets: Nest = None,
        epochs: int | None = None,
        *,
        report_every: int = 1,
        validation: tuple[Nest, Nest] | None = None,
        compare: Callable[[Nest], np.ndarray] | None = None,
        verbose: bool = False,
        callbacks: Sequence[Any] = (),
        logdir: str | Path | None = None,
        config: Mapping[str, object] | None = None,
        resume: bool = False,
        checkpoint_every: int | str | None = "30s",
        on_bad_numbers: Policy = "raise",
        bad_numbers_limit: int = 10,
        **unknown: object,
    ) -> dict[str, np.ndarray]:
        """Trains for `epochs` more epochs; compiles when array shapes are new.

        One compiled call trains gcd(`epochs`, `report_every`) epochs: 1,000 small epochs reported
        every 100 take milliseconds. SIGINT, SIGTERM and SIGHUP end the training after the current
        call.

        Args:
            inputs: Array or nest of arrays `[B, ...]`, as the model takes them.
            targets: Array or nest of arrays `[B, ...]`, as the loss takes them; `()` for none.
            epochs: The number of epochs.
            report_every: Epochs between two reports; the last epoch is always reported.
            validation: Inputs and targets whose loss is computed at every report, in inference
                mode and with the model's penalties: the metric `validation_loss`.
            compare: A function of the outputs that returns predictions shaped like the targets. By
                default the outputs themselves, if they are one array shaped like the targets.
            verbose: Whether a report prints a line with the epoch's metrics.
            callbacks: Keras's, for which a report is the end of an epoch, and functions that every
                report calls as `callback(epoch, metrics)`. A function that returns False stops the
                training. If it has a method `begin`, this is called with the fit's `Writer`, to
                which it may write points, images and histograms.
            logdir: The fit's own folder, new or empty: `config.json`, checkpoints, and TensorBoard
                event files with `train/loss`, `train/grad_norm` and the
                metrics of the loss for every epoch; `validation/loss`; before the first epoch and
                at most five times later the image `predictions` and the histogram `residuals` of
                1,000 examples, if they are comparable; settings, versions and the model's graph.
            config: More settings for config.json, the HParams and the Text tab.
            resume: Go on from the newest checkpoint in `logdir` to `epochs` in all, to the same
                bits as a fit that was never stopped.
            checkpoint_every: Calls between two checkpoints, or seconds as "30s"; None for the last
                one alone.
            on_bad_numbers: What to do with a minibatch whose loss or gradient is not finite:
                "raise" an error that names its examples, "skip" it, or "warn" and skip it. A
                skipped minibatch changes nothing and is not part of any mean.
            bad_numbers_limit: The number of minibatches that one fit may skip; another one is an
                error.
            **unknown: None. Arguments of Keras's `fit` are refused, with what to pass instead.

        Returns:
            `{"loss", "grad_norm", **metrics}`, arrays `[epochs]` (shorter if a callback stopped):
            means over the updates of an epoch, each measured before it changed the weights (NaN
            for an epoch without any). With `validation` also `validation_loss`, an array
            `[reports]`; unless bad numbers raise, also `bad_updates`, the number of skipped
            minibatches per epoch.

        Raises:
            ValueError: The arrays do not fit together, or a number is out of range.
            FileExistsError: `logdir` holds something else, or a fit that is not to be resumed.
            FloatingPointError: The loss or a gradient is not finite and may not be skipped.
        """
        arguments.refuse_unknown("Regression.fit", unknown)
        check_policy(on_bad_numbers)
        bad_numbers_limit = whole("bad_numbers_limit", bad_numbers_limit, 0)
        inputs = as_examples(inputs, "inputs")
        targets = as_examples(targets, "targets", as_given=self._is_host)
        epochs = whole("epochs", epochs, 1)
        report_every = whole("report_every", report_every, 1)
        verbose = flag("verbose", verbose)
        arguments.check_function("compare", compare, "outputs")
        arguments.check_destination(logdir, config)
        validation = None if validation is None else as_pair(validation, as_given=self._is_host)
        examples, size = self._sizes(inputs, targets)
        plan = _Plan(examples, size, epochs, report_every, math.gcd(epochs, report_every))
        step = self._compile(inputs, targets, plan.calls)
        taken = ["validation_loss"] * (validation is not None)
        taken += ["bad_updates"] * (on_bad_numbers != "raise")
        end = "; a callback that returns False ends a fit"
        checks.check_names(step.metrics, [*taken, "stop"], "Regression.fit", end)
        host = host_of(self._loss_gradient)  # its metrics are not known yet
        reserved = nullcontext() if host is None else host.reserve(taken, "Regression.fit")
        self._check_validation(validation)
        shown = (*((inputs, targets) if validation is None else validation), compare)
        compared = None if logdir is None else self._compare(*shown)
        past, refusals = _Past(), Refusals(on_bad_numbers, bad_numbers_limit)
        of_fit = FitCallbacks(callbacks, [self.model], self._optimizer, epochs, plan.updates)
        sizes = {"examples": examples, "epochs": epochs, "batch_size": size}
        known = {"optimizer": settings(self._optimizer), **sizes, **(config or {})}
        folder = FitFolder(
            logdir,
            self._logdirs,
            {"trainer": "Regression", **known},
            resume=flag("resume", resume),
            every=checkpoint_every,
            check=self._check_state,
        )
        writer, interrupts = folder.writer, Interrupts("always")
        with ExitStack() as stack:
            stack.callback(folder.close)
            stack.enter_context(session(writer))
            memory: State | None = None
            if folder.saved is not None:
                self.set_state(folder.saved["trainer"])
                memory = past.set_state(folder.saved, refusals)
                if past.done % plan.per_call:  # another number of epochs than before
                    plan = plan._replace(per_call=math.gcd(plan.per_call, past.done))
                    step = self._compile(inputs, targets, plan.calls)
            elif folder.is_new:
                describe(writer, known, [(self.model.name, self.model)])
            if memory is None:
                _write_comparison(writer, self.epochs, compared)
            state = lambda: {"trainer": self.get_state(), **past.get_state(refusals, of_fit)}  # noqa: E731
            stack.enter_context(reserved)
            stack.enter_context(interrupts)
            progress = stack.enter_context(Progress(epochs, "epochs"))
            stack.enter_context(of_fit.session(writer, memory))
            for done in range(past.done + plan.per_call, epochs + 1, plan.per_call):
                if past.done % report_every == 0:
                    of_fit.epoch_begins(self.epochs)
                metrics = self._call(step, inputs, targets, plan, refusals)
                past.add(done, metrics)
                if logdir is not None:
                    _write_epochs(writer, self.epochs, metrics)
                self.epochs += plan.per_call
                last = {name: float(each[-1]) for name, each in metrics.items()}
                progress.update(done, f"loss {last['loss']:.4g}")
                continues = True
                if plan.reports(done):
                    last |= self._validate(validation, past, writer)
                    if compared is not None and plan.compares(done):
                        _write_comparison(writer, self.epochs, self._compare(*shown))
                    report("epoch", self.epochs, last, verbose, ())
                    continues = of_fit.epoch_ends(self.epochs - 1, last)
                if interrupts.received is not None or not continues:
                    break
                folder.save_if_due(self.epochs, state)
            folder.save(self.epochs, state)
            interrupts.raise_received()
        end_training(self._optimizer)
        more = {} if validation is None else {"validation_loss": np.array(past.losses)}
        return past.columns | more

    def _validate(
        self, validation: tuple[Nest, Nest] | None, past: _Past, writer: Writer
    ) -> dict[str, float]:
        """The loss of the validation, if there is one, by name."""
        if validation is None:
            return {}
        past.losses.append(self._loss(*validation))
        writer.scalars(self.epochs, {"validation/loss": past.losses[-1]})
        return {"validation_loss": past.losses[-1]}

    def _call(
        self, step: Step, inputs: Nest, targets: Nest, plan: _Plan, refusals: Refusals
    ) -> dict[str, np.ndarray]:
        """Trains the epochs of one call; their metrics, `[count]` each."""
        where, skipped = f"After {self.epochs} epochs", np.zeros(plan.per_call * plan.updates, bool)
        if not plan.rest:
            rows = None if plan.is_full else self._rows(plan)
            values = step(inputs, targets, rows, partial(_refuse, refusals, where, skipped))
        else:  # an epoch is a call of whole minibatches, and one of the shorter one
            last, parts = self._compile(inputs, targets, (1, plan.rest)), []
            for epoch in range(plan.per_call):
                order = self._generator.permutation(plan.examples).astype(np.int32)
                whole, rest = order[: -plan.rest].reshape(-1, plan.size), order[None, -plan.rest :]
                of_epoch = skipped[epoch * plan.updates :]
                refuse = partial(_refuse, refusals, where, of_epoch)
                parts.append(step(inputs, targets, whole, refuse))
                refuse = partial(_refuse, refusals, where, of_epoch[len(whole) :])
                parts.append(last(inputs, targets, rest, refuse))
            values = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
        table = skipped.reshape(plan.per_call, plan.updates)
        metrics = _means(values, table, plan.weights)
        return metrics if refusals.are_errors else {**metrics, "bad_updates": table.sum(1)}

    def get_state(self) -> State:
        """All that a fit needs to go on: variables, slots, generators, epochs."""
        return {
            "variables": states.values_of(states.variables_of([self.model])),
            "optimizers": states.optimizers_state({"": self._optimizer}),
            "losses": states.loss_state({"": self._loss_gradient}),
            "generator": self._generator.bit_generator.state,
            "epochs": self.epochs,
        }

    def _check_state(self, state: State) -> None:
        """Refuses a state of another trainer or model.

        Raises:
            ValueError: It is one.
        """
        saved = states.checked_parts(state.get("trainer"), "variables", "optimizers", "generator")
        states.check("the model", states.variables_of([self.model]), saved["variables"])

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` returned.

        Raises:
            ValueError: It is of another model, optimizer or loss; nothing changes.
        """
        self._check_state({"trainer": state})
        optimizers, saved = {"": self._optimizer}, state["optimizers"]
        states.check_optimizers(optimizers, lambda _: self.model.trainable_variables, saved)
        states.restore_losses({"": self._loss_gradient}, state["losses"])
        states.assign_optimizers(optimizers, saved)
        states.assign("the model", states.variables_of([self.model]), state["variables"])
        self._generator.bit_generator.state = state["generator"]
        self.epochs = whole("epochs", state["epochs"], 0)

    def _loss(self, inputs: Nest, targets: Nest) -> float:
        """The loss in inference mode including penalties; the training is not affected."""
        outputs, penalty = self._inference.observe(inputs)
        # critical: a loss that draws random numbers or has a state must not advance the training's.
        loss_gradient = getattr(self._loss_gradient, "observe", None) or self._loss_gradient
        loss, _, _ = loss_gradient(tf.nest.map_structure(_as_output, outputs), targets)
        if host := host_of(loss_gradient):
            host.take_metrics(False)  # critical: they do not belong to a training step
        return float(loss) + penalty

    def _check_validation(self, validation: tuple[Nest, Nest] | None) -> None:
        """Refuses a validation that the model or the loss does not accept, before any training.

        Raises:
            ValueError: It is such a validation.
        """
        if validation is None:
            return
        inputs, targets = validation
        loss_gradient = self._loss_gradient
        value = getattr(loss_gradient, "value", lambda y, t: loss_gradient(y, t)[0])
        try:
            outputs = self._inference.sample(tf.nest.map_structure(lambda a: a[:1], inputs))
            if not self._is_host:  # a host loss would have to be run
                count = len(tf.nest.flatten(inputs)[0])
                like = lambda a: tf.TensorSpec((count, *a.shape[1:]), a.dtype)  # noqa: E731
                signature = tf.nest.map_structure(like, (outputs, targets))
                judge = lambda y, t: value(tf.nest.map_structure(_as_output, y), t)  # noqa: E731
                with keras.StatelessScope():
                    tf.function(judge, autograph=False).get_concrete_function(*signature)
        except Exception as error:
            raise ValueError(
                "`validation` must be inputs that the model takes and targets that the loss takes. "
                f"Received: {checks.describe(validation)}, which raised "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. "
                "Pass inputs and targets like those of the training."
            ) from error

    def _compare(
        self, inputs: Nest, targets: Nest, compare: Callable[[Nest], np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Predictions and targets of up to 1,000 examples, `[n, k]` each, if comparable."""
        count = len(tf.nest.flatten(inputs)[0])
        rows = np.linspace(0, count - 1, min(count, SHOWN)).astype(int)
        inputs, targets = tf.nest.map_structure(lambda a: a[rows], (inputs, targets))
        outputs = tf.nest.map_structure(np.asarray, self._inference.observe(inputs)[0])
        predictions = outputs if compare is None else compare(outputs)
        comparable = isinstance(targets, np.ndarray) and targets.dtype.kind in "biuf"
        if comparable and np.shape(predictions) == targets.shape:
            return np.reshape(predictions, (len(rows), -1)), targets.reshape(len(rows), -1)
        if compare is None:
            return None
        raise ValueError(
            "`compare` must return an array shaped like the targets. "
            f"Received: {np.shape(predictions)} from {compare}. Leave it out for no comparison."
        )

    def predict(self, inputs: Nest) -> Nest:
        """The model's outputs in inference mode, NumPy arrays `[B, ...]`.

        Many examples are computed in parts, so memory use is bounded.
        """
        inputs = as_examples(inputs, "inputs")
        if len({array.shape[0] for array in tf.nest.flatten(inputs)}) != 1:
            raise ValueError(
                "Inputs must hold equally many examples along their first axis. Received: "
                f"{[array.shape for array in tf.nest.flatten(inputs)]}. Pass equally long arrays."
            )
        return self._inference.predict(inputs)

    def _sizes(self, inputs: Nest, targets: Nest) -> tuple[int, int]:
        counts = {array.shape[0] for array in tf.nest.flatten((inputs, targets))}
        size = max(counts, default=0) if self._batch_size is None else self._batch_size
        if len(counts) != 1 or not 1 <= size <= max(counts):
            raise ValueError(
                "Inputs and targets must hold equally many examples along their first axis, at "
                f"least one minibatch. Received: {sorted(counts)} examples, "
                f"batch_size={self._batch_size}. Pass equally long arrays or a smaller batch_size."
            )
        return max(counts), size

    def _compile(self, inputs: Nest, targets: Nest, updates: int | tuple[int, int]) -> Step:
        signature = tf.nest.map_structure(
            lambda array: tf.TensorSpec(array.shape, dtype_of(array)), (inputs, targets)
        )
        if not self.model.built:
            self.model(tf.nest.map_structure(lambda array: array[:1], inputs))
        key = repr((signature, updates, trainable_state(self.model)))
        if key not in self._steps:
            check_inputs(self.model, inputs)
            is_single = updates == 1 or (isinstance(updates, tuple) and updates[0] == 1)
            try:
                # XLA does not pay off for a single update.
                step = self._compiled(signature, updates, False if is_single else None)
                # critical: the random numbers must not depend on the number of updates per call.
                if self._jit_compile is None and step.keeps_drawing:
                    step = self._compiled(signature, updates, False)
                elif self._jit_compile is None and is_single and step.is_random:
                    step = self._compiled(signature, updates, None)
            except TypeError as error:
                floatx = keras.config.floatx()
                if all(array.dtype == floatx for array in tf.nest.flatten(targets)):
                    raise
                raise ValueError(
                    "The loss must accept the type of the targets. Received: targets "
                    f"{checks.describe(targets)}, for which the loss raised "
                    f"{' '.join(str(error).split())[:200]} "
                    f'Pass them as {floatx}, with `.astype("{floatx}")`, or cast them in the loss.'
                ) from error
            self._steps[key] = step
        return self._steps[key]

    def _compiled(
        self,
        signature: tuple[Nest, Nest],
        updates: int | tuple[int, int],
        default: bool | None,
    ) -> Step:
        return compile_step(
            self.model,
            self._loss_gradient,
            self.model.trainable_variables,
            self._optimizer,
            signature,
            updates=updates,
            jit_compile=default if self._jit_compile is None else self._jit_compile,
        )

    def _rows(self, plan: _Plan) -> np.ndarray:
        """The examples of each update, `[epochs · U, M]`."""
        orders = [self._generator.permutation(plan.examples) for _ in range(plan.per_call)]
        rows: np.ndarray = np.concatenate(orders).reshape(-1, plan.size).astype(np.int32)
        return rows


class _Plan(NamedTuple):
    """How the epochs of a fit are cut into calls and updates."""

    examples: int  # B
    size: int  # M
    epochs: int
    report_every: int
    per_call: int  # epochs of a call

    @property
    def is_full(self) -> bool:
        """Whether an update sees all examples."""
        return self.size == self.examples

    @property
    def rest(self) -> int:
        """Examples of the shorter minibatch; 0 if there is none."""
        return self.examples % self.size

    @property
    def updates(self) -> int:
        """U, of an epoch."""
        return -(-self.examples // self.size)

    @property
    def calls(self) -> int | tuple[int, int]:
        """The updates of a call of whole minibatches, as `compile_step` takes them."""
        if self.is_full:
            return self.per_call
        return (self.updates - 1 if self.rest else self.per_call * self.updates, self.size)

    @property
    def weights(self) -> np.ndarray | None:
        """The examples of each update of an epoch, `[U]`, where they differ."""
        if not self.rest:
            return None
        return np.array([*[self.size] * (self.updates - 1), self.rest])

    def reports(self, done: int) -> bool:
        """Whether there is a report after so many epochs."""
        return done % self.report_every == 0 or done == self.epochs

    def compares(self, done: int) -> bool:
        """Whether that report also compares predictions with targets."""
        reports = math.ceil(self.epochs / self.report_every)
        chosen = {math.ceil(reports * k / COMPARISONS) for k in range(1, COMPARISONS + 1)}
        return math.ceil(done / self.report_every) in chosen


class _Past:
    """What a fit has done and measured so far, also before it was resumed.

    Attributes:
        done: Epochs of this fit.
        losses: Those of the validations.
    """

    def __init__(self) -> None:
        self.done, self.losses = 0, list[float]()
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, done: int, metrics: dict[str, np.ndarray]) -> None:
        """Adds the epochs of a call."""
        self.done = done
        self._parts.append(metrics)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Each metric as an array `[epochs]`."""
        names = self._parts[0] if self._parts else {}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in names}

    def get_state(self, refusals: Refusals, callbacks: FitCallbacks) -> State:
        """It, with what else belongs to a fit."""
        return {
            "done": self.done,
            "columns": {name: states.column(values) for name, values in self.columns.items()},
            "losses": states.numbers(self.losses),
            "refusals": refusals.count,
            "callbacks": callbacks.get_state(),
        }

    def set_state(self, state: State, refusals: Refusals) -> State:
        """Goes on from it; what the callbacks remember."""
        self.done, refusals.count = int(state["done"]), int(state["refusals"])
        columns = {name: states.as_column(each) for name, each in state["columns"].items()}
        self._parts = [columns] if columns else []
        self.losses = states.as_numbers(state["losses"])
        return state["callbacks"]


def _refuse(refusals: Refusals, where: str, skipped: np.ndarray, error: NonfiniteUpdate) -> None:
    """Marks an update as skipped, if that is allowed.

    Raises:
        FloatingPointError: It is not.
    """
    skipped[error.update] = True
    refusals.add(error, where)


def _means(
    values: dict[str, np.ndarray], skipped: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Means `[epochs]` over the updates `[epochs, U]` that were not skipped."""
    tables = {name: each.reshape(skipped.shape) for name, each in values.items()}
    if weights is None and not skipped.any():
        return {name: table.mean(1) for name, table in tables.items()}
    counts = (~skipped) * (1 if weights is None else weights)
    return {name: _mean_without(table, skipped, counts) for name, table in tables.items()}


def _mean_without(table: np.ndarray, skipped: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums, total = (np.where(skipped, 0, table) * counts).sum(1), counts.sum(1)
    means = np.full(total.shape, np.nan, table.dtype)
    np.divide(sums, total, out=means, where=total > 0, casting="same_kind")
    return means


def _write_epochs(writer: Writer, done: int, metrics: dict[str, np.ndarray]) -> None:
    for index in range(len(metrics["loss"])):
        point = {f"train/{name}": each[index] for name, each in metrics.items()}
        writer.scalars(done + index + 1, point)


def _write_comparison(
    writer: Writer, epochs: int, compared: tuple[np.ndarray, np.ndarray] | None
) -> None:
    if compared is None:
        return
    predictions, targets = (
        array if array.dtype.kind == "f" else array.astype(float) for array in compared
    )  # [n, k]
    writer.histograms(epochs, {"residuals": predictions - targets})
    if targets.shape[1] > 5:  # there are five colours for clouds
        predictions, targets = predictions.reshape(-1, 1), targets.reshape(-1, 1)
    diagonal = np.linspace(targets.min(), targets.max(), 256)[:, None].repeat(2, 1)
    outputs = (np.stack(pair, 1) for pair in zip(targets.T, predictions.T, strict=True))
    writer.image(epochs, "predictions", scatter(diagonal, *outputs))


def _as_output(leaf: ArrayLike) -> tf.Tensor:
    return at_least_float32(tf.convert_to_tensor(leaf))
