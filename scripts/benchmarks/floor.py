"""Time of the matrix products of an update of SAC alone: a lower bound for any implementation.

Legend: M examples of a minibatch; a network has layers of i inputs and o outputs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = tuple[int, int, int]
"""Of a product: `[rows, inner] @ [inner, columns]`."""


def products_of_sac(
    observation: int, action: int, widths: Sequence[int], examples: int
) -> list[Shape]:
    """The products of a gradient step of SAC (Haarnoja et al. 2018), layer by layer.

    The critics' update runs the actor and two target critics forward, and two critics forward and
    back. The actor's runs the actor forward and back, and two critics forward and back to the
    action.
    """
    actor = list(zip([observation, *widths], [*widths, 2 * action], strict=True))
    critic = list(zip([observation + action, *widths], [*widths, 1], strict=True))

    def forward(layers):
        return [(examples, inputs, outputs) for inputs, outputs in layers]

    def to_weights(layers):
        return [(inputs, examples, outputs) for inputs, outputs in layers]

    def to_inputs(layers):
        return [(examples, outputs, inputs) for inputs, outputs in layers]

    critics_turn = forward(actor) + 2 * forward(critic)
    critics_turn += 2 * (forward(critic) + to_weights(critic) + to_inputs(critic[1:]))
    actors_turn = forward(actor) + to_weights(actor) + to_inputs(actor[1:])
    actors_turn += 2 * (forward(critic) + to_inputs(critic))
    return critics_turn + actors_turn


def seconds_of(products: Sequence[Shape], repeats: int = 100) -> float:
    """The median time of all products in NumPy, with the threads that its BLAS has here."""
    generator = np.random.default_rng(0)
    pairs = [
        (
            generator.normal(size=(rows, inner)).astype(np.float32),
            generator.normal(size=(inner, columns)).astype(np.float32),
        )
        for rows, inner, columns in products
    ]
    results = [np.empty((len(a), b.shape[1]), np.float32) for a, b in pairs]
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        for (a, b), result in zip(pairs, results, strict=True):
            np.matmul(a, b, out=result)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))
