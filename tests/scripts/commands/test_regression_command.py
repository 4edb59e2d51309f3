"""The command `vantage regression`."""

import json
import re
import subprocess
import sys

import forks
import pytest
from regressions import hparams, read

from vantage.scripts.commands import regression as command


def vantage(*arguments):
    line = [sys.executable, "-m", "vantage.scripts.main", "regression", *map(str, arguments)]
    return forks.run(line, capture_output=True, text=True, timeout=120)


def test_the_command_keeps_the_run_and_never_overwrites_it(tmp_path):
    folder = tmp_path / "run"
    flags = ("target-range", "--penalty", 0, "--unlucky", "--epochs", 20, "--logdir", folder)
    done = vantage(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "the loss never moved" in done.stdout
    assert re.match(r"done: 20 epochs in .* final loss \d", done.stdout.splitlines()[-1])
    config, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary")
    )
    assert config["penalty"] == 0.0 and config["example"] == "target-range"
    assert summary["epochs"] == 20 and summary["seconds"] > 0
    assert summary["loss_moved"] is False and summary["all_below_range_at_start"] is True
    events = read(folder)
    assert [event.step for event in events.Images("predictions")] == [0, 20]
    assert [event.value for event in events.Scalars("final/loss_moved")] == [0.0]
    assert hparams(events)["unlucky"].bool_value and "logdir" not in hparams(events)
    again = vantage(*flags)
    assert again.returncode == 2
    assert "must be new or empty" in again.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must be one of target-range, arm. Received: None"),
        (["leg"], "Received: 'leg'"),
    ],
)
def test_unknown_examples(arguments, message):
    with pytest.raises(ValueError, match=message):
        command.run(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arm", "--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["arm", "--no-gradient", "--samples", "1"], "--samples must be at least 2"),
        (["target-range", "--penalty", "-1"], "--penalty must be a number >= 0. Received: -1.0"),
        (["target-range", "--seed", "-1"], "--seed must be at least 0"),
        (["arm", "--penalty", "1"], "--penalty"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.run(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_help_and_usage_errors_need_no_tensorflow():
    program = (
        "import sys; from vantage.scripts.commands import regression as r\n"
        "for words in (['--help'], ['arm', '--help'], ['leg'], ['arm', '--epochs', '0']):\n"
        "    try: r.run(words)\n"
        "    except (SystemExit, ValueError): pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
