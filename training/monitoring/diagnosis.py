"""What is probably wrong with a run, and what to do, each in one sentence.

    rule     (facts) → a sentence, or None; each speaks once in a run   `CAUSES`, `SYMPTOMS`

Healthy runs also end with low entropy, values that explain nothing (all returns are equal) or large
gradients. Such a symptom counts only while the run is stuck: less than half of the best return won
over the first ones is there now. Where what the environment gives is at fault, its symptoms keep
silent.

Legend: B examples, E entries of an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import hypot, inf, isfinite, sqrt
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from .facts import LONG, Entries, Facts, Series, Settings

if TYPE_CHECKING:
    from ..experience.protocols import State

MOST = 100  # times that a run is judged: its points cost next to nothing


def no_episode_ends(facts: Facts) -> str | None:
    """10,000 steps of every environment, or 1,000 and half the run, and no episode has ended."""
    if facts.values.get("rollout/episodes", 0) or facts.series["ep_rew_mean"].first:
        return None
    steps = facts.step // facts.settings.get("num_envs", 1)
    if steps < 10_000 and (steps < 1_000 or facts.step < facts.total_steps / 2):
        return None
    return (
        f"No episode has ended in {steps:,} steps of every environment, so that there is no return "
        "to see: check when it terminates, or set a time limit (max_episode_steps)."
    )


def no_reward(facts: Facts) -> str | None:
    """A fifth of the run is over, and every return so far is exactly 0."""
    returns = facts.series["ep_rew_mean"]
    if facts.step < LONG * facts.total_steps or not returns.width or any(returns.means):
        return None
    settings = facts.known("ent_coef", "exploration_fraction", "action_noise")
    return (
        "No episode has had any reward yet, and nothing is learned from none: check the reward, "
        f"give one for partial success, or explore more{f' ({settings})' if settings else ''}."
    )


def observations_constant(facts: Facts) -> str | None:
    """No entry of any observation seen has ever changed, in 5 samples."""
    if facts.entries.looks < 5 or any(facts.entries.changed):
        return None
    return (
        "The observations never change, so that the agent cannot tell one state from another: "
        "check what reset() and step() return, and the wrappers around them."
    )


def entries_constant(facts: Facts) -> str | None:
    """Some entries of a short vector never change; in images and one-hot vectors that is normal."""
    entries = facts.entries
    constant = [index for index, changed in enumerate(entries.changed) if not changed]
    if entries.looks < 10 or facts.step < LONG * facts.total_steps:
        return None
    if not entries.is_vector or entries.is_binary or not constant:
        return None
    which = ", ".join(map(str, constant[:5])) + (", …" if len(constant) > 5 else "")
    return (
        f"{len(constant)} of {len(entries.changed)} entries of the observations have never changed "
        f"(index {which}): harmless if they are meant to, else check where they come from."
    )


def returns_off_scale(facts: Facts) -> str | None:
    """Return targets above 1,000 or below 0.001 that training does not fit.

    Steps of the optimizer are of the order of the learning rate, 1e-3, and outputs begin near 1: it
    takes some 1,000 steps in one direction to get to 1,000, and below 0.001 noise is larger. An
    episode's return is up to 100 times the discounted one (γ = 0.99).
    """
    plain = abs(facts.lately("ep_rew_mean", 1.0))
    mean, std = facts.lately("return_mean", 0.0), facts.lately("return_std", 0.0)
    value_error = sqrt(max(facts.lately("value_loss", 0.0), 0.0))
    size = hypot(mean, std) or max(plain / 100, value_error)
    learns_values = facts.lately("explained_variance", -1.0) > 0.5
    is_large = size > 1e3 and (facts.is_stuck or not learns_values)
    is_small = 0 < plain < 1e-3 and facts.is_stuck and not facts.settings.get("normalize_rewards")
    if not is_large and not is_small:
        return None
    what = f"Returns are of the order of {size if is_large else plain:.1e}"
    return (
        f"{what}, far from 1, and are not learned from: scale the rewards so that returns are "
        f"between 1 and 100{', or set normalize_rewards=True' * facts.has('normalize_rewards')}."
    )


def entropy_collapsed(facts: Facts) -> str | None:
    """Below 5 % of the highest entropy, or a tenth of the first std, while stuck.

    5 % of the highest is one random action in about 100.
    """
    highest = facts.values.get("train/max_entropy", inf)
    entropy, std = -facts.lately("entropy_loss", -inf), facts.lately("std", inf)
    if not facts.is_stuck:
        return None
    if isfinite(highest) and entropy < 0.05 * highest:
        what = f"entropy is {entropy:.2g} of at most {highest:.3g}"
    elif facts.series["std"].first and std < 0.1 * facts.series["std"].start:
        what = f"standard deviation fell from {facts.series['std'].start:.2g} to {std:.2g}"
    else:
        return None
    return (
        f"The policy's {what} while {facts.stuck}: it has stopped exploring too early; raise "
        "ent_coef or lower learning_rate."
    )


def values_explain_nothing(facts: Facts) -> str | None:
    """Explained variance of at most 0.01 for long, of returns that vary, while stuck."""
    explained = facts.lately("explained_variance", 1.0)
    spread, size = facts.lately("return_std", 1.0), abs(facts.lately("return_mean", 0.0))
    if explained > 0.01 or spread < 0.01 * size or not facts.is_stuck:
        return None
    if facts.step < LONG * facts.total_steps:
        return None
    return (
        f"The values explain nothing of the returns (explained variance {explained:.2g}) and "
        f"{facts.stuck}: raise vf_coef or learning_rate, normalise observations and rewards, and "
        "check that an observation tells what the return depends on."
    )


def gradients_always_clipped(facts: Facts) -> str | None:
    """99 % of the updates clipped, to less than a 50th of their norm, while stuck.

    A2C and PPO clip nearly every update to a 30th where they learn CartPole and LunarLander well.
    """
    norm, limit = facts.lately("grad_norm", 0.0), facts.settings.get("max_grad_norm") or inf
    if facts.lately("clipped_updates", 1.0) < 0.99 or norm < 50 * limit or not facts.is_stuck:
        return None
    return (
        f"Gradients (norm {norm:.3g}) are always clipped to {limit:g} and {facts.stuck}: "
        f"{'normalise' if facts.has('normalize_rewards') else 'scale'} rewards, "
        f"{'lower vf_coef, ' * facts.has('vf_coef')}or raise max_grad_norm."
    )


def policy_changes_too_fast(facts: Facts) -> str | None:
    """Approximate KL above 0.1 for long, or 60 % of the ratios clipped while stuck.

    Usual targets are 0.01 to 0.05. Clipping bounds what is rewarded, not how far the policy goes.
    """
    kl, clipped = facts.lately("approx_kl", 0.0), facts.lately("clip_fraction", 0.0)
    if kl <= 0.1 and not (clipped > 0.6 and facts.is_stuck):
        return None
    return (
        f"Each update changes the policy too much (KL {kl:.2g}, {clipped:.0%} of the ratios "
        "clipped): lower learning_rate or n_epochs, or set target_kl=0.03."
    )


def q_diverges(facts: Facts) -> str | None:
    """|Q| above 10 times what any return can be, for long.

    The bound is the largest of |R|, r/(1 − γ) and 1, plus the entropy's α·|H|/(1 − γ); R are
    episodes' returns, r the mean reward of a step.
    """
    q, returns, values = facts.lately("q", 0.0), facts.series["ep_rew_mean"], facts.values
    gamma = facts.settings.get("gamma", 0.99)
    horizon = 1.0 / (1.0 - gamma) if gamma < 1 else 1.0
    seen = np.abs([*returns.first, *returns.means, 1.0]).max()
    reward = values.get("rollout/ep_rew_mean", 0.0) / values.get("rollout/ep_len_mean", inf)
    bonus = values.get("train/ent_coef", 0.0) * abs(values.get("train/entropy", 0.0))
    bound = max(seen, abs(reward) * horizon) + bonus * horizon
    if abs(q) <= 10 * bound:
        return None
    return (
        f"Action values diverge: Q is {q:.2g} where returns are at most {bound:.2g}; lower "
        "learning_rate, or move the target network less often or less far."
    )


def return_fell(facts: Facts) -> str | None:
    """More than half of what was won is lost in all of the window, and no chance did it.

    The windows are 2 deviations of each apart, and 5 of a mean of 100 episodes. What was won counts
    if it is 40 % of the largest return in size (MountainCar: from -200 to -110).
    """
    returns = facts.series["ep_rew_mean"]
    if not facts.is_stuck:
        return None
    (best, spread), now = returns.best, returns.means[-returns.width :]
    won, lost = best - returns.start, best - fmean(now)
    if won < 0.4 * max(abs(best), abs(returns.start)) or max(now) >= returns.start + won / 2:
        return None
    if lost < 2 * (spread + float(np.std(now))) or lost < 5 * facts.noise or lost <= 0:
        return None
    return (
        f"The return fell from {best:.4g} to {fmean(now):.4g} and stays there: lower learning_rate "
        "or let it fall (lr_schedule), and take the best agent (evaluate_every keeps it)."
    )


def nothing_learnt(facts: Facts) -> str | None:
    """At 90 % of the run, no window is above the first returns by more than chance.

    Chance is 2 deviations of the window, 3 of a mean of 100 episodes, and from 5 to 25 % of the
    larger return.
    """
    returns = facts.series["ep_rew_mean"]
    if facts.step < 0.9 * facts.total_steps or not returns.width:
        return None
    best, spread = returns.best
    size, chance = max(abs(best), abs(returns.start)), max(2 * spread, 3 * facts.noise)
    if best - returns.start > np.clip(chance, 0.05 * size, 0.25 * size):
        return None
    cut = facts.lately("truncated_share", 0.0) > 0.99
    goal = ", and where there is a goal, whether it is ever reached: all episodes are cut off"
    return (
        f"The return is hardly better than at the beginning ({returns.start:.4g}): unless that was "
        f"good, train longer, try another learning_rate, and check the reward{goal * cut}."
    )


Rule = Callable[[Facts], str | None]
CAUSES: tuple[Rule, ...] = (observations_constant, no_reward, returns_off_scale)
SYMPTOMS: tuple[Rule, ...] = (
    *(no_episode_ends, entries_constant, entropy_collapsed, values_explain_nothing),
    *(gradients_always_clipped, policy_changes_too_fast, q_diverges, return_fell, nothing_learnt),
)


class Diagnosis:
    """Looks at every point of a run's curves; each rule speaks once.

    Attributes:
        spoken: The names of the rules that have.
    """

    def __init__(self, total_steps: int, settings: Settings) -> None:
        self._facts = Facts(total_steps, settings)
        self._judged = 0  # how many hundredths of the run were over when it was judged last
        self.spoken: list[str] = []

    def look(
        self, step: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]
    ) -> dict[str, str]:
        """What there is to say since the last point, by rule.

        Args:
            step: Environment steps so far.
            values: The point, by TensorBoard tag; any may be missing.
            arrays: Samples of the last update, if there are any: "observations" `[B, ...]`.
        """
        self._facts.add(step, values, arrays)
        before, self._judged = self._judged, int(MOST * step / self._facts.total_steps)
        if self._judged == before:
            return {}
        found = {rule.__name__: rule(self._facts) for rule in CAUSES}
        if not any(found.values()):
            found = {rule.__name__: rule(self._facts) for rule in SYMPTOMS}
        new = {name: text for name, text in found.items() if text and name not in self.spoken}
        self.spoken += new
        return new

    def get_state(self) -> State:
        """The rules that have spoken, and the curves, as JSON values."""
        series = {name: asdict(each) for name, each in self._facts.series.items()}
        spoken = {"spoken": [*self.spoken], "judged": self._judged}
        return {**spoken, "series": series, "entries": asdict(self._facts.entries)}

    def set_state(self, state: State) -> None:
        """Restores what was remembered."""
        self.spoken, self._judged = [*state["spoken"]], int(state["judged"])
        series = {name: Series(**each) for name, each in state["series"].items()}
        self._facts.series.update(series)
        self._facts.entries = Entries(**state["entries"])
