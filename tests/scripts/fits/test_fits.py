"""`vantage benchmark fit`: the tasks, and how their speeds are compared; never a time."""

import json

import numpy as np
import pytest

from vantage.scripts.fits import comparison
from vantage.scripts.fits.sides import measure, model_of
from vantage.scripts.fits.tasks import TASKS, data_of
from vantage.scripts.main import main


@pytest.mark.parametrize("task", [task for task in TASKS if task != "embedding"])
def test_every_task_has_a_network_for_its_data(task):
    inputs, targets = data_of(task)
    assert len(inputs) == len(targets) == TASKS[task].examples
    assert model_of(task).compute_output_shape((7, *inputs.shape[1:])) == (7, 1)


@pytest.mark.parametrize("side", ["vantage", "keras"])
def test_a_side_trains(side, monkeypatch):
    small = {"mlp": TASKS["mlp"]._replace(examples=256)}
    monkeypatch.setattr("vantage.scripts.fits.tasks.TASKS", small)
    assert measure("mlp", side, 0.01)["examples_per_second"] > 0


def test_ratios_are_of_pairs_in_alternation(monkeypatch, tmp_path, capsys):
    asked = []

    def speed(python, task, side):
        asked.append(side)
        return {"vantage": 600.0, "keras": 100.0, "torch": 300.0}[side] * len(asked)

    monkeypatch.setattr(comparison, "_speed", speed)
    monkeypatch.setattr(comparison, "_has", lambda python, module: module == "torch")
    out = tmp_path / "out"
    main(["benchmark", "fit", "python", "--only", "mlp", "--rounds", "2", "--logdir", str(out)])
    assert asked == ["vantage", "keras", "torch", "torch", "keras", "vantage"]
    record = json.loads((out / "fit.json").read_text())["mlp"]
    np.testing.assert_allclose(record["ratios"]["keras"], [600 / 200, 6 * 600 / (5 * 100)])
    assert "5.10 × keras" in capsys.readouterr().out


def test_what_cannot_be_compared(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "fit", "python", "--only", "mpl"])
    assert "must name tasks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["benchmark", "fit", str(tmp_path / "none")])
    assert "must be a Python that imports torch" in capsys.readouterr().err
