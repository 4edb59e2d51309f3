"""The command `vantage watch RUN_DIR`: a trained agent plays in a window, or for a video file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vantage.envs.make import Maker
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.reading.trained import (
    TrainedFlags,
    algorithm_of,
    checkpoint_of,
    env_kwargs_of,
    env_of,
    load_trained,
    max_episode_steps_of,
)
from vantage.training.common.console import say
from vantage.training.monitoring.video import (
    ENDINGS,
    check_mp4,
    frame_of,
    frames_per_second,
    play_episode,
    write_video,
)
from vantage.training.storage.files import read_json

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np


@dataclass(frozen=True)
class WatchFlags(TrainedFlags):
    """Watch a trained agent play, in a window or, with --output, as a video."""

    output: Path | None = None
    """Record a video into this file instead: .mp4 (extra `video`) or .gif."""
    episodes: int = 1
    """Episodes to play, one after the other."""
    seed: int = 1_000
    """Seed of the first episode; each further episode has the next one."""
    fps: float | None = None
    """Frames per second of the video (default: those of the environment)."""

    def __post_init__(self) -> None:
        require_at_least(self, episodes=1, seed=0)
        if self.fps is not None and not 0 < self.fps <= 1_000:
            raise ValueError(
                "fps must be more than 0 and at most 1000. "
                f"Received: {self.fps}. Leave --fps out for the environment's own"
            )
        if self.output is not None and self.output.suffix.lower() not in ENDINGS:
            raise ValueError(
                f"output must end in {' or '.join(ENDINGS)}. "
                f"Received: {str(self.output)!r}. Rename it, or leave it out for a window"
            )


def run(arguments: list[str]) -> None:
    """Plays the episodes and prints their returns."""
    flags = parse(WatchFlags, arguments, prog="vantage watch")
    config = read_json(flags.run_dir / "config.json")
    algorithm = algorithm_of(config, flags.run_dir)
    path = checkpoint_of(flags.run_dir, flags.best)
    if flags.output is None:
        _check_display()
    elif flags.output.suffix.lower() == ".mp4":
        check_mp4()
    env_id = env_of(flags, config)
    env = rendered(
        env_id,
        env_kwargs_of(flags, config),
        max_episode_steps_of(config),
        "human" if flags.output is None else "rgb_array",
    )
    with closing(env):
        spaces = {"observation": env.observation_space, "action": env.action_space}
        agent = load_trained(path, algorithm, env_id, spaces, flags.device, flags.network)
        say(f"{algorithm} on {env_id}, {path.name}")
        if flags.output is None:
            for number in range(flags.episodes):
                _play(agent, env, flags, number, lambda: None)
            return
        write_video(flags.output, _frames(agent, env, flags), flags.fps or frames_per_second(env))
        say(flags.output)


def _check_display() -> None:
    """Refuses to open a window without a screen.

    Raises:
        ValueError: The system is a Unix without a display.
    """
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    has_screen = os.name == "nt" or sys.platform == "darwin" or any(map(os.environ.get, names))
    if not has_screen:
        raise ValueError(
            "A window needs a display. Received: a system without one (DISPLAY is not set). "
            "Pass --output video.mp4 or --output video.gif to record a video instead."
        )


def _draw_without_display() -> None:
    """Lets pygame and MuJoCo render without a screen, unless the user has set their variables.

    Call it before they are imported.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def rendered(
    env_id: str, env_kwargs: Mapping[str, Any], max_episode_steps: int | None, mode: str
) -> gym.Env:
    """One environment that renders in a mode, "human" or "rgb_array".

    Raises:
        ValueError: It does not have this mode.
    """
    if mode == "rgb_array":
        _draw_without_display()
    with closing(Maker(env_id, env_kwargs, max_episode_steps, ())()) as env:
        modes = list(env.metadata.get("render_modes") or [])
    # Gymnasium opens a window for environments that only render pictures.
    if mode not in modes and not (mode == "human" and "rgb_array" in modes):
        raise ValueError(
            f"An environment must have the render mode {mode!r} to be "
            f"{'watched in a window' if mode == 'human' else 'recorded'}. Received: {env_id!r}, "
            f"whose metadata['render_modes'] are {modes}. "
            + ("Pass --output to record." if mode == "human" and modes else "Add it to the class.")
        )
    return Maker(env_id, {**env_kwargs, "render_mode": mode}, max_episode_steps, ())()


def _play(
    agent: Any, env: gym.Env, flags: WatchFlags, number: int, look: Callable[[], None]
) -> None:
    """Plays an episode and prints its return."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        look()

    seed = flags.seed + number
    total = play_episode(agent, env, deterministic=not flags.stochastic, seed=seed, look=count)
    say(f"episode {number + 1}, seed {seed}: return {total:.2f} in {seen - 1:,} steps")


def _frames(agent: Any, env: gym.Env, flags: WatchFlags) -> Iterator[np.ndarray]:
    """The frames of all episodes; only those of one episode are in memory at a time."""
    for number in range(flags.episodes):
        frames: list[np.ndarray] = []
        _play(agent, env, flags, number, partial(_append_frame, frames, env))
        yield from frames


def _append_frame(frames: list[np.ndarray], env: gym.Env) -> None:
    frames.append(frame_of(env))
