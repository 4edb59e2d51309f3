"""The texts below the fields of a dataclass, which Python does not store."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def descriptions(kind: type) -> dict[str, str]:
    """The text below each annotated name of a class, by name.

    It is empty where the source is not available. Inherited names are not in it.
    """
    return _by_class(kind.__module__).get(kind.__name__, {})


@functools.cache
def _by_class(module: str) -> dict[str, dict[str, str]]:
    """The same of every class of an imported module, which is read once."""
    try:
        tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name: _texts(node.body) for node in classes}


def _texts(body: list[ast.stmt]) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def describes(options: type) -> Callable[[F], F]:
    """Adds the fields of a dataclass to the `Args` of a function that takes them, for `help`."""

    def completed(function: F) -> F:
        arguments, returns, rest = (function.__doc__ or "").partition("\n\n    Returns:")
        wrapper = textwrap.TextWrapper(100, initial_indent=" " * 8, subsequent_indent=" " * 12)
        texts = {name: " ".join(text.split()) for name, text in descriptions(options).items()}
        entries = [wrapper.fill(f"{name}: {text}") for name, text in texts.items()]
        if returns:  # no docstrings under `python -OO`
            function.__doc__ = "\n".join([arguments, *entries]) + returns + rest
        return function

    return completed
