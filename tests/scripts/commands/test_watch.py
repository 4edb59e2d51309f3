"""`vantage watch` and `training/monitoring/video.py`: what is played is what is filmed."""

import io
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import forks
import gymnasium as gym
import numpy as np
import pytest
from commands import assert_refused, caller
from PIL import Image

from vantage.scripts.main import main
from vantage.training.monitoring.video import (
    gif_bytes,
    play_episode,
    record_episode,
    write_mp4,
    write_video,
)

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
SMALL = ("--num-envs", "4", "--net-arch", "8", "--total-steps", "400", "--eval-every", "200")


class Counter(gym.Env):
    """Counts its steps; a frame shows the count in red. Only one action is legal at a time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Dict(
        count=gym.spaces.Box(0, 9, (1,), np.float32), parity=gym.spaces.Discrete(2)
    )
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, length=5):
        self.render_mode, self.length = render_mode, length
        self.pixels = np.zeros((6, 7, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.seen()

    def step(self, action):
        assert action == self.count % 2, "an illegal action"
        self.count += 1
        observation, info = self.seen()
        return observation, float(self.count), self.count == self.length, False, info

    def seen(self):
        parity = self.count % 2
        observation = {"count": np.array([self.count], np.float32), "parity": parity}
        return observation, {"action_mask": np.arange(2) == parity}

    def render(self):
        self.pixels[..., 0] = self.count * 40
        return self.pixels


class Obedient:
    """Takes the action that the mask allows, and checks that it sees a batch of one."""

    def act(self, observations, deterministic=False, action_masks=None):
        assert observations["count"].shape == (1, 1) and observations["parity"].shape == (1,)
        assert action_masks.shape == (1, 2) and action_masks.dtype == bool
        return action_masks.argmax(axis=1)


def test_an_episode_is_recorded_frame_by_frame():
    frames, total = record_episode(Obedient(), Counter("rgb_array"))
    assert frames.dtype == np.uint8 and frames.shape == (6, 6, 7, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]  # copies, from the first on
    assert total == 1 + 2 + 3 + 4 + 5
    assert play_episode(Obedient(), Counter()) == total


def test_a_reward_that_no_float_holds_is_named():
    env = gym.wrappers.TransformReward(Counter(), lambda reward: 10**400)
    with pytest.raises(ValueError, match=r"that a float holds. Received: .* step 1 .* seed is 7"):
        play_episode(Obedient(), env, seed=7)


def test_only_pictures_are_filmed():
    with pytest.raises(ValueError, match=r'render_mode="rgb_array".*Received: None'):
        record_episode(Obedient(), Counter())
    broken = Counter("rgb_array")
    broken.pixels = np.zeros((6, 7, 3))
    with pytest.raises(ValueError, match=r"uint8 arrays.*Received: float64\[6, 7, 3\]"):
        record_episode(Obedient(), broken)


FRAMES = np.zeros((10, 32, 48, 3), np.uint8)
FRAMES[..., 0] = np.arange(10)[:, None, None] * 25


@pytest.mark.parametrize(
    ("fps", "count", "milliseconds"), [(10, 10, 100), (50, 10, 20), (100, 5, 20), (30, 10, 30)]
)
def test_gifs_show_the_frames_at_their_speed(fps, count, milliseconds):
    """Browsers show GIFs of more than 50 frames a second at 10."""
    picture = Image.open(io.BytesIO(gif_bytes(FRAMES, fps)))
    assert (picture.format, picture.size, picture.n_frames) == ("GIF", (48, 32), count)
    assert picture.info["duration"] == milliseconds and picture.info["loop"] == 0
    for index, frame in enumerate(FRAMES[:: 10 // count]):
        picture.seek(index)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), frame)


@pytest.mark.parametrize("shape", [(32, 48), (31, 47)])
def test_mp4s_hold_the_frames(tmp_path, shape):
    import imageio_ffmpeg

    path = tmp_path / "video.mp4"
    write_mp4(path, FRAMES[:, : shape[0], : shape[1]], 5)
    assert imageio_ffmpeg.count_frames_and_secs(path) == (10, 2.0)
    words = ["-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], capture_output=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 32, 48, 3)  # even, for the players
    reds = frames[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(reds, np.arange(10) * 25, atol=12)


def test_bad_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], 10)
    with pytest.raises(ValueError, match="at least one frame"):
        gif_bytes([], 10)
    with pytest.raises(ValueError, match="fps must be more than 0"):
        gif_bytes(FRAMES, 0)
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        write_video(tmp_path / "a.avi", FRAMES, 10)
    with pytest.raises(ValueError, match="one size"):
        write_video(tmp_path / "b.mp4", [FRAMES[0], FRAMES[0][:10]], 10)


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls `vantage …` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the folder
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "MUJOCO_GL", "SDL_AUDIODRIVER"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    return caller(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "run"
    main(["train", "a2c", "CartPole-v1", *SMALL, "--logdir", str(folder)])
    return folder


EPISODE = re.compile(r"episode (\d+), seed (\d+): return (\S+) in ([\d,]+) steps")


def episodes(out):
    return [(int(n), int(seed), float(total), int(steps)) for n, seed, total, steps in
            EPISODE.findall(out)]  # fmt: skip


def test_what_is_filmed_is_what_was_played(trained, call, tmp_path):
    """The returns are those of the saved agent in these episodes; a frame for every state."""
    import imageio_ffmpeg

    from vantage.agents import A2C

    path = tmp_path / "new" / "video.mp4"
    code, out, err = call("watch", trained, "--output", path, "--episodes", "2", "--seed", "5")
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.startswith("a2c on CartPole-v1, step-0") and last == str(path)
    agent, env = A2C.load(max((trained / "checkpoints").glob("step-*"))), gym.make("CartPole-v1")
    expected = [play_episode(agent, env, seed=seed) for seed in (5, 6)]
    assert episodes(out) == [(1, 5, expected[0], expected[0]), (2, 6, expected[1], expected[1])]
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert frames == sum(expected) + 2  # the first states, too
    assert seconds == pytest.approx(frames / 50, abs=0.05)  # CartPole's render_fps


def shown_for(path):
    """Milliseconds of a GIF; frames that are the same are one that is shown longer."""
    with Image.open(path) as picture:
        assert picture.n_frames > 5
        total = 0
        for index in range(picture.n_frames):
            picture.seek(index)
            total += picture.info["duration"]
        return total


def test_gifs_sampled_actions_and_the_best_agent(trained, call):
    returns = []
    for flags in ((), ("--stochastic",), ("--best",)):
        words = ("--output", "v.gif", "--fps", "25", "--episodes", "3", *flags)
        code, out, err = call("watch", trained, *words)
        assert (code, err) == (0, "")
        assert ("best" in out) == ("--best" in flags)
        returns.append([total for _, _, total, _ in episodes(out)])
        assert shown_for("v.gif") == 40 * (sum(returns[-1]) + 3)
    assert returns[0] != returns[1]


def test_a_window(trained, tmp_path):
    """On SDL's display that nobody sees; without a display there is an error that says more."""
    environment = os.environ | {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    words = ["watch", str(trained), "--env", "CartPole-v1", "--seed", "2"]
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = forks.run([VANTAGE, *words], env=environment, **options)
    assert done.returncode == 0, done.stderr
    assert len(episodes(done.stdout)) == 1


def test_without_a_display_it_says_what_to_do(trained, call, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("there always is one")
    assert_refused(call("watch", trained), "DISPLAY", "--output video.mp4")


MODULE = """
import gymnasium as gym, numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

class Blind(CartPoleEnv):
    metadata = {"render_modes": []}
    def __init__(self):
        super().__init__()

class Own(CartPoleEnv):
    pass

gym.register("Blind-v0", entry_point=Blind, max_episode_steps=20)
gym.register("Own-v0", entry_point=Own, max_episode_steps=20)
"""


def test_environments_of_modules(trained, call, tmp_path):
    (tmp_path / "my_watched.py").write_text(MODULE)
    code, out, _ = call("watch", trained, "--env", "my_watched:Own-v0", "--output", "v.gif")
    assert code == 0 and "a2c on my_watched:Own-v0" in out
    assert 0 < episodes(out)[0][3] <= 20
    words = ("--env", "my_watched:Blind-v0", "--output", "b.gif")
    assert_refused(call("watch", trained, *words), "'rgb_array'", "Blind-v0", "render_modes")
    assert not Path("b.gif").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere"], ["nowhere", "folder of a run"]),
        ([], ["RUN_DIR", "--help"]),
        (["RUN", "--output", "v.avi"], ["v.avi", ".mp4 or .gif"]),
        (["RUN", "--episodes", "0"], ["episodes", "at least 1"]),
        (["RUN", "--seed", "-1"], ["seed", "at least 0"]),
        (["RUN", "--fps", "0"], ["fps", "more than 0"]),
        (["RUN", "--fps", "nan"], ["fps", "nan"]),
        (["RUN", "--output", "v.gif", "--env", "Acrobot-v1"], ["observation space", "Acrobot-v1"]),
        (["RUN", "--output", "v.gif", "--env", "NoSuch-v0"], ["'NoSuch-v0'"]),
        (["RUN", "--output", "v.gif", "--device", "abacus"], ["'abacus'"]),
        (["line", "--output", "v.gif"], ["one of the algorithms", "None"]),
        (["bare", "--output", "v.gif"], ["checkpoint"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused(trained, call, tmp_path, arguments, parts):
    for name, config in (("line", '{"example": "arm"}'), ("bare", '{"algorithm": "a2c"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    words = [str(trained) if word == "RUN" else word for word in arguments]
    assert_refused(call("watch", *words), *parts)
    assert not list(tmp_path.glob("v.*"))


def test_a_missing_encoder_names_the_extra(trained, tmp_path):
    code = (
        "import sys; sys.modules['imageio_ffmpeg'] = None\n"
        "from vantage.scripts.main import main; main(['watch', *sys.argv[1:]])"
    )
    words = [str(trained), "--output", "v.mp4"]
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = forks.run([sys.executable, "-c", code, *words], **options)
    assert_refused((done.returncode, "", done.stderr), "pip install 'vantage-rl[video]'", ".gif")
