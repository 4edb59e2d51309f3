"""The command `vantage train ALGO ENV_ID`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro

from vantage.agents.configs.config import OffPolicyConfig, hidden_widths, used_settings
from vantage.agents.configs.fields import brief, config_from_json
from vantage.agents.configs.presets import PRESETS, Preset
from vantage.agents.configs.registry import ALGORITHMS
from vantage.scripts.cli.failing import fail
from vantage.scripts.cli.flags import OPTION, option_names, parse, require_at_least, with_options
from vantage.scripts.cli.named import (
    env_kwargs_from,
    network_flag,
    network_from,
    recorded_env_kwargs,
)
from vantage.scripts.cli.starting import start_tensorflow
from vantage.scripts.reading.recorded import NOT_RECORDED, recorded_flags
from vantage.training.common.console import say
from vantage.training.runs.folder import check_logdir, newest_checkpoint, required_checkpoint
from vantage.training.runs.options import LEAST, TrainOptions, seconds_of
from vantage.training.storage.files import read_json

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

C = TypeVar("C")
OFF_POLICY = [name for name, each in ALGORITHMS.items() if issubclass(each.config, OffPolicyConfig)]
USAGE = "usage: vantage train ALGO ENV_ID [--no-preset] [flags]"


@dataclass(frozen=True)
@with_options(TrainOptions, {"eval_every": "evaluate_every"}, {"total_steps": 500_000})
class TrainFlags(Generic[C]):
    """Train an agent on a Gymnasium environment."""

    config: Annotated[C, tyro.conf.arg(name="")]
    total_steps: Any = OPTION
    num_envs: int = 8
    """Number of environments. A rollout has n_steps × num_envs steps; the default is 1 in
    Stable-Baselines3, and here for agents with a replay buffer."""
    seed: int = 0
    """Seed of the environments, the initial weights and the sampled actions."""
    logdir: Path | None = OPTION
    """The run's own folder, new or empty (default: a new one under runs/)."""
    vectorization: Literal["sync", "async", "native"] = "sync"
    """How the environments are stepped: one after another, in worker processes, or all at once in
    NumPy."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment: NAME=VALUE words, or one JSON object."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps (default: as registered)."""
    env_timeout: float = 60.0
    """Seconds after which a worker process that does not answer counts as broken."""
    restart_broken_envs: bool = False
    """Rebuild environments that break, and continue; their episodes end there."""
    stop_at_return: Any = OPTION
    checkpoint_every: str = OPTION
    keep_checkpoints: Any = OPTION
    resume: Any = OPTION
    """Resume from the newest checkpoint in --logdir as if the run had never stopped, with the
    settings of the run."""
    on_bad_numbers: Any = OPTION
    bad_numbers_limit: Any = OPTION
    eval_every: Any = OPTION
    network: str | None = None
    """A network of your own: module:function, where the function returns the network. It takes no
    arguments, or the observation and action space."""
    init_from: Path | None = None
    """Start from the weights and, by default, the settings of this run: fine-tuning."""
    log_every: Any = OPTION
    histograms_every: Any = OPTION
    video_every: Any = OPTION
    device: str = "cpu"
    """Where the network lives; small ones are fastest on the cpu."""


def run(arguments: list[str]) -> None:
    """Reads the flags, trains, and prints where the run is."""
    algorithm, env_id, preset, rest = _head(arguments)
    flags, origin = _flags(algorithm, env_id, preset, rest)
    # Absolute: an environment may change the working directory as soon as it is imported.
    here = Path.cwd()
    logdir = flags.logdir and flags.logdir.absolute()
    init_from = flags.init_from and flags.init_from.absolute()
    flags = replace(flags, init_from=init_from)
    is_new = logdir is None
    logdir = logdir or _new_logdir(algorithm, env_id, flags.seed)
    try:
        _run(algorithm, env_id, flags, origin, logdir, here)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something, as it should
                logdir.rmdir()
                logdir.parent.rmdir()


