"""A part of a large grid of parameters that still meets every value of each of them."""

from __future__ import annotations

import itertools
from collections import Counter


def part(cases, strength=1):
    """Cases that hold every combination of `strength` values that occurs, few and the same ones.

    A case is a dict of parameters, whose values are compared as objects. The next case is always
    one that adds the most combinations, of those one whose values have been used least, of those
    the first.
    """
    cases = [[(name, id(value)) for name, value in case.items()] for case in cases]
    combinations = [set(itertools.combinations(case, strength)) for case in cases]
    missing, uses, chosen = set().union(*combinations), Counter(), []
    while missing:
        index = max(
            range(len(cases)),
            key=lambda i: (
                len(combinations[i] & missing),
                -sum(uses[value] for value in cases[i]),
                -i,
            ),
        )
        chosen.append(index)
        missing -= combinations[index]
        uses.update(cases[index])
    return sorted(chosen)


def thin(items):
    """The tests of grids marked `thinned` that the default run leaves to the slow one."""
    grids: dict = {}
    for item in items:
        mark = item.get_closest_marker("thinned")
        if mark and not item.get_closest_marker("slow"):
            grids.setdefault(item.nodeid.split("[")[0], (mark, []))[1].append(item)
    for mark, grid in grids.values():
        kept = set(part([item.callspec.params for item in grid], *mark.args))
        yield from (item for index, item in enumerate(grid) if index not in kept)
