"""Calls of a compiled update: one or many updates per call, in pieces that a signal can stop.

Legend: K updates in one call, M examples per update.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ..common import interrupts
from . import arguments, checks
from .compiled import Compiled, Nest, restored
from .hosts import Hosts
from .optimizers import Joined, join
from .table import DONE, STOPPED, NonfiniteUpdate, columns, completed, nonfinite, with_vectors

PIECE_SECONDS = 0.5  # length of a piece of a long call
Refused = Callable[[NonfiniteUpdate], None]


class Update(NamedTuple):
    """An update before it is traced, with all that its step needs."""

    function: Callable[..., dict[str, tf.Tensor]]
    """`(inputs, targets) -> metrics`; the first one is `status`, `DONE` if weights changed."""
    joined: Sequence[Joined]
    """Joined variables, which each call opens at its start and closes at its end."""
    assigned: Mapping[int, tf.Tensor] = {}
    """New values of variables, flat, by the variables' ids; filled when the function is traced."""
    hosts: Hosts = Hosts({})
    """The host's side of losses outside TensorFlow."""
    turns: Sequence[str] = ()
    """The names of the turns, if the update consists of several."""


class Step:
    """A compiled update, as `compile_step` returns it: `step(inputs, targets) -> metrics`.

    A long call of many updates runs in pieces of about half a second; between two pieces
    `interrupts.notice` responds to a signal. Pieces give the same bits as one call.
    """

    def __init__(
        self,
        compiled: Compiled,
        update: Update,
        names: list[str],
        mirror: Sequence[keras.Variable],
        updates: int | None,
        examples: int,
    ) -> None:
        self._turns = tuple(update.turns)
        self._joined = [each for each in update.joined if each.is_used]
        self._names, self._updates, self._examples = names, updates, examples
        self._hosts, self._has_vectors = update.hosts, len(set(names)) < len(names)
        self._traced = compiled
        self._compiled = update.hosts.guard(compiled)
        is_long = bool(self._turns) or updates is not None
        self._snapshot = compiled.state if is_long else list
        self._bounds = np.array([0, updates or 1], np.int32)
        self._piece, self._is_new = 1, True  # updates per piece; whether no update has run yet
        shapes = [tuple(variable.shape) for variable in mirror]
        cuts = np.cumsum([0, *map(math.prod, shapes)]).tolist()
        self._cuts = list(zip(cuts, cuts[1:], shapes, strict=False))  # begin, end, shape
        self._flat = np.concatenate([np.empty(0, np.float32), *(v.numpy().ravel() for v in mirror)])

    def __call__(
        self,
        inputs: Nest,
        targets: Nest,
        rows: np.ndarray | None = None,
        refused: Refused | None = None,
    ) -> dict[str, Any]:
        """Runs one update, or with `updates` K of them: on all examples or on `rows` `[K, M]`.

        Args:
            inputs: Arrays that match the signature.
            targets: Arrays that match the signature.
            rows: The examples of each update.
            refused: With K updates, a function that receives the error of each update that is not
                finite. Unless it raises, the step skips that update and continues with the next
                one. The metrics include the values of a skipped update.

        Returns:
            `{"loss", "grad_norm", **metrics}`: floats, or with `updates` arrays `[K]`.

        Raises:
            ValueError: The arrays differ from the signature, or `rows` index no example.
            FloatingPointError: The loss or a gradient is not finite. This update, and any after
                it in the same call, changed no weight, optimizer slot, counter or layer state; in
                an update of several turns, those before the bad one did.
            UpdateCut: A signal arrived, and the caller allows the call to end between two pieces.
        """
        if self._is_new:
            with interrupts.patience():
                array = self._run(inputs, targets, rows, refused)
            self._is_new = False
        else:
            array = self._run(inputs, targets, rows, refused)
        try:
            return self._read(array)
        except NonfiniteUpdate as error:
            raise error.located(inputs, targets, rows) from None

    def compile(self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None) -> None:
        """Prepares `start`: compiles a step of several updates without running one.

        It also copies the optimizer's slots; reading them waits for an update that still runs.
        """
        for each in self._joined:
            each.open()
        if self._is_new and self._updates is not None:
            with interrupts.patience():
                self._start(inputs, targets, rows, np.zeros(2, np.int32)).numpy()
            self._is_new = False

    def start(self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None) -> tf.Tensor:
        """The first half of a call, in one piece: returns what the compiled function returns."""
        return self._start(inputs, targets, rows, self._bounds)

    def read(self, vector: tf.Tensor) -> dict[str, Any]:
        """The second half of a call: returns the metrics and stores the new weights."""
        return self._read(vector.numpy())

    def _run(
        self, inputs: Nest, targets: Nest, rows: np.ndarray | None, refused: Refused | None
    ) -> np.ndarray:
        """Runs all pieces of a call; returns what the compiled function would return for all."""
        count, width = self._updates, len(self._names)
        before = self._snapshot()
        if count is None:
            with restored(before):
                array: np.ndarray = self._start(inputs, targets, rows, self._bounds).numpy()
            return array
        table = np.zeros((count, width), np.float32)  # [K, metrics]
        begin, is_first = 0, self._is_new
        while True:
            end, began = min(begin + self._piece, count), time.perf_counter()
            with restored(before):
                bounds = np.array([begin, end], np.int32)
                array = self._start(inputs, targets, rows, bounds).numpy()
            table[begin:end] = array[: table.size].reshape(table.shape)[begin:end]
            failed = table[begin:end, 0] < DONE
            is_done = not failed.any()
            if not is_done:
                end = begin + int(failed.argmax()) + 1  # later ones did not run
            if not is_first:  # the first piece includes the compilation
                seconds = (time.perf_counter() - began) / (end - begin)
                self._piece = max(1, int(PIECE_SECONDS / seconds))
            if is_done and end - begin == count:
                return array
            try:
                if not is_done and refused is not None and table[end - 1, 0] != STOPPED:
                    error = nonfinite(table, end - 1, self._names, self._turns)
                    refused(error.located(inputs, targets, rows))
                    table[end - 1, 0], is_done = DONE, True  # so it is not refused again
                if not is_done or end == count:
                    return np.concatenate([table.ravel(), array[table.size :]])
                interrupts.notice()
            except BaseException:
                self._hosts.take_metrics(True)  # critical: they do not belong to the next call
                raise
            begin, is_first = end, False

    def _start(
        self, inputs: Nest, targets: Nest, rows: np.ndarray | None, bounds: np.ndarray
    ) -> tf.Tensor:
        targets = self._hosts.hold(targets)
        if rows is not None and self._examples:
            checks.check_rows(rows, self._examples)
        more = [*([] if rows is None else [rows]), *([] if self._updates is None else [bounds])]
        for each in self._joined:
            each.open()
        try:
            return self._compiled(inputs, targets, *more)
        finally:
            for each in self._joined:
                each.close()

    def _read(self, array: np.ndarray) -> dict[str, Any]:
        stacked = self._updates is not None
        host_metrics = self._hosts.take_metrics(stacked)
        count = len(self._names) * (self._updates or 1)
        table = array[:count].reshape(-1, len(self._names))  # [K, metrics]
        self._flat = array[count:]
        if table[:, 0].min() < DONE:
            table = completed(table, self._names, stacked, self._turns)
        columns = table[:, 1:].T if stacked else table[0, 1:].tolist()
        metrics = dict(zip(self._names[1:], columns, strict=True)) | host_metrics
        if self._has_vectors:
            return with_vectors(metrics, table, self._names, stacked)
        return metrics

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, without those of a host loss, which only a call reveals."""
        return self._names[1:]

    @property
    def is_random(self) -> bool:
        """Whether an update draws random numbers, as Dropout does."""
        return self._traced.is_random

    @property
    def keeps_drawing(self) -> bool:
        """Whether random numbers depend on earlier calls, which XLA ignores."""
        return self._traced.keeps_drawing

    @property
    def weights(self) -> list[np.ndarray]:
        """The mirrored variables after the last call (or before the first), views of one array."""
        return [self._flat[begin:end].reshape(shape) for begin, end, shape in self._cuts]


def compile_updates(
    update: Update,
    signature: tuple[Nest, ...],
    updates: int | tuple[int, int] | None,
    mirror: Sequence[keras.Variable],
    jit_compile: bool | None,
    prepare: Callable[[Nest, Nest], tuple[Nest, Nest]] | None = None,
) -> Step:
    """Compiles an update into a step that runs it once or K times, as `compile_step` describes.

    Raises:
        ValueError: XLA was requested for a loss on the host.
    """
    hosts = update.hosts
    updates, mirror = arguments.as_updates(updates), arguments.as_mirror(mirror)
    arguments.check_signature(signature, isinstance(updates, tuple))
    arguments.check_function("prepare", prepare, "inputs", "targets")
    jit_compile = arguments.as_jit_compile(jit_compile)
    if updates is None or hosts:  # XLA pays only for several updates
        jit_compile = bool(jit_compile)
    checks.check_compiler(bool(hosts), bool(jit_compile))
    names: list[str] = []

    def traced(inputs: Nest, targets: Nest) -> tf.Tensor:
        metrics = update.function(inputs, targets)
        names[:] = columns(metrics)
        return join([tf.cast(value, tf.float32) for value in metrics.values()])

    def run(inputs: Nest, targets: Nest, *more: tf.Tensor) -> tf.Tensor:
        arrays = inputs, targets
        if prepare is not None:
            with keras.StatelessScope():  # drops what it would assign
                arrays = prepare(*arrays)
            checks.check_prepared(arrays)
        if count is None:
            table = traced(*arrays)
        else:
            table = scan(traced, arrays, count, more[-1], more[0] if size else None)
        # A single update need not read back new values; those of a loop cannot leave it.
        known = update.assigned if count is None else {}
        values = (known[id(v)] if id(v) in known else v.value for v in mirror)  # noqa: SIM401, a read
        return join([table, *values])

    count, size = updates if isinstance(updates, tuple) else (updates, None)
    examples = 0
    if hosts and prepare is None:  # otherwise they receive what `prepare` returns
        signature = signature[0], hosts.stand_ins(signature[1])
    if count is not None:
        examples = min(leaf.shape[0] for leaf in tf.nest.flatten(signature)) if size else 0
        rows = [tf.TensorSpec((count, size), tf.int32)] if size else []
        signature = (*signature, *rows, tf.TensorSpec((2,), tf.int32))
    compiled = Compiled(run, tuple(signature), jit_compile=jit_compile)
    return Step(compiled, update, names, mirror, count, examples)


def scan(
    update: Callable[..., tf.Tensor],
    arrays: Nest,
    count: int,
    bounds: tf.Tensor,
    rows: tf.Tensor | None,
) -> tf.Tensor:
    """Runs updates `[begin, end)` of K, up to one that fails; returns metrics `[K, metrics]`.

    Args:
        update: `arrays -> metrics [metrics]`; the first metric is the status.
        arrays: The arrays of all examples.
        count: K.
        bounds: `[begin, end]`. Pieces give the same bits as one call, because both are iterations
            of the same loop.
        rows: The examples of each update, `[K, M]`; None for all examples.
    """

    def body(
        k: tf.Tensor, _: tf.Tensor, table: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        batch = arrays
        if rows is not None:
            batch = tf.nest.map_structure(lambda array: tf.gather(array, rows[k]), arrays)
        metrics = update(*batch)
        return k + 1, metrics[0] == DONE, table.write(k, metrics)

    _, _, table = tf.while_loop(
        lambda k, is_done, _: (k < bounds[1]) & is_done,
        body,
        (bounds[0], tf.constant(True), tf.TensorArray(tf.float32, size=count)),
        parallel_iterations=1,
    )
    return table.stack()
