"""The robot arm learns inverse kinematics, with and without the simulator's gradient."""

import numpy as np
import pytest

from vantage.scripts.examples import robotic_arm
from vantage.training import (
    estimated,
    external,
)


@pytest.mark.parametrize(
    ("lift", "epochs", "limit"),
    [
        (external(robotic_arm.ARM.loss), 50, 0.02),
        (estimated(robotic_arm.ARM.score, samples=4), 30, 0.05),
    ],
    ids=["external", "estimated"],
)
def test_the_arm_learns_inverse_kinematics(lift, epochs, limit):
    arm, generator = robotic_arm.ARM, np.random.default_rng(1)
    targets, held_out = arm.sample_targets(10_000, generator), arm.sample_targets(5_000, generator)
    trainer = robotic_arm.build_trainer(lift, epochs, seed=1)
    untrained = np.median(arm.errors(trainer.predict(held_out), held_out))
    trainer.fit(targets, targets, epochs)
    angles = trainer.predict(held_out)
    assert np.median(arm.errors(angles, held_out)) <= limit < 0.2 < untrained
    assert arm.violations(angles).max() <= 1.0
