"""The base class of vector environments that step their members in this process or in workers.

Legend: N environments. A row is what a step of one environment returns: observation, reward,
terminated, truncated, info. The row of a reset has reward 0 and both flags False.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from ..common.episodes import Episodes, Seeds
from ..common.storable import HEAD, StateError, array, checked_exactness, entries, fields, whole
from ..common.types import Info, Row, Space, State
from ..resuming.changes import Changes, apply
from ..resuming.recording import Plan, Recording, reason, replayed
from ..resuming.state import is_known, member_state, restored
from .broken import REPAIR, BrokenEnvironmentError, broken, raised
from .fitting import Fit
from .infos import add_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Rows: TypeAlias = dict[int, Row | BrokenEnvironmentError]
Batch: TypeAlias = tuple[Any, np.ndarray, np.ndarray, np.ndarray, Info]
Errors: TypeAlias = dict[int, BrokenEnvironmentError]
Replies: TypeAlias = dict[int, tuple[str, Any]]

_FAILURES_IN_A_ROW = 3
_FAILS_TOO_OFTEN = "Repair it: it broke three times in a row without completing a step."

COMMANDS: dict[str, Callable[..., object]] = {  # what `_ask` runs in an environment
    "get_state": member_state,
    "set_state": restored,
    "replay": replayed,
    "change": apply,
}
_ENTRIES = ("episodes", "ended", "failures", "restarts", "changes")
_RUNNING = {  # entries about the running episodes, by exactness; the best one available is used
    "state": ("members",),  # the state of every environment
    # The actions of the last two episodes, to simulate them again. Rewards, ends and the last
    # observations are compared bit for bit.
    "replay": ("actions", "outcomes", "before", "observations"),
    "restart": ("why",),  # the reason; the next episodes begin
}
_STEPS_PER_TIMEOUT = 100  # a replay of a thousand steps may take ten timeouts longer


class Traits(NamedTuple):
    """What a vector environment needs to know about a member."""

    observation_space: Space
    action_space: Space
    metadata: dict[str, Any]
    render_mode: str | None
    is_known: bool = False  # whether its state can always be saved


def traits(env: gym.Env) -> Traits:
    """Reads the traits of an environment."""
    observations, actions = env.observation_space, env.action_space
    return Traits(observations, actions, dict(env.metadata), env.render_mode, is_known(env))


def called(
    env: gym.Env, name: str, arguments: tuple[object, ...], keywords: Mapping[str, object]
) -> object:
    """Calls a method of an environment or its wrappers, or reads an attribute."""
    found = env.get_wrapper_attr(name)
    return found(*arguments, **keywords) if callable(found) else found


class SeededVectorEnv(VectorEnv):
    """Seeds every episode, and rebuilds broken environments if that is allowed.

    An environment whose episode has ended is reset in the next step (NEXT_STEP). One that breaks
    is rebuilt and reset in the same step: it returns the first observation of a new episode,
    reward 0 and both flags False. `restarted` and `infos["restarted"]` report it, and
    `infos["broken"]` says why. A subclass implements `step`, `_begin`, `_remake`, `_call_each` and
    `_ask`, makes its environments and passes their traits to `_adopt`.

    Attributes:
        restarts: Number of environments rebuilt so far.
        restarted: Bools `[N]`: the environments that the last step or reset rebuilt; None if none.
    """

    fits_its_spaces = True  # `Fit` checks every row

    def __init__(self, num_envs: int, restart_broken_envs: bool) -> None:
        self.num_envs, self.restarts = num_envs, 0
        self.restarted: np.ndarray | None = None
        self._episodes = Episodes(num_envs)
        self._ended = np.zeros(num_envs, bool)  # [N]: the next step begins an episode
        self._restarts_broken = restart_broken_envs
        self._failures: dict[int, int] = {}  # in a row, of environments without a step since
        self._recording = Recording(num_envs)
        self._changes = Changes(num_envs)  # attributes set by set_attr
        self._records = False  # whether some environment's state may be unknown
        self._completed_at = 0  # the clock at the last complete step; -1 during a reset

    @property
    def run_seed(self) -> int:
        """The seed from which the seeds of all episodes are computed."""
        return self._episodes.run_seed

    @property
    def episodes(self) -> np.ndarray:
        """The number of each environment's episode `[N]`; -1 before the first."""
        return np.array(self._episodes.numbers)

    @property
    def episode_position(self) -> tuple[object, ...]:
        """Changes with every step, reset and close."""
        return self.closed, *self._episodes.position

    # `VectorEnv` declares a single seed and generator; here, as in Gymnasium's `SyncVectorEnv`,
    # every environment has its own.
    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override,unused-ignore]
        """The seed of each environment's episode; None before the first."""
        return tuple(self._episodes.seeds)

    @property  # type: ignore[misc,unused-ignore]  # read-only
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override,unused-ignore]
        """Each environment's generator."""
        return self.get_attr("np_random")

    def reset(self, *, seed: Seeds = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begins an episode in every environment.

        Args:
            seed: A run seed, whose episode 0 begins everywhere; None begins the next episodes. A
                list has a seed for each environment, or None for its next episode; a list without
                None also determines the run seed.
            options: Passed to every environment's reset.

        Raises:
            ValueError: A seed is not a whole number below 2**64, or there is a reset_mask.
            BrokenEnvironmentError: An environment broke and is not rebuilt.
        """
        if options is not None and "reset_mask" in options:
            raise ValueError(
                "A reset_mask must be passed to a vector environment of autoreset mode DISABLED. "
                "Received: one for NEXT_STEP. Leave it out: the next step resets every environment "
                "whose episode has ended."
            )
        self._episodes.sow(seed)
        if seed is not None:
            self._changes.start_over()
        self._completed_at, batch = -1, self._empty_batch()
        errors = self._fill(batch, self._begin(range(self.num_envs), options))
        if options:
            self._recording.unrecorded = list(self._episodes.numbers)
        observations, _, _, _, infos = self._completed(batch, errors)
        return observations, infos

    def _begin(self, indices: Iterable[int], options: Info | None = None) -> Rows:
        """Begins the next episode of some environments."""
        raise NotImplementedError

    def _remake(self, indices: Sequence[int]) -> Errors:
        """Rebuilds some environments; returns the errors of those that cannot be made."""
        raise NotImplementedError

    def _ask(
        self, command: str, arguments: Mapping[int, tuple[object, ...]], patience: float = 1
    ) -> Replies:
        """Runs a function of `COMMANDS` in some environments.

        Returns:
            For each, what went wrong ("" if nothing) and the result.
        """
        raise NotImplementedError

    def _call_each(
        self, name: str, arguments: Sequence[tuple[object, ...]], keywords: Mapping[str, object]
    ) -> tuple[Any, ...]:
        """Calls a method, or reads an attribute, of every environment."""
        raise NotImplementedError

    def _adopt(self, index: int, member: Traits) -> None:
        """Takes the spaces of the first member; all others must have the same."""
        if not hasattr(self, "single_action_space"):
            self.single_observation_space = member.observation_space
            self.single_action_space = member.action_space
            self.metadata = {**member.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
            self.render_mode = member.render_mode
            self._batch_spaces()
        self._records |= not member.is_known
        expected = self.single_observation_space, self.single_action_space
        if member[:2] != expected:
            raise ValueError(
                "The environments of a vector must all have the same spaces. Received: "
                f"{member[:2]} of environment {index}, {expected} of the first one. Give them the "
                "same spaces, with a wrapper if necessary."
            )

    def _batch_spaces(self) -> None:
        space, count = self.single_observation_space, self.num_envs
        self.observation_space = batch_space(space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._room: tuple[tuple[int, ...], np.dtype] | None = None  # [N, ...] of a Box
        if isinstance(space, spaces.Box):
            self._room = (count, *space.shape), space.dtype
        self._joint: Any = create_empty_array(space, count)
        self._fit = Fit(space)

    def _empty_batch(self) -> Batch:
        """New arrays with room for a row of every environment."""
        room = self._room
        observations = [None] * self.num_envs if room is None else np.empty(*room)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        return observations, np.zeros(self.num_envs), terminated, truncated, {}

    def _fill(self, batch: Batch, rows: Rows) -> Errors:
        """Writes rows into a batch, and returns the errors of those that broke or do not fit."""
        observations, rewards, terminated, truncated, infos = batch
        errors = {}
        for i, row in rows.items():
            if isinstance(row, BrokenEnvironmentError):
                errors[i] = row
                continue
            try:
                observations[i], rewards[i], terminated[i], truncated[i], info = row
                self._add_info(infos, info, i)
            except Exception as error:
                errors[i] = self._raised(i, error)
        return errors

    def _add_info(self, vector_infos: Info, env_info: Info, env_num: int) -> Info:
        add_info(vector_infos, env_info, env_num, self.num_envs)
        return vector_infos

    def _completed(self, batch: Batch, errors: Errors) -> Batch:
        """Completes a batch: rebuilds broken environments, or raises the error of the first one."""
        observations, rewards, terminated, truncated, infos = batch
        if self._failures:
            self._failures = {i: n for i, n in self._failures.items() if i in errors}
        why: dict[int, str] = {}
        while errors:
            for i, error in errors.items():
                self._failures[i] = self._failures.get(i, 0) + 1
                if not self._restarts_broken or self._failures[i] >= _FAILURES_IN_A_ROW:
                    raise error
                why[i] = error.first_line
            self.restarts += len(errors)
            rows: Rows = {**self._remake(list(errors))}
            self._set_again([i for i in errors if i not in rows])
            rows |= self._begin([i for i in errors if i not in rows])
            for i in errors:
                self._episodes.before[i] = None  # another instance played it
            errors = self._fill(batch, rows)
        self.restarted = self._report(infos, why) if why else None
        self._ended, self._completed_at = terminated | truncated, self._episodes.clock
        if self._records:
            self._recording.add_result(observations, rewards, terminated, truncated)
        if self._room is None:
            joint = concatenate(self.single_observation_space, observations, self._joint)
            observations = deepcopy(joint)  # the next step overwrites `_joint`
        return observations, rewards, terminated, truncated, infos

    def _report(self, infos: Info, why: Mapping[int, str]) -> np.ndarray:
        """Adds to the infos which environments were rebuilt, and why; returns bools `[N]`."""
        for name in ("restarted", "broken"):  # an environment may use these names itself
            infos.pop(name, None), infos.pop(f"_{name}", None)
        for i, text in why.items():
            self._add_info(infos, {"restarted": True, "broken": text}, i)
        restarted: np.ndarray = infos["restarted"].copy()
        return restarted

    def seed_of(self, index: int, back: int = 0) -> int | None:
        """Seed of an environment's episode, or of the one `back` before it; None if there was none.

        If an earlier episode began from a list of seeds, the result is the usual seed instead.
        """
        return self._episodes.seed_of(index, back)

    def get_state(self) -> State:
        """Returns what `set_state` needs to resume from here: arrays and JSON values."""
        return {
            "kind": type(self).__name__,
            "num_envs": self.num_envs,
            "episodes": self._episodes.get_state(),
            "ended": self._ended.copy(),
            "failures": [self._failures.get(i, 0) for i in range(self.num_envs)],
            "restarts": self.restarts,
            "changes": self._changes.get_state(),
            **self._running_state(),
        }

    def _running_state(self) -> State:
        """How exactly the running episodes can be resumed, and the entries for that."""
        if self._completed_at != self._episodes.clock:
            return {"exactness": "restart", "why": "broken"}
        if self._changes.are_lost:
            return {"exactness": "restart", "why": "changes"}
        replies = self._ask("get_state", {i: () for i in range(self.num_envs)})
        members = [None if problem else member for problem, member in replies.values()]
        if all(member is not None for member in members):
            return {"exactness": "state", "members": members}
        if not self._records:
            return {"exactness": "restart", "why": "unrecorded"}
        return self._recording.saved(self._episodes, self._ended)

    def set_state(self, state: object) -> str:
        """Resumes from what `get_state` returned, in environments made with the same arguments.

        Returns:
            "" if every episode resumes bit for bit; otherwise why running episodes could not be
            restored, and the next step or reset begins the next episode everywhere.

        Raises:
            ValueError: The state is malformed, or of another kind or number of environments.
            BrokenEnvironmentError: An environment failed and cannot be rebuilt.
        """
        exactness, count = checked_exactness(self, state), self.num_envs
        saved = fields(state, "A state", *HEAD, *_ENTRIES, *_RUNNING[exactness])
        episodes = Episodes.from_state(saved["episodes"], count)
        ended = array(saved["ended"], "The ends", (count,), bool)
        failures = entries(saved["failures"], "The failures", count)
        counts = [whole(one, "The failures of an environment") for one in failures]
        restarts = whole(saved["restarts"], "The restarts")
        changes = Changes.from_state(saved["changes"], count)
        restore = self._restoring(exactness, saved, episodes, ended, changes)
        self._changes, self._episodes = changes, episodes
        self._failures = {i: n for i, n in enumerate(counts) if n}
        self.restarts = restarts
        self._ended, self._completed_at = np.ones(count, bool), episodes.clock
        self._recording.clear()
        problem = restore()
        if problem:
            episodes.seeds = [None] * count  # these instances have not begun an episode
        else:
            self._ended = ended
        return problem

    def _restoring(
        self, exactness: str, state: State, episodes: Episodes, ended: np.ndarray, changes: Changes
    ) -> Callable[[], str]:
        """Checks the rest of a state; returns a function that restores the running episodes."""
        if exactness == "state":
            members = entries(state["members"], "The environments' states", self.num_envs)
            return lambda: self._restore_members(members)
        if exactness == "replay":
            plan = Plan(state, episodes, ended, self._empty_batch()[0], changes)
            return lambda: self._replay(plan)
        why = reason(state)
        return lambda: self._begin_next(why)

    def _begin_next(self, why: str) -> str:
        self._set_again(range(self.num_envs))
        return why

    def _restore_members(self, members: Iterable[object]) -> str:
        self._set_again(range(self.num_envs))
        replies = self._ask("set_state", {i: (one,) for i, one in enumerate(members)})
        for problem, malformed in replies.values():
            if malformed and not problem:
                raise StateError(malformed)
        self._recording.unrecorded = list(self._episodes.numbers)
        return self._rebuild_failed(replies, "when its state was set")

    def _replay(self, plan: Plan) -> str:
        replies = self._ask("replay", plan.requests(), 1 + plan.longest / _STEPS_PER_TIMEOUT)
        if problem := self._rebuild_failed(replies, "when its episode was simulated again"):
            return problem
        contents = {i: content for i, (_, content) in replies.items()}
        observations, different = plan.compared(contents)
        if different:
            return f"{different} when its episodes were simulated again from seed and actions."
        self._recording.refill(observations, plan.parts(contents), self._episodes.clock)
        return ""

    def _set_again(self, indices: Iterable[int]) -> None:
        """Repeats the changes of set_attr in new environments; failures show up later."""
        changes = {i: changed for i in indices if (changed := self._changes.all_of(i))}
        self._ask("change", {i: (changed,) for i, changed in changes.items()})

    def _rebuild_failed(self, replies: Replies, when: str) -> str:
        """Rebuilds environments that failed, and says what happened to the first one."""
        failed = {i: problem for i, (problem, _) in replies.items() if problem}
        for error in self._remake(list(failed)).values():
            raise error
        return next((f"Environment {i} {problem} {when}." for i, problem in failed.items()), "")

    def _broken(
        self, index: int, problem: str, call: str = "", action: object = None, traceback: str = ""
    ) -> BrokenEnvironmentError:
        return broken(
            self._episodes,
            index,
            problem,
            call=call,
            action=action,
            advice=_FAILS_TOO_OFTEN if self._restarts_broken else REPAIR,
            traceback=traceback,
        )

    def _raised(
        self, index: int, error: BaseException, call: str = "", action: object = None
    ) -> BrokenEnvironmentError:
        """Builds the error of an environment that raised an exception in this process.

        Raises:
            KeyboardInterrupt: The user interrupts; the environment is not broken.
        """
        if isinstance(error, KeyboardInterrupt):
            raise error
        raised_here = self._broken(index, raised(error), call, action)
        raised_here.__cause__ = error
        return raised_here

    def __copy__(self) -> NoReturn:
        """Refuses a copy that would step the same environments; `copy.deepcopy` copies them."""
        raise ValueError(
            "A vector environment cannot be copied without its environments. Received: copy.copy. "
            "Make another with make_vec(...)."
        )

    def call(self, name: str, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
        """Calls a method of every environment, or reads an attribute."""
        return self._call_each(name, [arguments] * self.num_envs, keywords)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Reads an attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every environment; a list or tuple has a value for each."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"There must be one value for each of {self.num_envs} environments. Received: "
                f"{len(values)}. Pass a single value to set it everywhere."
            )
        self._call_each("set_wrapper_attr", [(name, value) for value in values], {})
        self._changes.add(self._episodes, name, values)

    def render(self) -> tuple[Any, ...]:
        """Renders a frame of every environment."""
        return self.call("render")
