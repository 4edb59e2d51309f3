"""A Keras model learns a robot arm's inverse kinematics from a simulator that Keras cannot see."""

import keras
import numpy as np

from vantage.envs.examples.arm import TwoLinkArm
from vantage.training import Regression, estimated, external
from vantage.training.core.losses import LossGradient

ARM, TARGETS, BATCH = TwoLinkArm(), 10_000, 200


def build_trainer(loss_gradient: LossGradient, epochs: int, seed: int) -> Regression:
    """A network from a target (x, y) to the joints' angles, with linear outputs."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(64, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(2)])
    decay = keras.optimizers.schedules.CosineDecay(0.01, epochs * TARGETS // BATCH)
    optimizer = keras.optimizers.Adam(decay)
    return Regression(model, loss_gradient, optimizer, batch_size=BATCH, seed=seed)


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    targets, held_out = (ARM.sample_targets(count, generator) for count in (TARGETS, 2_000))
    lifts = {"analytic gradient": external(ARM.loss), "no gradient": estimated(ARM.score)}
    for name, loss_gradient in lifts.items():
        print(name)
        trainer = build_trainer(loss_gradient, epochs=100, seed=0)
        trainer.fit(targets, targets, epochs=100, report_every=10, verbose=True)
        angles = trainer.predict(held_out)
        print(
            f"median error {np.median(ARM.errors(angles, held_out)):.2%} of the arm's length, "
            f"furthest outside the limits {ARM.violations(angles).max():.2f}°"
        )
