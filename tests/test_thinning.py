"""What is left of a thinned grid holds what it must, and little else."""

import itertools

import pytest
from thinning import part

SIZES = {"optimizer": 5, "options": 3, "compiler": 2}
GRID = [
    dict(zip(SIZES, values, strict=True))
    for values in itertools.product(*(range(size) for size in SIZES.values()))
]


def combinations(cases, strength):
    return {each for case in cases for each in itertools.combinations(case.items(), strength)}


@pytest.mark.parametrize(("strength", "least"), [(1, 5), (2, 15), (3, 30)])
def test_every_combination_is_left(strength, least):
    left = [GRID[index] for index in part(GRID, strength)]
    assert combinations(left, strength) == combinations(GRID, strength)
    assert len(left) == least  # as many as the largest of them have combinations
