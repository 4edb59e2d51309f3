"""True transitions from a vector environment, whatever its autoreset mode, and their statistics.

    NEXT_STEP   the observation returned with an end is the final one; the step after it is a dummy
    SAME_STEP   the final observation is in infos["final_obs"]; no dummy
    DISABLED    the observation returned with an end is the final one; we reset with a mask

An environment that broke and was rebuilt (`envs.restarted`, if the vector environment has it)
returns the first observation of a new episode: that step is a dummy, which cuts the old episode.

Legend: N environments, A choices in all components of an action.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

import numpy as np

from . import infos as read
from .batches import BatchCheck
from .given_environments import check_masks
from .nests import copied, with_final
from .protocols import Observations as Observations
from .protocols import State, VectorEnvironment
from .protocols import Transition as Transition


def _of_length(count: int, result: Any, method: str) -> Any:
    """What a method of a vector environment returned, if it is a tuple of so many parts.

    Raises:
        ValueError: It is not.
    """
    if type(result) is tuple and len(result) == count:
        return result
    is_sequence = isinstance(result, tuple | list)
    received = f"{len(result)} of them" if is_sequence else type(result).__name__
    parts = (
        "observations, rewards, terminated, truncated, infos"
        if count == 5
        else "(observations, infos)"
    )
    raise ValueError(
        f"{method} of a vector environment must return a tuple of {count}: {parts}. Received: "
        f"{received}. Return them."
    )


MEANS = ("ep_rew_mean", "ep_len_mean", "success_rate", "truncated_share")


class Transitions:
    """Steps a vector environment and keeps its episodes' returns and lengths.

    Attributes:
        env_steps: Real transitions so far; dummy steps do not count.
        episodes: Episodes ended so far.
        recent_returns: Returns of the last 100 episodes, oldest first; none that is not finite.
        recent_lengths: Their lengths.
        recent_truncations: Whether each was cut.
        recent_successes: Of those whose infos hold `is_success` (or `success`), whether it was one.
        observations: Those to act on next, as returned last.
        action_masks: Bools `[N, A]`, what may be done next; None if the environments do not say.
        returns: Of the running episodes so far, `[N]`.
        lengths: Of the running episodes so far, `[N]`.
        next_weights: Of the next step, `[N]`: 0 where it is a dummy.
        restarts: Environments that broke and were rebuilt.
        restarted: Bools `[N]`, which were so in the last step; None for none.
    """

    def __init__(self, envs: VectorEnvironment, seed: int | None = None) -> None:
        mode = envs.metadata.get("autoreset_mode")
        self._mode = getattr(mode, "name", None)
        if self._mode not in ("NEXT_STEP", "SAME_STEP", "DISABLED"):
            raise ValueError(
                "A vector environment must declare metadata['autoreset_mode'], a gymnasium "
                f"AutoresetMode. Received: {mode!r}. Set it on the class."
            )
        self.envs, self._seed, self.num_envs = envs, seed, envs.num_envs
        # critical: asked of the class, for a wrapper passes attributes on, but may change results
        fits = getattr(type(envs), "fits_its_spaces", False)
        self._check = None if fits else BatchCheck(envs)
        self._inner = inner = getattr(envs, "unwrapped", envs)
        # Those that rebuild broken ones say so themselves: an info of the name may be anyone's.
        self._rebuilds = inner if hasattr(inner, "restarted") else None
        self.returns = np.zeros(self.num_envs)  # [N] float64
        self.lengths = np.zeros(self.num_envs, np.int64)  # [N]
        self._rows = (self.num_envs,)
        self._ones = np.ones(self.num_envs, np.float32)
        self.next_weights = self._ones  # [N]: of the next step
        self.env_steps, self.episodes = 0, 0
        self.recent_returns: deque[float] = deque(maxlen=100)
        self.recent_lengths: deque[int] = deque(maxlen=100)
        self.recent_truncations: deque[bool] = deque(maxlen=100)
        self.recent_successes: deque[float] = deque(maxlen=100)
        self.observations: Observations = None
        self.action_masks: np.ndarray | None = None
        self.restarts = 0
        self.restarted: np.ndarray | None = None

    def reset(self) -> Observations:
        """Starts an episode in every environment; its observations `[N, ...]`."""
        self.returns[:], self.lengths[:], self.next_weights = 0.0, 0, self._ones
        observations, infos = _of_length(2, self.envs.reset(seed=self._seed), "reset")
        if self._check is not None:
            self._check.observations(observations)
        self.action_masks, self.observations = read.first_masks(infos), observations
        if self.action_masks is None:
            check_masks(self.envs)
        return observations

    def step(self, actions: np.ndarray) -> Transition:
        """Steps every environment once."""
        self._check_actions(actions)
        results = _of_length(5, self.envs.step(actions), "step")
        observations, rewards, terminated, truncated, infos = results
        if self._check is not None:
            results = self._check(observations, rewards, terminated, truncated)
            rewards, terminated, truncated = results
        rewards, weights = rewards.astype(np.float32), self.next_weights
        ended = np.logical_or(terminated, truncated)  # bool, whatever the flags are
        self.restarted = None if self._rebuilds is None else self._rebuilds.restarted
        if infos or self.action_masks is not None:
            self.action_masks = read.next_masks(infos, self.action_masks, None)
            if self.restarted is not None:
                weights = weights * ~self.restarted
                self.restarts += int(self.restarted.sum())
        final_observations = None
        if np.count_nonzero(ended) or weights is not self._ones:
            if weights is not self._ones:  # gymnasium promises 0 for a dummy; others may not
                rewards, ended = rewards * weights, ended & (weights > 0)
            if infos:
                self.recent_successes.extend(
                    filter(isfinite, read.successes(infos, ended, self._mode == "SAME_STEP"))
                )
            if self._mode == "NEXT_STEP":
                self.next_weights = (~ended).astype(np.float32) if ended.any() else self._ones
                if self.action_masks is not None:  # a final state may allow nothing
                    self.action_masks |= ended[:, None]
            elif self._mode == "SAME_STEP":
                final_observations = with_final(observations, ended, infos)
            elif ended.any():
                final_observations = copied(observations)
                given = self.envs.reset(options={"reset_mask": ended.copy()})
                observations, infos = _of_length(2, given, "reset")
                self.action_masks = read.next_masks(infos, self.action_masks, ended)
        terminated = np.logical_and(terminated, ended)
        self._count(rewards, weights, terminated, ended)
        self.observations = observations
        return Transition(observations, rewards, terminated, ended, weights, final_observations)

    def _check_actions(self, actions: Any) -> None:
        """Refuses actions of another number of environments; batches of Dict and Tuple pass.

        Raises:
            ValueError: They are no arrays, or of another number.
        """
        if type(actions) is np.ndarray and actions.shape[:1] == self._rows:
            return  # what nearly always holds
        if isinstance(actions, dict | tuple):
            return
        received = np.shape(actions) if hasattr(actions, "__len__") else type(actions).__name__
        if received == () or isinstance(received, str) or received[0] != self.num_envs:
            raise ValueError(
                "An agent must return an action for every environment, [N, …]. Received: "
                f"{received} for {self.num_envs} environments. Return an array with a row for each "
                "from explore and act."
            )

    def _count(
        self, rewards: np.ndarray, weights: np.ndarray, terminated: np.ndarray, ended: np.ndarray
    ) -> None:
        self.returns += rewards
        if weights is self._ones:
            self.lengths += 1
            self.env_steps += self.num_envs
        else:
            self.lengths += weights > 0
            self.env_steps += int(weights.sum())
        if np.count_nonzero(ended):  # a third of the time of any()
            self.episodes += int(ended.sum())
            self.recent_returns.extend(filter(isfinite, self.returns[ended].tolist()))
            self.recent_lengths.extend(self.lengths[ended].tolist())
            self.recent_truncations.extend((~terminated[ended]).tolist())
            self.returns[ended], self.lengths[ended] = 0.0, 0
        if self.restarted is not None:
            self.returns[self.restarted], self.lengths[self.restarted] = 0.0, 0

    @contextmanager
    def left_alone(self, by: str) -> Iterator[None]:
        """Refuses a block that moves the environments, if they have an `episode_position`.

        Raises:
            ValueError: It has reset, stepped or closed them.
        """
        before = getattr(self._inner, "episode_position", None)
        yield
        if getattr(self._inner, "episode_position", None) != before:
            raise ValueError(
                "Callbacks must leave the environments of the training alone: it would learn from "
                f"steps that never were. Received: a reset, step or close of them in {by}. Make "
                "others with make_vec(...) to play in, and close these after the training."
            )

    def has_reached(self, threshold: float) -> bool:
        """Whether 100 episodes have ended and their mean return is at least `threshold`."""
        return len(self.recent_returns) == 100 and sum(self.recent_returns) / 100 >= threshold

    def means(self) -> dict[str, float]:
        """What the last 100 episodes come to, under Stable-Baselines3's names where it has one."""
        recent: list[deque[Any]] = [self.recent_returns, self.recent_lengths, self.recent_successes]
        named = zip(MEANS, [*recent, self.recent_truncations], strict=True)
        means = {name: sum(values) / len(values) for name, values in named if values}
        counts = {"episodes": self.episodes, "restarted_envs": self.restarts}
        return means | {name: float(count) for name, count in counts.items() if count}

    def get_state(self) -> State:
        """The episodes' statistics, and the observations to act on next."""
        bad = ~np.isfinite(self.returns)
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "restarts": self.restarts,
            "recent_returns": list(self.recent_returns),
            "recent_lengths": list(self.recent_lengths),
            "recent_truncations": list(self.recent_truncations),
            "recent_successes": list(self.recent_successes),
            "returns": np.where(bad, 0.0, self.returns),
            "spoilt": bad,  # by a reward that was refused
            "lengths": self.lengths.copy(),
            "weights": self.next_weights.copy(),
            "action_masks": self.action_masks,
            "observations": self.observations,
        }

    def set_state(self, state: State) -> None:
        """Restores the statistics; `resume_episodes` or `reset` comes next.

        Raises:
            ValueError: The number of environments differs.
        """
        count = len(state["returns"])
        if count != self.num_envs:
            raise ValueError(
                f"A resumed run must have its {count} environments. Received: {self.num_envs}. "
                "Pass as many as before."
            )
        self.env_steps, self.episodes = int(state["env_steps"]), int(state["episodes"])
        self.restarts = int(state["restarts"])
        self.recent_returns.extend(map(float, state["recent_returns"]))
        self.recent_lengths.extend(map(int, state["recent_lengths"]))
        self.recent_truncations.extend(map(bool, state.get("recent_truncations", ())))
        self.recent_successes.extend(map(float, state.get("recent_successes", ())))

    def resume_episodes(self, state: State) -> Observations:
        """Restores the running episodes; returns the observations to act on next."""
        self.returns[:], self.lengths[:] = state["returns"], state["lengths"]
        self.returns[np.asarray(state["spoilt"], bool)] = np.nan
        weights = np.asarray(state["weights"], np.float32)
        if not weights.all():  # else our own array of ones, which `step` knows by identity
            self.next_weights = weights
        self.action_masks, self.observations = state["action_masks"], state["observations"]
        return self.observations
