"""PPO with an additional loss: the hidden layer must also reconstruct the observation."""

import keras

from vantage.agents import PPO
from vantage.agents.presets import PRESETS
from vantage.envs import make_vec
from vantage.training import evaluate, train


def network() -> keras.Model:
    """CartPole's policy and value; the third output is the reconstruction's squared error."""
    x = keras.Input((4,))
    hidden = keras.layers.Dense(64, "tanh")(keras.layers.Dense(64, "tanh")(x))
    error = keras.ops.mean(keras.ops.square(keras.layers.Dense(4)(hidden) - x), axis=1)
    return keras.Model(x, [keras.layers.Dense(2)(hidden), keras.layers.Dense(1)(hidden), error])


def reconstruction(outputs, targets):
    """The mean error over real steps, in TensorFlow or keras.ops."""
    return keras.ops.sum(targets.weights * outputs[2]) / keras.ops.sum(targets.weights)


def main(total_steps: int = 100_000, auxiliary_loss=reconstruction) -> PPO:
    """Trains with it; TensorBoard shows `train/auxiliary_loss`."""
    keras.utils.set_random_seed(0)  # for the network's weights
    envs = make_vec("CartPole-v1", num_envs=8, seed=0, vectorization="native")
    spaces = envs.single_observation_space, envs.single_action_space
    config = PRESETS["ppo", "CartPole-v1"].config
    agent = PPO(*spaces, config, network=network(), auxiliary_loss=auxiliary_loss, seed=0)
    train(agent, envs, total_steps, logdir="runs/auxiliary-loss")
    print(evaluate(agent, make_vec("CartPole-v1", num_envs=10), episodes=100, seed=1))
    return agent


if __name__ == "__main__":
    main()
