"""A2C finds the shortest path through a grid; masks prevent moves into walls, which are illegal."""

import gymnasium as gym

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.envs.examples import Grid
from vantage.training import Evaluation, evaluate, train


def play(seed: int = 0, total_steps: int = 20_000) -> tuple[A2C, Evaluation]:
    """Trains, and plays 8 episodes; an illegal move would raise an error in the environment."""
    envs = make_vec("vantage.envs.examples:vantage/Grid-v0", num_envs=8, seed=seed)
    config = A2CConfig(learning_rate=2e-3, gamma=0.95, ent_coef=0.03)
    agent = A2C(envs.single_observation_space, envs.single_action_space, config, seed=seed)
    train(agent, envs, total_steps)  # takes the masks from info["action_mask"]
    return agent, evaluate(agent, envs, episodes=8, seed=seed + 1_000)


def walk(agent: A2C) -> None:
    """Prints the path. Outside of `train` and `evaluate`, pass the mask to `act` yourself."""
    env = gym.make("vantage/Grid-v0", render_mode="ansi")  # with the time limit
    (cell, info), over = env.reset(), False
    while not over:
        print(env.render(), end="\n\n")
        action = agent.act(cell, deterministic=True, action_masks=info["action_mask"])
        cell, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated


if __name__ == "__main__":
    agent, evaluation = play()
    walk(agent)
    print(f"mean return {evaluation.mean:.1f}, at best {Grid().optimal_return:.1f}")
