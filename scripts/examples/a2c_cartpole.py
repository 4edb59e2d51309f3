"""A2C balances a pole until it is solved; watch it with `tensorboard --logdir runs`."""

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import evaluate, train


def main(logdir: str = "runs/cartpole", total_steps: int = 500_000) -> None:
    """Trains in 8 environments, 5 steps of each per update, and plays 100 episodes."""
    envs = make_vec("CartPole-v1", num_envs=8, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = A2C(*spaces, A2CConfig(n_steps=5), seed=0)

    def report(env_steps: int, metrics: dict[str, float]) -> None:
        print(f"{env_steps:>7,} steps, mean return {metrics.get('rollout/ep_rew_mean', 0.0):.1f}")

    summary = train(
        agent,
        envs,
        total_steps,
        logdir=logdir,
        log_every=10_000,
        callbacks=[report],
        stop_at_return=475.0,
    )
    print(f"{summary['env_steps']:,} steps in {summary['seconds']:.1f} s")
    result = evaluate(agent, make_vec("CartPole-v1", num_envs=10), episodes=100, seed=1)
    print(f"evaluation: {result.mean:.1f} ± {result.std:.1f} over {result.episodes} episodes")


if __name__ == "__main__":
    main()
