"""Trains A2C on this project's own environment: `python train.py [sync|async]`."""

import sys

from envs.my_env import BEST_RETURN, MyEnv


def main(vectorization="sync"):
    """Trains for a few seconds and plays 1,000 episodes."""
    from vantage.agents import A2C
    from vantage.envs import make_vec
    from vantage.training import evaluate, train

    envs = make_vec(MyEnv, 8, seed=0, vectorization=vectorization, max_episode_steps=50)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    train(agent, envs, total_steps=20_000, logdir=f"runs/my_env-{vectorization}")
    print(f"mean return {evaluate(agent, envs, 1_000, seed=1).mean:.2f}, at best {BEST_RETURN:.2f}")
    envs.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
