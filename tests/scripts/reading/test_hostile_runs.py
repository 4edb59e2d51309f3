"""Run folders of strangers, and of failing disks: each is one line that says what is odd, and the
commands show all others. No TensorFlow is needed for that."""

import json
import os
import socket
import struct
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from vantage.scripts.reading.curves import RETURNS, read_curves
from vantage.scripts.reading.run_folders import find_runs
from vantage.scripts.reading.run_status import describe
from vantage.training.storage.crc32c import masked_crc32c
from vantage.training.tensorboard.events import EventFile

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
CONFIG = {"algorithm": "a2c", "env_id": "CartPole-v1", "seed": 0, "total_steps": 100}
NAME = "events.out.tfevents.1.host.1.0"


def record(data, checksum=None):
    size = struct.pack("<Q", len(data))
    parts = ((size, masked_crc32c(size)), (data, checksum or masked_crc32c(data)))
    return b"".join(part + struct.pack("<I", check) for part, check in parts)


def event(step, value=1.0, tag=RETURNS, wall=None, **more):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    wall = float(step) if wall is None else wall
    return record(Event(wall_time=wall, step=step, summary=summary, **more).SerializeToString())


HEAD = record(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
POINTS = HEAD + b"".join(map(event, range(10)))
START = record(Event(step=4, session_log=SessionLog(status=SessionLog.START)).SerializeToString())


def write(folder, events=POINTS, config=CONFIG, **files):
    folder.mkdir(parents=True)
    if events is not None:
        (folder / NAME).write_bytes(events)
    if config is not None:
        content = config if isinstance(config, bytes) else json.dumps(config).encode()
        (folder / "config.json").write_bytes(content)
    for name, content in files.items():
        (folder / f"{name}.json").write_bytes(content)
    return folder


def listening(path):
    """A socket; its path must be short, so it is bound from its folder."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as served:
            served.bind(path.name)
    finally:
        os.chdir(here)


PLACED = {
    "pipe": os.mkfifo,
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "gone": lambda path: path.symlink_to("nowhere"),
}
PLACES = {
    "config": "config.json",
    "summary": "summary.json",
    "evaluation": "evaluation.json",
    "lock": ".lock",
    "events": NAME,
}
ENTRIES = {
    "seed": {"seed": 10**400},
    "steps": {"total_steps": 10**3000},
    "deep": b"[" * 100_000,
    "latin-1": '{"env_id": "Pénible-v0"}'.encode("latin-1"),
    "nul": b"\0" * 1_000,
}
DAMAGED = {
    "events of noise": HEAD + np.random.default_rng(0).bytes(1_000),
    "events cut short in the middle": POINTS + record(b"abc", checksum=7) + event(99),
    "no event": POINTS + record(b"\xff" * 50),
    "2^62 bytes": POINTS + struct.pack("<QI", 2**62, 5) + b"x" * 100,
}
WHOLE = {
    "²": {},
    "seed-²-10": {},
    "٣": {},
    "step-²": {},
    "x" * 250: {},
    os.fsdecode(b"\xff\xfe"): {},
    "new\nline": {},
    "[red]:dog:[bold]": {},
    "cut in a record": {"events": POINTS[:-3]},
    "2^40 bytes that are not there": {"events": POINTS + struct.pack("<QI", 2**40,
        masked_crc32c(struct.pack("<Q", 2**40)))},
    "huge": {"events": HEAD + event(2**63 - 1) + event(-(2**63), 2.0, wall=-1e308)},
    "not finite": {"events": POINTS + event(11, float("inf")) + event(12, wall=float("nan"))},
    "of other types": {"config": {"algorithm": {"a": 1}, "env_id": [1], "seed": "x", "config": 3}},
    "utf-16": {"config": json.dumps(CONFIG).encode("utf-16")},
    "a long name": {"config": {**CONFIG, "env_id": "x" * 10**6}},
    "\x1b]0;title\x07": {"config": {**CONFIG, "env_id": "\x1b[31mred\x9b", "algorithm": "\u202e"}},
    "a tag": {"events": POINTS + event(1, tag="\x1b]52;c;x\x07")},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of all these kinds."""
    top = tmp_path_factory.mktemp("top") / "runs"
    for kind, place in PLACED.items():
        for file, name in PLACES.items():
            run = write(top / f"{kind} as {file}", None if file == "events" else POINTS)
            (run / name).unlink(missing_ok=True)
            place(run / name)
    for name, content in ENTRIES.items():
        write(top / f"config {name}", config=content)
    write(top / "summary of 1e999", summary=b'{"env_steps": 3, "seconds": 1e999}')
    write(
        top / "summary of 10^400",
        summary=b'{"env_steps": 3, "mean_return_100": 1%s}' % (b"0" * 400),
    )
    write(top / "summary of a list", summary=b"[1]")
    for name, events in DAMAGED.items():
        write(top / name, events)
    for name, files in WHOLE.items():
        write(top / "whole" / name, **files)
    (top / "whole" / "up").symlink_to(top)
    return top


def called(*arguments, rows=0):
    options = {"capture_output": True, "timeout": 120, "env": {**os.environ, "COLUMNS": "200"}}
    done = subprocess.run([VANTAGE, *map(str, arguments)], **options)
    out, err = (text.decode("utf-8") for text in (done.stdout, done.stderr))
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(out + err)
    assert "Traceback" not in err
    return done.returncode, out, err


def test_a_table_of_all(folder):
    code, out, err = called("runs", folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    odd = len(PLACED) * len(PLACES) + len(ENTRIES) + 3 + len(DAMAGED)
    assert len(lines) == 2 + odd + len(WHOLE)
    assert f"{odd} damaged" in lines[-1], lines[-1]
    code, out, _ = called("runs", folder, "--json")
    rows = {Path(row["path"]).name: row for row in json.loads(out)}
    assert code == 0 and len(rows) == odd + len(WHOLE)
    for name in WHOLE:
        assert rows[name]["status"] in ("crashed", "unfinished"), rows[name]
        assert rows[name]["error"] is None
    for name in DAMAGED:
        assert NAME in rows[name]["error"] and rows[name]["status"] == "damaged"
    assert rows["no event"]["mean_return"] == 1.0  # what can be read is said
    for kind in PLACED:
        for file, name in PLACES.items():
            error = rows[f"{kind} as {file}"]["error"]
            assert name in error, error


def test_curves_of_all(folder, tmp_path):
    pytest.importorskip("matplotlib")
    output = ("--output", tmp_path / "curves.png", "--terminal")
    code, out, err = called("plot", folder, *output, "--group-by", "env_id")
    assert code == 0, err
    assert (tmp_path / "curves.png").exists() and "CartPole-v1" in out
    for name in [*DAMAGED, "pipe as events", "device as config"]:
        assert f"note: {folder / name}: " in err
    code, out, err = called("plot", folder, "--tag", "*", "--x", "seconds", "--group-by", "run")
    assert code == 0 and "\\x1b]52;c;x\\x07" in out


def test_formulas_in_names_are_none(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path / "run", config={**CONFIG, "env_id": r"$\frac{"})
    assert called("plot", tmp_path, "--output", tmp_path / "curves.png")[0] == 0


def test_unreadable_folders_are_lines(tmp_path):
    """Whoever is root may read everything, so the error is made here."""
    (top := write(tmp_path / "runs" / "run").parent).joinpath("closed").mkdir()
    (top / "closed").chmod(0)
    found = [path.name for path in find_runs([top])]
    if os.geteuid():
        assert found == ["closed", "run"] and describe(top / "closed").status == "damaged"
    gone = describe(top / "gone")
    assert gone.status == "damaged" and gone.error


def test_points_are_forgotten_as_tensorboard_forgets_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    old = record(Event(wall_time=1.0, file_version="brain.Event:1").SerializeToString())
    steps = [1, 2, 5, 6, 3, 4, 4, 9]
    for name, head in {"new": HEAD, "old": old}.items():
        run = write(
            tmp_path / name, head + b"".join(event(s, i) for i, s in enumerate(steps)) + START
        )
        (run / "events.out.tfevents.2.host").write_bytes(head + b"".join(map(event, (4, 5))))
        accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
        accumulator.Reload()
        expected = sorted(
            (p.step, p.wall_time - 1.0, p.value) for p in accumulator.Scalars(RETURNS)
        )
        assert (
            sorted(zip(*map(np.ndarray.tolist, read_curves(run)[RETURNS]), strict=True)) == expected
        )


@pytest.mark.thinned
@pytest.mark.parametrize("command", ["evaluate", "watch"])
@pytest.mark.parametrize(
    "name", ["pipe as config", "device as config", "config deep", "whole/of other types"]
)
def test_other_commands_refuse_them(folder, command, name):
    code, _, err = called(command, folder / name)
    assert code == 2 and err.splitlines()[-1].startswith("error: ")


def test_an_event_file_is_the_newest_whatever_lies_beside_it(tmp_path):
    for word in ("²", "9" * 200, "-1", ""):
        (tmp_path / f"events.out.tfevents.{word}.host").touch()
    EventFile(tmp_path).close()
    assert len(list(tmp_path.glob("*.vantage"))) == 1