def _run(
    algorithm: str, env_id: str, flags: TrainFlags, origin: str, logdir: Path, here: Path
) -> None:
    # Here, after the flags: whoever asks for help does not wait for Gymnasium.
    from vantage.agents.acting.observations import Encoder
    from vantage.agents.acting.spaces import check_actions
    from vantage.envs import make_vec

    env_kwargs = env_kwargs_from(flags.env_kwargs)
    resumes = flags.resume and newest_checkpoint(logdir) is not None
    if not resumes:
        check_logdir(logdir, flags.resume)
    sys.path.insert(0, "")  # module:EnvId-v0 is looked up in the user's folder as well
    envs = make_vec(
        env_id,
        flags.num_envs,
        seed=flags.seed,
        vectorization=flags.vectorization,
        env_kwargs=env_kwargs,
        max_episode_steps=flags.max_episode_steps,
        timeout=flags.env_timeout,
        restart_broken_envs=flags.restart_broken_envs,
    )
    names = ("num_envs", "vectorization", "seed", "total_steps", "stop_at_return")
    settings = {name: getattr(flags, name) for name in names}
    settings |= used_settings(flags.config, flags.network is not None)
    try:
        # Here, before TensorFlow is imported: a mistake is answered at once.
        encoder = Encoder(envs.single_observation_space)
        if flags.network is None:
            settings["net_arch"] = hidden_widths(flags.config, encoder.is_image)
        given = {name: getattr(flags, name) for name in ("network", "max_episode_steps")}
        settings = {name: value for name, value in given.items() if value is not None} | settings
        if env_kwargs:
            settings = {"env_kwargs": env_kwargs} | settings
        listed = ", ".join(f"{name}={value}" for name, value in settings.items())
        say(f"{algorithm} on {env_id}, {origin}: {listed}")
        if algorithm not in OFF_POLICY:
            say(
                "a rollout has n_steps × num_envs = "
                f"{flags.config.n_steps * envs.num_envs:,} steps (Stable-Baselines3's default is "
                "num_envs=1)"
            )
        check_actions(algorithm, envs.single_action_space, flags.config)
        has_images = encoder.has_images
        _train(algorithm, env_id, flags, logdir, here, resumes, envs, has_images)
    finally:
        envs.close()


def _head(arguments: list[str]) -> tuple[str, str, Preset | None, list[str]]:
    """ALGO, ENV_ID, the preset in force, and the other arguments."""
    words = [word for word in arguments if word != "--no-preset"]
    if len(words) < 2 or words[0].startswith("-") or words[1].startswith("-"):
        if "-h" in words or "--help" in words:
            words = [*words[:1], "ENV_ID", "--help"] if words[0] in ALGORITHMS else []
            words = words or [next(iter(ALGORITHMS)), "ENV_ID", "--help"]
            say(f"{USAGE}\n\nALGO: {', '.join(ALGORITHMS)}; the flags of {words[0]}:\n")
        else:
            fail(f"train needs an algorithm and an environment. Received: {words}. {USAGE}")
    algorithm, env_id = words[:2]
    if algorithm not in ALGORITHMS:
        fail(f"ALGO must be one of {', '.join(ALGORITHMS)}. Received: {algorithm!r}. {USAGE}")
    preset = None if "--no-preset" in arguments else PRESETS.get((algorithm, env_id))
    return algorithm, env_id, preset, words[2:]


def _flags(
    algorithm: str, env_id: str, preset: Preset | None, rest: list[str]
) -> tuple[TrainFlags, str]:
    """The flags, and in words where those not given come from."""
    config_type: Any = ALGORITHMS[algorithm].config
    defaults: dict[str, Any] = {"config": config_type()}
    made_with: Any = None  # the environment's arguments, of a run that is resumed
    needed = None  # the --network of a run that is continued
    if algorithm in OFF_POLICY:
        defaults["num_envs"] = 1
    origin = f"{algorithm}'s default settings"
    if preset is not None:
        defaults = {field.name: getattr(preset, field.name) for field in fields(preset)}
        origin = f"its preset (--no-preset for {algorithm}'s defaults)"
    source, logdir = _value_of("--init-from", rest), _value_of("--logdir", rest)
    if "--resume" in rest and logdir is not None and newest_checkpoint(logdir) is not None:
        saved = _settings(logdir, algorithm)
        if saved.get("env_id") != env_id:
            raise ValueError(
                f"A run must be resumed in its own environment. Received: {env_id!r} for a run in "
                f"{saved.get('env_id')!r}. Use --init-from {logdir} and a new --logdir."
            )
        defaults = {**recorded_flags(TrainFlags, saved), "config": saved["config"]}
        made_with, needed = saved.get("env_kwargs") or {}, saved["network"]
        recorded = recorded_env_kwargs(saved) if "--env-kwargs" not in rest else {}
        defaults["env_kwargs"] = (json.dumps(recorded),) if recorded else ()
        origin = "the run's settings"
    elif source is not None:
        saved = _settings(source, algorithm)
        defaults["config"], needed = saved["config"], saved["network"]
        origin = f"the settings of {source}"
    prog = f"vantage train {algorithm} {env_id}"
    flags = parse(TrainFlags[config_type], rest, prog=prog, default=TrainFlags(**defaults))
    if needed is not None and flags.network is None:
        raise ValueError(
            "A run with a network of its own must be continued with it. Received: no --network "
            f"for the run that is continued. Pass {needed}."
        )
    given = env_kwargs_from(flags.env_kwargs)
    if made_with is not None and given != made_with:
        raise ValueError(
            f"A run must be resumed with the arguments of its environment. Received: {given} for "
            f"a run with {brief(made_with)}. Leave out --env-kwargs, or use --init-from {logdir} "
            "and a new --logdir."
        )
    names = option_names(TrainFlags)
    least = {flag: LEAST[name] for flag, name in names.items() if name in LEAST}
    require_at_least(flags, seed=0, max_episode_steps=1, num_envs=1, **least)
    seconds_of(flags.checkpoint_every)  # checks it
    if flags.resume and flags.logdir is None:
        raise ValueError(
            "--resume needs the folder of the run to resume. Received: --resume without "
            "--logdir. Pass --logdir DIR."
        )
    return flags, origin


