"""WGAN-GP learns to draw digits, images of 8 × 8 pixels: five critic steps, and an average."""

import keras
from keras import layers
from sklearn.datasets import load_digits

from vantage import training as vt


def main(steps=300, logdir=None):
    """Returns the trainer and its history."""
    images = load_digits().images[..., None] / 8 - 1  # [1797, 8, 8, 1] from -1 to 1
    keras.utils.set_random_seed(0)
    ends = ((16, "relu"), (1, "tanh"))
    up = [layers.Conv2DTranspose(n, 4, 2, "same", activation=end) for n, end in ends]
    code = [keras.Input((16,)), layers.Dense(128, "relu"), layers.Reshape((2, 2, 32))]
    down = [layers.Conv2D(n, 4, 2, "same", activation="leaky_relu") for n in (16, 32)]
    critic = [keras.Input((8, 8, 1)), *down, layers.Flatten(), layers.Dense(1)]
    optimizers = [keras.optimizers.Adam(1e-3, beta_1=0.5, beta_2=0.9) for _ in range(2)]
    losses = {
        "generator_loss": vt.wasserstein_loss,
        "discriminator_loss": vt.wasserstein_critic_loss,
    }
    options = {"penalty": vt.WassersteinPenalty(10), "critic_steps": 5, "ema": 0.98}
    gan = vt.GAN(*map(keras.Sequential, (code + up, critic)), *optimizers, **losses, **options)
    distance = vt.FrechetDistance(gan, lambda x: x.reshape(len(x), -1), images)
    return gan, gan.fit(images, steps, report_every=50, callbacks=[distance], logdir=logdir)


if __name__ == "__main__":
    print(main(logdir="runs/wgan-gp")[1]["frechet_distance"])
