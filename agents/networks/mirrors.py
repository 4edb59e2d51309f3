"""From Keras models to functions that act: a mirror in NumPy, or a compiled call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ...training.core.compiled import Compiled
from ..acting.host import ACTIVATIONS, HostNetwork, Layer, Memoryless, Network
from .models import LogStd, StateLogStd
from .value_networks import Dueling

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MIRRORED = 300_000  # parameters; at two trunks of 512 × 512 both ways take about as long


def acting_network(network: keras.Model) -> HostNetwork | CompiledNetwork:
    """A network as a function of NumPy arrays: float32 `[N, ...]` to `(y [N, P], v [N], …)`.

    The first output is a matrix, the second, if there is one, a vector; further outputs are not
    used for acting.

    Networks of dense layers are mirrored in NumPy and need no TensorFlow call, up to the size at
    which the call takes less time than NumPy's single thread.
    """
    mirror = _host_network(network) if network.count_params() <= MOST_MIRRORED else None
    return mirror or CompiledNetwork(network)


def check_overlap(overlaps: bool, acting: Network) -> None:
    """Refuses overlapping updates if acting reads the same variables that they assign.

    Raises:
        ValueError: The network is not mirrored in NumPy.
    """
    if overlaps and isinstance(acting, CompiledNetwork):
        raise ValueError(
            "overlap_update needs a network that NumPy mirrors: small dense layers. Received: one "
            "that acts through TensorFlow. Leave overlap_update out."
        )


def _host_network(network: keras.Model) -> HostNetwork | None:
    if not isinstance(network, keras.Model) or not hasattr(network, "operations"):
        return None
    if not _is_from_keras(type(network), "call") or not _is_from_keras(type(network), "__call__"):
        return None  # a class of the user's may compute more than its operations
    slots = {id(network.inputs[0]): 0}
    layers: list[Layer] = []
    variables: list[keras.Variable] = []
    for operation in network.operations[1:]:
        nodes = operation._inbound_nodes  # noqa: SLF001
        layer = _mirror(operation, nodes[0], slots, len(variables)) if len(nodes) == 1 else None
        if layer is None or len(network.inputs) != 1:
            return None
        slots[id(nodes[0].output_tensors[0])] = layer.output
        layers.append(layer)
        variables.extend(operation.variables)
    if any(id(output) not in slots for output in network.outputs[:2]):
        return None
    outputs = tuple(slots[id(output)] for output in network.outputs[:2])
    return HostNetwork(layers, outputs, variables)


def _is_from_keras(kind: type, method: str) -> bool:
    """Whether a class inherits a method from Keras without overriding it."""
    owner = next(each for each in kind.__mro__ if method in vars(each))
    return owner.__module__.startswith("keras.")


def _mirror(
    operation: keras.Operation, node: Any, slots: dict[int, int], first: int
) -> Layer | None:
    """A Keras operation, called at a node of the graph, in NumPy; None if NumPy cannot mirror it.

    Args:
        operation: A layer or another operation.
        node: Its only call, with the symbolic inputs; Keras has no public name for the class.
        slots: The slot of each tensor so far, by the tensor's id.
        first: The number of variables so far.
    """
    inputs = tuple(slots.get(id(tensor), -1) for tensor in node.input_tensors)
    variables = getattr(operation, "variables", [])  # slices are operations without variables
    if -1 in inputs or any(variable.dtype != "float32" for variable in variables):
        return None
    output, weights = len(slots), tuple(range(first, first + len(variables)))
    activation = getattr(operation, "activation", keras.activations.linear)
    # critical: compare by identity. A function of the user's may have the name of one of Keras's.
    name = next((n for n in ACTIVATIONS if getattr(keras.activations, n) is activation), None)
    if name is None or getattr(operation, "compute_dtype", "float32") != "float32":
        return None
    kinds = {
        keras.layers.Flatten: "flatten",
        keras.layers.Activation: "activation",
        keras.layers.Concatenate: "concatenate",
        LogStd: "log_std",
        StateLogStd: "state_log_std",
        Dueling: "dueling",
    }
    kind = kinds.get(type(operation))
    if type(operation) is keras.layers.Dense and not operation.lora_enabled:
        kind = "dense" if len(node.input_tensors[0].shape) == 2 else None
    if kind == "concatenate" and operation.axis != -1:
        kind = None
    return None if kind is None else Layer(kind, inputs, output, weights, name)


class CompiledNetwork(Memoryless):
    """Acting for networks that NumPy cannot mirror: one compiled call per batch size.

    Batches of other sizes than the first are padded to a compiled size, or to a power of two.
    """

    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self._calls: dict[int, Compiled] = {}
        self._vectors: list[int] = []  # number of outputs after the first; shared by copies
        self.variables: list[keras.Variable] = []  # none: the calls read the network's variables
        self.weights: list[np.ndarray] = []

    def reader(self, variable: keras.Variable) -> Callable[[], np.ndarray]:
        """A function that reads a variable of the network as acting sees it."""
        return lambda: variable.numpy()

    def refresh(self) -> None:
        """Does nothing: the compiled calls read the network's variables themselves."""

    def __call__(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        """Policy parameters `[N, P]` and values `[N]`."""
        count = len(observations)
        new = 1 << (count - 1).bit_length() if self._calls else count
        size = min((size for size in self._calls if size >= count), default=new)
        shape = (size, *observations.shape[1:])
        if size not in self._calls:
            signature = (tf.TensorSpec(shape, observations.dtype),)
            self._calls[size] = Compiled(self._forward, signature, jit_compile=False)
        if size > count:
            filled = np.zeros(shape, observations.dtype)
            filled[:count] = observations
            observations = filled
        outputs = self._calls[size](observations).numpy().reshape(size, -1)[:count]
        width = outputs.shape[1] - self._vectors[0]
        return outputs[:, :width], *outputs[:, width:].T

    def _forward(self, observations: tf.Tensor) -> tf.Tensor:
        outputs = tf.nest.flatten(self._network(observations, training=False))[:2]
        self._vectors[:] = [len(outputs) - 1]
        rows = [tf.reshape(output, (observations.shape[0], -1)) for output in outputs]
        return tf.concat([tf.cast(row, tf.float32) for row in rows], axis=1)
