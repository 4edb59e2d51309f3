"""House rules: who imports whom, what loads TensorFlow, how long the reading path is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vantage.agents
import vantage.envs
import vantage.scripts
import vantage.training

ROOMS = {
    name: Path(package.__file__).parent
    for name, package in {
        "agents": vantage.agents,
        "envs": vantage.envs,
        "scripts": vantage.scripts,
        "training": vantage.training,
    }.items()
}
MAY_IMPORT = {
    "training": set(),
    "envs": set(),
    "agents": {"training"},
    "scripts": {"agents", "envs", "training", "scripts"},
}
FILES = [(room, path) for room, folder in ROOMS.items() for path in sorted(folder.rglob("*.py"))]


def rooms_imported(room: str, path: Path) -> set[str]:
    """The rooms of the house that a file imports from, its own left out."""
    depth = len(path.relative_to(ROOMS[room]).parts)  # 1: directly in the room
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            assert node.level == depth + 1, f"{path}: leaves the package"
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
            found |= {name.split(".")[1] for name in names if name.startswith("vantage.")}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("vantage.")}
    return found


@pytest.mark.parametrize(("room", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(room, path):
    assert rooms_imported(room, path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(("room", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_the_library_imports_itself_relatively_and_scripts_do_as_users_do(room, path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            absolute = node.level == 0 and (node.module or "").startswith("vantage")
            assert not (absolute and room != "scripts"), f"{path}:{node.lineno}"
            assert not (node.level > 0 and room == "scripts"), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "modules",
    [
        ["vantage.training", "vantage.training.returns", "vantage.training.rollout"],
        ["vantage.training.transitions", "vantage.training.evaluation", "vantage.training.loop"],
        ["vantage.training.checkpoint", "vantage.training.writer"],
        ["vantage.agents", "vantage.agents.host", "vantage.agents.config"],
        ["vantage.envs", "vantage.envs.make", "vantage.envs.examples.arm"],
        ["vantage.scripts.main", "vantage.scripts.train", "vantage.scripts.evaluate"],
        ["vantage.scripts.regression", "vantage.scripts.gan"],
        ["vantage.scripts.check", "vantage.envs.check"],
    ],
    ids=lambda modules: modules[-1],
)
def test_loads_without_tensorflow(modules):
    code = f"import sys, {', '.join(modules)}; print('tensorflow' in sys.modules, end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False"


@pytest.mark.parametrize("package", [vantage.agents, vantage.training])
def test_every_exported_name_exists(package):
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018


def code_lines(path: Path) -> int:
    """Lines of a file that are neither blank nor part of a docstring."""
    source = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = source.splitlines()
    return sum(
        bool(line.strip()) and number not in docstrings
        for number, line in enumerate(lines, start=1)
    )


def test_the_reading_path_of_a2c_is_short(tmp_path):
    """From `act` to TensorBoard: the files that one rollout, one update and its curves execute."""
    from vantage.agents import A2C, A2CConfig
    from vantage.training import train

    executed: set[str] = set()

    class Traced(A2C):
        def explore(self, *arguments):
            sys.setprofile(lambda frame, event, _: executed.add(frame.f_code.co_filename))
            return super().explore(*arguments)

    def end(env_steps, metrics):
        sys.setprofile(None)

    envs = vantage.envs.make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = Traced(envs.single_observation_space, envs.single_action_space, A2CConfig())
    try:
        train(agent, envs, 10, logdir=tmp_path / "run", log_every=1, callbacks=[end])
    finally:
        sys.setprofile(None)
        envs.close()
    # The update runs the graph of this file, which was traced before.
    executed.add(str(ROOMS["agents"] / "distributions.py"))
    # The environment is not A2C's, nor how a record gets to a disk that may fail.
    machinery = {"events.py", "files.py", "crc32c.py"}
    counts = {
        path.name: code_lines(path)
        for room, path in FILES
        if str(path) in executed and room != "envs" and path.name not in machinery
    }
    assert {"a2c.py", "host.py", "gradients.py", "rollout.py", "loop.py", "writer.py"} <= set(
        counts
    ), "the trace saw too little"
    print(sum(counts.values()), counts)
    assert len(counts) <= 12, counts
    assert sum(counts.values()) <= 800, (sum(counts.values()), counts)


def test_code_lines_leave_out_blanks_and_docstrings_only(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text('"""Doc.\n\nMore.\n"""\n\nx = 1  # code\n# comment\n\ndef f():\n    """D."""\n')
    assert code_lines(path) == 3


def test_no_paths_of_a_machine_and_no_registry():
    root = Path(__file__).parent.parent
    words = ("/wo" + "rk/", "/ro" + "ot/", "index" + "-url", "find" + "-links", "py" + "pi.org")
    for path in [*root.glob("*.toml"), *root.glob("*.md"), *(path for _, path in FILES)]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in words), path
