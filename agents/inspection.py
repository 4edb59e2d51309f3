"""A look inside an agent: what its last update saw, and its weights and gradients by layer.

Nothing is changed by looking: no generator is drawn from, no variable assigned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from ..training.core.forward import differentiated
from ..training.core.turns import Turn
from .acting.distributions import Categorical

Arrays = dict[str, np.ndarray]


def of_rollout(self: Any) -> Arrays:
    """Of an actor-critic agent, just after an update: samples by name, then weights and gradients.

    `observations` as the network sees them, `rewards`, `values`, `returns` and `advantages` of the
    rollout's real steps, and what the policy was: probabilities of the actions taken, or means and
    standard deviations. Of an update that runs beside the acting nothing is known yet: weights and
    gradients are then those of the one before.
    """
    if self.batch is None:
        return {}
    rollout = self._rollout
    real = rollout.weights.ravel() > 0
    rows = ("observations", "rewards", "values")
    arrays = {
        n: getattr(rollout, n).reshape(len(real), *getattr(rollout, n).shape[2:]) for n in rows
    }
    arrays["returns"] = self.batch[1][-2]
    arrays["advantages"] = arrays["returns"] - arrays["values"]
    parameters, actions = (
        array.reshape(len(real), -1) for array in (rollout.parameters, rollout.actions)
    )
    if isinstance(self._actions, Categorical):
        arrays["action_probabilities"] = self._actions.probability(parameters, actions)
    else:
        arrays |= _of_gaussian(parameters, self._actions.raw_shape[0])
    return {name: array[real] for name, array in arrays.items()} | weights_and_gradients(self)


def of_minibatch(self: Any) -> Arrays:
    """Of an agent with a replay buffer, just after an update: as `of_rollout`, of a minibatch.

    `observations` and `rewards`, `action_values` Q(s, ·) of a discrete policy or the `action_means`
    (and `action_stds`) of another.
    """
    if self.batch is None:
        return {}
    inputs, targets = _examples(self)
    arrays, outputs = {"observations": inputs[0]}, self._acting(inputs[0])[0]
    if isinstance(self._actions, Categorical):  # raw actions are DQN's first target
        arrays |= {"rewards": targets[1], "action_values": outputs}
    else:
        arrays |= {"rewards": targets[0], **_of_gaussian(outputs, self._actions.raw_shape[0])}
    return arrays | weights_and_gradients(self)


def _of_gaussian(parameters: np.ndarray, count: int) -> Arrays:
    """Means, and standard deviations where the parameters hold them."""
    arrays = {"action_means": parameters[:, :count]}
    if parameters.shape[1] >= 2 * count:
        arrays["action_stds"] = np.exp(parameters[:, count : 2 * count])
    return arrays


def _examples(agent: Any) -> tuple[Any, Any]:
    """Inputs and targets of the last update, of one minibatch of it if there were several."""
    count = getattr(agent.config, "batch_size", None)
    return tf.nest.map_structure(lambda array: array[:count], agent.batch)


def weights_and_gradients(agent: Any) -> Arrays:
    """`weights/…` and `gradients/…` (before clipping) of every trained variable.

    Weights are those that acting sees, where it mirrors them: reading a variable costs a call.
    Layers of one name, as two critics may have them, are told apart by a number.
    """
    acting, arrays = agent._acting, Arrays()
    mirrored = {id(v): weight for v, weight in zip(acting.variables, acting.weights, strict=True)}
    with tf.device(agent._device):
        for name, turn in agent.turns.items():
            for variable, gradient in zip(turn.variables, _gradients(agent, turn), strict=True):
                path = _free("/".join(filter(None, (name, variable.path))), arrays)
                weight = mirrored.get(id(variable))
                weight = variable.value.numpy() if weight is None else weight
                arrays[f"weights/{path}"] = weight.copy()  # no view
                arrays[f"gradients/{path}"] = gradient
    return arrays


def _free(path: str, arrays: Arrays) -> str:
    """The path, or with a number the first one like it that is not taken."""
    number, free = 1, path
    while f"weights/{free}" in arrays:
        number += 1
        free = f"{path}_{number}"
    return free


def _gradients(agent: Any, turn: Turn) -> list[np.ndarray]:
    """Of the last update, where they came with it: a look is to cost nothing beside small updates.

    Otherwise of the last update's examples at the weights as they are now, computed for the look.
    """
    kept = getattr(agent, "gradients", None)
    if kept is None:
        tensors = tf.nest.map_structure(tf.constant, _examples(agent))
        return [gradient.numpy() for gradient in differentiated(*turn, *tensors)[-1]]
    shapes = [tuple(variable.shape) for variable in turn.variables]
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(kept.copy(), cuts)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
