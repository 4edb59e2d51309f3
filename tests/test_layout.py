"""House rules: who imports whom, and what loads TensorFlow."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vantage.agents
import vantage.envs
import vantage.scripts
import vantage.training

PACKAGES = [vantage.training, vantage.envs, vantage.agents, vantage.scripts]
HOUSE = {package.__name__.removeprefix("vantage."): package for package in PACKAGES}
FILES = {
    (name, *path.relative_to(folder).with_suffix("").parts): path
    for name, package in HOUSE.items()
    for folder in [Path(package.__file__).parent]
    for path in sorted(folder.rglob("*.py"))
}
"""Every file by the parts of its module's name."""

TABLE = """
training.common
training.core         training.common
training.bridges      training.core
training.physics
training.storage
training.tensorboard  training.storage
training.experience   training.common training.storage
training.monitoring   training.common training.storage training.tensorboard training.experience
training.supervised   training.common training.core training.storage training.tensorboard
                      training.experience training.monitoring training.runs
training.optimization training.common training.core training.monitoring
training.adversarial  training.common training.core training.storage training.tensorboard
                      training.monitoring training.supervised
training.runs         training.common training.storage training.tensorboard training.experience
                      training.monitoring
training              training.monitoring

envs.common
envs.resuming         envs.common
envs.vector           envs.common envs.resuming
envs.native           envs.common envs.resuming
envs.examples
envs                  envs.common envs.vector envs.native
envs.checking         envs envs.common envs.vector

agents.configs        training.common
agents.acting         agents.configs training.experience
agents.networks       agents.configs agents.acting training.core training.experience
agents.base           agents.configs agents.acting agents.networks training.common training.core
                      training.storage training.experience training.runs
agents                agents.configs agents.acting agents.networks agents.base training.common
                      training.core training.experience

scripts.cli           agents.configs envs training.common
scripts.reading       scripts.cli agents.configs agents.acting agents.base training.common
                      training.storage training.runs
scripts.examples      agents envs envs.examples training training.core
scripts.benchmarks    scripts.cli scripts.reading scripts.examples agents.configs agents envs
                      training.common training.storage training.experience training.monitoring
                      training.runs training
scripts.fits          scripts.cli scripts.benchmarks training training.common training.storage
                      training.runs
scripts.physics       scripts.cli scripts.benchmarks training training.common training.storage
                      training.runs
scripts.commands      scripts.cli scripts.reading scripts.examples scripts.benchmarks
                      scripts.fits scripts.physics agents.configs agents.acting envs training.common
                      training.storage training.tensorboard training.monitoring training.runs
                      training
scripts.documentation scripts.cli agents envs training
scripts               scripts.cli envs.vector training.common
"""
"""Each room and the rooms that its files import. What `__init__` exports does not count, for it is
imported when first used."""


def _table() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for line in filter(None, TABLE.splitlines()):
        words = line.split()
        if not line.startswith(" "):
            room, *words = words
            rooms[room] = set()
        rooms[room] |= set(words)
    return rooms


ARROWS = _table()


def room_of(module: tuple[str, ...]) -> str:
    """The room in which a module stands; a package is a room itself."""
    return ".".join(module if (*module, "__init__") in FILES else module[:-1])


def imported(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The modules of the house that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom):
            start = module[: len(module) - node.level] if node.level else ()
            assert node.level <= len(module), f"{FILES[module]}: leaves the package"
            source = (*start, *(node.module or "").split(".")) if node.module else start
            names = [(*source, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        for name in names:
            if name[0] == "vantage":
                name = name[1:]
            elif not (isinstance(node, ast.ImportFrom) and node.level):
                continue
            while name not in FILES and (*name, "__init__") not in FILES:
                name = name[:-1]  # something that the module defines
            found.add(name)
    return found


def test_rooms_import_what_the_table_says():
    used: dict[str, set[str]] = {room_of(module): set() for module in FILES}
    for module in FILES:
        if module[-1] != "__init__":
            used[room_of(module)] |= {room_of(other) for other in imported(module)}
    assert {room: others - {room} for room, others in used.items()} == ARROWS


def test_no_two_rooms_reach_each_other():
    TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_no_file_reaches_itself():
    files = {
        module: {other for other in imported(module) if other in FILES}
        for module in FILES
        if module[-1] != "__init__"
    }
    TopologicalSorter(files).prepare()  # raises CycleError


def test_rooms_are_small():
    sizes = Counter(room_of(module) for module in FILES if module[-1] != "__init__")
    assert max(sizes.values()) <= 16, sizes


def test_every_room_says_what_it_is_for_and_is_installed():
    project = Path(__file__).parents[1] / "pyproject.toml"
    packages = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(f"vantage.{room}" for room in ARROWS)
    for room in ARROWS:
        assert importlib.import_module(f"vantage.{room}").__doc__, room


def test_the_reading_list_tells_its_length():
    root = Path(__file__).parents[1]
    text = (root / "README.md").read_text(encoding="utf-8").partition("## Read these files")[2]
    text = text.partition("\n## ")[0]
    said = int(re.search(r"about ([\d,]+) lines", text)[1].replace(",", ""))
    paths = re.findall(r"\]\(([\w/]+\.py)\)", text)
    lines = sum(len((root / path).read_text(encoding="utf-8").splitlines()) for path in paths)
    assert abs(lines - said) < 0.1 * lines, lines


def test_the_page_on_architecture_shows_every_room():
    page = Path(__file__).parents[1] / "docs" / "architecture.md"
    drawn, house = set(), ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r" {4}( {0,2})(\w+)/( |$)", line):
            house = house if found[1] else found[2]
            drawn.add(f"{house}.{found[2]}" if found[1] else house)
    assert drawn == set(ARROWS)


@pytest.mark.parametrize("module", FILES, ids=".".join)
def test_the_library_imports_itself_relatively_and_scripts_do_as_users_do(module):
    room, path = module[0], FILES[module]
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
    for path in [*root.glob("*.toml"), *root.glob("*.md"), *FILES.values()]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in words), path
