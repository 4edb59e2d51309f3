"""A run that is killed and resumed shows in TensorBoard what a run in peace shows."""

import sys
import time
from pathlib import Path

import forks
import gymnasium as gym
import numpy as np
import pytest
from tensorboard_server import Recorder, boards

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.runs.folder import newest_checkpoint
from vantage.training.storage.files import read_json

pytestmark = pytest.mark.costly_setup

SMALL = A2CConfig(n_steps=5, net_arch=(8,))


class Notes:
    """A callback with texts and images of its own."""

    def begin(self, writer):
        self.writer = writer

    def __call__(self, step, values):
        self.writer.text(step, "note", f"loss {values['train/loss']:.6f}")
        self.writer.image(step, "picture", np.full((2, 3, 1), step % 256, np.uint8))


class Pause:
    """A callback that stops the run where it is, to be killed there."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step, values):
        while step >= self.step:
            time.sleep(1)


def padded():
    """CartPole, with an entry of the observations that never changes: to be diagnosed."""
    env = gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=40)
    space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    return gym.wrappers.TransformObservation(env, lambda o: np.append(o, np.float32(1)), space)


def story(folder, *callbacks, resume=False):
    """The run that is killed or not; its checkpoints are after every 22 updates of 20 steps."""
    envs = make_vec(padded, 4, seed=3)
    agent = A2C(envs.single_observation_space, envs.single_action_space, SMALL, seed=1)
    return train(
        agent,
        envs,
        1_200,
        logdir=folder,
        resume=resume,
        callbacks=[*callbacks, Notes()],
        log_every=60,
        evaluate_every=150,
        evaluation_envs=make_vec(padded, 2),
        checkpoint_every=22,
        histograms_every=50,
        video_every=250,
        video_env=padded(),
    )


KILLS = (720, 1_020)  # steps; the checkpoints are at about 440 and 880
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
import conftest
from test_tensorboard_resume import Pause, story
story(Path({folder!r}), Pause({step}), resume={resume})
"""


def killed(folder, step, resume, servers):
    """Trains in a process of its own until all servers show the step, and kills it there."""
    here = Path(__file__).parent
    tests = [str(here), str(here.parents[1])]
    code = CHILD.format(tests=tests, folder=str(folder), step=step, resume=resume)
    process = forks.Popen([sys.executable, "-c", code])
    try:
        for server in servers:
            server.wait(folder.name, step)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """What servers show: of the run in peace, of the killed one while watching, and afterwards."""
    folder, recorder = tmp_path_factory.mktemp("stories"), Recorder()
    story(folder / "peace", recorder)
    resumed = []
    with boards(folder) as watching:
        for step in KILLS:
            killed(folder / "killed", step, bool(resumed), watching)
            resumed.append(int(newest_checkpoint(folder / "killed").name[5:]))
        story(folder / "killed", resume=True)
        with boards(folder) as fresh:
            last = recorder.points["time/fps"][-1][0]
            servers = dict(zip(SEEN, (*watching, *fresh), strict=True))
            for server in servers.values():
                server.wait("peace", last)
                server.wait("killed", last)
            yield folder, recorder, resumed, servers


SEEN = ("data server, watching", "python, watching", "data server, later", "python, later")


def test_the_runs_are_those_meant(stories):
    folder, recorder, resumed, _ = stories
    assert all(before < step for before, step in zip(resumed, KILLS, strict=True))
    assert KILLS[0] < resumed[1]
    summaries = [read_json(folder / name / "summary.json") for name in ("peace", "killed")]
    assert summaries[0]["weights_sha256"] == summaries[1]["weights_sha256"]
    assert summaries[1]["resumed_from"] == resumed[1]
    (diagnosis,) = recorder.texts["diagnosis/entries_constant"]
    assert resumed[0] < diagnosis[0] <= KILLS[0], "it must be among what is written twice"


@pytest.mark.parametrize("seen", SEEN)
def test_a_killed_run_shows_the_points_of_one_in_peace(stories, seen):
    _, recorder, _, servers = stories
    expected, received = (servers[seen].everything(run) for run in ("peace", "killed"))
    for kind, tags in expected.items():
        assert received[kind] == tags, kind
    for kind in ("scalars", "histograms", "texts", "images"):
        heard = getattr(recorder, kind)
        for tag, points in received[kind].items():
            if tag in heard:
                assert [step for step, _ in points] == [step for step, _ in heard[tag]], tag
    assert set(recorder.scalars) == set(received["scalars"])
    steps = [step for step, _ in recorder.points["train/loss"]]
    for kind, tag in (("texts", "note"), ("images", "picture")):
        assert [step for step, _ in received[kind][tag]] == steps


@pytest.mark.parametrize("seen", SEEN)
def test_a_killed_run_has_one_row_and_ends_well(stories, seen):
    question = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_UNKNOWN", "STATUS_RUNNING"],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = stories[3][seen].ask("hparams/session_groups", question)["sessionGroups"]
    statuses = {each["sessions"][0]["name"]: each["sessions"][0]["status"] for each in groups}
    assert len(groups) == 2
    assert statuses == {"peace": "STATUS_SUCCESS", "killed": "STATUS_SUCCESS"}
