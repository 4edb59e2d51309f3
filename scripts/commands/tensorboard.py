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

from vantage.scripts.cli.flags import fail, parse
from vantage.scripts.reading.curves import avoid_tensorflow
from vantage.scripts.reading.run_folders import check_folder, is_event_file
from vantage.training.common.console import printable, say


@dataclass(frozen=True)
class TensorBoardFlags:
    """Start TensorBoard on a run or a folder of runs; Ctrl-C ends it.

    Flags of TensorBoard go behind `--`: vantage tensorboard runs -- --port 6007 --bind_all
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """What to show."""


def run(arguments: list[str]) -> None:
    """Serves until it is stopped."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    _check_order(arguments[:cut])
    flags = parse(TensorBoardFlags, arguments[:cut], prog="vantage tensorboard")
    odd = _check_folder(flags.folder)
    avoid_tensorflow()
    from tensorboard import default, manager, program

    def end(*_: Any) -> None:
        """Not by KeyboardInterrupt, which a server that is busy may swallow."""
        manager.remove_info_file()
        os._exit(0)

    signal.signal(signal.SIGINT, end)
    words = arguments[cut + 1 :]
    if odd:
        _leave_out(odd)
        words = ["--load_fast", "false", *words]  # the other loader knows no exceptions
    board = program.TensorBoard(default.get_plugins(), server_class=_server_class(flags.folder))
    _configure(board, flags.folder, words)
    code = board.main()
    if code:
        raise SystemExit(code)


def _check_order(words: list[str]) -> None:
    """Says where flags of TensorBoard go to whoever passes them as to TensorBoard itself."""
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if first < len(words) and not {"-h", "--help"} & set(words):
        folder, early = words[:first] or ["runs"], words[first:]
        fail(
            f"Flags of TensorBoard must stand behind `--`. Received: {' '.join(words)}. "
            f"Run `vantage tensorboard {' '.join([*folder, '--', *early])}`."
        )


def _check_folder(folder: Path) -> list[str]:
    """Refuses what TensorBoard would show an empty page of; the event files that it cannot read.

    Raises:
        ValueError: It is no folder, or there are no event files in it or deeper down.
    """
    check_folder(folder)
    paths = [
        os.path.join(at, name)
        for at, _, files in os.walk(folder)
        for name in files
        if is_event_file(name)
    ]
    odd = [path for path in paths if not os.path.isfile(path)]
    if len(odd) == len(paths):
        held = f"has {len(odd)} of which none is a regular file" if odd else "has none"
        raise ValueError(
            "A folder must hold event files for TensorBoard to show. Received: "
            f"{str(folder)!r}, which {held}, nor deeper down. Train with --logdir, or pass "
            "another folder."
        )
    return odd


def _leave_out(odd: list[str]) -> None:
    """Keeps TensorBoard from files that are none, such as a pipe, for which it would wait."""
    from tensorboard.backend.event_processing import io_wrapper

    for path in odd:
        say(f"note: left out, for it is no regular file: {printable(path)}", error=True)
    is_known = io_wrapper.IsSummaryEventsFile
    io_wrapper.IsSummaryEventsFile = lambda path: is_known(path) and os.path.isfile(path)


def _server_class(folder: Path) -> Any:
    """What serves: TensorBoard's own server, whose errors are ours."""
    from tensorboard import program

    class Server(program.WerkzeugServer):
        """Says in one line where it is."""

        def print_serving_message(self) -> None:
            say(f"TensorBoard of {folder}: {self.get_url()} (Ctrl-C ends it)")

    scan = program.with_port_scanning(Server)

    def serve(app: Any, flags: Any) -> Any:
        try:
            return scan(app, flags)
        except (program.TensorBoardServerException, OSError, SystemExit) as error:
            said = getattr(
                error, "msg", "see above"
            )  # the server exits where a host is not its own
            port = "6006 and up" if flags.port is None else flags.port
            raise ValueError(
                "TensorBoard must find its host and port free. Received: "
                f"host={flags.host or 'localhost'}, port={port} ({said}). "
                "Pass others behind `--`, such as -- --port 6007, or --port 0 for any."
            ) from None

    return serve


def _configure(board: Any, folder: Path, words: list[str]) -> None:
    """Gives TensorBoard its flags; on mistakes exit code 2."""
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
        "Behind `--` must be flags of TensorBoard. "
        f"Received: {' '.join(words)} ({reason.rstrip('.')}). "
        "Run `vantage tensorboard DIR -- --help` for them."
    )
