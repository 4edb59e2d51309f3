"""What to say when a number went bad: which quantity, where, when. NumPy only.

The gate of the compiled update notices; this looks for the cause, in what the update was given.
Legend: T steps, N environments.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Policy = Literal["raise", "skip", "warn"]
"""What to do with an update that is not finite; "warn" skips it, too."""


def check_policy(on_bad_numbers: object) -> None:
    """Refuses other words.

    Raises:
        ValueError: It is none of `Policy`.
    """
    if on_bad_numbers not in get_args(Policy):
        raise ValueError(
            f"on_bad_numbers must be raise, skip or warn. Received: {on_bad_numbers!r}. Pass one."
        )


class BadNumbersError(FloatingPointError):
    """NaN or infinity in what an agent learns from; what would learn from it changed nothing.

    Attributes:
        quantity: What was not finite first.
        index: Of which environment; None if that is not known.
        step: Of the rollout, from 1; 0 where it is not known.
        value: The quantity there.
        action: The last action before it, as the agent stores it.
        episodes_ago: How many episodes that environment has begun since.
        env_steps: Of the run, when it was noticed.
        seed: Of that environment's episode.
        made: What the same update had changed before that; nothing if it had not.
    """

    def __init__(
        self,
        quantity: str,
        details: str = "",
        *,
        index: int | None = None,
        step: int = 0,
        value: object = None,
        action: object = None,
        episodes_ago: int = 0,
        made: str = "",
    ) -> None:
        super().__init__(quantity)
        self.made = made
        self.quantity, self.details, self.index, self.step = quantity, details, index, step
        self.value, self.action, self.episodes_ago = value, action, episodes_ago
        self.env_steps: int | None = None
        self.seed: int | None = None

    def __str__(self) -> str:
        where = [] if self.index is None else [f"environment {self.index}"]
        where += [f"step {self.step} of the rollout"] if self.step else []
        where += [] if self.env_steps is None else [f"{self.env_steps:,} steps of the run"]
        where += [] if self.seed is None else [f"episode's seed {self.seed}"]
        where += [] if self.action is None else [f"last action {_short(self.action)}"]
        refused = "The update was refused: no weight, slot or counter has changed."
        if self.made:
            refused = f"The rest of the update was refused; made were {self.made}."
        received = _short(self.value) if self.value is not None else "NaN or infinity"
        return (
            f"The {self.quantity} must be finite. Received: {received} ({', '.join(where)})"
            f"{self.details and f'; {self.details}'}. {refused} Look for a division by zero, "
            "log(0) or a learning rate that is too high, or pass on_bad_numbers='skip' "
            "(--on-bad-numbers)."
        )


@contextmanager
def leaving_out(what: str, env_steps: int) -> Iterator[None]:
    """Skips what meets NaN or infinity, with a warning: no weight depends on it."""
    try:
        yield
    except FloatingPointError as error:
        warnings.warn(
            f"The {what} after {env_steps:,} steps is left out: {error}",
            RuntimeWarning,
            stacklevel=4,
        )


def explain(
    details: str,
    seen: Mapping[str, np.ndarray],
    actions: np.ndarray,
    weights: np.ndarray,
    made: str = "",
) -> BadNumbersError:
    """The error of an update that was refused.

    Args:
        details: What the update reported.
        seen: Quantities `[T or T + 1, N, ...]` in the order in which one makes the next.
        actions: As stored, `[T, N, ...]`.
        weights: Of these steps and those since, `[≥ T, N]`: 0 marks a dummy, which begins an
            episode.
        made: What the update had changed before that.
    """
    found = [_first(name, array) for name, array in seen.items()]
    known = [each for each in found if each is not None]
    known = [each for each in known if each[2] != "return"] or known  # it comes of all the others
    if not known:
        return BadNumbersError("advantage, loss or gradient", details, made=made)
    t, n, name, value = min(known, key=lambda each: each[0])  # the first of those at one time
    before = t - 1 if name in ("observation", "policy output", "value") else t
    return BadNumbersError(
        name,
        details,
        index=n,
        step=t + 1,
        value=value,
        action=actions[before, n] if before >= 0 else None,
        episodes_ago=int((weights[t + 1 :, n] == 0).sum()),
        made=made,
    )


def _first(name: str, array: np.ndarray) -> tuple[int, int, str, object] | None:
    """Time, environment, name and value of the first number that is not finite."""
    if array.dtype.kind != "f":
        return None
    bad = ~np.isfinite(array).reshape(*array.shape[:2], -1).all(2)  # [T, N]
    if not bad.any():
        return None
    t, n = np.argwhere(bad)[0].tolist()
    return t, n, name, array[t, n]


def _short(value: object) -> str:
    text = " ".join(np.array2string(np.asarray(value), threshold=8, edgeitems=2).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
