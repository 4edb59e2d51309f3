"""Every block of code in the README and the docs runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from commands import caller

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


def shortened(code):
    """With fewer steps, epochs, episodes and measurements."""
    code = re.sub(r"\b[1-9]\d+_000\b", lambda n: "1_000" if n[0] == "10_000" else "2_000", code)
    for word, most in (("epochs", 20), ("episodes", 10), ("number", 10), ("repeat", 1)):
        code = re.sub(rf"\b{word}=[\d_]+", f"{word}={most}", code)
    return code


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("language", "code"), of("python"))
def test_python(language, code, is_whole, tmp_path):
    """What is whole has a process from the start, as what it sets for its imports may need."""
    script = tmp_path / "block.py"
    script.write_text(code if is_whole else shortened(code))
    run = subprocess.run if is_whole else forks.run
    command = [sys.executable, "-W", "error", str(script)]
    done = run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize(("language", "code"), of("bash"))
def test_bash(language, code, capsys):
    """Commands exist and their flags are known; the installing ones are run by .ci/run."""
    call = caller(capsys)
    for line in re.sub(r"\\\n", " ", code).splitlines():
        for command in line.split("#")[0].split("&&"):
            words = shlex.split(command)
            if not words or not words[0].endswith("vantage"):
                continue
            assert words[1] in COMMANDS
            cut = words.index("--") if "--" in words else len(words)
            status, out, err = call(*words[1:cut], "--help")
            assert status == 0, err
            known = set(re.findall(r"--[a-z-]+", out))
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
