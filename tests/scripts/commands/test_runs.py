"""`vantage runs`: what the table says of every state that a run's folder can be in."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import forks
import pytest
from commands import caller

from vantage.scripts.main import main
from vantage.scripts.reading.run_status import describe, is_locked
from vantage.training.runs.folder import Folder
from vantage.training.tensorboard.events import TensorBoardWriter

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
SMALL = ("--num-envs", "4", "--net-arch", "8", "--log-every", "50")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls `vantage …` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def table(out):
    """The rows by the name of the run: dicts of the columns; what is below the table last."""
    lines = [line.rstrip() for line in out.splitlines()]
    head, rows, last = lines[0], lines[1:-1], lines[-1]
    names = head.split()
    split = [re.split(r"\s{2,}", row) for row in rows]
    return {cells[0]: dict(zip(names, cells, strict=False)) for cells in split}, last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of every kind, and its evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "runs"
    train = ["train", "a2c", "CartPole-v1", *SMALL, "--total-steps", "400", "--seed", "3"]
    main([*train, "--logdir", str(folder / "agent")])
    main(["evaluate", str(folder / "agent"), "--episodes", "2"])
    line = ["regression", "target-range", "--epochs", "20"]
    main([*line, "--logdir", str(folder / "line")])
    main(["gan", "ring", "--steps", "4", "--report-every", "1", "--logdir", str(folder / "ring")])
    return folder


def test_finished_runs_of_every_kind(trained, call):
    code, out, err = call("runs", trained)
    assert (code, err) == (0, "")
    rows, last = table(out)
    assert last == f"3 runs in {trained}: 3 finished"
    assert list(rows) == ["agent", "line", "ring"]
    summary, evaluation = (
        json.loads((trained / "agent" / f"{name}.json").read_text())
        for name in ("summary", "evaluation")
    )
    assert rows["agent"] == {
        "run": "agent",
        "algorithm": "a2c",
        "environment": "CartPole-v1",
        "seed": "3",
        "status": "finished",
        "steps": f"{summary['env_steps']:,}",
        "return": f"{summary['mean_return_100']:.1f}",
        "evaluation": f"{evaluation['mean']:.1f}",
        "loss": "—",
        "time": f"{summary['seconds']:.1f} s",
    }
    assert rows["line"]["algorithm"] == "regression" and rows["line"]["steps"] == "20"
    assert rows["ring"]["algorithm"] == "gan" and rows["ring"]["environment"] == "ring"
    final = json.loads((trained / "ring" / "summary.json").read_text())["final_generator_loss"]
    assert rows["ring"]["loss"] == f"{final:.4g}" and rows["ring"]["return"] == "—"


def test_json_sorting_and_filters(trained, call):
    _, out, _ = call("runs", trained, "--json", "--sort", "steps", "--descending")
    rows = json.loads(out)
    assert [Path(row["path"]).name for row in rows] == ["agent", "line", "ring"]
    assert [row["steps"] // 10 for row in rows] == [40, 2, 0]
    assert rows[0]["seed"] == 3 and rows[0]["error"] is None and rows[1]["mean_return"] is None
    _, out, _ = call("runs", trained, "--json", "--sort", "mean_return")
    assert Path(json.loads(out)[0]["path"]).name == "agent"  # the others have none
    _, out, _ = call("runs", trained, "--json", "--algorithm", "gan", "regression")
    assert [row["environment"] for row in json.loads(out)] == ["target-range", "ring"]
    code, out, _ = call("runs", trained, "--status", "running")
    assert code == 0 and out == f"no runs that match, of 3 in {trained}\n"
    (path := Path("runs")).mkdir()
    assert call("runs")[1] == f"no runs in {path}\n"


def test_a_run_while_it_lives_after_it_was_killed_and_when_it_goes_on(call, tmp_path):
    """One real run: running, crashed by SIGKILL, running again, interrupted by SIGINT."""
    folder = tmp_path / "runs" / "one"
    words = [*SMALL, "--total-steps", "100000000", "--checkpoint-every", "5"]
    words = [VANTAGE, "train", "a2c", "CartPole-v1", *words, "--logdir", str(folder)]

    def started(*more):
        process = forks.Popen([*words, *more], stdout=forks.DEVNULL)
        before = steps()
        for _ in range(600):
            if process.poll() is not None or (steps() or 0) > (before or 0) + 500:
                break
            time.sleep(0.1)
        return process

    def steps():
        return describe(folder).steps if (folder / "config.json").exists() else None

    process = started()
    row = describe(folder)
    assert (row.status, row.algorithm, row.total_steps) == ("running", "a2c", 100_000_000)
    assert row.mean_return > 8 and row.seconds > 0
    assert "running" in call("runs")[1] and " of 100,000,000" in call("runs")[1]
    process.kill()
    process.wait()
    assert (folder / ".lock").exists()
    row = describe(folder)
    assert row.status == "crashed" and row.steps > 500 and row.mean_return > 8
    before = row.steps
    process = started("--resume")
    assert describe(folder).status == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    row = describe(folder)
    assert row.status == "interrupted" and row.steps > before
    assert not (folder / ".lock").exists()
    newest = max((folder / "checkpoints").glob("step-*"))
    later = newest.with_name(f"step-{row.steps + 1000:012d}")
    shutil.copytree(newest, later)  # as if it had gone on from here and was killed
    assert describe(folder).status == "crashed"


def test_a_lock_is_looked_at_and_not_taken(tmp_path):
    folder = Folder(tmp_path / "run", {})
    try:
        assert is_locked(folder.path) and is_locked(folder.path)
    finally:
        folder.close()
    left = tmp_path / "run" / ".lock"
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], text=True,
                          stdout=subprocess.PIPE)  # fmt: skip
    left.write_text(f"process {done.stdout.strip()} on {os.uname().nodename}")
    assert not is_locked(tmp_path / "run")
    left.write_text("")  # of a full disk: nobody is told who it is
    assert not is_locked(tmp_path / "run")


DAMAGE = {
    "no-json": ("config.json", b'{"algorithm": "a2c"'),
    "no-object": ("config.json", b"[1, 2]"),
    "bytes": ("config.json", b"\xff\xfe\x00"),
    "summary": ("summary.json", b'{"env_steps": 4'),
    "nan": ("summary.json", b'{"env_steps": NaN}'),
    "evaluation": ("evaluation.json", b"nothing"),
}


def test_damaged_runs_say_so_in_their_row(trained, tmp_path, call):
    for name, (file, content) in DAMAGE.items():
        shutil.copytree(trained / "agent", tmp_path / "all" / name)
        (tmp_path / "all" / name / file).write_bytes(content)
    shutil.copytree(trained / "agent", tmp_path / "all" / "link")
    (tmp_path / "all" / "link" / "summary.json").unlink()
    (tmp_path / "all" / "link" / "summary.json").symlink_to("/dev/zero")
    shutil.copytree(trained / "agent", tmp_path / "all" / "whole")
    code, out, err = call("runs", tmp_path / "all", "--json")
    assert (code, err) == (0, "")
    rows = {Path(row["path"]).name: row for row in json.loads(out)}
    assert {name for name, row in rows.items() if row["status"] == "damaged"} == {*DAMAGE, "link"}
    for name, (file, _) in DAMAGE.items():
        assert file in rows[name]["error"]
    assert rows["evaluation"]["steps"] >= 400  # what can be read is told
    assert rows["whole"]["status"] == "finished"
    code, out, _ = call("runs", tmp_path / "all")
    assert code == 0 and "7 damaged, 1 finished" in out and "must be a readable JSON file" in out


ODD = [
    {"seed": "[red]7", "algorithm": ["a2c"], "env_id": 5, "total_steps": True},
    {"algorithm": "[bold]mine[/]", "env_id": "[/]", "example": None},
    {"example": "unheard-of", "epochs": -3, "steps": 1e99},
    {},
]


@pytest.mark.parametrize("config", ODD, ids=range(len(ODD)))
def test_odd_configs_are_shown_as_they_are(tmp_path, call, config):
    (tmp_path / "runs" / "[odd]").mkdir(parents=True)
    (tmp_path / "runs" / "[odd]" / "config.json").write_text(json.dumps(config))
    code, out, err = call("runs")
    assert (code, err) == (0, "") and "[odd]" in out
    for value in config.values():
        if isinstance(value, str) and value.startswith("["):
            assert value in out or value == "[red]7"  # a seed is a number


def test_runs_of_event_files_only(tmp_path, call):
    writer = TensorBoardWriter(tmp_path / "runs" / "script")
    for epoch in (1, 2):
        writer.scalars(epoch, {"train/loss": 1 / epoch})
    writer.close()
    rows, last = table(call("runs")[1])
    assert rows["script"]["status"] == "unfinished" and rows["script"]["steps"] == "2"
    assert rows["script"]["loss"] == "0.5" and last == "1 run in runs: 1 unfinished"
    next((tmp_path / "runs" / "script").glob("events*")).write_bytes(b"no event")
    assert table(call("runs")[1])[0]["script"]["status"] == "unfinished"


@pytest.mark.parametrize(("end", "status"), [("success", "finished"), ("failure", "crashed")])
def test_a_fit_of_a_script_says_how_it_ended(end, status, tmp_path):
    writer = TensorBoardWriter(tmp_path / "fit")
    writer.scalars(1, {"train/loss": 0.5})
    writer.hparams_end(end)
    writer.close()
    assert describe(tmp_path / "fit").status == status
    writer = TensorBoardWriter(tmp_path / "fit")  # a second fit, which has not ended
    writer.scalars(2, {"train/loss": 0.4})
    writer.close()
    assert describe(tmp_path / "fit").status == "unfinished"


def test_hundreds_of_runs_are_listed_at_once(trained, tmp_path):
    """Without TensorFlow, TensorBoard or a look into the event files."""
    for number in range(300):
        shutil.copytree(
            trained / "agent",
            tmp_path / "runs" / f"{number}",
            ignore=shutil.ignore_patterns("*.safetensors"),
        )
    code = (
        "import sys, time; from vantage.scripts.main import main; main(['runs'])\n"
        "print(time.process_time(), {'tensorflow', 'tensorboard', 'keras'} & set(sys.modules))"
    )
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 0, done.stderr
    *rows, last, took = done.stdout.splitlines()
    assert len(rows) == 301 and last == "300 runs in runs: 300 finished"
    assert rows[1].startswith("0 ") and rows[-1].startswith("299 ")
    assert took.endswith("set()") and float(took.split()[0]) < 3


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere"], ["'nowhere'", "not there"]),
        ([], ["'runs'", "not there"]),
        (["file"], ["'file'", "a file"]),
        ([".", "--sort", "colour"], ["colour", "'mean_return'"]),
        ([".", "--status", "happy"], ["happy", "'crashed'"]),
        ([".", "other"], ["other", "--help"]),
        ([".", "--limit", "3"], ["--limit", "--help"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused(call, tmp_path, arguments, parts):
    (tmp_path / "file").touch()
    code, _, err = call("runs", *arguments)
    last = err.rstrip("\n").splitlines()[-1]
    assert code == 2 and re.fullmatch(r"error: .{15,} Received: .+[.)] \S.{8,}", last), last
    for part in parts:
        assert part in last, last
