"""Catches a ball whose direction one image does not show: Gymnasium's wrappers stack images."""

from functools import partial
from typing import TYPE_CHECKING

from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import Evaluation, evaluate, train

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym


def play(stack_size: int, seed: int = 0, total_steps: int = 20_000) -> Evaluation:
    """Trains A2C on stacks of grey images, uint8 `[stack_size, 8, 8]`, and plays 400 episodes."""
    wrappers: list[Callable[[gym.Env], gym.Env]]
    wrappers = [GrayscaleObservation, partial(FrameStackObservation, stack_size=stack_size)]
    envs = make_vec("vantage.envs.examples:vantage/Catch-v0", seed=seed, wrappers=wrappers)
    config = A2CConfig(learning_rate=1e-3, ent_coef=0.02)
    agent = A2C(envs.single_observation_space, envs.single_action_space, config, seed=seed)
    train(agent, envs, total_steps)
    return evaluate(agent, envs, episodes=400, seed=seed + 1_000)


if __name__ == "__main__":
    for stack_size, best in ((1, 0.5), (2, 1.0)):
        caught = play(stack_size).mean
        print(f"{stack_size} per stack: caught {caught:.0%}; at best {best:.0%}")
