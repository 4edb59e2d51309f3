"""Host losses that worker processes evaluate; without TensorFlow."""

import os
import sys
import time

import numpy as np


def squared(outputs, targets):
    """The mean squared error, and a metric for the mean over examples."""
    difference = outputs - targets
    loss = np.mean(difference**2)
    return loss, 2 * difference / difference.size, {"size": np.abs(difference).mean()}


def keras_order(y_true, y_pred):
    return np.mean(y_pred - 2 * y_true), np.full_like(y_pred, 1 / y_pred.size)


def summed(outputs, targets):
    difference = outputs - targets
    return np.sum(difference**2), 2 * difference


def noisy(outputs, targets):
    loss, gradient, _ = squared(outputs, targets)
    return loss + np.random.default_rng().normal(), gradient


def nested(outputs, targets):
    """Of two outputs; names are strings, and `scale` has no rows."""
    names = {"a": 1.0, "b": 2.0}
    weights = targets["scale"] * np.array([names[name] for name in targets["names"]])[:, None]
    n = len(outputs["one"])
    loss = np.mean(weights * outputs["one"] ** 2) + np.mean(outputs["two"])
    gradient = {"one": 2 * weights * outputs["one"] / n, "two": np.full_like(outputs["two"], 1 / n)}
    return loss, gradient


class Weather(Exception):
    """An exception with arguments of its own."""

    def __init__(self, degrees, unit):
        super().__init__(degrees, unit)
        self.degrees, self.unit = degrees, unit


class Failing:
    """Behaves well until a target is negative in some row, which ends or delays its worker."""

    def __init__(self, how):
        self.how = how

    def __call__(self, outputs, targets):
        if (targets < 0).any():
            if self.how == "raise":
                raise Weather(-40, "C")
            if self.how == "exit":
                sys.exit(3)
            if self.how == "die":
                os.kill(os.getpid(), 9)
            if self.how == "hang":
                time.sleep(600)
        if self.how == "slow at first" and len(outputs) and outputs[0, 0] < 0:
            time.sleep(0.3)
        return squared(outputs, targets)


def modules(outputs, targets):
    """Whether this process has imported TensorFlow or run a main script of the user's."""
    imported = float("tensorflow" in sys.modules or "keras" in sys.modules)
    has_main = float(getattr(sys.modules["__main__"], "__file__", None) is not None)
    return *squared(outputs, targets)[:2], {"tensorflow": imported, "main": has_main}


def processes(outputs, targets):
    return *squared(outputs, targets)[:2], {"pid": os.getpid()}


def slow(outputs, targets):
    """5 ms per example, during which the processor is free."""
    time.sleep(0.005 * len(outputs))
    return squared(outputs, targets)[:2]
