"""TensorBoard's tabs in a real browser show what a real run wrote."""

import gymnasium as gym
import pytest

from vantage.scripts.documentation.browser import (
    browse,
    find,
    missing,
    open_tab,
    read,
    serve,
    wait_drawn,
    wait_for,
)
from vantage.scripts.documentation.pictures import (
    show_custom_scalars,
    show_histograms,
    show_hparams,
    show_scalars,
    train_runs,
)
from vantage.training.monitoring.monitor import LAYOUT

pytestmark = [
    pytest.mark.costly_setup,
    pytest.mark.skipif(bool(missing()), reason=f"needs a browser: install {missing()}"),
]
RUNS = ("lr-0.001-seed-0", "lr-0.01-seed-0")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "runs"
    env = gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=30)
    often = {"log_every": 200, "video_every": 1_000, "video_env": env}
    train_runs(folder, 2_400, learning_rates=(1e-3, 1e-2), seeds=(0,), **often)
    with serve(folder) as address:
        yield address


@pytest.fixture(scope="module")
def driver():
    with browse() as chromium:
        yield chromium


def wait_text(driver, *texts):
    """Waits until the page holds all texts."""

    def absent():
        page = read(driver)
        return [text for text in texts if text not in page]

    wait_for(driver, lambda: not absent(), f"one of {texts}")


def test_time_series(driver, url):
    open_tab(driver, url, "timeseries")
    wait_text(driver, "eval /ci95_high", "eval /mean_reward", *RUNS)  # a space where a line may end
    wait_drawn(driver, "line-chart", 2)


def test_scalars(driver, url):
    show_scalars(driver, url, "rollout/ep_rew_mean", "train/loss", "time/fps")
    wait_text(driver, "rollout/ep_rew_mean", "train/loss", "time/fps", *RUNS)


def test_custom_scalars(driver, url):
    show_custom_scalars(driver, url)
    wait_text(driver, *LAYOUT, *next(iter(LAYOUT.values())), *RUNS)


def test_hparams(driver, url):
    columns = ("config.learning_rate", "seed", "rollout/ep_rew_mean", "eval/mean_reward")
    cells = show_hparams(driver, url, *columns)
    rows = [cells[cells.index(run) :] for run in RUNS]
    rates = [next(float(cell) for cell in row[1:] if cell) for row in rows]
    assert rates == [1e-3, 1e-2]


def test_histograms(driver, url):
    tags = ("samples/values", "samples/advantages", "weights/policy/kernel")
    show_histograms(driver, url, RUNS[0], *tags)
    wait_text(driver, *tags, RUNS[0])


def test_distributions(driver, url):
    open_tab(driver, url, "distributions", tagFilter="samples/values")
    wait_drawn(driver, "vz-distribution-chart", 2)
    wait_text(driver, "samples/values", *RUNS)


def test_images(driver, url):
    """The video is a picture 600 pixels wide, with a brown pole."""
    open_tab(driver, url, "images")
    wait_text(driver, "eval/episode", *RUNS)
    wait_drawn(driver, "img", 2)
    for image in find(driver, "img"):
        assert "individualImage" in image.get_attribute("src")
        assert image.get_property("naturalWidth") == 600


def test_text(driver, url):
    open_tab(driver, url, "text", regexInput=RUNS[0])
    wait_text(driver, "run/config", '"learning_rate": 0.001', "run/environment", "CartPole-v1")
    wait_text(driver, "run/versions", '"tensorflow"', "run/resume", "A killed run is resumed")


def test_graphs(driver, url):
    open_tab(driver, url, "graphs")
    wait_text(driver, "Main Graph", "actor_critic")
