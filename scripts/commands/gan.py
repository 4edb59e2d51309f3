"""The command `vantage gan ring|digits`: a generator trained against a discriminator."""

from __future__ import annotations

import importlib.util
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.cli.starting import start_tensorflow
from vantage.scripts.commands.examples_of_trainers import check_folder, entries_of
from vantage.training.common.console import say
from vantage.training.storage.checkpoint import versions
from vantage.training.storage.files import write_json
from vantage.training.tensorboard.events import TensorBoardWriter
from vantage.training.tensorboard.summaries import scatter

USAGE = "usage: vantage gan {ring,digits} [flags]"
FIGURES = ("modes_found", "within_4_sigma", "classes_found")
"""The figures that TensorBoard's HParams table shows of each run."""


@dataclass(frozen=True)
class Flags:
    """Train a generator against a discriminator, and count the modes or classes it generates."""

    steps: int
    """Training steps, one update of each player."""
    gradient_penalty: float
    """Weight of the R1 penalty on the discriminator's slope at real examples; 0 for none."""
    loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """The generator's loss: non-saturating, or minimax, the textbook's log(1 - D(G(z)))."""
    seed: int = 0
    """Seed of the initial weights, the noise and the batches."""
    report_every: int = 500
    """Steps between two printed lines, and between two points of the TensorBoard curves."""
    sample_every: int = 500
    """With --logdir: steps between two pictures of samples, and histograms of the
    discriminator's logits."""
    logdir: Path | None = None
    """The run's folder, new or empty; without it nothing is written."""
    resume: bool = False
    """Go on from the newest checkpoint in --logdir, to the same bits as if never stopped."""

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, seed=0, report_every=1, sample_every=1)
        if not 0 <= self.gradient_penalty < np.inf:
            raise ValueError(
                "gradient_penalty must be a finite number, at least 0. "
                f"Received: {self.gradient_penalty}. Leave --gradient-penalty out for its default."
            )


EXAMPLES = {
    "ring": Flags(steps=5_000, gradient_penalty=0.1),
    "digits": Flags(steps=4_000, gradient_penalty=5.0),
}


def run(arguments: list[str]) -> None:
    """Reads the flags, trains, prints the results, and with --logdir saves them."""
    name = arguments[0] if arguments else None
    if name in ("-h", "--help"):
        say(f"{USAGE}\n\nRun `vantage gan EXAMPLE --help` for the flags.")
        return
    if name not in EXAMPLES:
        raise ValueError(
            f"The example must be one of {', '.join(EXAMPLES)}. Received: {name!r}. {USAGE}"
        )
    flags = parse(Flags, arguments[1:], prog=f"vantage gan {name}", default=EXAMPLES[name])
    if name == "digits" and importlib.util.find_spec("sklearn") is None:
        raise ImportError(
            "`vantage gan digits` needs scikit-learn's digits. Received: an environment "
            'without scikit-learn. Run `pip install "vantage-rl[digits]"`.'
        )
    check_folder(name, flags)
    import_seconds = start_tensorflow()
    figures = (_ring if name == "ring" else _digits)(flags)
    summary = {**figures, "import_seconds": import_seconds, "versions": versions()}
    where = ""
    if flags.logdir is not None:
        write_json(flags.logdir / "summary.json", summary)
        scalars = {f"final/{name}": figures[name] for name in FIGURES if name in figures}
        with closing(TensorBoardWriter(flags.logdir)) as writer:
            writer.scalars(summary["steps"], scalars)
        where = f"; {flags.logdir / 'summary.json'}"
    say(f"done: {summary['steps']:,} steps in {summary['seconds']:.1f} s{where}")


def _ring(flags: Flags) -> dict[str, Any]:
    """A mode is found if at least 5 % of 2,000 samples lie within 4σ of it."""
    from vantage.scripts.examples import gan_ring as example

    points = example.sample(10_000, np.random.default_rng([flags.seed, 1]))
    draw = lambda gan: scatter(points[:2_000], gan.sample(2_000))  # noqa: E731
    trainer, figures = _train(example, flags, points, draw=draw)
    shares = example.mode_shares(trainer.sample(2_000))
    figures |= {
        "modes_found": int((shares >= 0.05).sum()),
        "within_4_sigma": float(shares.sum()),
        "mode_shares": shares.tolist(),
    }
    say(
        f"2,000 samples: {figures['modes_found']} of 8 modes hold at least 5 % each "
        f"({', '.join(f'{share:.1%}' for share in shares)}); "
        f"{figures['within_4_sigma']:.1%} lie within 4σ of a mode"
    )
    return figures


def _digits(flags: Flags) -> dict[str, Any]:
    """A class is found if the classifier is 90 % sure of it for at least 1 % of 1,000 samples.

    The classifier is fitted on the 797 digits that the GAN does not see, and scored on the others.
    """
    from sklearn.linear_model import LogisticRegression

    from vantage.scripts.examples import gan_digits as example

    images, labels = example.load(np.random.default_rng(0))
    classifier = LogisticRegression(C=0.1, max_iter=2_000).fit(images[1_000:], labels[1_000:])
    accuracy = float(classifier.score(images[:1_000], labels[:1_000]))

    def sure(samples: np.ndarray) -> list[int]:
        """How many samples the classifier is 90 % sure of, per class."""
        probabilities = classifier.predict_proba(samples)  # [n, 10]
        return (probabilities >= 0.9).sum(0).tolist()

    untrained = example.build_trainer(flags.steps, flags.seed).sample(1_000)
    trainer, figures = _train(example, flags, images[:1_000])
    samples = trainer.sample(1_000)
    counts = sure(samples)
    figures |= {
        "classes_found": sum(count >= 10 for count in counts),
        "sure_counts": counts,
        "all_counts": np.bincount(classifier.predict(samples), minlength=10).tolist(),
        "sure_counts_real": sure(images[:1_000]),
        "sure_counts_untrained": sure(untrained),
        "classifier_accuracy": accuracy,
    }
    say(
        f"1,000 samples: a classifier ({accuracy:.1%} right on held-out real digits) is 90 % sure "
        f"of at least 10 for {figures['classes_found']} of 10 classes ({counts}; of real digits "
        f"{figures['sure_counts_real']}, before training {figures['sure_counts_untrained']})"
    )
    return figures


def _train(example: Any, flags: Flags, examples: np.ndarray, **options: Any) -> tuple[Any, dict]:
    """Trains the GAN; returns it and the figures of every run. Seconds include compilation."""
    from vantage.training import minimax_loss, non_saturating_loss

    loss = {"minimax": minimax_loss, "non-saturating": non_saturating_loss}[flags.loss]
    began = time.perf_counter()
    trainer = example.build_trainer(flags.steps, flags.seed, flags.gradient_penalty, loss)
    history = trainer.fit(
        examples,
        flags.steps,
        report_every=flags.report_every,
        sample_every=flags.sample_every if flags.logdir is not None else None,
        verbose=True,
        logdir=flags.logdir,
        resume=flags.resume,
        config=entries_of(example.__name__.rpartition("_")[2], flags),
        **options,
    )
    seconds = time.perf_counter() - began
    final = {f"final_{name}": float(values[-1]) for name, values in history.items()}
    return trainer, {"steps": trainer.steps, "seconds": seconds, **final}
