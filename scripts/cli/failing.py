"""The end of a command that cannot go on."""

from __future__ import annotations

from typing import NoReturn

from vantage.training.common.console import say

MOST_MESSAGE = 5_000  # characters of an error


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with an exit code and `message`, on one line, last on standard error."""
    line = " ".join(message.split())
    if len(line) > MOST_MESSAGE:  # the advice is at its end
        line = f"{line[: MOST_MESSAGE - 1_000]} … {line[-1_000:]}"
    say(f"error: {line}", error=True)
    raise SystemExit(code)
