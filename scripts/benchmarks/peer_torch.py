"""Times a bare A2C update in PyTorch; run by a Python that has it, never imported.

    PEER_PYTHON peer_torch.py --threads 1 --batch 40 --calls 2000

Two networks 4-64-64-2 and 4-64-64-1, the loss of A2C, gradients clipped to the global norm 0.5,
RMSprop as in Stable-Baselines3. Inputs are NumPy arrays, and the new weights become NumPy arrays
without a copy. Prints one JSON line: the median seconds.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch import nn


def network(outputs: int) -> nn.Module:
    """Two hidden layers of 64 tanh units."""
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


def main() -> None:
    """Measures the time of each of several calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"threads": 1, "batch": 40, "calls": 2_000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    policy, value = network(2), network(1)
    parameters = [*policy.parameters(), *value.parameters()]
    optimizer = torch.optim.RMSprop(parameters, lr=7e-4, alpha=0.99, eps=1e-5)
    generator, batch = np.random.default_rng(0), flags.batch
    arrays = (
        generator.standard_normal((batch, 4), np.float32),
        generator.integers(0, 2, batch),
        generator.standard_normal(batch, np.float32),
        generator.standard_normal(batch, np.float32),
    )

    def update() -> list[np.ndarray]:
        observations, actions, advantages, returns = map(torch.from_numpy, arrays)
        log_probs = torch.log_softmax(policy(observations), 1)
        chosen = log_probs.gather(1, actions[:, None])[:, 0]
        entropy = -(log_probs.exp() * log_probs).sum(1).mean()
        value_loss = torch.square(returns - value(observations)[:, 0]).mean()
        loss = -(advantages * chosen).mean() + 0.5 * value_loss - 0.0 * entropy
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        return [parameter.detach().numpy() for parameter in parameters]

    seconds = []
    for _ in range(flags.calls):
        began = time.perf_counter()
        update()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(seconds), "threads": flags.threads}))


if __name__ == "__main__":
    main()
