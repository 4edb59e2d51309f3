"""How good is an agent? Mean return over episodes, with a confidence interval."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from time import monotonic as clock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.plain import flag, whole, whole_or_none
from .given_environments import check_apart, check_spaces, check_vector
from .policy_state import Remembering
from .transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from .protocols import Actor, VectorEnvironment

ENDLESS = 5_000
"""Steps of one episode after which a warning says that it has no end."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of the played episodes, undiscounted."""

    mean: float
    """Mean return."""
    std: float
    """Sample standard deviation over episodes (n − 1); 0 for a single one."""
    ci95: tuple[float, float]
    """95 % confidence interval of the mean, by Student's t."""
    episodes: int
    """How many were played."""
    seed: int | None
    """Of the environments' reset."""
    mean_length: float
    """Mean number of steps of an episode."""
    deterministic: bool
    """Whether the most likely actions were taken."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def evaluate(
    agent: Actor,
    envs: VectorEnvironment,
    episodes: int = 100,
    *,
    deterministic: bool = True,
    seed: int | None = None,
) -> Evaluation:
    """Plays `episodes` episodes and reports their returns.

    Every environment plays its quota, ⌊episodes/N⌋ or one more: counting the first to finish
    instead would favour short episodes. A warning names an episode that does not end within
    5,000 steps (2,000 if they take 20 seconds): in an environment without a time limit a
    deterministic agent may play for ever.

    Args:
        agent: Anything with `act(observations, deterministic)`.
        envs: A vector environment, in any autoreset mode.
        episodes: How many to play.
        deterministic: Take the most likely action instead of sampling.
        seed: Of the environments' reset; None leaves them as they are.

    Raises:
        ValueError: An argument is out of range, or the environments are no vector, of other spaces
            than the agent's, or those that a run in progress trains in.
        FloatingPointError: A reward, or what an agent of ours observes, is NaN or infinite.
    """
    check_vector(envs, "envs")
    episodes, seed = whole("episodes", episodes, 1), whole_or_none("seed", seed, 0)
    deterministic = flag("deterministic", deterministic)
    check_spaces(agent, envs, "envs")
    check_apart(envs=envs)
    result = play(agent, envs, episodes, deterministic, seed)
    assert result is not None  # nothing cuts it
    return result


def play(
    agent: Actor,
    envs: VectorEnvironment,
    episodes: int,
    deterministic: bool,
    seed: int | None,
    give_up: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """What `evaluate` does; None if `give_up()` is true while an episode does not end.

    Raises:
        FloatingPointError: A number went bad.
    """
    transitions, count = Transitions(envs, seed), envs.num_envs
    quota = np.full(count, episodes // count)  # [N]
    quota[: episodes % count] += 1
    running, lengths = np.zeros(count), np.zeros(count, np.int64)  # [N]
    returns: list[float] = []
    steps: list[int] = []
    observations = transitions.reset()
    player = Remembering(agent, count)
    played, is_endless, began = 0, False, clock()
    while len(returns) < episodes:
        if not played % 1_000 and not is_endless:
            longest, seconds = int(lengths[quota > 0].max()), clock() - began
            is_endless = longest >= ENDLESS or (longest >= 2_000 and seconds > 20)
            if is_endless:
                warn_of_endless(longest)
        if is_endless and give_up():
            return None
        masks = transitions.action_masks
        masked = {} if masks is None else {"action_masks": masks}
        transition = transitions.step(player.act(observations, deterministic, **masked))
        player.observe(transition)
        observations, played = transition.observations, played + 1
        if transitions.restarted is not None:  # broken episodes do not count
            running[transitions.restarted], lengths[transitions.restarted] = 0.0, 0
        running += transition.rewards
        lengths += transition.weights > 0
        for index in np.flatnonzero(transition.ended):
            if quota[index] > 0:
                if not math.isfinite(running[index]):
                    raise _not_finite(envs, int(index), running[index])
                returns.append(float(running[index]))
                steps.append(int(lengths[index]))
                quota[index] -= 1
            running[index], lengths[index] = 0.0, 0
    mean, std = float(np.mean(returns)), float(np.std(returns, ddof=1)) if episodes > 1 else 0.0
    margin = t_quantile(episodes - 1) * std / math.sqrt(episodes) if episodes > 1 else 0.0
    interval = (mean - margin, mean + margin)
    return Evaluation(mean, std, interval, episodes, seed, float(np.mean(steps)), deterministic)


def _not_finite(envs: VectorEnvironment, index: int, value: float) -> FloatingPointError:
    seed = envs.seed_of(index) if hasattr(envs, "seed_of") else None
    return FloatingPointError(
        "The rewards of an evaluation must be finite. Received: an episode with a return of "
        f"{value} (environment {index}{'' if seed is None else f', seed {seed}'}). Look for a "
        "division by zero or log(0) in the environment."
    )


def warn_of_endless(steps: int) -> None:
    """Warns that an episode has not ended after so many steps."""
    warnings.warn(
        "An episode that is evaluated must end. Received: one that has not ended after "
        f"{steps:,} steps, and may never end. If it should have, stop with Ctrl-C and limit its "
        "steps: make_vec(..., max_episode_steps=1_000), or --max-episode-steps.",
        stacklevel=4,
    )


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    Source: Abramowitz & Stegun 1964, eq. 26.7.5, an expansion around the normal quantile z.
    """
    if freedom < 3:
        return {1: 12.706, 2: 4.303}[freedom]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))
