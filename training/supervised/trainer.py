"""Training on any data: any forward, any lift or several turns, Keras's callbacks and metrics.

Legend: B examples, M examples of a batch, K batches of one compiled call.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np
import tensorflow as tf

from ..common.interrupts import Interrupts
from ..common.plain import flag, whole
from ..core import arguments, checks
from ..core.gradients import compile_step
from ..core.host_losses import host_of
from ..core.lifts import lifted
from ..core.optimizers import finalize, trainable_state
from ..core.table import NonfiniteUpdate
from ..core.turns import Turn, compile_turns
from ..experience.bad_numbers import Policy, check_policy
from ..monitoring.progress import Progress
from ..monitoring.reports import describe, session, settings
from . import states
from .evaluations import Evaluator, training
from .examples import dtype_of
from .fit import Fit, Refusals
from .fit_callbacks import FitCallbacks
from .fit_folder import FitFolder
from .measured import Measured
from .saving import SavedTrainer
from .sources import ArraySource, Batch, source_of
from .weights import class_weights, weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ..core.compiled import Nest
    from ..core.losses import LossGradient
    from ..core.step import Step
    from ..core.turns import Average
    from ..storage.packing import State
    from .sources import Source

MOST_CALLS, MOST_NUMBERS = 16, 2**22  # of one call: batches, and numbers in their inputs
SIGNATURES = 64  # compiled calls; more shapes of batches are a mistake


class Trainer(SavedTrainer):
    """Trains models on a loss of their outputs: `θ ← optimizer(θ, (∂L/∂y)ᵀ ∂y/∂θ)`.

    Each batch is one update, also the shorter last one of an epoch, as in Keras's `fit`. Arrays in
    memory are trained K batches to a compiled call.

    Args:
        forward: A Keras model or layer, or a function `(inputs, training) -> outputs` of several.
        loss: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`; a Keras loss,
            its name or a TensorFlow function is differentiated.
        optimizer: Any Keras optimizer.
        models: The models that a function uses, whose trainable variables are trained.
        turns: In place of forward, loss and optimizer: the turns of an update by name, as
            `compile_turns` runs them. Evaluation and prediction are those of the first.
        averages: Variables that follow the trained ones, beside turns.
        metrics: Objects of `keras.metrics`, of targets and outputs.
        seed: Of the order of examples.
        jit_compile: Whether to use XLA; by default for several batches in one call, unless they
            contain operations that XLA cannot compile or computes slowly.

    Attributes:
        models: The models that are trained.
        metrics: Keras's, which hold the means of the epoch.
        epochs: Epochs trained so far, over all calls of `fit`.

    Raises:
        ValueError: An argument is of another kind.
    """

    def __init__(  # noqa: PLR0913  each has a default or a name
        self,
        forward: Callable[..., Nest] | None = None,
        loss: LossGradient | str | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        models: Sequence[keras.Layer] | None = None,
        turns: Mapping[str, Turn] | None = None,
        averages: Sequence[Average] = (),
        metrics: Sequence[keras.metrics.Metric] = (),
        seed: int = 0,
        jit_compile: bool | None = None,
    ) -> None:
        self._turns = _checked_turns(turns, (forward, loss, optimizer), metrics)
        if self._turns:
            forward, loss, _, optimizer = next(iter(self._turns.values()))
        arguments.check_optimizer("optimizer", optimizer)
        self._optimizer = cast("keras.optimizers.Optimizer", optimizer)
        self.models = _models_of(forward, models)
        self._forward: Callable[..., Nest] = cast("Callable[..., Nest]", forward)
        self._loss = lifted(cast("LossGradient", loss))
        self._averages = averages
        self.metrics: Sequence[keras.metrics.Metric] = _checked_metrics(metrics)
        self._seed = whole("seed", seed, 0)
        self._jit_compile = arguments.as_jit_compile(jit_compile)
        self.epochs = 0
        self._steps: dict[str, Step] = {}
        self._frozen: str | None = None  # which parts are trained in this fit, once it is known
        self._logdirs: set[Path] = set()
        self._evaluator = Evaluator(self._forward, self.models, self._loss, self.metrics)

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """By turn; the only one of a trainer of one turn under ""."""
        return {name: turn.optimizer for name, turn in self._turns.items()} or {"": self._optimizer}

    @property
    def _losses(self) -> dict[str, LossGradient]:
        return {n: turn.loss_gradient for n, turn in self._turns.items()} or {"": self._loss}

    def fit(  # noqa: PLR0913  as Keras's
        self,
        inputs: Any,
        targets: Any = None,
        epochs: int = 1,
        *,
        batch_size: int = 32,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        validation: Any = None,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        pad_value: float | None = None,
        callbacks: Sequence[Any] = (),
        verbose: bool = False,
        logdir: str | Path | None = None,
        config: Mapping[str, object] | None = None,
        resume: bool = False,
        checkpoint_every: int | str | None = "30s",
        on_bad_numbers: Policy = "raise",
        bad_numbers_limit: int = 10,
        **unknown: object,
    ) -> dict[str, np.ndarray]:
        """Trains for `epochs` epochs; SIGINT, SIGTERM and SIGHUP end it after the current call.

        Args:
            inputs: Arrays `[B, …]` (NumPy, memmap, pandas) or nests of them; a list of sequences
                of different lengths; a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, or an
                iterable that yields inputs, (inputs, targets) or (inputs, targets, weights).
            targets: Arrays `[B, …]` beside arrays.
            epochs: Their number; of a resumed fit, with those before.
            batch_size: M, of arrays.
            sample_weight: Weights `[B]` beside arrays, for a loss of Keras or one with a parameter
                `sample_weight`.
            class_weight: Weights by class, of targets that are class numbers or one-hot.
            validation: What `evaluate` takes, in a tuple: (inputs, targets), (inputs, targets,
                weights), or a data set. Evaluated after every epoch, under `val_` names.
            shuffle: Whether arrays come in a new order in every epoch.
            steps_per_epoch: Batches of an epoch, of data that come in batches; by default all.
            pad_value: What sequences are padded with; by default 0, for a model that masks it.
            callbacks: Keras's, and functions `callback(epoch, metrics)`; one that returns False
                ends the fit.
            verbose: Whether to print a line per epoch.
            logdir: The fit's own folder: config.json, TensorBoard event files, checkpoints.
            config: More entries for config.json.
            resume: Go on from the newest checkpoint in `logdir`, to the same bits as a fit that
                was never stopped, if the data are the same.
            checkpoint_every: Calls between two checkpoints, or seconds as "30s"; None for the last
                one alone.
            on_bad_numbers: What to do with a batch whose loss or gradient is not finite: "raise",
                "skip" or "warn".
            bad_numbers_limit: The number of batches that one fit may skip.
            **unknown: None; arguments of Keras's `fit` are refused, with what to pass instead.

        Returns:
            Means of every epoch by name, `[epochs]`: `loss`, `grad_norm`, the metrics of the loss
            and of Keras, each example once; with `validation` also `val_loss` and so on.

        Raises:
            ValueError: Data do not fit together, or an argument is out of range.
            FileExistsError: `logdir` holds something else.
            FloatingPointError: The loss or a gradient is not finite and may not be skipped.
        """
        arguments.refuse_unknown("Trainer.fit", unknown)
        check_policy(on_bad_numbers)
        epochs, batch_size = whole("epochs", epochs, 1), whole("batch_size", batch_size, 1)
        limit = whole("bad_numbers_limit", bad_numbers_limit, 0)
        if steps_per_epoch is not None:
            steps_per_epoch = whole("steps_per_epoch", steps_per_epoch, 1)
        arguments.check_destination(logdir, config)
        if class_weight is not None:
            sample_weight = class_weights(class_weight, targets, sample_weight)
        source = source_of(
            inputs,
            targets,
            sample_weight,
            batch_size=batch_size,
            shuffle=flag("shuffle", shuffle),
            seed=self._seed,
            steps_per_epoch=steps_per_epoch,
            pad_value=pad_value,
            as_given=self._is_host,
        )
        validate = None if validation is None else self._evaluator.of(validation, batch_size)
        steps = source.batches
        of_fit = FitCallbacks(callbacks, self.models, self._optimizer, epochs, steps)
        known = {"optimizer": settings(self._optimizer), "epochs": epochs}
        known |= {"batch_size": batch_size, "steps_per_epoch": steps, **(config or {})}
        folder = FitFolder(
            logdir,
            self._logdirs,
            {"trainer": type(self).__name__, **known},
            resume=flag("resume", resume),
            every=checkpoint_every,
            check=self._check_state,
        )
        self._frozen = None
        fit = Fit(self, partial(self._calls, source, of_fit.of_batches), of_fit, folder)
        fit.refusals = Refusals(on_bad_numbers, limit)
        with ExitStack() as stack:
            stack.callback(folder.close)
            stack.enter_context(session(folder.writer))
            interrupts = stack.enter_context(Interrupts("always"))
            if folder.saved is not None:
                self.set_state(folder.saved["trainer"])
                fit.set_state(folder.saved)
            elif folder.is_new:
                named = [(model.name, model) for model in self.models]
                describe(folder.writer, known, named)
            memory = None if folder.saved is None else folder.saved["callbacks"]
            stack.enter_context(of_fit.session(folder.writer, memory))
            progress = stack.enter_context(Progress(epochs, "epochs"))
            fit.run(epochs, validate, interrupts, progress, flag("verbose", verbose))
        for optimizer in self.optimizers.values():
            finalize(optimizer)
        return fit.history

    @property
    def _is_host(self) -> bool:
        return all(host_of(loss) is not None for loss in self._losses.values())

    def evaluate(
        self,
        inputs: Any,
        targets: Any = None,
        *,
        batch_size: int = 32,
        sample_weight: Any = None,
    ) -> dict[str, float]:
        """The loss in inference mode, penalties included, and the metrics; nothing changes.

        Args:
            inputs: As for `fit`.
            targets: As for `fit`.
            batch_size: M, of arrays.
            sample_weight: As for `fit`.

        Raises:
            ValueError: Data do not fit together, or forward cannot be run in inference mode.
        """
        data = inputs
        if targets is not None or sample_weight is not None:
            data = inputs, targets, sample_weight
        return self._evaluator.of(data, batch_size)()

    def predict(self, inputs: Any, *, batch_size: int = 32) -> Nest:
        """The outputs in inference mode, NumPy arrays `[B, …]`, in bounded memory.

        Args:
            inputs: As for `fit`; targets in a data set are left out.
            batch_size: M, of arrays.

        Raises:
            ValueError: Data do not fit together, or forward cannot be run in inference mode.
        """
        source = source_of(inputs, batch_size=whole("batch_size", batch_size, 1))
        return self._evaluator.predict(source)

    # One call of the compiled update.

    def _calls(
        self, source: Source, one_by_one: bool, epoch: int, skip: int
    ) -> Iterator[tuple[Batch, int]]:
        """The examples of each compiled call from a position on, and how many batches they are."""
        if one_by_one or not isinstance(source, ArraySource):
            for batch in source.epoch(epoch, skip):
                yield batch, 1
            return
        order, size = source.order(epoch), source.size
        full = source.count // size
        count, position = self._per_call(source), 0
        while position < source.batches:
            together = count if position + count <= full else 1
            if position >= skip:
                begin = position * size
                yield source.batch(order[begin : begin + together * size]), together
            position += together

    def _per_call(self, source: ArraySource) -> int:
        """K: up to 16 batches, of which the fewest are left over."""
        inputs = source.batch(slice(0, 1)).inputs
        numbers = sum(array.size for array in tf.nest.flatten(inputs)) * source.size
        most = min(source.count // source.size, MOST_CALLS, max(1, MOST_NUMBERS // numbers))
        if most < 2:
            return 1
        full = source.count // source.size
        return max(range(most, most // 2, -1), key=lambda count: full // count * count)

    def update(
        self, batch: Batch, count: int, refused: Callable[[NonfiniteUpdate], None]
    ) -> dict[str, np.ndarray]:
        """Makes `count` updates; their metrics, `[count, …]` each, none if all were refused.

        Args:
            batch: The examples of all of them.
            count: K.
            refused: Called with the error of an update that is not finite; may raise it.
        """
        arrays = batch.inputs, batch.targets
        if batch.weights is not None:
            arrays = batch.inputs, (batch.targets, batch.weights)
        step = self._compiled(arrays, count, batch.weights is not None)
        if count == 1:
            try:
                metrics = step(*arrays)
            except NonfiniteUpdate as error:
                refused(error)
                return {}
            return {name: np.reshape(value, (1, -1)) for name, value in metrics.items()}
        size = len(tf.nest.flatten(batch.inputs)[0]) // count
        rows = np.arange(count * size, dtype=np.int32).reshape(count, size)
        return step(*arrays, rows, refused)

    def _compiled(self, arrays: tuple[Nest, Nest], count: int, has_weights: bool) -> Step:
        if self._frozen is None:
            for model in self.models:
                if not model.built:
                    self._build(model, arrays[0])
            self._frozen = repr([trainable_state(model) for model in self.models])
        shapes = [(array.shape, array.dtype.str) for array in tf.nest.flatten(arrays)]
        key = repr((shapes, count, has_weights, self._frozen))
        if key not in self._steps:
            if len(self._steps) >= SIGNATURES:
                raise ValueError(
                    f"Batches must have at most {SIGNATURES} different shapes, each of which is "
                    f"compiled. Received: another one, {checks.describe(arrays)}. Pad them to a "
                    "few lengths (a list of sequences is padded so), or batch them by length."
                )
            signature = tf.nest.map_structure(
                lambda array: tf.TensorSpec(array.shape, dtype_of(array)), arrays
            )
            updates = None
            if count > 1:
                updates = (count, len(tf.nest.flatten(arrays[0])[0]) // count)
            jit_compile = self._jit_compile
            if jit_compile is None and updates is None:
                jit_compile = False  # XLA does not pay off for a single update
            step = self._compile(signature, updates, has_weights, jit_compile)
            if self._jit_compile is None and updates is not None and step.is_random:
                # critical: random numbers must not depend on the number of batches in a call
                step = self._compile(signature, updates, has_weights, False)
            self._steps[key] = step
        return self._steps[key]

    def _build(self, model: keras.Layer, inputs: Nest) -> None:
        if model is not self._forward:
            raise ValueError(
                "The models of a forward of your own must be built. Received: "
                f"{model.name!r}, which has no variables yet. Start it with keras.Input, or call "
                "it once."
            )
        model(tf.nest.map_structure(lambda array: array[:1], inputs))

    def _compile(
        self,
        signature: tuple[Nest, Nest],
        updates: tuple[int, int] | None,
        has_weights: bool,
        jit_compile: bool | None,
    ) -> Step:
        options: dict[str, Any] = {"updates": updates, "jit_compile": jit_compile}
        if self._turns:
            if has_weights:
                raise ValueError(
                    "Weights of examples are for a trainer of one turn. Received: weights for "
                    f"{', '.join(self._turns)}. Pass them as targets."
                )
            turns = {
                name: turn._replace(forward=training(turn.forward))
                for name, turn in self._turns.items()
            }
            return compile_turns(turns, signature, averages=self._averages, **options)
        loss = weighted(self._loss) if has_weights else self._loss
        if self.metrics:
            loss = Measured(loss, self.metrics, has_weights)
        variables = [v for model in self.models for v in model.trainable_variables]
        return compile_step(
            training(self._forward), loss, variables, self._optimizer, signature, **options
        )

    # Its state.

    def get_state(self) -> State:
        """All that a fit needs to go on: variables, slots, generators of losses, epochs."""
        return {
            "variables": states.values_of(self._variables),
            "optimizers": states.optimizers_state(self.optimizers),
            "losses": states.loss_state(self._losses),
            "epochs": self.epochs,
        }

    @property
    def _variables(self) -> list[keras.Variable]:
        followers = [v for average in self._averages for v in average.followers]
        found = [*states.variables_of(self.models), *followers]
        return list({id(variable): variable for variable in found}.values())

    def _check_state(self, state: State) -> None:
        """Refuses a state of another trainer.

        Raises:
            ValueError: It is one.
        """
        saved = states.checked_parts(state.get("trainer"), "variables", "optimizers", "losses")
        states.check("the models", self._variables, saved["variables"])

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` returned.

        Raises:
            ValueError: It is of other models, optimizers or losses; nothing changes.
        """
        self._check_state({"trainer": state})
        states.check_optimizers(self.optimizers, self._trained, state["optimizers"])
        states.restore_losses(self._losses, state["losses"])
        states.assign_optimizers(self.optimizers, state["optimizers"])
        states.assign("the models", self._variables, state["variables"])
        self.epochs = whole("epochs", state["epochs"], 0)

    def _trained(self, turn: str) -> list[keras.Variable]:
        if self._turns:
            return list(self._turns[turn].variables)
        return [v for model in self.models for v in model.trainable_variables]


def _checked_turns(
    turns: object, single: tuple[object, ...], metrics: object
) -> Mapping[str, Turn]:
    """Turns by name; none for a trainer of one.

    Raises:
        ValueError: They are no turns, or come beside what they replace.
    """
    if turns is None:
        return {}
    given = dict(turns) if isinstance(turns, Mapping) else {}
    if not given or not all(isinstance(turn, Turn) for turn in given.values()):
        raise ValueError(
            "`turns` must be a dict of Turn by name, at least one. Received: "
            f"{turns!r:.60}. Pass {{'name': Turn(forward, loss, variables, optimizer)}}."
        )
    if any(part is not None for part in single) or metrics:
        raise ValueError(
            "`turns` stand in place of forward, loss, optimizer and metrics. Received: both. Pass "
            "turns= and models= alone."
        )
    return given


def _models_of(forward: object, models: Sequence[keras.Layer] | None) -> tuple[keras.Layer, ...]:
    """The models of a trainer, each once.

    Raises:
        ValueError: Forward is no model, and none are given; or they are none of Keras's.
    """
    if isinstance(forward, keras.Layer):
        given = [forward, *(models or ())]
    else:
        arguments.check_forward(forward)
        given = list(models) if isinstance(models, list | tuple) else []
        if not given:
            raise ValueError(
                "A forward that is a function needs the models that it uses. Received: "
                f"models={models!r:.60}. Pass models=[encoder, decoder], whose variables are "
                "trained and saved."
            )
    for model in given:
        arguments.check_model("Each of `models`", model)
    return tuple({id(model): model for model in given}.values())


def _checked_metrics(metrics: object) -> list[keras.metrics.Metric]:
    """Objects of `keras.metrics`, under names of their own.

    Raises:
        ValueError: One is something else, or two have one name.
    """
    each: list[Any] = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    wrong = [one for one in each if not isinstance(one, keras.metrics.Metric)]
    if wrong:
        raise ValueError(
            f"metrics must be objects of keras.metrics. Received: {wrong[0]!r:.60}. Pass, for "
            "instance, [keras.metrics.BinaryAccuracy()]; functions of outputs and targets belong "
            "into the loss, which returns (L, {name: value})."
        )
    names = [one.name for one in each]
    double = sorted({name for name in names if names.count(name) > 1 or name in checks.OURS})
    if double:
        raise ValueError(
            "Metrics must have names of their own. Received: "
            f"{', '.join(double)} twice or as a name of ours. Pass name=."
        )
    return each
