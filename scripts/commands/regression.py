"""The command `vantage regression target-range|arm`: a model trained on a custom loss."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vantage.scripts.cli.flags import parse
from vantage.scripts.cli.starting import start_tensorflow
from vantage.scripts.commands.examples_of_trainers import check_folder, entries_of
from vantage.training.common.console import say
from vantage.training.storage.checkpoint import versions
from vantage.training.storage.files import write_json
from vantage.training.tensorboard.events import TensorBoardWriter

USAGE = "usage: vantage regression {target-range,arm} [flags]"


@dataclass(frozen=True)
class TargetRange:
    """Learn y = 0.8 x + 0.2 + noise from a loss that clips predictions to [0.5, 1.5]."""

    penalty: float = 0.1
    """Weight of the range penalty; 0 shows how clipping alone kills the gradient."""
    unlucky: bool = False
    """Start with every prediction below 0.5."""
    epochs: int = 1_000
    """Epochs, each one update on 1,000 examples."""
    report_every: int = 100
    """Epochs between two printed lines."""
    seed: int = 0
    """Seed of the data and the initial weights."""
    logdir: Path | None = None
    """The run's folder, new or empty; without it nothing is written."""
    resume: bool = False
    """Go on from the newest checkpoint in --logdir, to the same bits as if never stopped."""

    def __post_init__(self) -> None:
        _check_counts(self)
        if not 0 <= self.penalty < np.inf:
            raise ValueError(f"--penalty must be a number >= 0. Received: {self.penalty}.")


@dataclass(frozen=True)
class Arm:
    """Learn a two-link arm's inverse kinematics from a simulator written in NumPy."""

    gradient: bool = True
    """Use the simulator's analytic gradient, or with --no-gradient only its score."""
    samples: int = 8
    """With --no-gradient: antithetic pairs of perturbed angles per update."""
    epochs: int = 100
    """Epochs, each 50 updates on 200 targets."""
    report_every: int = 10
    """Epochs between two printed lines."""
    seed: int = 0
    """Seed of the targets, the initial weights, the minibatches and the perturbations."""
    logdir: Path | None = None
    """The run's folder, new or empty; without it nothing is written."""
    resume: bool = False
    """Go on from the newest checkpoint in --logdir, to the same bits as if never stopped."""

    def __post_init__(self) -> None:
        _check_counts(self)
        if self.samples < 2:
            raise ValueError(f"--samples must be at least 2. Received: {self.samples}.")


EXAMPLES: dict[str, Any] = {"target-range": TargetRange, "arm": Arm}


def run(arguments: list[str]) -> None:
    """Reads the flags, trains, prints the results, and with --logdir saves them."""
    name = arguments[0] if arguments else None
    if name in ("-h", "--help"):
        say(f"{USAGE}\n\nRun `vantage regression EXAMPLE --help` for the flags.")
        return
    if name not in EXAMPLES:
        raise ValueError(
            f"The example must be one of {', '.join(EXAMPLES)}. Received: {name!r}. {USAGE}"
        )
    flags = parse(EXAMPLES[name], arguments[1:], prog=f"vantage regression {name}")
    check_folder(name, flags)
    import_seconds, began = start_tensorflow(), time.perf_counter()
    history, figures = (_target_range if name == "target-range" else _arm)(flags)
    summary = {
        "epochs": len(history["loss"]),
        "seconds": time.perf_counter() - began,
        "final_loss": float(history["loss"][-1]),
        **figures,
        "import_seconds": import_seconds,
        "versions": versions(),
    }
    where = ""
    if flags.logdir is not None:
        write_json(flags.logdir / "summary.json", summary)
        numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
        with closing(TensorBoardWriter(flags.logdir)) as writer:  # the HParams table sorts by them
            writer.scalars(summary["epochs"], {f"final/{k}": v for k, v in numbers.items()})
        where = f"; {flags.logdir / 'summary.json'}"
    say(
        f"done: {summary['epochs']:,} epochs in {summary['seconds']:.1f} s, "
        f"final loss {summary['final_loss']:.6f}{where}"
    )


