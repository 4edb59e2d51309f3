"""Trains Stable-Baselines3's A2C for comparison; run by a Python that has it, never imported.

    PEER_PYTHON peer_sb3.py --num-envs 8 --n-steps 5 --total-steps 100000 --seed 0

Everything not named is Stable-Baselines3's default, logging included (in memory, no TensorBoard).
Prints one JSON line.
"""

import argparse
import json
import time

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import A2C  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402


def main() -> None:
    """Trains until the steps are done or the threshold is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=5)
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-at-return", type=float, default=float("inf"))
    flags = parser.parse_args()
    import_seconds = time.perf_counter() - BEGAN

    torch.set_num_threads(1)  # its fastest for networks of this size
    envs = make_vec_env(flags.env_id, n_envs=flags.num_envs, seed=flags.seed)
    began = time.perf_counter()  # ours counts the agent's construction, but not the environments'
    model = A2C("MlpPolicy", envs, n_steps=flags.n_steps, seed=flags.seed, device="cpu")

    def has_solved() -> bool:
        recent = model.ep_info_buffer
        mean = sum(episode["r"] for episode in recent) / 100
        return len(recent) == 100 and mean >= flags.stop_at_return

    stops = flags.stop_at_return < float("inf")
    model.learn(flags.total_steps, callback=(lambda *_: not has_solved()) if stops else None)
    seconds = time.perf_counter() - began
    mean = float(np.mean([episode["r"] for episode in model.ep_info_buffer] or [float("nan")]))
    solved = has_solved()
    summary = {
        "env_steps": model.num_timesteps,
        "seconds": seconds,
        "steps_per_second": model.num_timesteps / seconds,
        "mean_return_100": mean,
        "solved_at_steps": model.num_timesteps if solved else None,
        "solved_at_seconds": seconds if solved else None,
        "import_seconds": import_seconds,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
