"""The options of a training run: defaults, descriptions and checks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..common.plain import flag, flag_or_none, number_or_none, path_or_none, plain, whole
from ..experience.bad_numbers import Policy, check_policy
from ..experience.given_environments import check_vector
from ..experience.protocols import Env, VectorEnvironment
from ..monitoring.callbacks import Callback, as_callbacks
from ..monitoring.facts import Settings
from ..monitoring.video import check_mp4

LEAST = {
    "total_steps": 1,
    "log_every": 1,
    "evaluate_every": 1,
    "histograms_every": 0,
    "video_every": 1,
    "keep_checkpoints": 2,
    "bad_numbers_limit": 0,
}
"""The smallest value of each option that is a whole number."""


@dataclass(frozen=True)
class TrainOptions:
    """The options of a run, checked: the keyword arguments of `train`, and flags of the command.

    The first paragraph below a field is also the help of its flag.

    Raises:
        ValueError: An option is out of range.
        ImportError: Videos need the extra `video`.
    """

    total_steps: int
    """Environment steps to train for, over all environments. They step
    together, so a run may take up to num_envs - 1 more.

    Dummy steps of an autoreset do not count."""
    logdir: str | Path | None = None
    """The run's own folder, new or empty: `config.json`, TensorBoard event files, `checkpoints/`
    and at the end `summary.json`. Without it nothing is written."""
    resume: bool = False
    """Resume from the newest complete checkpoint in `logdir`, as if the run had never stopped: to
    the same bits where the environments can be resumed exactly."""
    callbacks: Sequence[Callback] = ()
    """Called as `callback(env_steps, metrics)` at every point of the curves and after every
    evaluation; one that returns False ends the run.

    `metrics` is the last point by TensorBoard tag. Right after an evaluation, and only then, it
    also holds `eval/mean_reward`, `eval/mean_ep_length`, `eval/ci95_low` and `eval/ci95_high`. A
    callback with a method `begin` receives the run's `Writer` by it, for points, images and texts
    of your own."""
    log_every: int | None = None
    """Environment steps between two points of the TensorBoard curves (default: 1,000, or a 500th of
    the run if that is more)."""
    evaluate_every: int | None = None
    """Environment steps between two evaluations; the best agent is saved.

    An evaluation plays 20 deterministic episodes in `evaluation_envs`; the best agent is in
    `checkpoints/best`."""
    evaluation_envs: VectorEnvironment | None = None
    """A vector environment of its own for evaluations."""
    checkpoint_every: int | str | None = "30s"
    """Updates between two checkpoints, or seconds as 30s, 10m or 1h; there is one at the end and
    after a signal in any case."""
    histograms_every: int | None = None
    """Environment steps between two looks inside the agent, for TensorBoard's histograms (default:
    a 25th of the run); 0 for none.

    They show how samples, weights and gradients are distributed."""
    video_every: int | None = None
    """Environment steps between two videos of an episode, in TensorBoard and in LOGDIR/videos.

    The actions are deterministic. Videos need the extra `video`."""
    video_env: Env | None = None
    """A single environment of its own for videos, with render_mode="rgb_array"."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that stay on disk, at least 2."""
    stop_at_return: float | None = None
    """End the run once the mean return of the last 100 training episodes reaches it."""
    on_bad_numbers: Policy = "raise"
    """What to do when an update is refused because a number is NaN or infinite: end the run, skip
    the update silently, or warn."""
    bad_numbers_limit: int = 10
    """Number of updates that may be skipped; the next one ends the run."""
    config: Mapping[str, Any] | None = None
    """More entries for `config.json`."""
    import_seconds: float | None = None
    """Seconds that the caller's imports took, for `summary.json`."""
    verbose: bool = False
    """Whether to print lines about the resume, the findings of the diagnosis, and steps that no
    update learned from."""
    progress: bool | None = None
    """By default a bar on a terminal, and nothing elsewhere. True prints about 20 lines with speed
    and mean return where there is no terminal, as in a notebook or a log file; False shows
    nothing."""

    def __post_init__(self) -> None:
        """Converts every option to its type and checks it."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                self._set(name, whole(name, value, least))
        for name in ("stop_at_return", "import_seconds"):
            self._set(name, number_or_none(name, getattr(self, name)))
        path_or_none("logdir", self.logdir)
        for name in ("resume", "verbose"):
            self._set(name, flag(name, getattr(self, name)))
        self._set("progress", flag_or_none("progress", self.progress))
        if self.resume and self.logdir is None:
            raise ValueError(
                "resume needs the folder of the run. Received: resume=True with logdir=None. Pass "
                "logdir=, or leave resume out."
            )
        self._set("config", _checked_entries(self.config))
        if self.evaluation_envs is not None:
            check_vector(self.evaluation_envs, "evaluation_envs")
        elif self.evaluate_every is not None:
            raise ValueError(
                "evaluate_every needs environments of its own, so that training is not disturbed. "
                "Received: evaluation_envs=None. Pass evaluation_envs=make_vec(...)."
            )
        if self.video_every is not None:
            check_mp4()
            if getattr(self.video_env, "render_mode", None) != "rgb_array":
                raise ValueError(
                    "video_every needs a single environment of its own with "
                    f'render_mode="rgb_array". Received: video_env={self.video_env}. Pass '
                    'gymnasium.make(ID, render_mode="rgb_array").'
                )
        if self.checkpoint_every is not None:
            seconds_of(self.checkpoint_every)
        check_policy(self.on_bad_numbers)
        self._set("callbacks", as_callbacks(self.callbacks))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everybody else

    @property
    def log_period(self) -> int:
        """Environment steps between two points of the curves."""
        return self.log_every or max(1_000, self.total_steps // 500)

    @property
    def histograms_period(self) -> int:
        """Environment steps between two looks inside the agent; 0 for none."""
        if self.histograms_every is None:  # some 25 in a run, which cost next to nothing
            return max(self.total_steps // 25, self.log_period)
        return self.histograms_every


def _checked_entries(config: object) -> Settings:
    """More entries for `config.json`, as JSON values.

    Raises:
        ValueError: They are no dict of JSON values.
    """
    if not isinstance(config, Mapping | None):
        raise ValueError(
            "config must be a dict of more entries for config.json. Received: "
            f"{config!r:.60}. The settings of an agent are its own: A2C(…, A2CConfig(…))."
        )
    entries: Settings = plain(config or {})
    return entries


_MAY_BE_NONE = {field.name for field in fields(TrainOptions) if field.default is None}


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


def recorded(agent: object, num_envs: int, options: TrainOptions) -> Settings:
    """What `config.json` says of a run.

    Raises:
        ValueError: An entry of the user's own contradicts it.
    """
    settings = getattr(agent, "config", None)
    used = getattr(agent, "used_settings", None)
    if used is None and is_dataclass(settings):
        used = asdict(settings)  # type: ignore[arg-type]
    own = [part for part in ("network", "optimizer") if getattr(agent, f"own_{part}", False)]
    own += [name for name in ("loss", "target_function") if getattr(agent, name, None) is not None]
    facts = {
        "algorithm": type(agent).__name__.lower(),
        "config": used,
        "num_envs": num_envs,
        "total_steps": options.total_steps,
    }
    more = options.config or {}
    wrong = [name for name, fact in facts.items() if more.get(name, fact) != fact]
    if wrong:
        raise ValueError(
            "The entries of config must not contradict what config.json says of the run by "
            f"itself. Received: another {' and '.join(wrong)}. Rename them."
        )
    return {**facts, **dict.fromkeys(own, "own"), **more}
