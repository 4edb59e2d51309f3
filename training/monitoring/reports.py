"""What trainings share: event files of their own, what they are, and reports."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..common.console import say, surviving
from ..storage.checkpoint import versions
from ..tensorboard.events import PREFIX, open_writer
from .callbacks import Callback, asks_to_stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import keras

    from ..tensorboard.writer import Writer
    from .facts import Settings


def open_own(logdir: str | Path | None, own: set[Path]) -> Writer:
    """A writer for `logdir`, which must be new to events or one of the trainer's `own`.

    Raises:
        FileExistsError: It holds the event files of another run.
    """
    logdir = None if logdir is None else Path(logdir).absolute()  # wherever the process goes
    if logdir is not None and logdir not in own:
        if any(logdir.glob(f"{PREFIX}*")):
            raise FileExistsError(
                "A log directory must not hold the event files of another run. "
                f"Received: logdir={str(logdir)!r}. Choose another one."
            )
        own.add(logdir)
    return open_writer(logdir)


def report(
    label: str,
    count: int,
    metrics: dict[str, float],
    verbose: bool,
    callbacks: Sequence[Callback],
) -> bool:
    """Prints a line if asked to, calls the callbacks; False if one of them stops training."""
    if verbose:
        values = "  ".join(f"{name} {value:.6f}" for name, value in metrics.items())
        say(f"{label} {count:5d}  {values}")
    answers = [callback(count, metrics) for callback in callbacks]
    return not any(map(asks_to_stop, answers))


@contextmanager
def session(writer: Writer) -> Iterator[None]:
    """Closes a writer at the end of a training, and says before whether an error ended it.

    Prints that fail do not end the training.
    """
    try:
        with surviving():
            yield
    except BaseException:
        writer.hparams_end("failure")
        raise
    else:
        writer.hparams_end()
    finally:
        writer.close()


class Configured(Protocol):
    """An optimizer, of Keras or not."""

    def get_config(self) -> Settings:
        """The settings."""


def settings(optimizer: Configured) -> Settings:
    """An optimizer's settings, named by its class: its own name is another one each time."""
    return {**optimizer.get_config(), "name": type(optimizer).__name__}


def describe(
    writer: Writer,
    config: Settings,
    models: Iterable[tuple[str, keras.Model]],
    columns: Settings | None = None,
) -> None:
    """Writes what a training is: its row of the HParams table, settings and versions, the graph.

    The columns of the table are the settings, unless others are given.
    """
    writer.hparams(config if columns is None else columns)
    for tag, entries in (("run/config", config), ("run/versions", versions())):
        lines = json.dumps(entries, indent=2, default=str).splitlines()
        writer.text(0, tag, "\n".join(f"    {line}" for line in lines))
    writer.graph(models)


def begin(callbacks: Iterable[Callback], writer: Writer) -> None:
    """Gives the writer to the callbacks that have a method `begin` for it."""
    for callback in callbacks:
        getattr(callback, "begin", lambda writer: None)(writer)
