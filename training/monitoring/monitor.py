"""What is shown of a run beside its curves: what it is, a look inside the agent, and a diagnosis.

Machinery of its own, so that the loop stays short: TensorBoard's tabs besides Scalars.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import gymnasium as gym

from ..experience.environments import COMPARED, environment_state
from .diagnosis import Diagnosis
from .listeners import Every
from .reports import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import numpy as np

    from ..experience.protocols import Agent, State
    from .curves import Curves
    from .facts import Settings

LAYOUT = {
    "Is it learning?": {
        "return of training episodes": ["rollout/ep_rew_mean"],
        "return of evaluations": ["eval/mean_reward"],
        "episode length": ["rollout/ep_len_mean"],
        "share of episodes cut by a time limit; successes, where told": [
            "rollout/truncated_share",
            "rollout/success_rate",
        ],
    },
    "Does it still explore?": {
        "entropy of the policy": ["train/entropy"],
        "minus the entropy (entropy_loss)": ["train/entropy_loss"],
        "standard deviation of the actions": ["train/std"],
        "share of random actions (ε)": ["rollout/exploration_rate"],
        "temperature (ent_coef)": ["train/ent_coef"],
    },
    "Does it know what states are worth?": {
        "explained variance": ["train/explained_variance"],
        "loss of the values": ["train/value_loss", "train/critic_loss"],
        "loss": ["train/loss"],
        "mean return target": ["train/return_mean"],
        "spread of the return targets": ["train/return_std"],
        "action values (Q)": ["train/q"],
    },
    "Are the steps of the right size?": {
        "gradient norm before clipping": ["train/.*grad_norm"],
        "share of updates with clipped gradients": ["train/clipped_updates"],
        "share of clipped ratios": ["train/clip_fraction"],
        "KL divergence": ["train/approx_kl"],
        "learning rate": ["train/learning_rate"],
    },
    "Where does the time go?": {"steps/s": ["time/fps"], "shares": ["time/(?!fps).*"]},
}
"""The Custom Scalars tab: the curves that together answer a question.

TensorBoard draws all curves of a run in one colour: a chart has one curve, as far as one can."""
OPERATION = {
    *("keep_checkpoints", "checkpoint_every", "on_bad_numbers", "bad_numbers_limit", "log_every"),
    *("histograms_every", "video_every", "eval_every", "env_timeout", "restart_broken_envs"),
    *("device", "stop_at_return"),
}
"""Settings that do not affect what a run learns: the HParams table leaves them out."""
FIRST = ("learning_rate", "seed", "algorithm", "env_id")
"""The settings that the HParams table begins with."""
EXACTNESS = {
    "state": "exactly: the running episodes continue from their state",
    "replay": f"exactly, {COMPARED} from their seeds",
    "restart": "weights, optimizer and statistics exactly; the running episodes start anew",
}


def _cell(value: object) -> str:
    """A value as a cell of a Markdown table."""
    text = " ".join(str(value).split())
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # of functions: other ones in every process
    return f"`{text[:400].replace('|', '/').replace('`', chr(39))}`"


def _wrappers(env: object) -> Iterator[str]:
    """The names of an environment's wrappers, the outermost first."""
    while isinstance(env, gym.Wrapper):
        yield type(env).__name__
        env = env.env


def _layout(
    curves: Collection[str] | None, evaluates: bool
) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """`LAYOUT` without charts that would stay empty; all if an agent's curves are not known."""
    charts_by_question = {
        question: {
            chart: tags
            for chart, tags in charts.items()
            if any(_may_come(tag, curves, evaluates) for tag in tags)
        }
        for question, charts in LAYOUT.items()
    }
    return {question: charts for question, charts in charts_by_question.items() if charts}


def _may_come(tag: str, curves: Collection[str] | None, evaluates: bool) -> bool:
    """Whether a run may write a tag: an agent's own are in `curves`."""
    if tag.startswith("eval/"):
        return evaluates
    if curves is None:
        return True
    if tag.startswith("train/") or tag == "rollout/exploration_rate":
        return any(re.fullmatch(tag, f"train/{each}") or tag == each for each in curves)
    return True


def _columns(entries: Settings) -> Settings:
    """The settings of a run for the HParams table, the most important first."""
    flat = {**entries, **{f"config.{k}": v for k, v in (entries.get("config") or {}).items()}}
    flat.pop("config", None)
    order = [name for first in FIRST for name in (f"config.{first}", first) if name in flat]
    rest = [name for name in flat if name not in order and name not in OPERATION]
    return {name: flat[name] for name in [*order, *rest]}


