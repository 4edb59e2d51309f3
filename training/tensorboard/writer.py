"""Where a run's numbers go: TensorBoard event files, or nowhere."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import summaries

Callback = Callable[[int, dict[str, float]], bool | None]
"""Called with the step and the metrics of a report; returning False stops the training."""
# Whether a call of a function runs nothing of it.
_LAZY = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """The callbacks of a training, each a function of a count and metrics.

    Raises:
        ValueError: One is Keras's, or a class, or cannot be called so, or runs nothing when called.
    """
    rule = "callbacks must be callable as callback(count, metrics); one that returns False stops."
    is_list = isinstance(callbacks, Iterable) and not isinstance(callbacks, str | bytes | Mapping)
    if not is_list or _is_kerass(callbacks):
        raise ValueError(
            f"{rule} Received: {_short(callbacks)}. Pass a list of functions: callbacks=[f]."
        )
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if _is_kerass(callback):
            raise ValueError(
                f"{rule} Received: keras.callbacks.{type(callback).__name__}, which Keras's own "
                "`fit` alone can call. Write a function: to stop, return False once "
                'metrics["loss"] no longer falls; for the learning rate, assign '
                "optimizer.learning_rate; to save, call model.save."
            )
        if isinstance(callback, type):
            raise ValueError(
                f"{rule} Received: the class {callback.__name__}. Pass an instance of it: "
                f"{callback.__name__}(...)."
            )
        begin = getattr(callback, "begin", None)
        for function in (callback, type(callback).__call__, begin):
            if any(is_lazy(function) for is_lazy in _LAZY):
                raise ValueError(
                    f"{rule} Received: {_short(callback)}, which is async or has a yield: a call "
                    "would not run it. Write it with def and return."
                )
        if begin is not None and not _takes(begin, Writer()):
            raise ValueError(
                "A callback's begin must be a method of one argument, the writer. Received: "
                f"{_short(begin)} of {_short(callback)}. Write begin(self, writer), or rename it."
            )
        if not _takes(callback, 0, {}):
            raise ValueError(
                f"{rule} Received: {_short(callback)}. Pass a function of two arguments, such as "
                "lambda count, metrics: None."
            )
    return callbacks


def _is_kerass(callback: Any) -> bool:
    return any(each.__module__.startswith("keras.") for each in type(callback).__mro__)


def _takes(function: Any, *arguments: Any) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # one written in C may have no signature
        return True
    return True


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def name_of(callback: Any) -> str:
    """What a callback is called in an error."""
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))


def asks_to_stop(answer: Any) -> bool:
    """Whether a callback returned False: Python's, NumPy's, or one in an array without axes.

    Other values that count as false (None, 0, an empty list) do not stop a training: a callback
    that ends in an expression returns one by accident.

    Raises:
        ValueError: It returned a coroutine or generator, of which nothing has run.
    """
    if isinstance(answer, bool) or answer is None:
        return answer is False
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise ValueError(
            "Callbacks must run when they are called. Received: one that returned "
            f"{_short(answer)}. Write it with def and return, without async or yield."
        )
    if getattr(answer, "shape", None) != () or "bool" not in str(getattr(answer, "dtype", "")):
        return False
    return not bool(answer)


class Writer:
    """Writes nothing: the writer of a run without a log directory, and every writer's interface.

    `step` is the x-axis: environment steps, epochs or training steps.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag, all in one record."""
        self._add(step, _scalars, values)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes how the numbers of each array are spread, all in one record.

        Arrays have any shape; what is not finite is left out.
        """
        self._add(step, summaries.histograms, values)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text, shown as Markdown."""
        self._add(step, summaries.text, tag, markdown)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, 1, 3 or 4]`."""
        self._add(step, summaries.image, tag, pixels)

    def video(self, step: int, tag: str, gif: bytes, shape: Sequence[int]) -> None:
        """Writes an animated GIF, which browsers play; `shape` is `[..., height, width, 3]`."""
        self._add(step, summaries.video, tag, gif, shape)

    def graph(self, models: Iterable[tuple[str, Any]]) -> None:
        """Writes the layers of Keras models for the Graphs tab, from pairs of a scope and a model.

        TensorBoard shows one graph a run, the last: all models go into one call.
        """
        self._add(0, summaries.graph, models)

    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Writes the Custom Scalars tab: category → chart → regular expressions of its tags."""
        self._add(0, summaries.layout, charts)

    def hparams(
        self, config: Mapping[str, Any], metrics: Sequence[str] = (), group: str = ""
    ) -> None:
        """Writes this run's row of the HParams table; `summaries.hparams` says what is in it."""
        self._add(0, summaries.hparams, config, metrics, group)

    def hparams_end(self, status: Literal["success", "failure"] = "success") -> None:
        """Says how the run ended; of several calls in one run the first one counts."""
        self._add(0, summaries.hparams_end, status)

    def resume(self, step: int) -> None:
        """Tells a TensorBoard that is watching to forget the points after `step`: they come again.

        Its word for that is the start of a session.
        """
        for _ in range(2):  # critical: the first start that a TensorBoard sees it does not obey
            self._add(step + 1, lambda: {"session_log": {"status": "START"}})

    def flush(self) -> None:
        """Waits until the disk has everything.

        Raises:
            OSError: It fails.
        """

    def close(self) -> None:
        """Ends the writing."""

    def _add(self, step: int, make: Callable[..., dict[str, Any]], *data: Any) -> None:
        """Writes the event whose fields are `make(*data)`."""


def _scalars(values: Mapping[str, float]) -> dict[str, Any]:
    points = [{"tag": tag, "simple_value": float(value)} for tag, value in values.items()]
    return {"summary": {"value": points}}


def open_writer(logdir: str | Path | None) -> Writer:
    """A TensorBoard writer for `logdir`, or without one a writer that writes nothing."""
    from .events import TensorBoardWriter

    return Writer() if logdir is None else TensorBoardWriter(logdir)
