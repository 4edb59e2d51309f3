"""The table of `vantage benchmark results`: what is trained, and the return it must reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vantage.agents.configs.presets import PRESETS, Preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Entry:
    """An algorithm in an environment, trained with the steps and settings of its preset.

    Returns are means of 100 deterministic episodes.
    """

    algorithm: str
    env_id: str
    asked: float | None
    """The return to reach; None without a target."""
    peer: float | None
    """The return of RL Baselines3 Zoo's agent, from one run; None if it has no such agent."""
    seeds: int = 5
    """Number of seeds, starting from 0."""
    by_mean: bool = False
    """Whether the mean must reach the target, instead of the upper end of the interval."""
    only_by_name: bool = False
    """Whether it runs only if --only has its full name, because it takes very long."""
    remark: str = ""
    """Remark on the peer's return."""

    @property
    def name(self) -> str:
        """Its name for --only, and the folder of its runs."""
        return f"{self.algorithm}-{self.env_id}"

    @property
    def preset(self) -> Preset:
        """The preset that it is trained with."""
        return PRESETS[self.algorithm, self.env_id]


TABLE: tuple[Entry, ...] = (
    Entry("a2c", "CartPole-v1", 495, 500, by_mean=True),
    Entry("ppo", "CartPole-v1", 495, 500, by_mean=True),
    Entry("dqn", "CartPole-v1", 495, 500, by_mean=True),
    Entry("qrdqn", "CartPole-v1", 475, 500, by_mean=True),
    Entry("a2c", "Acrobot-v1", -83, -83.4),
    Entry("ppo", "Acrobot-v1", -75, -73.5),
    Entry("dqn", "Acrobot-v1", -77, -76.6),
    Entry("a2c", "MountainCar-v0", -111, -111.3),
    Entry("ppo", "MountainCar-v0", -110, -110.4),
    Entry("dqn", "MountainCar-v0", -101, -100.8),
    Entry("qrdqn", "MountainCar-v0", -106, -106),
    Entry("a2c", "Pendulum-v1", -163, -163),
    Entry("ppo", "Pendulum-v1", -172, -172.2),
    Entry("sac", "Pendulum-v1", -157, -157),
    Entry("td3", "Pendulum-v1", None, None),
    Entry("a2c", "MountainCarContinuous-v0", 91, 91.2),
    Entry("ppo", "MountainCarContinuous-v0", 88, 88.3),
    Entry("sac", "MountainCarContinuous-v0", 94, 94.7),
    Entry("a2c", "LunarLander-v3", 156, 155.8, seeds=3),
    Entry("ppo", "LunarLander-v3", 242, 242.1, seeds=3),
    Entry("dqn", "LunarLander-v3", 154, 154.4, seeds=3),
    Entry("a2c", "HalfCheetah-v5", 1830, 3041, seeds=3, remark="1,830 in Tianshou's ten"),
    Entry("ppo", "HalfCheetah-v5", 5819, 5819, seeds=3),
    Entry("sac", "HalfCheetah-v5", 9500, 9536, seeds=1, only_by_name=True),
)

NEEDS = {"LunarLander-v3": "Box2D", "HalfCheetah-v5": "mujoco"}
"""A module that an environment needs besides Gymnasium's dependencies."""


def chosen(table: Iterable[Entry], only: Iterable[str], existing: bool = False) -> list[Entry]:
    """The entries that `only` names, all if it is empty.

    Args:
        table: The declared entries.
        only: Algorithms, environments, or both as ALGO-ENV.
        existing: Also include entries that run only by name.

    Raises:
        ValueError: A name matches no entry.
    """
    table, only = list(table), list(only)
    names = [{entry.name, entry.algorithm, entry.env_id} for entry in table]
    unknown = [name for name in only if not any(name in each for each in names)]
    if unknown:
        raise ValueError(
            "--only must name algorithms or entries of the table. Received: "
            f"{' '.join(unknown)}. Choose from "
            f"{', '.join(dict.fromkeys(entry.algorithm for entry in table))}; "
            f"{', '.join(entry.name for entry in table)}."
        )
    return [
        entry
        for entry, own in zip(table, names, strict=True)
        if entry.name in only
        or ((existing or not entry.only_by_name) and (not only or own & set(only)))
    ]


def listed(entries: Iterable[Entry]) -> str:
    """The entries, one per line."""
    lines = []
    for entry in entries:
        asked = "no figure" if entry.asked is None else f"asked {entry.asked:,g}"
        steps = f"{entry.preset.total_steps:,} steps"
        by_name = ", only by name" if entry.only_by_name else ""
        lines.append(f"{entry.name:<30} {entry.seeds} seeds, {steps}, {asked}{by_name}")
    return "\n".join(lines)


def is_at_preset(entry: Entry, record: Mapping[str, Any]) -> bool:
    """Whether a finished run used the current preset."""
    preset = entry.preset
    recorded = {**asdict(type(preset.config)()), **record["config"]}  # fields may be newer
    for name, value in asdict(preset.config).items():
        plain = list(value) if isinstance(value, tuple) else value
        if recorded[name] != plain and recorded[name] != value:
            return False
    ended = record["solved_at_steps"] or record["env_steps"] >= preset.total_steps
    names = ("total_steps", "num_envs", "vectorization", "stop_at_return")
    return bool(ended) and all(record[name] == getattr(preset, name) for name in names)
