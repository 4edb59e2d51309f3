"""Videos of episodes in the course of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..experience.bad_numbers import leaving_out
from ..experience.evaluation import ENDLESS
from .listeners import Every
from .video import frames_per_second, gif_bytes, record_episode, write_video

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..experience.protocols import Actor, Env
    from ..tensorboard.writer import Writer

SHOWN = 500
"""Frames of a video that TensorBoard shows."""


class VideoRecorder:
    """Plays a deterministic episode every so many steps and at the end, and records it.

    It goes to TensorBoard and to `videos/step-N.mp4`. One that meets NaN or infinity is skipped,
    with a warning; one without an end is cut.
    """

    def __init__(
        self,
        agent: Actor,
        env: Env,
        period: int,
        writer: Writer,
        folder: Callable[[], Path],
        tolerate: Callable[[Callable[[], None]], bool],
        stopping: Callable[[], bool],
    ) -> None:
        """Plans the videos.

        Args:
            agent: Who plays.
            env: A single environment of its own that renders pictures.
            period: Environment steps between two videos.
            writer: Of TensorBoard's files.
            folder: Where the run is now.
            tolerate: Calls what may fail with the disk.
            stopping: Whether the run has been asked to stop: there is no last video then.
        """
        self._agent, self._env, self._writer, self._folder = agent, env, writer, folder
        self._every, self._tolerate, self._stopping = Every(period), tolerate, stopping

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Counts from the last update on."""
        self._every.counted = env_steps

    def updated(self, env_steps: int) -> None:
        """Records an episode if it is due."""
        if self._every.is_due(env_steps):
            self._tolerate(lambda: self._record(env_steps))

    def end(self, env_steps: int) -> None:
        """Records an episode if it is due, unless the run has been asked to stop."""
        if not self._stopping():
            self.updated(env_steps)

    def _record(self, env_steps: int) -> None:
        with leaving_out("video", env_steps):
            fps = frames_per_second(self._env)
            frames, _ = record_episode(self._agent, self._env, seed=0, max_steps=2 * ENDLESS)
            path = self._folder() / "videos" / f"step-{env_steps}.mp4"
            write_video(path, frames, fps)
            shown = frames[:SHOWN]
            self._writer.video(env_steps, "eval/episode", gif_bytes(shown, fps), shown.shape)
