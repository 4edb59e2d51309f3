"""Losses in PyTorch: their gradient at the outputs, by PyTorch's own differentiation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ..core.host_losses import external
from ..core.losses import in_our_order
from . import results

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.compiled import Nest
    from ..core.losses import LossGradient

USER = "from_torch"


def from_torch(loss: Callable[[Any, Any], Any]) -> LossGradient:
    """Lifts a PyTorch loss `(y, targets) -> L` or `(L, metrics)`: dL/dy by `torch.autograd`.

    Outputs and targets arrive in their nests as CPU tensors of the same dtypes, in TensorFlow's own
    memory (DLPack) where possible; the loss may move them. It runs on the host: XLA cannot compile
    it. A `torch.nn` loss such as `torch.nn.HuberLoss()` works as it is. Exceptions of the loss
    reach the caller of the step unchanged.

    Raises:
        ImportError: PyTorch is not installed; it is the extra `torch`.
        ValueError: The loss is not a function of two arguments; from the step: L is no scalar
            tensor, or does not depend on the outputs; the loss changes its targets in place.
    """
    torch = results.imported("torch", USER, "PyTorch")
    results.check_no_keras_loss(loss, USER)
    ordered = in_our_order(loss, f"`{USER}`")

    def evaluate(outputs: Nest, targets: Nest) -> tuple[float, Nest, dict[str, Any]]:
        ys = [_tensor(torch, leaf).requires_grad_() for leaf in tf.nest.flatten(outputs)]
        ts = [_tensor(torch, leaf) for leaf in tf.nest.flatten(targets)]
        versions = [t._version for t in ts]  # noqa: SLF001  # counts changes in place
        with torch.enable_grad():
            result = ordered(
                tf.nest.pack_sequence_as(outputs, ys), tf.nest.pack_sequence_as(targets, ts)
            )
        if versions != [t._version for t in ts]:  # noqa: SLF001
            raise ValueError(
                f"A loss for `{USER}` must leave its targets unchanged, which lie in TensorFlow's "
                "memory. Received: one that changes them in place. Use operations without an "
                "underscore, or targets.clone()."
            )
        value, metrics = results.unpacked(result, torch.Tensor, USER)
        if not value.requires_grad:
            raise results.independent(USER, "detach(), torch.no_grad()")
        gradients = torch.autograd.grad(value, ys, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise results.independent(USER, "detach(), torch.no_grad()")
        dense = [
            np.zeros(tuple(y.shape), np.float32) if g is None else g.numpy()
            for y, g in zip(ys, gradients, strict=True)
        ]
        numbers = {name: _number(torch, metric) for name, metric in metrics.items()}
        return value.item(), tf.nest.pack_sequence_as(outputs, dense), numbers

    return external(evaluate)


def _tensor(torch: Any, leaf: np.ndarray) -> Any:
    array = leaf.view(np.ndarray)
    try:
        return torch.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError):  # read-only, or a dtype of NumPy alone
        pass
    try:
        return torch.from_numpy(array.copy())
    except TypeError:
        raise results.no_array(USER, leaf) from None


def _number(torch: Any, metric: Any) -> Any:
    return metric.detach().numpy() if isinstance(metric, torch.Tensor) else metric
