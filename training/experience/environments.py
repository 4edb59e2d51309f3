"""How running episodes are saved and resumed, as exactly as their environments allow.

state     from what `envs.get_state` returns
replay    by playing the actions of each environment's last two episodes again, from their seeds,
          and comparing rewards, ends and the last observations
restart   not at all: the next episodes begin
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, cast

import numpy as np

from ..storage.files import parse_json
from ..storage.packing import pack, unpack
from ..storage.tensors import MOST_HEADER, Arrays

if TYPE_CHECKING:
    from pathlib import Path

    from .protocols import Resumable, State, VectorEnvironment
    from .transitions import Transitions

EXACTNESS = ("state", "replay", "restart")
"""Best first."""
COMPARED = (
    "as far as rewards, ends and the last observations of their last two episodes show: "
    "played again"
)
LONG_TEXT, MOST_TEXT = 2**16, 2**24  # bytes of the environments' state that are no arrays
_TEXT = "__environment__"
LOST: tuple[Arrays, None, str] = ({}, None, "restart")


def worse(one: str, other: str) -> str:
    """The less exact of two levels; an unknown one is the worst."""
    known = [level if level in EXACTNESS else EXACTNESS[-1] for level in (one, other)]
    return max(known, key=EXACTNESS.index)


def are_finite(arrays: Arrays) -> bool:
    """Whether a checkpoint may hold them."""
    return all(np.isfinite(array).all() for array in arrays.values())


def _fitted(arrays: Arrays, packed: object) -> tuple[Arrays, object]:
    """The same; long texts become an array, so that reading the agent alone skips them.

    Raises:
        ValueError: They would leave no room in a checkpoint for the rest.
    """
    text, header = json.dumps(packed).encode(), sum(len(name) + 100 for name in arrays)
    if len(text) > MOST_TEXT or header > MOST_HEADER // 2:
        raise ValueError(
            f"it has {len(arrays):,} arrays and {len(text):,} bytes of text. Return few large "
            "arrays from get_state"
        )
    if len(text) <= LONG_TEXT:
        return arrays, packed
    return arrays | {_TEXT: np.frombuffer(text, np.uint8)}, {_TEXT: True}


def unpacked_environment(packed: object, arrays: Arrays, shards: Path) -> State | None:
    """The environments' state, of what `environment_state` made of it.

    Raises:
        ValueError: It is damaged.
    """
    if isinstance(packed, dict) and set(packed) == {_TEXT}:
        text = arrays.get(_TEXT, np.empty(0, np.uint8))
        packed = parse_json(text.tobytes()[:MOST_TEXT], MOST_TEXT)
    state: State | None = unpack(packed, arrays, shards)
    return state


def environment_state(transitions: Transitions) -> tuple[Arrays, object, str]:
    """The state of the environments as arrays and JSON, and how exact it is."""
    envs = transitions.envs
    if not hasattr(type(envs), "get_state"):
        return LOST
    try:
        state = cast("Resumable", envs).get_state()
        arrays, packed = pack("environment", state)
        seen, _ = pack("seen", transitions.observations)
        if not are_finite(arrays) or not are_finite(seen):
            return LOST
        arrays, packed = _fitted(arrays, packed)
    except Exception as error:
        warnings.warn(
            f"The environments' state cannot be saved ({error}): a resumed run would begin new "
            "episodes.",
            RuntimeWarning,
            stacklevel=2,
        )
        return LOST
    return arrays, packed, worse(EXACTNESS[0], state.get("exactness", EXACTNESS[0]))


def restore_environments(envs: VectorEnvironment, state: State | None) -> tuple[str, str]:
    """Restores the running episodes; the level, and why new ones must begin, if they must."""
    if state is None:
        return "restart", "their state was not saved."
    if not hasattr(type(envs), "set_state"):
        return "restart", "these environments have no set_state."
    reason = cast("Resumable", envs).set_state(state) or ""
    return worse(state.get("exactness", EXACTNESS[0]), "restart" if reason else "state"), reason
