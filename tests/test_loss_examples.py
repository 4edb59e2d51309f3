"""The examples of losses in `examples/` learn, within seconds and few lines."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"
MOST_LINES = {"keras_fit": 12, "triplet_loss": 15}


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_keras_fit_learns_from_a_loss_in_numpy():
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 2, (1_000, 1)).astype(np.float32)
    t = np.sin(x) + generator.normal(size=x.shape) * 0.3
    keras.utils.set_random_seed(0)
    model, history = loaded("keras_fit").main(x, t, epochs=50)
    below = (t < model.predict(x, verbose=0)).mean()
    assert 0.86 < below < 0.94
    constant = t - np.quantile(t, 0.9)  # the best output that does not depend on x
    assert history["val_loss"][-1] < 0.6 * np.mean(np.maximum(0.9 * constant, -0.1 * constant))


def test_triplets_separate_classes():
    """Clusters in 2 of 30 dimensions, and noise in all: the nearest other point is of the class."""
    generator = np.random.default_rng(0)
    centres = np.zeros((3, 30))
    centres[:, :2] = [[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]]
    classes = generator.integers(0, 3, 600)
    points = (centres[classes] + generator.normal(size=(600, 30))).astype(np.float32)
    others = (classes + generator.integers(1, 3, 600)) % 3
    draw = lambda kinds: points[[generator.choice(np.flatnonzero(classes == k)) for k in kinds]]  # noqa: E731
    keras.utils.set_random_seed(0)
    embed, history = loaded("triplet_loss").main(points, draw(classes), draw(others))

    def share_of_own(places):
        distances = np.linalg.norm(places[:, None] - places, axis=2)
        np.fill_diagonal(distances, np.inf)
        return (classes[distances.argmin(1)] == classes).mean()

    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert share_of_own(embed.predict(points, verbose=0)) > share_of_own(points) + 0.03


@pytest.mark.parametrize("name", MOST_LINES)
def test_an_example_has_few_lines(name):
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    assert sum(not line.startswith('"""') for line in written) <= MOST_LINES[name]