class Monitor:
    """Describes a run when it begins; writes histograms and a diagnosis while it runs.

    An agent without `inspect` has no histograms, one without Keras models no graph.
    """

    def __init__(
        self,
        agent: Agent,
        curves: Curves,
        entries: Settings,
        say: Callable[[str], None],
        *,
        log_every: int,
        histograms_every: int | None,
        describes: bool,
        evaluates: bool,
    ) -> None:
        """Plans what is shown.

        Args:
            agent: Who trains.
            curves: Of the run.
            entries: What `config.json` says of it.
            say: Prints a line.
            log_every: Environment steps between two diagnoses.
            histograms_every: Environment steps between two looks inside; None or 0 for none.
            describes: Whether to write what the run is.
            evaluates: Whether it has evaluations.
        """
        self._agent, self._curves, self._entries, self._say = agent, curves, dict(entries), say
        self._transitions, self._writer = curves.transitions, curves.writer
        self._describes, self._evaluates = describes, evaluates
        self._look_due, self._histograms_due = Every(log_every), Every(histograms_every)
        settings = {**(self._entries.get("config") or {}), **self._entries}
        settings.pop("config", None)
        self._diagnosis = Diagnosis(int(settings["total_steps"]), settings)
        self._samples: dict[str, np.ndarray] = {}

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Counts from the last update on; a new run is described."""
        self._look_due.counted = self._histograms_due.counted = env_steps
        if self._describes and not resumed:
            self._describe()

    def updated(self, env_steps: int) -> None:
        """Looks inside the agent, and for what is wrong, if it is due."""
        if self._histograms_due.is_due(env_steps):
            self.histograms()
        if self._look_due.is_due(env_steps):
            self.look()

    def end(self, env_steps: int) -> None:
        """Shows nothing more."""

    def _describe(self) -> None:
        """Writes config, versions, environment, graph and the layout of the curves."""
        writer, entries = self._writer, self._entries
        level = environment_state(self._transitions)[2]
        networks = getattr(self._agent, "network", None)
        networks = networks if isinstance(networks, tuple | list) else [networks]
        models = [(n.name, n) for n in networks if hasattr(n, "layers")]
        describe(writer, entries, models, _columns(entries))
        writer.layout(_layout(getattr(self._agent, "curves", None), self._evaluates))
        writer.text(0, "run/environment", self._environment())
        text = f"A killed run is resumed {EXACTNESS[level]} (`{level}`)."
        writer.text(0, "run/resume", text)

    def _environment(self) -> str:
        envs = self._transitions.envs
        first = next(iter(getattr(envs, "envs", ())), envs)
        spec = getattr(first, "spec", None)
        rows = {
            "environment": self._entries.get("env_id") or getattr(spec, "id", None),
            "environments": envs.num_envs,
            "observation space": getattr(envs, "single_observation_space", None),
            "action space": getattr(envs, "single_action_space", None),
            "time limit": getattr(spec, "max_episode_steps", None),
            "arguments": getattr(spec, "kwargs", None) or None,
            "made by": getattr(spec, "entry_point", None),
            "wrappers": ", ".join(_wrappers(first)),
            "autoreset": getattr(self._transitions.envs.metadata.get("autoreset_mode"), "name", ""),
            "vectorization": type(envs).__name__,
        }
        cells = {name: _cell(value) for name, value in rows.items() if value not in (None, "")}
        return "\n".join(
            ["| | |", "|---|---|", *(f"| {n} | {cell} |" for n, cell in cells.items())]
        )

    def histograms(self) -> None:
        """Writes how the last update's samples, weights and gradients are distributed."""
        inspect = getattr(self._agent, "inspect", None)
        arrays = {} if inspect is None else inspect()
        shown = {name: array for name, array in arrays.items() if name != "observations"}
        tags = {n if "/" in n else f"samples/{n}": array for n, array in shown.items()}
        self._writer.histograms(self._transitions.env_steps, tags)
        names = ("observations", "returns", "values", "advantages")
        self._samples = {name: arrays[name] for name in names if name in arrays}

    def look(self) -> None:
        """Says what is probably wrong, by the last point of the curves and the last samples."""
        step, values = self._curves.at, self._curves.values
        samples, self._samples = self._samples, {}
        entropy = getattr(self._agent, "max_entropy", None)
        known = dict(values) if entropy is None else {**values, "train/max_entropy": entropy}
        for rule, sentence in self._diagnosis.look(step, known, samples).items():
            self._writer.text(step, f"diagnosis/{rule}", sentence)
            self._say(f"diagnosis after {step:,} steps: {sentence}")

    def get_state(self) -> State:
        """The state of the diagnosis."""
        return self._diagnosis.get_state()

    def set_state(self, state: State) -> None:
        """Restores it."""
        self._diagnosis.set_state(state)
