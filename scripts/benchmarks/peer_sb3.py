"""Trains an agent of Stable-Baselines3 for comparison; run by a Python that has it, never imported.

    PEER_PYTHON peer_sb3.py --algorithm ppo --num-envs 8 --n-steps 32 --total-steps 100000 --seed 0

A2C has Stable-Baselines3's defaults, PPO and DQN have RL Baselines3 Zoo's settings for CartPole-v1
and SAC those for Pendulum-v1; `ppo-images` and `dqn-images` see the images of screens.py through
the Nature network. Logging is included (in memory, no TensorBoard). Prints one JSON line.
"""

import argparse
import json
import time
from typing import Any

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import A2C, DQN, PPO, SAC  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402

SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a2c": (A2C, {}),
    "ppo": (
        PPO,
        {
            "learning_rate": lambda left: 1e-3 * left,
            "clip_range": lambda left: 0.2 * left,
            "batch_size": 256,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
        },
    ),
    "dqn": (
        DQN,
        {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "sac": (SAC, {"learning_rate": 1e-3}),
    "ppo-images": (PPO, {"batch_size": 128, "n_epochs": 4}),
    "dqn-images": (
        DQN,
        {
            "batch_size": 32,
            "buffer_size": 10_000,
            "learning_starts": 500,
            "target_update_interval": 1_000,
            "train_freq": 4,
            "gradient_steps": 1,
        },
    ),
}
"""Each algorithm's class, and its settings besides the defaults."""


def main() -> None:
    """Trains until the steps are over or the return reaches the threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=SETTINGS, default="a2c")
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int)
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-at-return", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=1)  # fastest for A2C's small networks
    flags = parser.parse_args()
    import_seconds = time.perf_counter() - BEGAN

    torch.set_num_threads(flags.threads)
    is_image = flags.algorithm.endswith("-images")
    if is_image:
        import screens  # type: ignore[import-not-found]  # noqa: F401  (registers vantage/Screens-v0; it lies beside this file)

        flags.env_id = "vantage/Screens-v0"
    envs = make_vec_env(flags.env_id, n_envs=flags.num_envs, seed=flags.seed)
    began = time.perf_counter()  # ours includes the agent's construction, too
    algorithm, settings = SETTINGS[flags.algorithm]
    if flags.n_steps is not None:
        settings = {**settings, "n_steps": flags.n_steps}
    policy = "CnnPolicy" if is_image else "MlpPolicy"
    model = algorithm(policy, envs, seed=flags.seed, device="cpu", **settings)

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
