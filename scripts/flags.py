"""Command-line flags from dataclasses, with errors whose last line says what to do."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any, TypeVar

T = TypeVar("T")


def parse(flags: type[T], arguments: list[str], *, prog: str, default: Any = None) -> T:
    """An instance of the dataclass `flags` from command-line arguments.

    Raises:
        SystemExit: 0 after `--help`; 2 on bad usage, the last line of standard error saying why.
        ValueError: The dataclass refuses a value.
    """
    import tyro

    errors = io.StringIO()
    keywords = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(flags, args=arguments, prog=prog, **keywords)
    except SystemExit as stop:
        sys.stderr.write(errors.getvalue())
        if stop.code:
            lines = [line.strip("│ ") for line in errors.getvalue().splitlines()]
            said = [line for line in lines if line and line[0] not in "╭╰─"]
            fail(f"{said[0] if said else 'Bad usage'}. Run `{prog} --help` for the flags.")
        raise


def fail(message: str) -> None:
    """Ends the program with exit code 2 and `message`, on one line, last on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
