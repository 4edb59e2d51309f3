"""The command `vantage tensorboard [DIR]`: TensorBoard on a run or on a folder of runs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vantage.scripts.cli.failing import fail
from vantage.scripts.cli.flags import parse
from vantage.scripts.reading.curves import avoid_tensorflow
from vantage.scripts.reading.run_folders import check_folder, is_event_file
from vantage.training.common.console import printable, say


@dataclass(frozen=True)
class TensorBoardFlags:
    """Start TensorBoard on a run or a folder of runs; Ctrl-C ends it.

    Put flags of TensorBoard after `--`: vantage tensorboard runs -- --port 6007 --bind_all
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """What to show."""


def run(arguments: list[str]) -> None:
    """Serves until a signal stops it."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    _check_order(arguments[:cut])
    flags = parse(TensorBoardFlags, arguments[:cut], prog="vantage tensorboard")
    skipped = _check_folder(flags.folder)
    avoid_tensorflow()
    from tensorboard import default, manager, program

    def end(*_: Any) -> None:
        """Not by KeyboardInterrupt, which a busy server may swallow."""
        manager.remove_info_file()
        os._exit(0)

    signal.signal(signal.SIGINT, end)
    words = arguments[cut + 1 :]
    if skipped:
        _skip(skipped)
        words = ["--load_fast", "false", *words]  # the other loader knows no exceptions
    board = program.TensorBoard(default.get_plugins(), server_class=_server_class(flags.folder))
    _configure(board, flags.folder, words)
    code = board.main()
    if code:
        raise SystemExit(code)


def _check_order(words: list[str]) -> None:
    """Refuses TensorBoard's flags before `--`, and says where to put them."""
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if first < len(words) and not {"-h", "--help"} & set(words):
        folder, early = words[:first] or ["runs"], words[first:]
        fail(
            f"Flags of TensorBoard must come after `--`. Received: {' '.join(words)}. "
            f"Run `vantage tensorboard {' '.join([*folder, '--', *early])}`."
        )


def _check_folder(folder: Path) -> list[str]:
    """Refuses a folder without event files; returns those that are not regular files.

    Raises:
        ValueError: It is not a folder, or neither it nor its subfolders contain event files.
    """
    check_folder(folder)
    paths = [
        os.path.join(at, name)
        for at, _, files in os.walk(folder)
        for name in files
        if is_event_file(name)
    ]
    skipped = [path for path in paths if not os.path.isfile(path)]
    if len(skipped) == len(paths):
        held = f"has {len(skipped)}, none of which is a regular file" if skipped else "has none"
        raise ValueError(
            "A folder must contain event files for TensorBoard. Received: "
            f"{str(folder)!r}, which {held}, also in its subfolders. Train with --logdir, "
            "or pass another folder."
        )
    return skipped


def _skip(skipped: list[str]) -> None:
    """Makes TensorBoard skip event files that are not regular, such as pipes: it would wait."""
    from tensorboard.backend.event_processing import io_wrapper

    for path in skipped:
        say(f"note: skipped, because it is not a regular file: {printable(path)}", error=True)
    is_known = io_wrapper.IsSummaryEventsFile
    io_wrapper.IsSummaryEventsFile = lambda path: is_known(path) and os.path.isfile(path)


def _server_class(folder: Path) -> Any:
    """TensorBoard's own server, with error messages of ours."""
    from tensorboard import program

    class Server(program.WerkzeugServer):
        """Prints its address in one line."""

        def print_serving_message(self) -> None:
            say(f"TensorBoard of {folder}: {self.get_url()} (Ctrl-C ends it)")

    scan = program.with_port_scanning(Server)

    def serve(app: Any, flags: Any) -> Any:
        try:
            return scan(app, flags)
        except (program.TensorBoardServerException, OSError, SystemExit) as error:
            said = getattr(
                error, "msg", "see above"
            )  # the server exits if the host is not this machine
            port = "6006 and up" if flags.port is None else flags.port
            raise ValueError(
                "The host and port of TensorBoard must be free. Received: "
                f"host={flags.host or 'localhost'}, port={port} ({said}). "
                "Pass others after `--`, such as -- --port 6007, or --port 0 for any free port."
            ) from None

    return serve


def _configure(board: Any, folder: Path, words: list[str]) -> None:
    """Passes TensorBoard its flags; exits with code 2 if one is wrong."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            board.configure(("tensorboard", "--logdir", str(folder), *words))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        reason = said.getvalue().strip().rpartition("error: ")[2]
        _refuse(words, reason)
    except ValueError as error:
        _refuse(words, str(error))


def _refuse(words: list[str], reason: str) -> None:
    fail(
        "Words after `--` must be flags of TensorBoard. "
        f"Received: {' '.join(words)} ({reason.rstrip('.')}). "
        "Run `vantage tensorboard DIR -- --help` for them."
    )
