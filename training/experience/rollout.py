"""The experience buffer of on-policy agents: NumPy arrays `[T, N, ...]`, written in place.

Legend: T steps of a rollout, N environments, B = T·N.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from .policy_state import PolicyState, joined, mapped, remembers, restarted, rows
from .protocols import State, Transition
from .returns import lambda_returns

_ROWS = (
    *("observations", "actions", "values", "parameters"),
    *("rewards", "terminated", "ended", "weights"),
)


class Rollout:
    """T steps of N environments: filled by `act` and `observe` in turn, then read by `finish`.

    Args:
        n_steps: T.
        num_envs: N.
        observation_shape: Of one encoded observation.
        action_shape: Of one raw action.
        action_dtype: Of its numbers.
        observation_dtype: Of an observation's numbers.
        parameters: P, the policy parameters stored of each step.
        initial_state: What the policy remembers at the beginning of an episode, `[N, …]` each.

    Attributes:
        state: What the policy remembers of the running episodes.
        states: What it remembered before each step.
    """

    def __init__(
        self,
        n_steps: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        action_shape: tuple[int, ...],
        action_dtype: DTypeLike = np.float32,
        observation_dtype: DTypeLike = np.float32,
        parameters: int = 0,
        initial_state: PolicyState = (),
    ) -> None:
        shape = (n_steps, num_envs)
        self.observations = np.zeros((*shape, *observation_shape), observation_dtype)  # [T, N, ...]
        self.actions = np.zeros((*shape, *action_shape), action_dtype)  # [T, N, ...]
        self.values = np.zeros(shape, np.float32)  # [T, N]: v(observations)
        self.parameters = np.zeros((*shape, parameters), np.float32)  # [T, N, P]
        self.rewards = np.zeros(shape, np.float32)  # [T, N]
        self.terminated = np.zeros(shape, bool)  # [T, N]
        self.ended = np.zeros(shape, bool)  # [T, N]
        self.weights = np.zeros(shape, np.float32)  # [T, N]: 0 marks a dummy step
        # t, which environments, their observations and what the policy remembers there
        self.final: list[tuple[int, np.ndarray, np.ndarray, PolicyState]] = []
        self._initial, self.state = initial_state, initial_state
        self._remembers = remembers(initial_state)
        self.states: list[PolicyState] = [initial_state] * n_steps
        self.steps = 0  # stored so far
        self.before = self.after = np.zeros(0)  # [N, ...]: what followed the last two rollouts

    def clear(self) -> None:
        """Forgets what is stored."""
        self.final, self.steps = [], 0

    def skip(self, transition: Transition) -> None:
        """Forgets what is stored, and does not store this transition."""
        self.state = restarted(self.state, self._initial, transition)
        self.clear()

    @property
    def is_full(self) -> bool:
        """Whether T steps are stored."""
        return self.steps == len(self.rewards)

    def act(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        values: np.ndarray,
        parameters: np.ndarray | tuple[()] = (),
        state: PolicyState = (),
    ) -> None:
        """Stores `[N, ...]` what was seen, done and expected, and y `[N, P]` that it came from.

        The state is what the policy remembers now.
        """
        t = self.steps
        self.states[t], self.state = self.state, state
        self.observations[t], self.actions[t], self.values[t] = observations, actions, values
        self.parameters[t] = parameters

    def observe(self, transition: Transition) -> None:
        """Stores the transition of the last actions."""
        t = self.steps
        self.rewards[t], self.weights[t] = transition.rewards, transition.weights
        self.terminated[t], self.ended[t] = transition.terminated, transition.ended
        if transition.final_observations is not None:
            truncated = np.flatnonzero(transition.ended & ~transition.terminated)
            if truncated.size:
                observations = transition.final_observations[truncated]
                self.final.append((t, truncated, observations, rows(self.state, truncated)))
        if self._remembers:
            self.state = restarted(self.state, self._initial, transition)
        self.steps = t + 1

    def get_state(self) -> State:
        """The steps that are stored: not all yet, or all, if a signal cut their update."""
        arrays = {name: getattr(self, name)[: self.steps].copy() for name in _ROWS}
        final = [[t, envs.copy(), seen.copy()] for t, envs, seen, _ in self.final]
        state: State = {"rows": arrays, "final": final}
        if self._remembers:
            remembered = [*self.states[: self.steps], self.state, *(s for *_, s in self.final)]
            state["remembered"] = [mapped(np.copy, each) for each in remembered]
        return state

    def set_state(self, state: State) -> None:
        """Fills the beginning of a rollout of the same shapes.

        Raises:
            ValueError: The shapes differ.
        """
        saved = state["rows"]
        steps = len(saved["rewards"])
        blank = self.parameters[:steps]  # version 0.1.0 did not save them: A2C does not need them
        arrays = {name: np.asarray(({"parameters": blank} | saved)[name]) for name in _ROWS}
        for name, array in arrays.items():
            own = getattr(self, name)
            fits = (array.shape, array.dtype) == ((steps, *own.shape[1:]), own.dtype)
            if not fits or steps > len(own):
                raise ValueError(
                    "A rollout must have the shape it was saved with. Received: "
                    f"{name} {array.dtype}{list(array.shape)} for {own.dtype}{list(own.shape)}. "
                    "Resume with the settings and the number of environments of the run."
                )
        if ("remembered" in state) != self._remembers:
            raise ValueError(
                "A resumed policy must remember what it remembered. Received: a rollout saved "
                f"{'with' if 'remembered' in state else 'without'} a state for a policy that has "
                f"{'one' if self._remembers else 'none'}. Resume with the policy of the "
                "run."
            )
        remembered = state.get("remembered", [()] * (steps + 1 + len(state["final"])))
        remembered = [mapped(lambda _, array: array, self._initial, each) for each in remembered]
        for name, array in arrays.items():
            getattr(self, name)[:steps] = array
        self.steps = steps
        self.states[:steps], self.state = remembered[:steps], remembered[steps]
        pairs = zip(state["final"], remembered[steps + 1 :], strict=True)
        self.final = [(int(t), envs, seen, each) for (t, envs, seen), each in pairs]

    def finish(
        self,
        observations: np.ndarray,
        value: Callable[..., np.ndarray],
        gamma: float,
        lambda_: float,
    ) -> np.ndarray:
        """Empties the buffer for the next rollout; this one's λ-returns `[T, N]`.

        Args:
            observations: Those after the last step, `[N, ...]`.
            value: v, from observations `[M, ...]` to `[M]`; of a policy that remembers something,
                from its state there as well.
            gamma: The discount factor γ.
            lambda_: The trace parameter λ.
        """
        next_values = np.empty_like(self.values)  # [T, N]
        own = [self.state] if self._remembers else []
        next_values[:-1], next_values[-1] = self.values[1:], value(observations, *own)
        if self.final:  # episodes cut where the next slot already shows the next episode
            steps, envs, seen, states = zip(*self.final, strict=True)
            own = [joined(states)] if own else []
            final_values = value(np.concatenate(seen), *own)
            times = np.concatenate(
                [np.full(len(each), t) for t, each in zip(steps, envs, strict=True)]
            )
            next_values[times, np.concatenate(envs)] = final_values
        discounts = np.float32(gamma) * ~self.terminated
        lambdas = np.float32(lambda_) * ~self.ended
        dummy = self.weights == 0
        if dummy.any():  # its return is its own value: an episode cut there is bootstrapped
            self.rewards[dummy], discounts[dummy], lambdas[dummy] = 0.0, 1.0, 0.0
            next_values[dummy] = self.values[dummy]
        self.clear()
        self.before, self.after = self.after, observations
        return lambda_returns(self.rewards, discounts, next_values, lambdas)
