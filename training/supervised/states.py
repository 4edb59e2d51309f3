"""The state of what is trained: variables of models and optimizers, and generators of losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.host_losses import External
from ..core.loss_scale import LossScale
from ..core.objective import EvaluatingOptimizer
from ..core.optimizers import build_optimizer
from ..runs.folder import newest_checkpoint, required_checkpoint
from ..storage.checkpoint import load_checkpoint, save_checkpoint
from ..storage.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import keras

    from ..core.losses import LossGradient
    from ..storage.packing import State


def variables_of(models: Iterable[keras.Layer]) -> list[keras.Variable]:
    """All variables of models, each once: weights, averages, seeds."""
    found = [variable for model in models for variable in model.variables]
    return list({id(variable): variable for variable in found}.values())


def optimizer_variables(
    optimizer: keras.optimizers.Optimizer | EvaluatingOptimizer,
) -> list[keras.Variable]:
    """Slots, counter, learning rate and, for half precision, the loss scale."""
    if isinstance(optimizer, EvaluatingOptimizer):
        return list(optimizer.variables)
    return [*optimizer.variables, *LossScale.variables_of(optimizer)]


def values_of(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Copies of their values."""
    return [np.array(variable.numpy()) for variable in variables]


def assign(name: str, variables: Sequence[keras.Variable], values: object) -> None:
    """Sets variables to saved values.

    Raises:
        ValueError: They are those of something else; nothing is set.
    """
    check(name, variables, values)
    for variable, value in zip(variables, values, strict=True):  # type: ignore[call-overload]
        variable.assign(value)


def check(name: str, variables: Sequence[keras.Variable], values: object) -> None:
    """Refuses values that variables cannot have.

    Raises:
        ValueError: There are more or fewer, or one has another shape or dtype.
    """
    arrays = values if isinstance(values, list) else []
    saved = [(tuple(np.shape(a)), np.asarray(a).dtype.name) for a in arrays]
    own = [(tuple(v.shape), v.dtype) for v in variables]
    if saved == own:
        return
    differing = [
        f"{variable.path} {mine[1]}{list(mine[0])} as {theirs[1]}{list(theirs[0])}"
        for variable, mine, theirs in zip(variables, own, saved, strict=False)
        if mine != theirs
    ]
    raise ValueError(
        f"A checkpoint must hold the variables of {name}. Received: {len(saved)} of {len(own)}"
        f"{', ' + differing[0] if differing else ''}. Build {name} as it was when it was saved."
    )


def checked_parts(state: object, *parts: str) -> dict[str, Any]:
    """The state of a trainer, if it has these parts.

    Raises:
        ValueError: It has not.
    """
    if not isinstance(state, dict) or not set(parts) <= set(state):
        raise ValueError(
            "A fit must be resumed from a checkpoint of such a fit. Received: one of something "
            "else, or a damaged one. Pass the folder of a fit of the same kind."
        )
    return state


def build(
    optimizer: keras.optimizers.Optimizer | EvaluatingOptimizer,
    variables: Sequence[keras.Variable],
    saved: object,
) -> None:
    """Builds an optimizer of Keras, and its loss scale if the saved one had it.

    Any other is built when its step is compiled.
    """
    if isinstance(optimizer, EvaluatingOptimizer):
        return
    build_optimizer(optimizer, variables)
    if isinstance(saved, list) and len(saved) == len(optimizer.variables) + 2:
        LossScale.create(optimizer)


def optimizers_state(
    optimizers: Mapping[str, keras.optimizers.Optimizer | EvaluatingOptimizer],
) -> State:
    """The variables of optimizers by name."""
    return {name: values_of(optimizer_variables(each)) for name, each in optimizers.items()}


def check_optimizers(
    optimizers: Mapping[str, keras.optimizers.Optimizer | EvaluatingOptimizer],
    trained: Callable[[str], Sequence[keras.Variable]],
    saved: Any,
) -> None:
    """Builds optimizers for the variables that they train, and refuses a state of others.

    Raises:
        ValueError: It is of other optimizers.
    """
    if not isinstance(saved, dict) or set(saved) != set(optimizers):
        received = sorted(saved) if isinstance(saved, dict) else type(saved).__name__
        raise ValueError(
            "A checkpoint must hold an optimizer for every turn. Received: those of "
            f"{received} for {sorted(optimizers)}. Pass the turns as before."
        )
    for name, optimizer in optimizers.items():
        build(optimizer, trained(name), saved[name])
        check(_optimizer_of(name), optimizer_variables(optimizer), saved[name])


def assign_optimizers(
    optimizers: Mapping[str, keras.optimizers.Optimizer | EvaluatingOptimizer], saved: Any
) -> None:
    """Sets the variables of optimizers, after `check_optimizers`."""
    for name, optimizer in optimizers.items():
        assign(_optimizer_of(name), optimizer_variables(optimizer), saved[name])


def _optimizer_of(turn: str) -> str:
    return f"the {turn}'s optimizer" if turn else "the optimizer"


def numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON; None for one that is not finite."""
    return [float(value) if math.isfinite(value) else None for value in values]


def as_numbers(values: Iterable[float | None]) -> list[float]:
    """Their inverse."""
    return [math.nan if value is None else float(value) for value in values]


def column(values: np.ndarray) -> State:
    """An array of numbers that may not be finite."""
    return {"dtype": values.dtype.name, "values": numbers(values.tolist())}


def as_column(state: Any) -> np.ndarray:
    """Its inverse."""
    return np.array(as_numbers(state["values"]), np.dtype(state["dtype"]))


def save(path: str | Path, state: State) -> None:
    """Writes the state of a trainer to a directory, as a checkpoint.

    Raises:
        FileExistsError: `path` is something else than a checkpoint.
        FloatingPointError: A number is not finite.
    """
    arrays, packed = pack("trainer", state)
    save_checkpoint(path, arrays, {"trainer": packed})


def load(path: str | Path) -> State:
    """Reads what `save` wrote, or the newest checkpoint of the folder of a fit.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    folder = Path(path)
    if newest_checkpoint(folder) is not None:
        arrays, manifest = load_checkpoint(required_checkpoint(folder))
        state: State = unpack(manifest.get("fit"), arrays)["trainer"]
        return state
    arrays, manifest = load_checkpoint(folder)
    return unpack(manifest.get("trainer"), arrays)


def loss_state(losses: Mapping[str, LossGradient]) -> State:
    """The generators of losses that draw random numbers."""
    found = {name: _generator(loss) for name, loss in losses.items()}
    return {name: each.bit_generator.state for name, each in found.items() if each is not None}


def restore_losses(losses: Mapping[str, LossGradient], state: Any) -> None:
    """Sets the generators.

    Raises:
        ValueError: The losses are others.
    """
    own = loss_state(losses)
    if not isinstance(state, dict) or set(state) != set(own):
        raise ValueError(
            "A training must be resumed with losses of the same lifts. Received: losses that draw "
            f"random numbers for {sorted(state) if isinstance(state, dict) else state!r}, and now "
            f"for {sorted(own)}. Pass them as before."
        )
    for name, each in state.items():
        generator = _generator(losses[name])
        if generator is not None:
            generator.bit_generator.state = each


def _generator(loss: LossGradient) -> np.random.Generator | None:
    return loss.generator if isinstance(loss, External) else None
