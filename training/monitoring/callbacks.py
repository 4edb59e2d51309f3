"""Callbacks of a training: functions of a count and metrics, called at every report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from ..tensorboard.writer import Writer

Callback = Callable[[int, dict[str, float]], bool | None]
"""Called with the step and the metrics of a report; returning False stops the training."""
# Whether a call of a function runs nothing of it.
_LAZY = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction


def as_callbacks(callbacks: object) -> tuple[Callback, ...]:
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
    checked = tuple(cast("Iterable[Callback]", callbacks))
    for callback in checked:
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
    return checked


def _is_kerass(callback: object) -> bool:
    return any(each.__module__.startswith("keras.") for each in type(callback).__mro__)


def _takes(function: object, *arguments: object) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # one written in C may have no signature
        return True
    return True


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def name_of(callback: object) -> str:
    """What a callback is called in an error."""
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))


def asks_to_stop(answer: object) -> bool:
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
