"""Episodes as pictures: an agent plays one environment, and its frames become a GIF or an MP4.

Legend: T frames, H height, W width. No TensorFlow here; PIL comes with TensorBoard, MP4 needs the
extra `video`.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from ..common.plain import flag
from ..experience.evaluation import ENDLESS, warn_of_endless
from ..experience.given_environments import own_mask
from ..experience.infos import first_masks
from ..experience.policy_state import Remembering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..experience.protocols import Actor, Env, Observations

GIF_FPS = 50  # browsers show what is faster at 10 frames a second
ENDINGS = (".mp4", ".gif")


def play_episode(
    agent: Actor,
    env: Env,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    look: Callable[[], None] = lambda: None,
    max_steps: int | None = None,
) -> float:
    """Plays one episode in a single environment and returns its undiscounted return.

    Args:
        agent: Anything with `act(observations, deterministic)`; sees a batch of one.
        env: Not a vector environment.
        deterministic: Take the most likely action instead of sampling.
        seed: Of the episode; None leaves the environment's generator as it is.
        look: Called after the reset and after every step.
        max_steps: Cuts an episode that is longer.

    Raises:
        ValueError: A reward is a whole number that is too large for a float.
    """
    deterministic, space = flag("deterministic", deterministic), env.observation_space
    observation, info = env.reset(seed=seed)
    total, steps, ended = 0.0, 0, False
    player = Remembering(agent, 1)
    look()
    while not ended and steps != max_steps:
        room = cast("Observations", create_empty_array(space, 1))
        batch = concatenate(space, [observation], room)
        masked = {}
        mask = info["action_mask"] if "action_mask" in info else own_mask(env)
        if mask is not None:
            masked = {"action_masks": first_masks({"action_mask": [mask]})}
        action = player.act(batch, deterministic, **masked)[0]
        observation, reward, terminated, truncated, info = env.step(action)
        steps += 1
        try:
            total, ended = total + float(reward), bool(terminated or truncated)
        except OverflowError:
            raise ValueError(
                "A reward must be a number that a float holds. Received: a larger one "
                f"({type(reward).__name__}) in step {steps} of the episode, whose seed is {seed}. "
                "Divide rewards by a constant."
            ) from None
        if steps == ENDLESS and not ended:
            warn_of_endless(steps)
        look()
    return total


def record_episode(
    agent: Actor,
    env: Env,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    max_steps: int | None = None,
) -> tuple[np.ndarray, float]:
    """Plays one episode: its frames, uint8 `[T, H, W, 3]`, from the first state on, and its return.

    All frames are in memory at once: a thousand of 480 × 480 are 700 MB.

    Args:
        agent: Anything with `act(observations, deterministic)`.
        env: A single environment with render_mode="rgb_array".
        deterministic: Take the most likely action instead of sampling.
        seed: Of the episode; None leaves the environment's generator as it is.
        max_steps: Cuts an episode that is longer.

    Raises:
        ValueError: The environment does not render pictures.
    """
    frames: list[np.ndarray] = []
    total = play_episode(
        agent,
        env,
        deterministic=deterministic,
        seed=seed,
        look=lambda: frames.append(frame_of(env)),
        max_steps=max_steps,
    )
    return np.stack(frames), total


def frame_of(env: Env) -> np.ndarray:
    """What the environment looks like now, uint8 `[H, W, 3]`.

    Raises:
        ValueError: It does not render pictures.
    """
    if env.render_mode != "rgb_array":
        raise ValueError(
            'An environment must have render_mode="rgb_array" to be filmed. Received: '
            f'{env.render_mode!r}. Make it with gym.make(..., render_mode="rgb_array").'
        )
    frame = np.asarray(env.render())
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(
            "An environment must render uint8 arrays [height, width, 3] to be filmed. Received: "
            f"{frame.dtype}{list(frame.shape)}. Correct its method render."
        )
    return frame.copy()  # some environments draw into one array


def frames_per_second(env: Env) -> float:
    """At what speed an environment wants to be seen; 30 if it does not say."""
    return float(env.metadata.get("render_fps") or 30)


def gif_bytes(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """Frames `[T, H, W, 3]` as an animated GIF that repeats.

    From 50 frames a second on some are left out, so that the speed stays right.

    Raises:
        ValueError: There are no frames, or `fps` is not more than 0.
    """
    from PIL import Image

    _check_fps(fps)
    every = math.ceil(fps / GIF_FPS)
    pictures = [
        Image.fromarray(frame).quantize(dither=Image.Dither.NONE)
        for number, frame in enumerate(frames)
        if number % every == 0
    ]
    if not pictures:
        raise ValueError("A GIF must have at least one frame. Received: none. Play an episode.")
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "gif",
        save_all=True,
        append_images=pictures[1:],
        duration=round(100 * every / fps) * 10,  # GIFs count hundredths of a second
        loop=0,
    )
    return buffer.getvalue()


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Frames `[T, H, W, 3]` as an H.264 video; they may be made while it is written.

    Raises:
        ValueError: There are no frames, or `fps` is not more than 0.
        ImportError: The extra `video` is not installed.
        OSError: The encoder fails.
    """
    _check_fps(fps)
    check_mp4()
    import imageio_ffmpeg

    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("A video must have at least one frame. Received: none. Play an episode.")
    size = first.shape[1], first.shape[0]
    # Players want even sides: the encoder enlarges what has not.
    video = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2)
    try:
        video.send(None)
        for frame in _joined(first, rest):
            if (frame.shape[1], frame.shape[0]) != size:
                raise ValueError(
                    f"The frames of a video must have one size. Received: {list(frame.shape)} "
                    f"after {list(first.shape)}. Let the environment render at one size."
                )
            video.send(np.ascontiguousarray(frame))
    finally:
        video.close()


def check_mp4() -> None:
    """Refuses to write an MP4 where there is no encoder.

    Raises:
        ImportError: The extra `video` is not installed.
    """
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise ImportError(
            "An .mp4 must be encoded by imageio-ffmpeg. Received: an environment without it. "
            "Install the extra: pip install 'vantage-rl[video]', or write a .gif."
        ) from None


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Frames `[T, H, W, 3]` as a video file, `.mp4` or `.gif` by its ending.

    Raises:
        ValueError: It is another ending, or there are no frames.
        ImportError: The extra `video` is not installed.
        OSError: The disk or the encoder fails.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"A video must end in {' or '.join(ENDINGS)}. Received: {str(path)!r}. Rename it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gif":
        path.write_bytes(gif_bytes(frames, fps))
    else:
        write_mp4(path, frames, fps)


def _joined(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _check_fps(fps: float) -> None:
    if not 0 < fps < math.inf:
        raise ValueError(
            f"fps must be more than 0 frames a second. Received: {fps}. Pass env's render_fps."
        )
