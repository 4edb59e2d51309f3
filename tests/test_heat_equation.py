"""A physics-informed network, in few lines, finds a solution that is known."""

import ast
import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[1] / "examples" / "heat_equation.py"


def test_it_solves_the_equation():
    spec = importlib.util.spec_from_file_location("heat_equation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() < 1e-2


def test_model_equation_and_training_take_20_lines():
    nodes = ast.parse(PATH.read_text(encoding="utf-8")).body
    (solve,) = (node for node in nodes if getattr(node, "name", "") == "solve")
    begin = solve.body[1].lineno  # after the docstring
    lines = PATH.read_text(encoding="utf-8").splitlines()[begin - 1 : solve.end_lineno]
    written = [line for line in lines if line.strip()]
    assert next(i for i, line in enumerate(written) if "step(inputs, values)" in line) < 20
