"""What is shown of a run beside its curves: what it is, a look inside the agent, and a diagnosis.

Machinery of its own, so that the loop stays short: TensorBoard's tabs besides Scalars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .curves import Curves
from .diagnosis import Diagnosis
from .environments import COMPARED, environment_state
from .evaluation import ENDLESS
from .reports import describe
from .transitions import Transitions
from .video import frames_per_second, gif_bytes, record_episode, write_video
from .writer import Writer

LAYOUT = {
    "Is it learning?": {
        "return": ["rollout/ep_rew_mean", "eval/mean_reward"],
        "episode length": ["rollout/ep_len_mean", "eval/mean_ep_length"],
        "cut by the time limit, successes": ["rollout/truncated_share", "rollout/success_rate"],
    },
    "Does it still explore?": {
        "entropy": ["train/entropy.*", "train/std"],
        "exploration": ["rollout/exploration_rate", "train/ent_coef"],
    },
    "Does it know what states are worth?": {
        "explained variance": ["train/explained_variance"],
        "value losses": ["train/value_loss", "train/critic_loss", "train/loss"],
        "returns and values": ["train/return_mean", "train/return_std", "train/q"],
    },
    "Are the steps of the right size?": {
        "gradient norm before clipping": ["train/.*grad_norm"],
        "share of clipped updates": ["train/clipped_updates", "train/clip_fraction"],
        "KL divergence": ["train/approx_kl"],
        "learning rate": ["train/learning_rate"],
    },
    "Where does the time go?": {"steps/s": ["time/fps"], "shares": ["time/(?!fps).*"]},
}
"""The Custom Scalars tab: the curves that together answer a question."""
EXACTNESS = {
    "state": "exactly: the running episodes go on from their state",
    "replay": f"exactly, {COMPARED} from their seeds",
    "restart": "weights, optimizer and statistics exactly; the running episodes begin anew",
}


class Monitor:
    """Writes what a run is at its begin, and what the agent is like in between.

    An agent without `inspect` has no histograms, one without Keras models no graph.
    """

    def __init__(
        self,
        agent: Any,
        transitions: Transitions,
        writer: Writer,
        entries: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._agent, self._transitions, self._writer = agent, transitions, writer
        self._entries, self._say = dict(entries), say
        settings = {**(self._entries.get("config") or {}), **self._entries}
        settings.pop("config", None)
        self._diagnosis = Diagnosis(int(settings["total_steps"]), settings)
        self._samples: dict[str, np.ndarray] = {}

    def begin(self) -> None:
        """Writes config, versions, environment, graph and the layout of the curves; once a run."""
        writer, entries = self._writer, self._entries
        level = environment_state(self._transitions)[2]
        networks = getattr(self._agent, "network", None)
        networks = networks if isinstance(networks, tuple | list) else [networks]
        describe(writer, entries, [(n.name, n) for n in networks if hasattr(n, "layers")])
        writer.layout(LAYOUT)
        writer.text(0, "run/environment", self._environment())
        text = f"A killed run is resumed {EXACTNESS[level]} (`{level}`)."
        writer.text(0, "run/resume", text)

    def _environment(self) -> str:
        envs = self._transitions.envs
        first = next(iter(getattr(envs, "envs", ())), envs)
        rows = {"id": self._entries.get("env_id"), "spec": getattr(first, "spec", None)}
        names = ("single_observation_space", "single_action_space", "num_envs", "metadata")
        rows |= {name: getattr(envs, name, None) for name in names}
        text = "\n".join(f"- {name}: `{value}`" for name, value in rows.items())
        return re.sub(r" at 0x[0-9a-f]+", "", text)  # of functions: other ones in every process

    def histograms(self) -> None:
        """Writes how the last update's samples, weights and gradients are distributed."""
        inspect = getattr(self._agent, "inspect", None)
        arrays = {} if inspect is None else inspect()
        shown = {name: array for name, array in arrays.items() if name != "observations"}
        tags = {n if "/" in n else f"samples/{n}": array for n, array in shown.items()}
        self._writer.histograms(self._transitions.env_steps, tags)
        names = ("observations", "returns", "values", "advantages")
        self._samples = {name: arrays[name] for name in names if name in arrays}

    def look(self, curves: Curves) -> None:
        """Tells what the last point of the curves, and the last samples, say is wrong."""
        step, values = curves.at, curves.values
        samples, self._samples = self._samples, {}
        entropy = getattr(self._agent, "max_entropy", None)
        known = dict(values) if entropy is None else {**values, "train/max_entropy": entropy}
        for rule, sentence in self._diagnosis.look(step, known, samples).items():
            self._writer.text(step, f"diagnosis/{rule}", sentence)
            self._say(f"diagnosis after {step:,} steps: {sentence}")

    def film(self, env: Any, folder: Path) -> None:
        """Plays a deterministic episode for TensorBoard, and for `folder/step-N.mp4`.

        TensorBoard shows its first 500 frames. An episode without an end is cut.
        """
        step, fps = self._transitions.env_steps, frames_per_second(env)
        frames, _ = record_episode(self._agent, env, seed=0, max_steps=ENDLESS)
        write_video(folder / f"step-{step}.mp4", frames, fps)
        shown = frames[:500]
        self._writer.video(step, "eval/episode", gif_bytes(shown, fps), shown.shape)

    def get_state(self) -> dict[str, Any]:
        """What has been told, and what it was told from."""
        return self._diagnosis.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from it."""
        self._diagnosis.set_state(state)
