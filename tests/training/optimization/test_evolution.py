"""Weights by evolution: what is known is found, and nothing is lost when a score fails."""

import math
import sys

import keras
import numpy as np
import pytest
from gradient_steps import assert_unchanged
from keras import layers

from vantage.training import CMAES, Evolution, OpenAIES
from vantage.training.optimization.strategies import centered_ranks

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 2)).astype(np.float32)
LABELS = X[:, 0] + 2 * X[:, 1] > 0.5


def line(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((2,)), layers.Dense(1)])


def vector(model):
    return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])


def quadratic(model):
    return float(np.sum((vector(model) - [1.0, -2.0, 3.0]) ** 2))


def misses(model):
    """How many labels a linear classifier gets wrong: flat almost everywhere."""
    kernel, bias = model.get_weights()
    return int(np.sum(((X @ kernel + bias)[:, 0] > 0) != LABELS))


def openai(**settings):
    return OpenAIES(keras.optimizers.Adam(0.1), **{"sigma": 0.1, "population": 20, **settings})


STRATEGIES = {
    "openai": openai,
    "openai without ranks": lambda: OpenAIES(
        keras.optimizers.SGD(0.2), sigma=0.1, population=20, rank_shaping=False
    ),
    "cma": lambda: CMAES(sigma=0.5),
}
both = pytest.mark.parametrize("make", [openai, STRATEGIES["cma"]], ids=["openai", "cma"])


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_a_quadratic(make):
    model = line()
    evolution = Evolution(model, quadratic, make())
    history = evolution.fit(100)
    assert quadratic(model) < 0.05 < history["score"][0]
    assert evolution.generations == 100 and len(history["score"]) == 100
    assert (np.diff(history["best"]) <= 0).all() and history["best"][-1] == evolution.best_score
    evolution.restore_best()
    assert quadratic(model) == evolution.best_score


@both
def test_a_count_of_wrong_labels(make):
    model = line()
    first = misses(model)
    Evolution(model, misses, make()).fit(60)
    assert misses(model) <= 2 < first


def test_the_estimate_is_the_gradient_of_the_smoothed_score():
    model = line()
    start = vector(model)
    strategy = OpenAIES(
        keras.optimizers.SGD(1.0), sigma=0.01, population=20_000, rank_shaping=False
    )
    strategy.begin(model.trainable_variables, np.random.default_rng(0))
    slope = np.array([1.0, -2.0, 0.5])
    candidates = strategy.ask()
    np.testing.assert_allclose(candidates.mean(0), start, atol=1e-6)  # antithetic
    strategy.tell(candidates.astype(float) @ slope)
    np.testing.assert_allclose(start - vector(model), slope, rtol=0.1)


def test_ranks():
    np.testing.assert_allclose(centered_ranks(np.array([30.0, -1.0, 5.0])), [0.5, -0.5, 0.0])
    np.testing.assert_allclose(centered_ranks(np.array([1.0, 0.0, 1.0])), [0.25, -0.5, 0.25])
    np.testing.assert_allclose(centered_ranks(np.array([7.0, 7.0])), [0.0, 0.0])


@both
def test_seeds(make):
    ends = []
    for seed in (1, 1, 2):
        np.random.seed(len(ends))  # the global generator does not matter
        model = line()
        Evolution(model, quadratic, make(), seed=seed).fit(3)
        ends.append(vector(model))
    assert_unchanged(ends[:1], ends[1:2])
    assert not np.array_equal(ends[0], ends[2])


@both
def test_a_state_continues_exactly(make):
    one = Evolution(line(), quadratic, make(), seed=3)
    one.fit(4)
    state = one.get_state()
    expected = one.fit(4)
    other = Evolution(line(seed=9), quadratic, make(), seed=0)
    other.set_state(state)
    received = other.fit(4)
    assert_unchanged([vector(other.model)], [vector(one.model)])
    for name, values in expected.items():
        np.testing.assert_array_equal(received[name], values)
    assert (other.generations, other.best_score) == (8, one.best_score)
    one.restore_best(), other.restore_best()
    assert_unchanged([vector(other.model)], [vector(one.model)])


def test_a_state_of_another_model():
    state = Evolution(line(), quadratic, openai()).get_state()
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="must have the shapes"):
        Evolution(model, quadratic, openai()).set_state(state)


