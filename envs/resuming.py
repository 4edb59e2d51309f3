"""The exact state of a vector of seeded environments, and going on from it.

Of the running episodes it has, whichever comes first:

    "state"      every environment's own state                                    (state.py)
    "replay"     their actions, with which they are simulated again, and what was
                 seen last, with which the result is compared bit for bit         (recording.py)
    "restart"    nothing: the next episodes begin
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .episodes import Episodes
from .recording import Plan, reason, replayed
from .state import member_state, restored
from .storable import HEAD, StateError, array, checked_exactness, entries, fields, whole

if TYPE_CHECKING:
    from .vector import Replies, SeededVectorEnv

COMMANDS: dict[str, Callable[..., Any]] = {  # what an environment can be asked for
    "get_state": member_state,
    "set_state": restored,
    "replay": replayed,
}
_BOOKS = ("episodes", "ended", "failures", "restarts")
_RUNNING = {"state": ("members",), "replay": ("actions", "observations"), "restart": ("why",)}
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
        **_running_state(envs),
    }


def _running_state(envs: SeededVectorEnv) -> dict[str, Any]:
    if envs._whole != envs._episodes.clock:
        return {"exactness": "restart", "why": "broken"}
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
    restore = _CHECKS[exactness](envs, state, episodes, ended)
    envs._episodes, envs._failures, envs.restarts = episodes, failed, restarts
    envs._ended, envs._whole = np.ones(count, bool), episodes.clock
    envs._recording.clear()
    problem = restore()
    if not problem:
        envs._ended = ended
    return problem


def _from_members(envs: SeededVectorEnv, state: dict, *_: Any) -> Callable[[], str]:
    members = entries(state["members"], "The environments' states", envs.num_envs)

    def restore() -> str:
        replies = envs._ask("set_state", {i: (one,) for i, one in enumerate(members)})
        for happened, malformed in replies.values():
            if malformed and not happened:
                raise StateError(malformed)
        envs._recording.unrecorded = list(envs._episodes.numbers)
        return _remade(envs, replies, "when its state was set")

    return restore


def _from_actions(
    envs: SeededVectorEnv, state: dict, episodes: Episodes, ended: np.ndarray
) -> Callable[[], str]:
    plan = Plan(state, episodes, ended, envs._empty_batch()[0])

    def restore() -> str:
        replies = envs._ask("replay", plan.requests(), 1 + plan.longest / _STEPS_PER_TIMEOUT)
        if problem := _remade(envs, replies, "when its episode was simulated again"):
            return problem
        seen = {i: observation for i, (_, observation) in replies.items()}
        observations, different = plan.compared(seen)
        if different:
            return (
                f"Environment {different[0]} came to another observation when its episode was "
                "simulated again from its seed and actions."
            )
        envs._recording.refill(plan.actions, observations)
        return ""

    return restore


def _from_nothing(envs: SeededVectorEnv, state: dict, *_: Any) -> Callable[[], str]:
    why = reason(state)
    return lambda: why


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
