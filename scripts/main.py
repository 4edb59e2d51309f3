"""The command `vantage`: reads the first word, and only then imports what that command needs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, NoReturn

from vantage.scripts.cli.failing import fail
from vantage.scripts.cli.starting import limit_threads, quiet_tensorflow
from vantage.training.common.console import Stream, printable, say, surviving, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

COMMANDS = {
    "train": "train an agent: vantage train a2c CartPole-v1",
    "evaluate": "play episodes with a trained agent: vantage evaluate RUN_DIR",
    "check": "find mistakes in an environment: vantage check module:MyEnv",
    "runs": "a table of all runs below a folder: vantage runs [DIR]",
    "plot": "plot the learning curves of runs: vantage plot RUN_DIR...",
    "watch": "watch a trained agent play, or record a video: vantage watch RUN_DIR",
    "tensorboard": "start TensorBoard on a folder of runs: vantage tensorboard [DIR]",
    "regression": "train a model on a loss of your own: target-range, arm",
    "gan": "train a generator against a discriminator: ring, digits",
    "benchmark": "tables of seeds, and speed compared with a peer",
}


MOST_TEXT = 5_000  # characters of a warning
TRAININGS = ("train", "regression", "gan", "benchmark")
"""Commands whose results are in files: losing their printed lines is no error."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point.

    Exit codes: 0 done, 1 an environment broke (or `check` found errors), 2 bad usage or
    configuration, or the printed output was lost, 129/130/143 after a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    with surviving(), warning_in_plain_text(), obeying_signals(), quiet_tensorflow():
        try:
            _run(name, arguments)
            _check_printed(name)
        except KeyboardInterrupt as stop:
            raise SystemExit(getattr(stop, "code", 130)) from None
        finally:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, Stream) and stream.lost is not None:
                    stream.discard()


def _run(name: str, arguments: list[str]) -> None:
    limit_threads()
    if name in ("-h", "--help"):
        lines = [f"  {command:<12} {purpose}" for command, purpose in COMMANDS.items()]
        say("\n".join(["usage: vantage [--version] COMMAND ...\n\ncommands:", *lines]))
        say("\nRun `vantage COMMAND --help` for its flags.")
        return
    if name == "--version":
        say(f"vantage {importlib.metadata.version('vantage-rl')}")
        return
    if name not in COMMANDS:
        commands = ", ".join(COMMANDS)
        fail(f"The command must be one of {commands}. Received: {name!r}. Run `vantage --help`.")
    try:
        importlib.import_module(f"vantage.scripts.commands.{name}").run(arguments[1:])
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # such as a panic of Rust code
        if os.environ.get("VANTAGE_TRACEBACK") or not _is_reported(error):
            from vantage.envs.vector.broken import traceback_of

            say(traceback_of(error), error=True)
            raise SystemExit(1) from None
        if type(error).__module__ == "vantage.envs.vector.broken":
            _report_broken(error)
        text = text_of(error)
        if "Received:" in text:
            fail(text)
        fail(f"{type(error).__name__}: {text}. Set VANTAGE_TRACEBACK=1 to see where it happened.")


def _check_printed(name: str) -> None:
    """Reports that the output of a command was lost, as on a full disk; its work is done."""
    if sys.stdout is not None:
        sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None:
        text = (
            "Standard output must take what the command prints. "
            f"Received: {lost}. Make room, or print elsewhere."
        )
        if name not in TRAININGS:
            fail(text)
        say(f"note: {text}", error=True)


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end.

    A KeyboardInterrupt, because code that runs users' functions lets that pass.

    Attributes:
        code: The exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.code = 128 + number


@contextlib.contextmanager
def obeying_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the command as SIGINT does: open files and workers are closed.

    A training installs its own handlers while it runs, and writes a checkpoint.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def warning_in_plain_text() -> Iterator[None]:
    """Prints warnings without the control characters that the names in them may hold."""
    before = warnings.formatwarning

    def in_plain_text(message, category, filename, lineno, line=None) -> str:
        message = printable(message, keep="\n\t", most=MOST_TEXT)
        return printable(before(message, category, filename, lineno, line), keep="\n\t")

    warnings.formatwarning = in_plain_text
    try:
        yield
    finally:
        if warnings.formatwarning is in_plain_text:
            warnings.formatwarning = before


def _is_reported(error: BaseException) -> bool:
    """Whether one line is enough; any other error is a bug, and is shown with its traceback."""
    expected = (ValueError, TypeError, ImportError, OSError, FloatingPointError)
    modules = ("gymnasium.error", "vantage.envs.vector.broken")
    return isinstance(error, expected) or type(error).__module__ in modules


def _report_broken(error: BaseException) -> NoReturn:
    """Prints the environment's own traceback and what to do about it; exits with code 1."""
    from vantage.envs.vector.broken import traceback_of

    first, _, rest = str(error).partition("\n")
    if error.__cause__ is not None:
        rest = traceback_of(error.__cause__)
    say(rest.strip(), error=True)
    fail(" ".join([first, *getattr(error, "__notes__", [])]), code=1)


if __name__ == "__main__":
    main()