@both
def test_a_score_that_raises_leaves_the_weights_and_the_search(make):
    calls, fails = [], {25}

    def score(model):
        calls.append(1)
        if len(calls) in fails:
            raise KeyError("weather")
        return quadratic(model)

    evolution = Evolution(line(), score, make())
    reference = Evolution(line(), quadratic, make())
    ended = []
    with pytest.raises(KeyError, match="weather"):
        evolution.fit(10, callbacks=[lambda *_: ended.append(vector(evolution.model)) and None])
    assert_unchanged([vector(evolution.model)], ended[-1:])
    assert evolution.generations == len(ended)
    evolution.fit(5)
    reference.fit(len(ended) + 5)
    assert_unchanged([vector(evolution.model)], [vector(reference.model)])


@both
def test_scores_that_are_not_finite_count_as_the_worst(make):
    def score(model):
        value = vector(model)[0]
        return math.nan if value > 1.2 else quadratic(model)

    model = line()
    history = Evolution(model, score, make()).fit(70)
    assert np.isfinite(history["score"]).all() and history["bad_scores"].max() > 0
    assert quadratic(model) < 0.1


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_finite_score_is_an_error(make, value):
    model = line()
    before = vector(model)
    with pytest.raises(FloatingPointError, match="must be finite for some candidate"):
        Evolution(model, lambda model: value, make()).fit(2)
    assert_unchanged([vector(model)], [before])


@pytest.mark.parametrize("value", [None, np.ones(2), "low", (1.0, 2.0), 1j])
def test_what_is_no_score(value):
    model = line()
    before = vector(model)
    with pytest.raises(ValueError, match="A score of a model must be one number. Received"):
        Evolution(model, lambda model: value, openai()).fit(2)
    assert_unchanged([vector(model)], [before])


def test_weights_that_explode_are_not_kept():
    model = line()
    before = vector(model)
    strategy = OpenAIES(keras.optimizers.SGD(1e38), sigma=0.1, population=4, rank_shaping=False)
    with pytest.raises(FloatingPointError, match="new weights must be finite"):
        Evolution(model, lambda m: 1e9 * quadratic(m), strategy).fit(3)
    assert_unchanged([vector(model)], [before])


def test_callbacks_stop_and_reports_and_files(tmp_path, capsys):
    seen = []

    def stop(generation, metrics):
        seen.append((generation, metrics["score"]))
        return generation < 4

    evolution = Evolution(line(), quadratic, openai())
    history = evolution.fit(
        10, report_every=2, callbacks=[stop], verbose=True, logdir=tmp_path / "run"
    )
    assert [generation for generation, _ in seen] == [2, 4] and len(history["score"]) == 4
    assert seen[-1][1] == history["score"][-1]
    assert "generation     4" in capsys.readouterr().out
    assert list((tmp_path / "run").iterdir())


def test_only_trainable_weights_move():
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(), layers.Dense(1)])
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    Evolution(model, quadratic, openai()).fit(2)
    assert_unchanged(model.layers[0].get_weights(), before)


def test_weights_may_change_between_fits_only_for_openai():
    model = line()
    evolution = Evolution(model, quadratic, openai())
    evolution.fit(1)
    model.set_weights([w + 1 for w in model.get_weights()])
    evolution.fit(1)
    evolution = Evolution(model, quadratic, CMAES())
    evolution.fit(1)
    model.set_weights([w + 1 for w in model.get_weights()])
    with pytest.raises(ValueError, match="must continue from its own mean"):
        evolution.fit(1)


def test_refused(monkeypatch):
    with pytest.raises(ValueError, match="must be a Keras model"):
        Evolution(3, quadratic, openai())
    with pytest.raises(ValueError, match="must have variables to train"):
        Evolution(keras.Sequential([layers.Dense(1)]), quadratic, openai())
    for score in (None, 3, lambda: 1.0):
        with pytest.raises(ValueError, match="score must be a function"):
            Evolution(line(), score, openai())
    for strategy in (None, "cma", CMAES):
        with pytest.raises(ValueError, match="strategy must be an evolution strategy"):
            Evolution(line(), quadratic, strategy)
    used = openai()
    Evolution(line(), quadratic, used).fit(1)
    with pytest.raises(ValueError, match="must be used in one Evolution"):
        Evolution(line(), quadratic, used).fit(1)
    for settings in ({"sigma": 0}, {"population": 3}, {"population": 0}, {"rank_shaping": "no"}):
        with pytest.raises(ValueError, match="Received"):
            openai(**settings)
    for settings in ({"sigma": None}, {"population": 2}):
        with pytest.raises(ValueError, match="Received"):
            CMAES(**settings)
    with pytest.raises(ValueError, match="must be called with its own arguments"):
        Evolution(line(), quadratic, openai()).fit(1, validation_data=3)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ValueError, match=r"pip install 'vantage-rl\[evolution\]'"):
        Evolution(line(), quadratic, CMAES()).fit(1)
