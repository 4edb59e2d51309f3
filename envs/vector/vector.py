"""What environments stepped in turn and in worker processes have in common.

Legend: N environments. A row is what a step of one environment returns: observation, reward,
terminated, truncated, info. That of a reset has reward 0 and no end.
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
_REPAIR_AT_LAST = "Repair it: three times in a row without a step is too often."

COMMANDS: dict[str, Callable[..., object]] = {  # what an environment can be asked for
    "get_state": member_state,
    "set_state": restored,
    "replay": replayed,
    "change": apply,
}
_BOOKS = ("episodes", "ended", "failures", "restarts", "changes")
_RUNNING = {  # whichever comes first, of the running episodes
    "state": ("members",),  # every environment's own state
    # Their actions and those of the episodes before, with which they are simulated again; rewards,
    # ends and what was seen last are compared bit for bit.
    "replay": ("actions", "outcomes", "before", "observations"),
    "restart": ("why",),  # nothing: the next episodes begin
}
_STEPS_PER_TIMEOUT = 100  # of a replay: one of a thousand steps has ten more timeouts' time


class Traits(NamedTuple):
    """What a vector environment has to know of its members."""

    observation_space: Space
    action_space: Space
    metadata: dict[str, Any]
    render_mode: str | None
    is_known: bool = False  # its state, whatever happens


def traits(env: gym.Env) -> Traits:
    """Reads them from an environment."""
    observations, actions = env.observation_space, env.action_space
    return Traits(observations, actions, dict(env.metadata), env.render_mode, is_known(env))


def called(
    env: gym.Env, name: str, arguments: tuple[object, ...], keywords: Mapping[str, object]
) -> object:
    """The result of a method of an environment or its wrappers, or an attribute."""
    found = env.get_wrapper_attr(name)
    return found(*arguments, **keywords) if callable(found) else found


class SeededVectorEnv(VectorEnv):
    """Seeds every episode, and rebuilds broken environments if it may.

    An environment whose episode ended is reset in the next step (NEXT_STEP), one that broke in
    the same step: it returns the first observation of a new episode, reward 0 and no end, and
    `restarted` reports it, as do `infos["restarted"]` and `infos["broken"]` (why) in that step. A
    subclass writes `step`, `_begin`, `_remake`, `_call_each` and `_ask`, makes its environments and
    hands them to `_adopt`.

    Attributes:
        restarts: How many environments were rebuilt so far.
        restarted: Bools `[N]`, which were rebuilt in the last step or reset; None for none.
    """

    fits_its_spaces = True  # `Fit` has looked at it

    def __init__(self, num_envs: int, restart_broken_envs: bool) -> None:
        self.num_envs, self.restarts = num_envs, 0
        self.restarted: np.ndarray | None = None
        self._episodes = Episodes(num_envs)
        self._ended = np.zeros(num_envs, bool)  # [N]: the next step begins an episode
        self._restarts_broken = restart_broken_envs
        self._failures: dict[int, int] = {}  # in a row, of those that have not stepped since
        self._recording = Recording(num_envs)
        self._changes = Changes(num_envs)  # what set_attr has set
        self._records = False  # whether an environment may be unable to tell its state
        self._whole = 0  # the clock at the last step that was completed; -1 if none is

    @property
    def run_seed(self) -> int:
        """What all episodes' seeds are drawn from."""
        return self._episodes.run_seed

    @property
    def episodes(self) -> np.ndarray:
        """The number of each environment's episode `[N]`; -1 before the first."""
        return np.array(self._episodes.numbers)

    @property
    def episode_position(self) -> tuple[object, ...]:
        """Another value after every step, reset and close."""
        return self.closed, *self._episodes.position

    # `VectorEnv` declares a single seed and generator; here, as in Gymnasium's `SyncVectorEnv`,
    # every environment has its own.
    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override,unused-ignore]
        """What each environment's episode began from; None before the first."""
        return tuple(self._episodes.seeds)

    @property  # type: ignore[misc,unused-ignore]  # read-only
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override,unused-ignore]
        """Each environment's generator."""
        return self.get_attr("np_random")

    def reset(self, *, seed: Seeds = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begins an episode in every environment.

        Args:
            seed: A run seed: its episode 0 begins everywhere. None: the next episode begins. A
                list: each environment begins from its own number, or, where that is None, its
                next episode; a list without None is a run seed as well.
            options: Passed to every environment's reset.

        Raises:
            ValueError: A seed is no whole number below 2**64, or there is a reset_mask.
            BrokenEnvironmentError: An environment broke, and may not be rebuilt.
        """
        if options is not None and "reset_mask" in options:
            raise ValueError(
                "A reset_mask must go to a vector environment of autoreset mode DISABLED. "
                "Received: one for NEXT_STEP. Step on: who has ended is reset in the next step."
            )
        self._episodes.sow(seed)
        if seed is not None:
            self._changes.begin_anew()
        self._whole, batch = -1, self._empty_batch()
        errors = self._fill(batch, self._begin(range(self.num_envs), options))
        if options:
            self._recording.unrecorded = list(self._episodes.numbers)
        observations, _, _, _, infos = self._completed(batch, errors)
        return observations, infos

    def _begin(self, indices: Iterable[int], options: Info | None = None) -> Rows:
        """Begins the next episode of some environments."""
        raise NotImplementedError

    def _remake(self, indices: Sequence[int]) -> Errors:
        """Makes some environments anew; the errors of those that cannot be made."""
        raise NotImplementedError

    def _ask(
        self, command: str, arguments: Mapping[int, tuple[object, ...]], patience: float = 1
    ) -> Replies:
        """What happened, and the result, of a function of `COMMANDS` for some environments."""
        raise NotImplementedError

    def _call_each(
        self, name: str, arguments: Sequence[tuple[object, ...]], keywords: Mapping[str, object]
    ) -> tuple[Any, ...]:
        """Calls a method, or reads an attribute, of every environment."""
        raise NotImplementedError

    def _adopt(self, index: int, member: Traits) -> None:
        """Takes the spaces of the first member there ever was; the others must have the same."""
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
                f"{member[:2]} of environment {index}, {expected} of the first one. Make them "
                "alike, with a wrapper if need be."
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
        """Room for a row of every environment, in new arrays."""
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
        """A batch without gaps: who broke is rebuilt, or else the first one's error raised."""
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
            changes = {i: (own,) for i in errors if (own := self._changes.all_of(i))}
            self._ask("change", {i: own for i, own in changes.items() if i not in rows})
            rows |= self._begin([i for i in errors if i not in rows])
            for i in errors:
                self._episodes.before[i] = None  # it was another instance's
            errors = self._fill(batch, rows)
        self.restarted = self._report(infos, why) if why else None
        self._ended, self._whole = terminated | truncated, self._episodes.clock
        if self._records:
            self._recording.see(observations, rewards, terminated, truncated)
        if self._room is None:
            joint = concatenate(self.single_observation_space, observations, self._joint)
            observations = deepcopy(joint)  # nobody's but the caller's
        return observations, rewards, terminated, truncated, infos

    def _report(self, infos: Info, why: Mapping[int, str]) -> np.ndarray:
        """Says in the infos which environments were rebuilt, and why; bools `[N]`."""
        for name in ("restarted", "broken"):  # an environment may have the names as well
            infos.pop(name, None), infos.pop(f"_{name}", None)
        for i, text in why.items():
            self._add_info(infos, {"restarted": True, "broken": text}, i)
        restarted: np.ndarray = infos["restarted"].copy()
        return restarted

    def seed_of(self, index: int, back: int = 0) -> int | None:
        """What an environment's episode, or the one so many before it, began from.

        None if there was none. That episodes before this one may have begun from a list of seeds
        is not remembered.
        """
        return self._episodes.seed_of(index, back)

    def get_state(self) -> State:
        """What `set_state` needs to go on from here: arrays and JSON values."""
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
        """The exactness of the running episodes, and what goes with it."""
        if self._whole != self._episodes.clock:
            return {"exactness": "restart", "why": "broken"}
        if self._changes.are_lost:
            return {"exactness": "restart", "why": "changes"}
        replies = self._ask("get_state", {i: () for i in range(self.num_envs)})
        members = [None if happened else member for happened, member in replies.values()]
        if all(member is not None for member in members):
            return {"exactness": "state", "members": members}
        if not self._records:
            return {"exactness": "restart", "why": "unrecorded"}
        return self._recording.saved(self._episodes, self._ended)

    def set_state(self, state: object) -> str:
        """Goes on from what `get_state` returned, in environments that were made alike.

        Returns:
            Nothing if it goes on bit for bit; else why running episodes could not be restored.
            Then the next step or reset begins the next episode everywhere.

        Raises:
            ValueError: The state is malformed, or of another kind or number of environments.
            BrokenEnvironmentError: An environment failed, and cannot be made anew.
        """
        exactness, count = checked_exactness(self, state), self.num_envs
        saved = fields(state, "A state", *HEAD, *_BOOKS, *_RUNNING[exactness])
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
        self._ended, self._whole = np.ones(count, bool), episodes.clock
        self._recording.clear()
        problem = restore()
        if problem:
            episodes.seeds = [None] * count  # these instances have no episode yet, and had none
        else:
            self._ended = ended
        return problem

    def _restoring(
        self, exactness: str, state: State, episodes: Episodes, ended: np.ndarray, changes: Changes
    ) -> Callable[[], str]:
        """What has the running episodes go on, once the books are set; the state is checked."""
        if exactness == "state":
            members = entries(state["members"], "The environments' states", self.num_envs)
            return lambda: self._restore_members(members)
        if exactness == "replay":
            plan = Plan(state, episodes, ended, self._empty_batch()[0], changes)
            return lambda: self._play_again(plan)
        why = reason(state)
        return lambda: self._begin_next(why)

    def _begin_next(self, why: str) -> str:
        self._set_again()
        return why

    def _restore_members(self, members: Iterable[object]) -> str:
        self._set_again()
        replies = self._ask("set_state", {i: (one,) for i, one in enumerate(members)})
        for happened, malformed in replies.values():
            if malformed and not happened:
                raise StateError(malformed)
        self._recording.unrecorded = list(self._episodes.numbers)
        return self._remade(replies, "when its state was set")

    def _play_again(self, plan: Plan) -> str:
        replies = self._ask("replay", plan.requests(), 1 + plan.longest / _STEPS_PER_TIMEOUT)
        if problem := self._remade(replies, "when its episode was simulated again"):
            return problem
        contents = {i: content for i, (_, content) in replies.items()}
        observations, different = plan.compared(contents)
        if different:
            return f"{different} when its episodes were simulated again from seed and actions."
        self._recording.refill(observations, plan.parts(contents), self._episodes.clock)
        return ""

    def _set_again(self) -> None:
        """Has environments begin with the attributes that were set; what fails shows later."""
        made = {i: own for i in range(self.num_envs) if (own := self._changes.all_of(i))}
        self._ask("change", {i: (own,) for i, own in made.items()})

    def _remade(self, replies: Replies, when: str) -> str:
        """Makes environments anew that failed, and says what happened to the first one."""
        failed = {i: happened for i, (happened, _) in replies.items() if happened}
        for error in self._remake(list(failed)).values():
            raise error
        return next((f"Environment {i} {happened} {when}." for i, happened in failed.items()), "")

    def _broken(
        self, index: int, happened: str, call: str = "", action: object = None, traceback: str = ""
    ) -> BrokenEnvironmentError:
        return broken(
            self._episodes,
            index,
            happened,
            call=call,
            action=action,
            advice=_REPAIR_AT_LAST if self._restarts_broken else REPAIR,
            traceback=traceback,
        )

    def _raised(
        self, index: int, error: BaseException, call: str = "", action: object = None
    ) -> BrokenEnvironmentError:
        """The error of an environment that raised an exception in this process.

        Raises:
            KeyboardInterrupt: It is one, which is the user's.
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
        """A frame of every environment."""
        return self.call("render")
