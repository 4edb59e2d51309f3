"""What users have typed works on: exported names, imports in the documentation, flags.

`public_names.json` lists them as they were before the code was divided into rooms; lists of words
are broken into lines. A name that is taken away on purpose leaves the file as well.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from vantage.scripts.main import main

BEFORE = json.loads(Path(__file__).with_name("public_names.json").read_text(encoding="utf-8"))


def words(lines):
    return set(" ".join(lines).split())


@pytest.mark.parametrize("package", BEFORE["exported"])
def test_exported_names(package):
    exported = importlib.import_module(package).__all__
    assert words(BEFORE["exported"][package]) - set(exported) == set()


def test_names_that_the_documentation_imports():
    missing = []
    for name in words(BEFORE["documented"]):
        module, _, attribute = name.rpartition(".")
        if not hasattr(importlib.import_module(module), attribute):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("command", BEFORE["flags"])
def test_flags(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code in (None, 0)
    shown = set()
    for line in capsys.readouterr().out.splitlines():
        if names := re.match(r"[│\s]*(-.*?)(  |│|$)", line):  # the first column of a flag's line
            shown |= set(re.findall(r"--[a-z][a-z-]*", names[1]))
    assert words(BEFORE["flags"][command]) - shown == set()
