"""The exact state of a vector of seeded environments, and going on from it.

Of the running episodes it has, whichever comes first:

    "state"      every environment's own state                                    (state.py)
    "replay"     their actions and those of the episodes before, with which they
                 are simulated again; rewards, ends and what was seen last are
                 compared bit for bit                                             (recording.py)
    "restart"    nothing: the next episodes begin

What `set_attr` has set is set again, whatever the level.                           (changes.py)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.episodes import Episodes
from ..common.storable import HEAD, StateError, array, checked_exactness, entries, fields, whole
from ..resuming.changes import Changes, apply
from ..resuming.recording import Plan, reason, replayed
from ..resuming.state import member_state, restored

if TYPE_CHECKING:
    from .vector import Replies, SeededVectorEnv

COMMANDS: dict[str, Callable[..., Any]] = {  # what an environment can be asked for
    "get_state": member_state,
    "set_state": restored,
    "replay": replayed,
    "change": apply,
}
_BOOKS = ("episodes", "ended", "failures", "restarts", "changes")
_RUNNING = {
    "state": ("members",),
    "replay": ("actions", "outcomes", "before", "observations"),
    "restart": ("why",),
}
_STEPS_PER_TIMEOUT = 100  # of a replay: one of a thousand steps has ten more timeouts' time


def saved_state(envs: SeededVectorEnv) -> dict[str, Any]:
    """What `resume` needs: arrays and JSON values."""
    return {
        "kind": type(envs).__name__,
        "num_envs": envs.num_envs,
        "episodes": envs._episodes.get_state(),
        "ended": envs._ended.copy(),
        "failures": [envs._failures.get(i, 0) for i in range(envs.num_envs)],
        "restarts": envs.restarts,
        "changes": envs._changes.get_state(),
        **_running_state(envs),
    }


def _running_state(envs: SeededVectorEnv) -> dict[str, Any]:
    if envs._whole != envs._episodes.clock:
        return {"exactness": "restart", "why": "broken"}
    if envs._changes.are_lost:
        return {"exactness": "restart", "why": "changes"}
    replies = envs._ask("get_state", {i: () for i in range(envs.num_envs)})
    members = [None if happened else member for happened, member in replies.values()]
    if all(member is not None for member in members):
        return {"exactness": "state", "members": members}
    if not envs._records:
        return {"exactness": "restart", "why": "unrecorded"}
    return envs._recording.saved(envs._episodes, envs._ended)


def resume(envs: SeededVectorEnv, state: Any) -> str:
    """Has environments go on from a `saved_state`; else says why, and they begin new episodes.

    Raises:
        StateError: It is malformed, or of others.
        BrokenEnvironmentError: An environment failed, and cannot be made anew.
    """
    exactness, count = checked_exactness(envs, state), envs.num_envs
    state = fields(state, "A state", *HEAD, *_BOOKS, *_RUNNING[exactness])
    episodes = Episodes.from_state(state["episodes"], count)
    ended = array(state["ended"], "The ends", (count,), bool)
    failures = enumerate(entries(state["failures"], "The failures", count))
    failed = {i: n for i, one in failures if (n := whole(one, "The failures of an environment"))}
    restarts = whole(state["restarts"], "The restarts")
    changes = Changes.from_state(state["changes"], count)
    restore = _CHECKS[exactness](envs, state, episodes, ended, changes)
    envs._changes, envs._episodes, envs._failures = changes, episodes, failed
    envs.restarts = restarts
    envs._ended, envs._whole = np.ones(count, bool), episodes.clock
    envs._recording.clear()
    problem = restore()
    if problem:
        episodes.seeds = [None] * count  # no episode of these instances goes on, or went before
    else:
        envs._ended = ended
    return problem


def _from_members(
    envs: SeededVectorEnv, state: dict, episodes: Episodes, ended: np.ndarray, changes: Changes
) -> Callable[[], str]:
    members = entries(state["members"], "The environments' states", envs.num_envs)

    def restore() -> str:
        _set_again(envs, changes)
        replies = envs._ask("set_state", {i: (one,) for i, one in enumerate(members)})
        for happened, malformed in replies.values():
            if malformed and not happened:
                raise StateError(malformed)
        envs._recording.unrecorded = list(envs._episodes.numbers)
        return _remade(envs, replies, "when its state was set")

    return restore


def _from_actions(
    envs: SeededVectorEnv, state: dict, episodes: Episodes, ended: np.ndarray, changes: Changes
) -> Callable[[], str]:
    plan = Plan(state, episodes, ended, envs._empty_batch()[0], changes)

    def restore() -> str:
        replies = envs._ask("replay", plan.requests(), 1 + plan.longest / _STEPS_PER_TIMEOUT)
        if problem := _remade(envs, replies, "when its episode was simulated again"):
            return problem
        contents = {i: content for i, (_, content) in replies.items()}
        observations, different = plan.compared(contents)
        if different:
            return f"{different} when its episodes were simulated again from seed and actions."
        envs._recording.refill(observations, plan.parts(contents), episodes.clock)
        return ""

    return restore


def _from_nothing(
    envs: SeededVectorEnv, state: dict, episodes: Episodes, ended: np.ndarray, changes: Changes
) -> Callable[[], str]:
    why = reason(state)

    def restore() -> str:
        _set_again(envs, changes)
        return why

    return restore


def _set_again(envs: SeededVectorEnv, changes: Changes) -> None:
    """Has environments begin with the attributes that were set; what fails shows later."""
    made = {i: own for i in range(envs.num_envs) if (own := changes.all_of(i))}
    envs._ask("change", {i: (own,) for i, own in made.items()})


_CHECKS: dict[str, Callable[..., Callable[[], str]]] = {
    "state": _from_members,
    "replay": _from_actions,
    "restart": _from_nothing,
}


def _remade(envs: SeededVectorEnv, replies: Replies, when: str) -> str:
    """Makes environments anew that failed, and says what happened to the first one."""
    failed = {i: happened for i, (happened, _) in replies.items() if happened}
    for error in envs._remake(list(failed)).values():
        raise error
    return next((f"Environment {i} {happened} {when}." for i, happened in failed.items()), "")