def _target_range(flags: TargetRange) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from vantage.scripts.examples import target_range as example

    low, high, variance = example.LOW, example.HIGH, example.NOISE**2
    generator, held_out = (np.random.default_rng([flags.seed, part]) for part in range(2))
    inputs, targets = example.sample(1_000, generator)
    trainer = example.build_trainer(flags.penalty, flags.seed)
    start = trainer.predict(inputs)
    if flags.unlucky:
        lift = min(0.0, low - 0.1 - start.max())
        trainer.model.layers[-1].bias.assign_add([lift])
        start = start + lift
    validation = example.sample(1_000, np.random.default_rng([flags.seed, 2]))
    clip = lambda outputs: np.clip(outputs, low, high)  # noqa: E731
    history = _fit(trainer, inputs, targets, flags, validation, clip)
    inputs, targets = example.sample(100_000, held_out)
    squares = (np.clip(trainer.predict(inputs), low, high) - targets) ** 2
    means = 0.8 * inputs + 0.2
    figures = {
        "all_below_range_at_start": bool((start < low).all()),
        "loss_moved": bool(np.ptp(history["loss"]) > 0),
        "noise_variance": variance,
        "mse_targets_inside": float(squares[(low <= targets) & (targets <= high)].mean()),
        "mse_means_inside": float(squares[(low <= means) & (means <= high)].mean()),
    }
    if not figures["loss_moved"]:
        say("the loss never moved: every prediction is outside the range; try --penalty 0.1")
    say(
        f"held-out targets within [{low}, {high}]: squared error "
        f"{figures['mse_targets_inside'] / variance:.3f} x the noise variance; where 0.8 x + 0.2 "
        f"is within: {figures['mse_means_inside'] / variance:.3f} x"
    )
    return history, figures


def _arm(flags: Arm) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from vantage.scripts.examples import robotic_arm as example
    from vantage.training import estimated, external

    arm = example.ARM
    generator, held_out = (np.random.default_rng([flags.seed, part]) for part in range(2))
    targets = arm.sample_targets(example.TARGETS, generator)
    without = estimated(arm.score, samples=flags.samples, seed=flags.seed)
    lift = external(arm.loss) if flags.gradient else without
    trainer = example.build_trainer(lift, flags.epochs, flags.seed)
    validation = (arm.sample_targets(1_000, np.random.default_rng([flags.seed, 2])),) * 2
    history = _fit(trainer, targets, targets, flags, validation, arm.end_points)
    targets = arm.sample_targets(5_000, held_out)
    angles = trainer.predict(targets)
    errors = arm.errors(angles, targets)
    figures = {
        "median_end_point_error": float(np.median(errors)),
        "largest_end_point_error": float(errors.max()),
        "largest_limit_violation_degrees": float(arm.violations(angles).max()),
    }
    say(
        f"5,000 held-out targets: end-point error {figures['median_end_point_error']:.2%} of the "
        f"arm's length at the median, {figures['largest_end_point_error']:.2%} at most; joints "
        f"{figures['largest_limit_violation_degrees']:.2f} degrees outside their limits at most"
    )
    return history, figures


def _fit(
    trainer, inputs, targets, flags: TargetRange | Arm, validation, compare
) -> dict[str, np.ndarray]:
    return trainer.fit(
        inputs,
        targets,
        flags.epochs,
        report_every=flags.report_every,
        validation=validation,
        compare=compare,
        verbose=True,
        logdir=flags.logdir,
        resume=flags.resume,
        config=entries_of("arm" if isinstance(flags, Arm) else "target-range", flags),
    )


def _check_counts(flags: TargetRange | Arm) -> None:
    for name in ("epochs", "report_every"):
        if getattr(flags, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1. Received: {getattr(flags, name)}.")
    if flags.seed < 0:
        raise ValueError(f"--seed must be at least 0. Received: {flags.seed}.")
