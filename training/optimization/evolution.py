"""Training of a model's weights where there is only a score of the whole model.

Legend: P parameters, n candidates of a generation.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.interrupts import Interrupts
from ..common.plain import flag, whole
from ..common.uncopied import Uncopied
from ..core import arguments, checks
from ..monitoring.callbacks import Callback, as_callbacks
from ..monitoring.progress import Progress
from ..monitoring.reports import begin, describe, open_own, report, session
from .strategies import assign, flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import keras

    from .strategies import Strategy, Vector


class Evolution(Uncopied):
    """Trains the weights of a model on `score(model)`, a number; lower is better.

    For what has no gradient at all, not even at the outputs: a count of errors, a simulation in
    which the model acts, a judgement. (For a score of the outputs, `estimated` needs far fewer
    evaluations.) In a generation every candidate's weights are put into the model, and the score is
    called. A score that is NaN or infinite counts as the worst of its generation, and is counted in
    `bad_scores`.

    After `fit` the model has the mean of the search, which is what it optimises; noise in the
    scores does not favour it. `restore_best` sets the best candidate instead.

    Args:
        model: A built Keras model or layer; its trainable variables are searched.
        score: `score(model) -> float`. It may call the model, but not train it.
        strategy: `OpenAIES(optimizer)` or `CMAES()`, used for nothing else.
        seed: The seed of all random numbers of the search.

    Attributes:
        generations: Generations so far, over all calls of `fit`.
        best_score: The lowest score of any candidate so far; infinity before the first.

    Raises:
        ValueError: The model is not built or has no trainable variables, or an argument is of
            another kind.
    """

    def __init__(
        self,
        model: keras.Layer,
        score: Callable[[Any], float],
        strategy: Strategy,
        *,
        seed: int = 0,
    ) -> None:
        arguments.check_model("model", model)
        if score is None:
            raise ValueError(
                "score must be a function. Received: None. Pass lambda model: …, a number."
            )
        arguments.check_function("score", score, "model")
        if isinstance(strategy, type) or not hasattr(strategy, "ask"):
            raise ValueError(
                "strategy must be an evolution strategy. Received: "
                f"{' '.join(repr(strategy).split()):.80}. Pass OpenAIES(optimizer) or CMAES()."
            )
        self.model, self.generations, self.best_score = model, 0, math.inf
        self._variables = list(model.trainable_variables)
        checks.check_variables(self._variables)
        self._score, self._strategy = score, strategy
        self._seed = whole("seed", seed, 0)
        self._generator = np.random.default_rng(self._seed)
        self._best = flat(self._variables)
        self._is_begun = False
        self._logdirs: set[Path] = set()

    def _instead_of_copying(self) -> str:
        return "Copy the model alone, and create a new Evolution with it; or use get_state."

    def fit(
        self,
        generations: int,
        *,
        report_every: int = 1,
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
        logdir: str | Path | None = None,
        config: Mapping[str, object] | None = None,
        **unknown: object,
    ) -> dict[str, np.ndarray]:
        """Trains for so many more generations.

        SIGINT, SIGTERM and SIGHUP end the training after the current generation.

        Args:
            generations: The number of generations.
            report_every: Generations between two reports; the last one is always reported.
            verbose: Whether a report prints a line.
            callbacks: Functions that every report calls as `callback(generation, metrics)`; one
                that returns False stops. As in `Regression.fit`.
            logdir: The folder for TensorBoard event files.
            config: More settings for the HParams and the Text tab.
            **unknown: None. Arguments of Keras's `fit` are refused, with what to pass instead.

        Returns:
            Arrays `[generations]`: `score` and `score_std`, mean and standard deviation of the
            finite scores of the candidates; `best`, the lowest score so far; `bad_scores`; `sigma`,
            and for `OpenAIES` `grad_norm`.

        Raises:
            ValueError: A number is out of range, or a score is not one number (None, an array).
            FloatingPointError: No score of a generation is finite. After this and any other error,
                also one that the score raises, the model has the weights of the last generation.
        """
        arguments.refuse_unknown("Evolution.fit", unknown)
        generations = whole("generations", generations, 1)
        report_every = whole("report_every", report_every, 1)
        verbose, callbacks = flag("verbose", verbose), as_callbacks(callbacks)
        arguments.check_destination(logdir, config)
        self._begin()
        is_new = logdir is not None and Path(logdir).absolute() not in self._logdirs
        writer = open_own(logdir, self._logdirs)
        history: list[dict[str, float]] = []
        interrupts = Interrupts("always")
        with session(writer), interrupts, Progress(generations, "generations") as progress:
            if is_new:
                settings = {"strategy": type(self._strategy).__name__, "seed": self._seed}
                describe(writer, {**settings, **(config or {})}, [(self.model.name, self.model)])
            begin(callbacks, writer)
            for done in range(1, generations + 1):
                history.append(self._generation())
                writer.scalars(
                    self.generations, {f"train/{name}": v for name, v in history[-1].items()}
                )
                progress.update(done, f"score {history[-1]['score']:.4g}")
                continues = True
                if done % report_every == 0 or done == generations:
                    metrics = dict(history[-1])
                    continues = report("generation", self.generations, metrics, verbose, callbacks)
                interrupts.raise_received()
                if not continues:
                    break
        return {name: np.array([each[name] for each in history]) for name in history[0]}

    def restore_best(self) -> None:
        """Sets the weights of the candidate with the lowest score so far."""
        assign(self._variables, self._best)

    def get_state(self) -> dict[str, Any]:
        """The search so far: arrays and JSON values, with which another Evolution continues it."""
        self._begin()
        return {
            "weights": [variable.numpy() for variable in self._variables],
            "strategy": self._strategy.get_state(),
            "generator": self._generator.bit_generator.state,
            "seed": self._seed,
            "generations": self.generations,
            "best_weights": self._best.copy(),
            "best_score": self.best_score,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues a search exactly, with a model of the same shapes and an equal strategy.

        Raises:
            ValueError: The weights have other shapes.
        """
        shapes = [tuple(variable.shape) for variable in self._variables]
        received = [np.shape(weight) for weight in state["weights"]]
        if shapes != received:
            raise ValueError(
                f"The weights of a state must have the shapes {shapes}. Received: {received}. "
                "Continue with the model of the search."
            )
        self._begin()
        # critical: a strategy may repeat its draws from the first one on.
        self._generator.bit_generator.state = np.random.default_rng(
            state["seed"]
        ).bit_generator.state
        self._strategy.set_state(state["strategy"])
        self._generator.bit_generator.state = state["generator"]
        for variable, weight in zip(self._variables, state["weights"], strict=True):
            variable.assign(weight)
        self._seed, self.generations = int(state["seed"]), int(state["generations"])
        self._best, self.best_score = np.array(state["best_weights"]), float(state["best_score"])

    def _begin(self) -> None:
        if not self._is_begun:
            self._strategy.begin(self._variables, self._generator)
            self._is_begun = True

    def _generation(self) -> dict[str, float]:
        """Scores the candidates of a generation, and moves the mean."""
        with self._restoring() as mean:
            candidates = self._strategy.ask()
            scores = np.empty(len(candidates))
            for k, candidate in enumerate(candidates):
                assign(self._variables, candidate)
                scores[k] = _as_score(self._score(self.model))
            assign(self._variables, mean)
            is_finite = np.isfinite(scores)
            if not is_finite.any():
                raise FloatingPointError(
                    "A score must be finite for some candidate of a generation. Received: "
                    f"{scores[0]} for {len(scores)} of {len(scores)}. The weights are those of the "
                    "last generation; choose a smaller sigma, or other initial weights."
                )
            worst = np.where(is_finite, scores, scores[is_finite].max())
            metrics = self._strategy.tell(worst)
            if not np.isfinite(flat(self._variables)).all():
                raise FloatingPointError(
                    "The new weights must be finite. Received: weights that are not, from scores "
                    f"up to {np.abs(worst).max():.3g}. Choose a lower learning rate, or ranks."
                )
        best = int(np.argmin(np.where(is_finite, scores, math.inf)))
        if scores[best] < self.best_score:
            self.best_score = float(scores[best])
            self._best = np.asarray(candidates[best], np.float32).copy()
        self.generations += 1
        return {
            "score": float(scores[is_finite].mean()),
            "score_std": float(scores[is_finite].std()),
            "best": self.best_score,
            "bad_scores": float((~is_finite).sum()),
            **metrics,
        }

    @contextmanager
    def _restoring(self) -> Iterator[Vector]:
        """Context with the weights `[P]`, which restores them and the generator after an error."""
        mean, drawn = flat(self._variables), self._generator.bit_generator.state
        try:
            yield mean
        except BaseException:
            assign(self._variables, mean)
            self._generator.bit_generator.state = drawn
            raise


def _as_score(value: object) -> float:
    """A score as a number.

    Raises:
        ValueError: It is something else.
    """
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "fiub":
        raise ValueError(
            "A score of a model must be one number. Received: "
            f"{type(value).__name__} {' '.join(repr(value).split()):.60}. Return a float; lower is "
            "better."
        )
    return float(array)
