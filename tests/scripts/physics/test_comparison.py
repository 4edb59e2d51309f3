"""`vantage benchmark physics`: the problem both sides solve, and what is compared; never a time."""

import json

import numpy as np
import pytest

from vantage.scripts.main import main
from vantage.scripts.physics import comparison as heat
from vantage.scripts.physics.solving import heat as solved


def test_the_solution_solves_the_equation():
    generator, h = np.random.default_rng(0), 1e-3
    points = generator.uniform(0.1, 0.9, (20, 2))
    u = lambda dx, dt: heat.solution(points + [dx, dt])  # noqa: E731
    slope = (u(0, h) - u(0, -h)) / (2 * h)
    curvature = (u(h, 0) - 2 * u(0, 0) + u(-h, 0)) / h**2
    np.testing.assert_allclose(slope, heat.ALPHA * curvature, atol=1e-4)


def test_a_round_has_points_and_weights_of_its_own():
    one, again, other = heat.problem(0), heat.problem(0), heat.problem(1)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["inside"], other["inside"])
    assert not np.array_equal(one["weight_0"], other["weight_0"])


def test_training_stops_at_the_wanted_error(tmp_path):
    small = {"most": 60, "every": 20, "wanted": np.float32(0.9)}
    np.savez(tmp_path / "heat.npz", **{**heat.problem(0), **small})
    found = solved(str(tmp_path / "heat.npz"))
    assert found["updates"] < 60 and found["error"] < 0.9
    assert 0 < found["compile_seconds"] <= found["seconds"]


@pytest.mark.parametrize("faster", [1, 2])
def test_the_peer_has_its_faster_number_of_threads(faster, monkeypatch, tmp_path, capsys):
    def peer(python, file, threads, *more):
        seconds = 1.0 if threads == faster else 9.0
        found = {"updates": 7, "error": 0.1 * threads, "processor_seconds": 1.5}
        return {"seconds": 1.0 if not more else seconds, **found}

    ours = {"seconds": 0.5, "updates": 9, "error": 0.001, "compile_seconds": 0.1}
    ours["processor_seconds"] = 0.5
    monkeypatch.setattr(heat, "_peer", peer)
    monkeypatch.setattr(heat, "check_peer", lambda python: {"torch": "2"})
    monkeypatch.setattr(heat, "_ours", lambda file: ours)
    main(["benchmark", "physics", "python", "--rounds", "2", "--logdir", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "seconds ÷ ours: median of pairwise ratios 2.00" in out
    assert "processor seconds ÷ ours: median of pairwise ratios 3.00" in out
    record = json.loads((tmp_path / "out" / "physics.json").read_text())
    assert [each["peer"]["error"] for each in record["rounds"]] == 2 * [0.1 * faster]
    assert np.load(tmp_path / "out" / "round-1.npz")["inside"].shape == (1_000, 2)
