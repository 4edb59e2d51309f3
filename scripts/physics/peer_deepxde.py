"""Solves the heat equation with DeepXDE; run by a Python that has it, never imported.

    PEER_PYTHON peer_deepxde.py heat.npz --threads 1

The file has the points, the initial weights and the settings, see comparison.py. Prints one
JSON line: the seconds and updates until the relative L2 error is small enough, and the last error.
"""

import argparse
import json
import os
import time

os.environ.setdefault("DDE_BACKEND", "pytorch")

import deepxde as dde
import numpy as np
import torch


class Watch(dde.callbacks.Callback):
    """Stops the training at the wanted error, which it measures every few updates."""

    def __init__(self, data: dict, every: int) -> None:
        super().__init__()
        self.data, self.every, self.updates, self.error = data, every, 0, 1.0
        self.ended = self.processor = 0.0

    def on_epoch_end(self) -> None:
        """Called after every update."""
        self.updates += 1
        if self.updates % self.every == 0:
            with torch.no_grad():
                found = self.model.net(torch.from_numpy(self.data["grid"])).numpy()
            true = self.data["solution"]
            self.error = float(np.linalg.norm(found - true) / np.linalg.norm(true))
            self.ended, self.processor = time.perf_counter(), time.process_time()
            self.model.stop_training = self.error < float(self.data["wanted"])


def main() -> None:
    """Trains once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, help="end after so many", default=None)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    data = dict(np.load(flags.data))
    most, every, rate = int(data["most"]), int(data["every"]), float(data["rate"])
    began, processor = time.perf_counter(), time.process_time()

    def equation(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        slope = dde.grad.jacobian(u, x, i=0, j=1)
        return slope - float(data["alpha"]) * dde.grad.hessian(u, x, i=0, j=0)

    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(0, 1), dde.geometry.TimeDomain(0, 1))
    edge = dde.icbc.PointSetBC(data["edge"], data["values"])
    problem = dde.data.TimePDE(
        domain, equation, [edge], num_domain=0, num_boundary=0, anchors=data["inside"]
    )
    weights = [data[f"weight_{k}"] for k in range(int(data["layers"]))]
    sizes = [weights[0].shape[0], *(each.shape[1] for each in weights[::2])]
    net = dde.nn.FNN(sizes, "tanh", "Glorot uniform")
    with torch.no_grad():
        for layer, kernel, bias in zip(net.linears, weights[::2], weights[1::2], strict=True):
            layer.weight.copy_(torch.from_numpy(kernel.T))
            layer.bias.copy_(torch.from_numpy(bias))
    model = dde.Model(problem, net)
    model.compile("adam", lr=rate, decay=("cosine", most, 0.0), verbose=0)
    watch = Watch(data, every)
    model.train(iterations=flags.updates or most, display_every=most, callbacks=[watch], verbose=0)
    spent = {"seconds": watch.ended - began, "processor_seconds": watch.processor - processor}
    result = {**spent, "updates": watch.updates, "error": watch.error}
    print(json.dumps({**result, "residuals": len(problem.train_x_all), "threads": flags.threads}))


if __name__ == "__main__":
    main()
