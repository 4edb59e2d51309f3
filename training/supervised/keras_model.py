"""The door from Keras: a model whose `fit` is Keras's own and whose update is the core's.

Keras brings data of every kind, callbacks, metrics, validation and files; the core brings losses
that Keras cannot see, and updates that a bad number never reaches.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ..core import arguments, checks
from ..core.gradients import make_update
from ..core.host_losses import External, host_of
from ..core.hosts import Host, Hosts
from ..core.lifts import lifted
from ..core.optimizers import join
from ..core.table import DONE, columns, nonfinite
from .weights import weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from ..core.compiled import Nest
    from ..core.losses import LossGradient, Metrics


def as_keras(model: keras.Layer, loss: Any) -> ExternalLossModel:
    """A `keras.Model` that is trained on any loss: `compile`, `fit`, `evaluate`, `save` as usual.

        as_keras(model, external(loss)).compile("adam").fit(x, y, ...)

    Its training step is `θ ← optimizer(θ, (∂L/∂y)ᵀ ∂y/∂θ)`, the one of `compile_step`: y are the
    outputs of `model`, whose layers and variables it shares. An update whose loss or gradient is
    not finite changes nothing and raises.

    Args:
        model: Any Keras model or layer.
        loss: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`; a Keras loss,
            its name or a TensorFlow function is differentiated. It receives the `y` of `fit`, or
            `()` where there is none. With `sample_weight` or `class_weight`, a function needs a
            parameter `sample_weight`.

    Raises:
        ValueError: The model is not Keras's, or the loss is none; from `fit`: a loss takes no
            weights, or returns anything but what its lift asks for.
        FloatingPointError: From `fit`: the loss or a gradient is not finite.
    """
    return ExternalLossModel(model, loss)


@keras.saving.register_keras_serializable("vantage")
class ExternalLossModel(keras.Model):  # type: ignore[misc]  # Keras has no types
    """What `as_keras` returns.

    `save` keeps the model, the optimizer and its slots, but no loss: after
    `keras.saving.load_model`, call `set_loss` and fit on.

    Attributes:
        model: The model that is trained.
    """

    def __init__(self, model: keras.Layer, loss: Any = None, **keywords: Any) -> None:
        arguments.check_model("model", model)
        super().__init__(**{"name": f"{model.name}_on_a_loss", **keywords})
        self.model, self.built = model, model.built
        self._loss_gradient: LossGradient | None = None
        self._by_name: dict[str, Host] = {}
        self._refusal = Host()
        self._names: tuple[str, ...] = ()  # what Keras and the update report
        self._means = Means()
        if loss is not None:
            self.set_loss(loss)

    def set_loss(self, loss: Any) -> None:
        """Trains on this loss from the next `fit` on.

        Raises:
            ValueError: It is no loss.
        """
        self._loss_gradient = lifted(loss)
        of_validation = getattr(self._loss_gradient, "observe", None)
        found = {"": host_of(self._loss_gradient)}
        if isinstance(of_validation, External):
            found["validation"] = host_of(of_validation)
        self._by_name = {name: host for name, host in found.items() if host is not None}
        self._means = Means()
        self.train_function: Any = None
        self.test_function: Any = None

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any
    ) -> ExternalLossModel:
        """As Keras's, without a loss; returns the model.

        By default it compiles no XLA: a graph can say why an update was refused, and call a loss
        on the host.

        Raises:
            ValueError: A loss is passed, or XLA is to compile a loss on the host.
        """
        for name, value in (("loss", loss), ("loss_weights", options.get("loss_weights"))):
            if value is not None:
                raise ValueError(
                    "A model of as_keras must be compiled without a loss, for it has one. "
                    f"Received: {name}={value!r:.60}. Pass the loss to as_keras(model, loss), or "
                    "call set_loss."
                )
        if options.get("jit_compile", "auto") == "auto":
            options["jit_compile"] = False
        checks.check_compiler(bool(self._by_name), bool(options["jit_compile"]))
        super().compile(optimizer, **options)
        return self

    def call(self, inputs: Nest, training: bool = False) -> Nest:
        """The outputs of the model."""
        return self.model(inputs, training=training)

    def reset_metrics(self) -> None:
        """Begins an epoch, or an evaluation."""
        super().reset_metrics()
        self._means.reset()

    def train_step(self, data: Nest) -> dict[str, tf.Tensor]:
        """One update of the core, within Keras's compiled function."""
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        seen: list[Nest] = []

        def forward(inputs: Nest) -> Nest:
            seen.append(self.model(inputs, training=True))
            return seen[-1]

        loss_gradient, arguments = self._loss_of(targets, weights)
        if not self.model.built:
            self(inputs)
        trained = self.model.trainable_variables
        if not self.optimizer.built:
            self.optimizer.build(trained)
        update = make_update(forward, loss_gradient, trained, self.optimizer, joins=False)
        reported = update.function(inputs, arguments)
        checks.check_names(reported, ["stop"], "Keras's fit", "; a callback ends a fit")
        with tf.control_dependencies([self._refuse(reported, inputs, targets)]):
            del reported["status"]
            loss = tf.identity(reported.pop("loss"))
        more = self._count(loss, reported, inputs)
        logs = self.compute_metrics(inputs, targets, seen[-1], sample_weight=weights)
        checks.check_names(more, logs, "Keras's fit")
        self._names = (*logs, *more)
        for host in self._by_name.values():  # a loss on the host runs later
            host.reserved = self._names
        return dict(logs) | dict(more)

    def test_step(self, data: Nest) -> dict[str, tf.Tensor]:
        """The loss in inference mode, penalties included, as `evaluate` has it."""
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.model(inputs, training=False)
        loss_gradient, arguments = self._loss_of(targets, weights)
        if isinstance(loss_gradient, External):  # one that draws must not advance the training's
            loss_gradient = loss_gradient.observe or loss_gradient
        value = getattr(loss_gradient, "value", lambda y, t: loss_gradient(y, t)[0])
        loss = tf.cast(value(outputs, arguments), tf.float32)
        penalties = [tf.reduce_sum(tf.cast(each, tf.float32)) for each in self.model.losses]
        self._count(loss + sum(penalties), {}, inputs)
        logs: dict[str, tf.Tensor] = self.compute_metrics(
            inputs, targets, outputs, sample_weight=weights
        )
        return logs

    def _loss_of(self, targets: Nest, weights: Nest) -> tuple[LossGradient, Nest]:
        """The loss gradient, and what it receives as targets."""
        if self._loss_gradient is None:
            raise ValueError(
                "A model of as_keras must have a loss. Received: one that was loaded, for no file "
                "holds a loss. Call set_loss(loss)."
            )
        targets = () if targets is None else targets
        if weights is None:
            return self._loss_gradient, targets
        return weighted(self._loss_gradient), (targets, weights)

    def _refuse(self, reported: Metrics, inputs: Nest, targets: Nest) -> tf.Tensor:
        """Raises if the update was not made; nothing under XLA, which calls nothing on the host."""
        if self.jit_compile:
            return tf.constant(False)
        names = columns(reported)
        row = join([tf.cast(value, tf.float32) for value in reported.values()])
        nests = inputs, () if targets is None else targets
        leaves = tf.nest.flatten(nests)

        def refuse(row: np.ndarray, *leaves: np.ndarray) -> np.bool_:
            with self._refusal:
                seen = tf.nest.pack_sequence_as(nests, leaves)
                raise nonfinite(row[None], 0, names).located(seen[0], seen[1], None)

        return tf.cond(
            reported["status"] == DONE,
            lambda: tf.constant(False),
            lambda: tf.ensure_shape(tf.numpy_function(refuse, [row, *leaves], tf.bool), ()),
        )

    def _count(self, loss: tf.Tensor, reported: Metrics, inputs: Nest) -> dict[str, tf.Tensor]:
        """Adds a batch to the means of the epoch, each example once; those of what is reported."""
        size = tf.shape(tf.nest.flatten(inputs)[0])[0]
        total = next(metric for metric in self.metrics if metric.name == "loss")
        total.update_state(loss, sample_weight=size)
        means = {name: tf.reduce_mean(tf.cast(each, tf.float32)) for name, each in reported.items()}
        return {name: self._means.add(name, mean, size) for name, mean in means.items()}

    def make_train_function(self, force: bool = False) -> Callable[[Iterator[Nest]], Any]:
        """Keras's, after which exceptions and metrics of the host come out of it."""
        if force or self.train_function is None:
            super().make_train_function(force)
            self.train_function = self._watched(self.train_function, self._report)
        function: Callable[[Iterator[Nest]], Any] = self.train_function
        return function

    def make_test_function(self, force: bool = False) -> Callable[[Iterator[Nest]], Any]:
        """Keras's, after which exceptions of the host come out of it."""
        if force or self.test_function is None:
            super().make_test_function(force)
            self.test_function = self._watched(self.test_function, lambda logs: logs)
        function: Callable[[Iterator[Nest]], Any] = self.test_function
        return function

    def _watched(
        self, function: Callable[[Iterator[Nest]], Any], report: Callable[[Any], Any]
    ) -> Callable[[Iterator[Nest]], Any]:
        guarded = Hosts({**self._by_name, "refusal": self._refusal}).guard(function)

        def call(iterator: Iterator[Nest]) -> Any:
            with contextlib.ExitStack() as stack:
                for host in self._by_name.values():
                    stack.enter_context(host.reserve(self._names, "Keras's fit"))
                logs = report(guarded(iterator))
            for host in self._by_name.values():
                host.metrics = []
            return logs

        return call

    def _report(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs of a batch with the means of what a loss on the host reports."""
        more: dict[str, Any] = {}
        for host in self._by_name.values():
            for row in host.metrics:
                more |= {name: self._means.add(name, value) for name, value in row.items()}
        return {**logs, **more}

    def get_compile_config(self) -> dict[str, Any]:
        """As Keras's; `compile` differs only in what it refuses."""
        config: dict[str, Any] = self._compile_config.serialize()
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as before, and builds the optimizer for what a file holds of it."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """The model and the name; a loss is code, which no file holds."""
        return {"model": keras.saving.serialize_keras_object(self.model), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ExternalLossModel:
        """A model without a loss."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        return cls(model, name=config["name"])


class Means:
    """Means over an epoch of what the update reports, created when first reported."""

    def __init__(self) -> None:
        self.by_name: dict[str, keras.metrics.Mean] = {}

    def add(
        self, name: str, value: tf.Tensor | float, weight: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Adds the value of a batch; the mean with it."""
        if name not in self.by_name:
            with tf.init_scope():  # its variables are those of all traces
                self.by_name[name] = keras.metrics.Mean(name=name)
        self.by_name[name].update_state(value, sample_weight=weight)
        return self.by_name[name].result()

    def reset(self) -> None:
        """Begins again."""
        for mean in self.by_name.values():
            mean.reset_state()
