"""House rules: who imports whom, and what loads TensorFlow."""

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
        [
            "vantage.training",
            "vantage.training.experience.returns",
            "vantage.training.experience.rollout",
        ],
        [
            "vantage.training.experience.transitions",
            "vantage.training.experience.evaluation",
            "vantage.training.runs.loop",
        ],
        ["vantage.training.storage.checkpoint", "vantage.training.tensorboard.writer"],
        ["vantage.agents", "vantage.agents.acting.host", "vantage.agents.configs.config"],
        ["vantage.envs", "vantage.envs.make", "vantage.envs.examples.arm"],
        [
            "vantage.scripts.main",
            "vantage.scripts.commands.train",
            "vantage.scripts.commands.evaluate",
        ],
        ["vantage.scripts.commands.regression", "vantage.scripts.commands.gan"],
        ["vantage.scripts.commands.check", "vantage.envs.checking.check"],
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


def test_no_paths_of_a_machine_and_no_registry():
    root = Path(__file__).parent.parent
    words = ("/wo" + "rk/", "/ro" + "ot/", "index" + "-url", "find" + "-links", "py" + "pi.org")
    for path in [*root.glob("*.toml"), *root.glob("*.md"), *(path for _, path in FILES)]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in words), path
