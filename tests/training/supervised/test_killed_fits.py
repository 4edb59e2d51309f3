"""Fits in processes that are killed: resumed until they end, they have the bits of whole ones."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[2] / "support" / "killed_fits.py"


def run(kind, folder, result, kills, generator):
    """Runs the program until it has ended, and kills it as often, each time a bit after a step."""
    killed = 0
    while True:
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), kind, str(folder), str(result)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            before = newest(folder)
            while killed < kills and process.poll() is None and newest(folder) == before:
                time.sleep(0.01)
            if killed < kills and process.poll() is None:
                time.sleep(generator.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
                killed += 1
            error = process.stderr.read().decode()
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(error)
        if process.returncode == 0:
            return killed


def newest(folder):
    """What tells that another checkpoint was written."""
    times = [path.stat().st_mtime_ns for path in Path(folder).glob("checkpoints/step-*")]
    return max(times, default=0)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("trainer", 1),
        pytest.param("trainer", 17, marks=pytest.mark.slow),
        pytest.param("regression", 17, marks=pytest.mark.slow),
        pytest.param("gan", 17, marks=pytest.mark.slow),
    ],
)
def test_a_killed_fit_ends_with_the_same_bits(kind, kills, tmp_path):
    generator = np.random.default_rng(kills)
    run(kind, tmp_path / "whole", tmp_path / "wanted", 0, generator)
    assert run(kind, tmp_path / "killed", tmp_path / "found", kills, generator) >= min(kills, 1)
    assert (tmp_path / "found").read_text() == (tmp_path / "wanted").read_text()
