"""Every block of code in the README and the docs runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vantage.agents
import vantage.envs
import vantage.training
from vantage.scripts.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(language, code, id=f"{page.name}-{number}-{language}")
    for page in PAGES
    for number, (language, code) in enumerate(
        re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    )
]


def of(language):
    return [block for block in BLOCKS if block.values[0] == language]


@pytest.mark.parametrize(("language", "code"), of("python"))
def test_python(language, code, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(code)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize(("language", "code"), of("bash"))
def test_bash(language, code):
    """Commands exist and their flags are known; the installing ones are run by .ci/run."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        for command in line.split("#")[0].split("&&"):
            words = shlex.split(command)
            if not words or not words[0].endswith("vantage"):
                continue
            assert words[1] in COMMANDS
            cut = words.index("--") if "--" in words else len(words)
            done = subprocess.run(
                [sys.executable, "-m", "vantage.scripts.main", *words[1:cut], "--help"],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            known = set(re.findall(r"--[a-z-]+", done.stdout))
            assert {w.split("=")[0] for w in words[:cut] if w.startswith("--")} <= known, command


def test_only_languages_that_are_tested():
    assert {block.values[0] for block in BLOCKS} <= {"python", "bash"}


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("package", [vantage.agents, vantage.envs, vantage.training])
def test_reference_holds_every_public_name(package):
    name = package.__name__
    page = ROOT / "docs" / "reference" / f"{name.split('.')[1]}.md"
    listed = re.findall(rf"^::: {name}\.(\w+)$", page.read_text(encoding="utf-8"), re.M)
    assert set(package.__all__) <= set(listed)
