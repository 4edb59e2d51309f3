"""What `train` is told, checked before anything begins."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from ..experience.bad_numbers import check_policy
from ..monitoring.video import check_mp4


def check(
    evaluate_every: int | None,
    evaluation_envs: Any,
    checkpoint_every: int | str | None,
    video_every: int | None,
    video_env: Any,
    on_bad_numbers: str,
) -> None:
    """Refuses evaluation and videos without environments of their own, and unknown words.

    Raises:
        ValueError: One is wrong.
    """
    if evaluate_every is not None and evaluation_envs is None:
        raise ValueError(
            "evaluate_every needs environments of its own, so that training is not disturbed. "
            "Received: evaluation_envs=None. Pass evaluation_envs=make_vec(...)."
        )
    if video_every is not None:
        check_mp4()
        if getattr(video_env, "render_mode", None) != "rgb_array":
            raise ValueError(
                'video_every needs a single environment of its own with render_mode="rgb_array". '
                f"Received: video_env={video_env}. Pass "
                'gymnasium.make(ID, render_mode="rgb_array").'
            )
    if checkpoint_every is not None:
        seconds_of(checkpoint_every)
    check_policy(on_bad_numbers)


def seconds_of(checkpoint_every: int | str) -> float | None:
    """The seconds of "30s", "10m" or "1h"; None if it is a number of updates.

    Raises:
        ValueError: It is neither.
    """
    text = str(checkpoint_every)
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    number = text[:-1] if unit else text
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) >= 1):
        raise ValueError(
            "checkpoint_every must be at least 1: updates, or seconds as '30s', '10m' or '1h'. "
            f"Received: {checkpoint_every!r:.40}. Leave it out for 30s."
        )
    return float(number) * unit if unit else None


def recorded(agent: Any, num_envs: int, total_steps: int) -> dict[str, Any]:
    """What `config.json` says of any run."""
    settings = getattr(agent, "config", None)
    used = getattr(agent, "used_settings", None)
    if used is None and is_dataclass(settings):
        used = asdict(settings)  # type: ignore[arg-type]
    own = [part for part in ("network", "optimizer") if getattr(agent, f"own_{part}", False)]
    return {
        "algorithm": type(agent).__name__.lower(),
        "config": used,
        "num_envs": num_envs,
        "total_steps": total_steps,
        **dict.fromkeys(own, "own"),
    }
