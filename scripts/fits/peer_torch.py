"""Trains the tasks of `vantage benchmark fit` with PyTorch; run by a Python that has it.

    PEER_PYTHON peer_torch.py TASK torch|lightning SECONDS

Prints one JSON line: examples per second. tasks.py beside it has the data.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from tasks import BATCH, TASKS, data_of
from torch import nn


class Last(nn.Module):
    """The last output of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, 32]`."""
        return self.lstm(x)[0][:, -1]


class Mean(nn.Module):
    """The mean of the embeddings of words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(600_000, 64, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, 64]`."""
        return self.embedding(x).mean(1)


def model_of(task: str) -> nn.Module:
    """The network of a task."""
    if task.startswith("mlp"):
        return nn.Sequential(
            nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )
    if task == "cnn":
        convolutions = [
            *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        ]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 25, 1))
    return nn.Sequential(
        *((Last(), nn.Linear(32, 1)) if task == "lstm" else (Mean(), nn.Linear(64, 1)))
    )


def main() -> None:
    """Trains once."""
    task, side, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    torch.manual_seed(0)
    arrays = data_of(task)
    inputs, targets = (torch.from_numpy(array) for array in arrays)
    if task == "cnn":
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    model, rate = model_of(task), TASKS[task].rate
    kind = torch.optim.SGD if TASKS[task].is_sgd else torch.optim.Adam
    optimizer, loss = kind(model.parameters(), rate), nn.MSELoss()

    def train(epochs: int) -> None:
        for _ in range(epochs):
            order = torch.randperm(len(targets))
            for begin in range(0, len(targets), BATCH):
                rows = order[begin : begin + BATCH]
                optimizer.zero_grad()
                loss(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()

    if side == "lightning":
        train = lightning(model, optimizer, loss, inputs, targets)
    train(1)
    began = time.perf_counter()
    train(1)
    epochs = max(1, int(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    train(epochs)
    speed = epochs * len(targets) / (time.perf_counter() - began)
    print(json.dumps({"examples_per_second": speed}))


def lightning(model, optimizer, loss, inputs, targets):
    """The same by Lightning's Trainer, with everything off that takes time."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            x, t = batch
            return loss(self.model(x), t)

        def configure_optimizers(self):
            return optimizer

    dataset = torch.utils.data.TensorDataset(inputs, targets)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    module = Module()

    def train(epochs: int) -> None:
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", **dict.fromkeys(off, False))
        trainer.fit(module, loader)

    return train


if __name__ == "__main__":
    main()