def _settings(folder: str, algorithm: str) -> dict[str, Any]:
    """The `config.json` of a run: config as the algorithm's dataclass, network as a flag to type.

    Raises:
        ValueError: It is not readable, or another algorithm's.
    """
    saved = read_json(Path(folder) / "config.json")
    if saved.get("algorithm") != algorithm:
        raise ValueError(
            f"The run to start from must be one of {algorithm}. Received: {folder!r}, one of "
            f"{saved.get('algorithm')!r:.80}. Pass the folder of such a run."
        )
    config = config_from_json(ALGORITHMS[algorithm].config, saved.get("config"))
    return {**saved, "config": config, "network": network_flag(saved)}


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for index, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value or (arguments[index + 1] if index + 1 < len(arguments) else None)
    return None


def _new_logdir(algorithm: str, env_id: str, seed: int) -> Path:
    """A new folder under runs/, made at once: another command may look for one, too."""
    name = f"{algorithm}-{env_id.replace('/', '-').replace(':', '-')}-seed{seed}"
    base, number = Path("runs").absolute() / name, 0
    base.parent.mkdir(parents=True, exist_ok=True)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (folder := base.with_name(f"{name}-{number}")).mkdir()
            return folder


def _train(
    algorithm: str,
    env_id: str,
    flags: TrainFlags,
    logdir: Path,
    here: Path,
    resumes: bool,
    envs: VectorEnv,
    has_images: bool,
) -> None:
    began = time.perf_counter()
    shown = logdir.relative_to(here) if logdir.is_relative_to(here) else logdir
    start_tensorflow(flags.device, *size_of(flags.config, envs.num_envs), has_images)
    from vantage.envs import make_vec
    from vantage.training import train

    import_seconds, env_kwargs = time.perf_counter() - began, env_kwargs_from(flags.env_kwargs)
    spaces = envs.single_observation_space, envs.single_action_space
    network = None
    if flags.network is not None:
        import keras

        keras.utils.set_random_seed(flags.seed % 2**32)  # initialisers that have no seed
        network = network_from(flags.network, *spaces)
    agent = ALGORITHMS[algorithm].load()(
        *spaces,
        flags.config,
        network=network,
        seed=flags.seed,
        device=flags.device,
    )
    if flags.init_from is not None and not resumes:
        agent.restore(required_checkpoint(flags.init_from), only_network=True)
    evaluation_envs = video_env = None
    if flags.video_every is not None:
        from vantage.scripts.commands.watch import rendered

        video_env = rendered(env_id, env_kwargs, flags.max_episode_steps, "rgb_array")
    if flags.eval_every is not None:
        evaluation_envs = make_vec(
            env_id,
            min(flags.num_envs, 10),
            env_kwargs=env_kwargs,
            max_episode_steps=flags.max_episode_steps,
        )
    say(f"watch it: tensorboard --logdir {shown}")
    options = {name: getattr(flags, flag) for flag, name in option_names(TrainFlags).items()}
    options["logdir"] = logdir
    summary = train(
        agent,
        envs,
        **options,
        video_env=video_env,
        evaluation_envs=evaluation_envs,
        config={"env_id": env_id, "env_kwargs": env_kwargs, **_recorded(flags)},
        import_seconds=import_seconds,
        verbose=True,
    )
    mean = summary["mean_return_100"]
    say(
        f"{'solved' if summary['solved_at_steps'] else 'done'}: {summary['env_steps']:,} steps in "
        f"{summary['seconds']:.1f} s ({summary['steps_per_second']:,.0f} steps/s), mean return "
        f"{'unknown' if mean is None else format(mean, '.1f')}; {shown / 'summary.json'}"
    )


def _recorded(flags: TrainFlags) -> dict[str, Any]:
    """What `config.json` keeps of the flags, for --resume; the network, to say what to type."""
    names = [field.name for field in fields(flags) if field.name not in NOT_RECORDED]
    network = {} if flags.network is None else {"network": flags.network}
    return {name: getattr(flags, name) for name in names} | network


def size_of(config: Any, num_envs: int) -> tuple[int, int]:
    """Examples of one update and the widest layer: on them depends how TensorFlow is started."""
    examples = getattr(config, "batch_size", num_envs * config.n_steps)
    return examples, max(config.net_arch, default=1)
