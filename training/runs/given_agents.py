"""Whether the agent that `train` receives can be trained, and what it says of its state."""

from __future__ import annotations

from ..experience.protocols import Agent, State

METHODS = ("begin", "explore", "observe", "settle", "get_state", "set_state")
OWN = ("explore", "observe", "get_state", "set_state")
"""Those that must not be inherited from the protocol, for there they do nothing."""


def check_agent(agent: object) -> None:
    """Refuses what lacks a method of the protocol, or inherits one that does nothing.

    Raises:
        ValueError: It is no agent, or an incomplete one.
    """
    missing = [name for name in METHODS if not callable(getattr(agent, name, None))]
    missing += [name for name in OWN if getattr(type(agent), name, None) is getattr(Agent, name)]
    if isinstance(agent, type):
        received, advice = f"the class {agent.__name__} itself", f"Pass {agent.__name__}(...)."
    elif missing:
        received = f"{type(agent).__name__}, which does not define {', '.join(missing)}"
        advice = "Define them; what vantage.training.Agent itself has does nothing."
    else:
        return
    raise ValueError(
        f"An agent must be an object with the methods {', '.join(METHODS)}. "
        f"Received: {received}. {advice}"
    )


def state_of(agent: Agent) -> State:
    """The state of an agent.

    Raises:
        ValueError: `get_state` returns no dict.
    """
    state = agent.get_state()
    if not isinstance(state, dict):
        raise ValueError(
            "get_state of an agent must return a dict of arrays and JSON values. Received: "
            f"{type(state).__name__} from {type(agent).__name__}. Return all it needs to continue."
        )
    return state
