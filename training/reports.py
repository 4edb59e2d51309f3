"""What the supervised and adversarial trainers share: event files of their own, and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .writer import Callback, Writer, open_writer


def open_own(logdir: str | Path | None, own: set[Path]) -> Writer:
    """A writer for `logdir`, which must be new to events or one of the trainer's `own`.

    Raises:
        FileExistsError: It holds the event files of another run.
    """
    if logdir is not None and Path(logdir) not in own:
        if any(Path(logdir).glob("events.out.tfevents.*")):
            raise FileExistsError(
                "A log directory must not hold the event files of another run. "
                f"Received: logdir={str(logdir)!r}. Choose another one."
            )
        own.add(Path(logdir))
    return open_writer(logdir)


def report(
    label: str,
    count: int,
    metrics: dict[str, float],
    verbose: bool,
    callbacks: Sequence[Callback],
) -> bool:
    """Prints a line if asked to, calls back, and says whether to go on."""
    if verbose:
        values = "  ".join(f"{name} {value:.6f}" for name, value in metrics.items())
        print(f"{label} {count:5d}  {values}", flush=True)
    answers = [callback(count, metrics) for callback in callbacks]
    return all(answer is None or answer for answer in answers)
