"""The texts below the fields of a dataclass, which Python does not store."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def descriptions(kind: type) -> dict[str, str]:
    """The text below each annotated name of a class, by name; none where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, SyntaxError, TypeError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
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
        entries = [
            wrapper.fill(f"{name}: {' '.join(text.split())}")
            for name, text in descriptions(options).items()
        ]
        if returns:  # no docstrings under `python -OO`
            function.__doc__ = "\n".join([arguments, *entries]) + returns + rest
        return function

    return completed
