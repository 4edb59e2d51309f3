"""The line search on functions of one number: its conditions hold where it ends."""

import math

import numpy as np
import pytest
import tensorflow as tf

from vantage.training.optimization.line_search import ENDED, advance, begin

C1, C2 = 1e-4, 0.1
LINES = {
    "quadratic": lambda a: ((a - 3.0) ** 2, 2 * (a - 3.0)),
    "far": lambda a: ((a - 300.0) ** 2, 2 * (a - 300.0)),
    "near": lambda a: ((a - 0.003) ** 2 * 1e4, 2e4 * (a - 0.003)),
    "quartic": lambda a: ((a - 0.3) ** 4 - 0.1 * a, 4 * (a - 0.3) ** 3 - 0.1),
    "waves": lambda a: (math.cos(3 * a) - 0.1 * a, -3 * math.sin(3 * a) - 0.1),
    "more_thuente_1": lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2),
    "log": lambda a: (
        (a - math.log(0.5 - a), 1 + 1 / (0.5 - a)) if a < 0.5 else (math.nan, math.nan)
    ),
    "wall": lambda a: (a * a / 2 - a, a - 1) if a < 1.5 else (math.inf, math.nan),
}


def searched(line, alpha=1.0, most=60):
    def tensor(value):
        return tf.constant(value, tf.float32)

    value, slope = line(0.0)
    search = begin(tensor(value), tensor(slope), tensor(alpha), tf.constant(True))
    tried = []
    while search.phase != ENDED and len(tried) < most:
        tried.append(float(search.alpha))
        value, slope = map(tensor, line(tried[-1]))
        search, _ = advance(search, value, slope, tf.constant(False), C1, C2)
    return search, tried


@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("name", [name for name in LINES if name != "log"])
def test_strong_wolfe(name, alpha):
    line = LINES[name]
    (value, slope), (search, tried) = line(0.0), searched(line, alpha)
    step = float(search.low.alpha)
    assert step in tried and len(tried) < 20
    low, low_slope = line(step)
    assert low <= value + C1 * step * slope + 1e-6
    assert abs(low_slope) <= C2 * abs(slope) + 1e-6


def test_no_step_goes_uphill():
    search, tried = searched(LINES["log"])
    assert search.low.alpha == 0.0 and search.phase == ENDED  # φ' > 0: none lowers it
    search, tried = searched(lambda a: (1.0 + 10 * a, -1e-3))  # a slope that lies
    assert search.low.alpha == 0.0 and len(tried) < 60


def test_it_backs_off_from_what_is_not_finite():
    search, tried = searched(LINES["wall"], 1e4)
    assert 0 < search.low.alpha < 1.5 and len(tried) < 15


def test_a_level_loss_is_judged_by_the_gradient():
    def line(a):
        return 1.0, a - 1.0  # float32 sees no change of the value

    value, slope = (tf.constant(each, tf.float32) for each in line(0.0))
    search = begin(value, slope, tf.constant(1.0), tf.constant(True))
    for is_flatter in (True, False):
        after, is_low = advance(
            search, tf.constant(1.0), tf.constant(0.0), tf.constant(is_flatter), C1, C2
        )
        assert bool(is_low) is is_flatter
        assert bool(after.low.alpha > 0) is is_flatter


def test_cubic_interpolation_finds_the_minimum_of_a_cubic():
    def line(a):
        return a**3 / 3 - a, a * a - 1  # minimum at 1, exactly

    _, tried = searched(line, alpha=3.0)
    np.testing.assert_allclose(tried[1], 1.0, rtol=1e-5)
