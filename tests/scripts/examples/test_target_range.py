"""A loss that is blind outside a range: what the penalty is for."""

import numpy as np
import pytest

from vantage.scripts.examples import target_range


def restart(trainer, penalty, seed, unlucky=False):
    """The example as it starts from `seed`, in an already compiled trainer; its data."""
    fresh = target_range.build_trainer(penalty, seed).model
    trainer.model.set_weights(fresh.get_weights())
    for variable in trainer._optimizer.variables:
        if variable is not trainer._optimizer._learning_rate:
            variable.assign(np.zeros(variable.shape))
    inputs, targets = target_range.sample(1_000, np.random.default_rng([seed, 0]))
    if unlucky:
        below = min(0.0, 0.4 - trainer.predict(inputs).max())
        trainer.model.layers[-1].bias.assign_add([below])
    return inputs, targets


@pytest.fixture(scope="module")
def penalised():
    return target_range.build_trainer(penalty=0.1, seed=0)


def test_clipping_alone_never_moves_an_unlucky_start():
    trainer = target_range.build_trainer(penalty=0.0, seed=0)
    natural = 0
    for seed in range(20):
        data = restart(trainer, 0.0, seed)
        if natural < 3 and (trainer.predict(data[0]) < target_range.LOW).all():
            natural += 1
            before = trainer.model.get_weights()
            history = trainer.fit(*data, epochs=1_000, report_every=100)
            assert (history["loss"] == history["loss"][0]).all()
            assert (history["grad_norm"] == 0).all()
            for weights, old in zip(trainer.model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(weights, old)
    assert natural == 3


@pytest.mark.parametrize(
    "unlucky",
    [
        pytest.param(False, id="as drawn", marks=pytest.mark.slow),
        pytest.param(True, id="all below the range"),
    ],
)
def test_the_range_penalty_ends_at_the_noise_from_every_start(unlucky, penalised):
    trainer = penalised  # compiled once, restarted from 20 seeds
    inputs, targets = target_range.sample(100_000, np.random.default_rng(20))
    means = 0.8 * inputs + 0.2
    ratios = []
    for seed in range(20):
        data = restart(trainer, 0.1, seed, unlucky)
        if unlucky:
            assert (trainer.predict(data[0]) < target_range.LOW).all()
        trainer.fit(*data, epochs=1_000, report_every=100)
        squares = (np.clip(trainer.predict(inputs), 0.5, 1.5) - targets) ** 2
        for values in (targets, means):  # the second is the harder one: all of the noise
            inside = (values >= 0.5) & (values <= 1.5)
            ratios.append(squares[inside].mean() / target_range.NOISE**2)
    assert max(ratios) <= 1.1
    assert min(ratios[1::2]) > 0.95  # nobody beats the noise


def test_no_hidden_unit_of_the_example_starts_dead():
    inputs = np.linspace(0, 2, 200)[:, None]
    for seed in range(20):
        hidden = target_range.build_trainer(0.1, seed).model.layers[0]
        assert (np.asarray(hidden(inputs)) > 0).any(0).all()
