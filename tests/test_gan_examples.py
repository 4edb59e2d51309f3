"""The examples of GANs in `examples/` learn, within seconds and 25 lines."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ("wgan_gp", "conditional_gan")


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wasserstein_gan_draws_images_like_the_digits():
    """Uniform noise has a distance of 39 from the digits, one half of them 1.2 from the other."""
    trainer, history = loaded("wgan_gp").main(steps=150)
    first, *_, last = history["frechet_distance"]
    assert last < 12 < first
    assert trainer.sample(3).shape == (3, 8, 8, 1)


def test_the_conditional_gan_draws_the_digit_that_it_is_asked_for():
    pixels, labels = load_digits(return_X_y=True)
    means = np.stack([pixels[labels == digit].mean(0) for digit in range(10)]) / 8 - 1
    wanted = np.arange(500) % 10
    samples = loaded("conditional_gan").main().sample(500, labels=wanted)
    nearest = np.linalg.norm(samples[:, None] - means, axis=2).argmin(1)
    assert (nearest == wanted).mean() > 0.8  # 0.1 if labels do nothing


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_25_lines_at_most(name):
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 25
