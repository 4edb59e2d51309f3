"""Training on a disk that fails, in a folder that others want, in a process that is stopped."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import sysconfig
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import forks
import gymnasium as gym
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.scripts.commands.train import _new_logdir
from vantage.scripts.main import main
from vantage.training import train
from vantage.training.runs.folder import Folder, find_checkpoint
from vantage.training.storage import files
from vantage.training.storage.files import Tolerance
from vantage.training.tensorboard.events import EventFile

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
FULL = errno.ENOSPC
OTHERS = (errno.EROFS, errno.EIO)  # which nothing tells from the errors of the default run
STEPS = 603  # those of autoresets do not count
SECOND, LAST = "step-000000000194", f"step-{STEPS:012d}"  # of 6 checkpoints
ABOUT = 8  # records that say what a run is: settings, layout, four texts, graph, and its end


N, CONFIG = 4, A2CConfig(net_arch=(8,))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Three failures in a row are an error, however fast."""
    monkeypatch.setattr(files, "PATIENCE", 0.0)


def trained(folder, **options):
    """The summary of 30 updates of 20 steps; saves after 5, 10, … updates and at the end."""
    envs = make_vec("CartPole-v1", N, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    agent = A2C(*spaces, CONFIG, seed=0)
    options = {"log_every": 20, "checkpoint_every": 5, "histograms_every": 0} | options
    return train(agent, envs, 600, logdir=folder, **options)


def points(folder):
    """`{tag: [(step, value), …]}` as TensorBoard reads them, without what the clock says."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("time/")
    }


def assert_whole_records(folder):
    """Every event file ends where a record does; the number of records."""
    count = 0
    for path in Path(folder).glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            at += 8 + 4 + int.from_bytes(data[at : at + 8], "little") + 4
            count += 1
        assert at == len(data), path
    return count


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    summary = trained(folder)
    return summary, points(folder), folder


class Disk:
    """Calls of `os` that fail as `fails(call, path)` says: with an error's number, or None."""

    def __init__(self, monkeypatch, fails):
        self.fails, self.paths = fails, {}
        for name in ("open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace"):
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(first, *args, **keywords):
            path = self.paths.get(first, "") if isinstance(first, int) else str(first)
            number = self.fails(name, path)
            if number is not None:
                if name == "write":  # a part of it is on the disk already
                    real(first, bytes(args[0])[: len(args[0]) // 2])
                raise OSError(number, os.strerror(number), path)
            result = real(first, *args, **keywords)
            if name == "open":
                self.paths[result] = path
            return result

        return call


def saves(where, which, note=lambda: None):
    """Fails at a certain call of certain saves, counted from 1."""
    call, file = where
    count = 0

    def fails(name, path):
        nonlocal count
        count += name == "mkdir" and "/.step-" in path
        if count in which and name == call and "/.step-" in path and path.endswith(file):
            note()
            return FULL
        return None

    return fails


WHERE = [("mkdir", ""), ("write", "tensors.safetensors"), ("fsync", "manifest.json"),
         ("rename", "")]  # fmt: skip


@pytest.mark.parametrize("where", WHERE, ids=lambda where: where[0])
def test_a_save_that_fails_once_disturbs_nothing(tmp_path, monkeypatch, undisturbed, where):
    found = []

    def note():
        found.append(find_checkpoint(tmp_path / "run").path.name)

    Disk(monkeypatch, saves(where, {3}, note))
    with pytest.warns(RuntimeWarning) as caught:
        summary = trained(tmp_path / "run")
    (warning,) = caught
    assert "Saving a checkpoint failed" in str(warning.message)
    assert "No space left on device" in str(warning.message)
    assert found == [SECOND]
    assert summary["weights_sha256"] == undisturbed[0]["weights_sha256"]
    assert points(tmp_path / "run") == undisturbed[1]
    assert find_checkpoint(tmp_path / "run").path.name == LAST
    assert not [p for p in (tmp_path / "run").rglob(".*")]


def test_the_last_save_is_tried_again(tmp_path, monkeypatch, undisturbed):
    Disk(monkeypatch, saves(("mkdir", ""), {6, 7}))  # after update 30, and at the end
    with pytest.warns(RuntimeWarning, match="Saving a checkpoint failed") as caught:
        summary = trained(tmp_path / "run")
    assert len(caught) == 2
    assert summary["weights_sha256"] == undisturbed[0]["weights_sha256"]
    assert find_checkpoint(tmp_path / "run").path.name == LAST


@pytest.mark.parametrize("call", ["write", "replace"])
def test_the_summary_is_tried_again(tmp_path, monkeypatch, call):
    failures = []

    def fails(name, path):
        if name == call and "/.summary.json" in path and not failures:
            failures.append(path)
            return FULL
        return None

    Disk(monkeypatch, fails)
    with pytest.warns(RuntimeWarning, match="No space left") as caught:
        summary = trained(tmp_path / "run")
    assert len(caught) == 1 and len(failures) == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EACCES, *(pytest.param(e, marks=pytest.mark.slow) for e in OTHERS)],
)
def test_the_third_failure_in_a_row_is_an_error(tmp_path, monkeypatch, undisturbed, number):
    count = 0

    def fails(name, path):
        nonlocal count
        count += name == "mkdir" and "/.step-" in path
        return number if count > 2 and "/checkpoints" in path else None

    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning) as caught:
        Disk(patch, fails)
        with pytest.raises(OSError) as error:
            trained(tmp_path / "run")
    assert len(caught) == 2
    text = str(error.value)
    assert error.value.errno == number and "\n" not in text
    assert "Saving a checkpoint must not fail 3 times in a row. Received: " in text
    assert os.strerror(number) in text and "--resume" in text
    assert find_checkpoint(tmp_path / "run").path.name == SECOND
    summary = trained(tmp_path / "run", resume=True)
    assert summary["weights_sha256"] == undisturbed[0]["weights_sha256"]
    assert points(tmp_path / "run") == undisturbed[1]


def curves(which, folder, truncating=True):
    """Fails at certain writes to an event file, counted from 1."""
    count = 0

    def fails(name, path):
        nonlocal count
        if "tfevents" not in path:
            return None
        if name == "ftruncate":
            return None if truncating else FULL
        if name == "write":
            if truncating:
                assert_whole_records(folder)
            count += 1
            return FULL if count in which else None
        return None

    return fails


@pytest.mark.thinned
@pytest.mark.parametrize("truncating", [True, False])
@pytest.mark.parametrize("which", [{1}, {7}, {8, 9}, {31}], ids=str)  # 31: the last point of all
def test_no_point_is_lost_by_a_disk_that_recovers(
    tmp_path, monkeypatch, undisturbed, which, truncating
):
    Disk(monkeypatch, curves(which, tmp_path / "run", truncating))
    with pytest.warns(RuntimeWarning, match="Writing the curves failed .*No space left") as caught:
        summary = trained(tmp_path / "run", checkpoint_every=20)
    assert len(caught) == len(which)
    assert points(tmp_path / "run") == undisturbed[1]
    assert assert_whole_records(tmp_path / "run") == 32 + ABOUT  # version, points, diagnosis
    assert summary["weights_sha256"] == undisturbed[0]["weights_sha256"]


def test_the_third_failure_of_the_curves_is_an_error(tmp_path, monkeypatch, undisturbed):
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning) as caught:
        Disk(patch, curves(range(14 + ABOUT - 1, 10**6), tmp_path / "run"))
        with pytest.raises(OSError) as error:
            trained(tmp_path / "run", checkpoint_every=10)
    said = [str(warning.message) for warning in caught]
    assert [text[:26] for text in said[:2]] == ["Writing the curves failed "] * 2
    assert len(said) == 3 and "The last points of the curves are lost" in said[2]
    text = str(error.value)
    assert "Writing the curves must not fail 3 times in a row. Received: No space left" in text
    assert "\n" not in text and error.value.errno == FULL
    assert assert_whole_records(tmp_path / "run") == 13 + ABOUT - 1  # without its end
    assert find_checkpoint(tmp_path / "run").path.name == SECOND
    summary = trained(tmp_path / "run", resume=True, checkpoint_every=10)
    assert summary["weights_sha256"] == undisturbed[0]["weights_sha256"]
    assert points(tmp_path / "run") == undisturbed[1]


def test_an_event_file_on_a_disk_that_is_full_for_good_is_closed(tmp_path, monkeypatch):
    """Its end does not hide what ended the run."""
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning) as caught:
        Disk(patch, curves(range(1, 100), tmp_path))
        events = EventFile(tmp_path)
        with pytest.raises(KeyError):
            try:
                raise KeyError("what ended the run")
            finally:
                events.close()
    assert len(caught) == 2
    assert assert_whole_records(tmp_path) == 0


@pytest.mark.parametrize("error", [OSError("no number"), PermissionError(errno.EACCES, "denied")])
def test_the_error_tells_what_failed(error):
    tolerance = Tolerance("Saving")
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="Saving failed"):
            tolerance.failed(error)
    with pytest.raises(type(error), match=r"Saving must not fail 3 times.*(no number|denied)"):
        tolerance.failed(error)
    with pytest.warns(RuntimeWarning):
        tolerance.succeeded()
        tolerance.failed(error)


def test_a_disk_that_fails_for_a_moment_ends_no_fast_run(monkeypatch):
    """Three failures within milliseconds are one; over some seconds they are an error."""
    now = [100.0]
    monkeypatch.setattr(files, "PATIENCE", 10.0)
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    tolerance, full = Tolerance("Saving"), OSError(errno.ENOSPC, "No space left on device")
    with pytest.warns(RuntimeWarning) as caught:
        for _ in range(1_000):
            now[0] += 0.009
            tolerance.failed(full)
    assert len(caught) == 10  # not a thousand
    now[0] += 2.0
    with pytest.raises(OSError, match="No space left on device, 1001 times within 11 s"):
        tolerance.failed(full)
    tolerance.succeeded()
    with pytest.warns(RuntimeWarning):
        tolerance.failed(full)
        now[0] += 60.0
        tolerance.failed(full)  # two are few
    with pytest.raises(OSError):
        tolerance.failed(full)


def test_a_run_stays_in_its_folder_wherever_the_process_goes(tmp_path, monkeypatch):
    class Wandering(gym.Wrapper):
        def step(self, action):
            os.makedirs("elsewhere", exist_ok=True)
            os.chdir("elsewhere")
            return super().step(action)

    monkeypatch.chdir(tmp_path)
    envs = make_vec(lambda: Wandering(gym.make("CartPole-v1")), 2, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, seed=0)
    options = {"evaluate_every": 20, "evaluation_envs": make_vec("CartPole-v1", 2)}
    train(agent, envs, 40, logdir="run", checkpoint_every=1, **options)
    assert sorted(path.name for path in tmp_path.rglob("summary.json")) == ["summary.json"]
    assert {"config.json", "summary.json", "checkpoints"} <= set(os.listdir(tmp_path / "run"))
    assert "best" in os.listdir(tmp_path / "run" / "checkpoints")


def test_a_folder_that_is_renamed_is_followed(tmp_path):
    moved = []

    def move(steps, metrics):
        if not moved:
            os.rename(tmp_path / "run", tmp_path / "moved")
            (tmp_path / "run").mkdir()  # of somebody else
            (tmp_path / "run" / "mine").write_text("keep")
            moved.append(steps)

    with pytest.warns(RuntimeWarning, match="was renamed: the run continues in .*moved"):
        trained(tmp_path / "run", callbacks=[move], checkpoint_every=5)
    assert os.listdir(tmp_path / "run") == ["mine"]
    assert not list((tmp_path / "moved").glob(".*"))
    summary = json.loads((tmp_path / "moved" / "summary.json").read_text())
    assert find_checkpoint(tmp_path / "moved").path.name == f"step-{summary['env_steps']:012d}"


def test_a_folder_that_is_deleted_is_told_of(tmp_path):
    def delete(steps, metrics):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.warns(RuntimeWarning), pytest.raises(OSError, match="folder of the run is gone"):
        trained(tmp_path / "run", callbacks=[delete], checkpoint_every=5)
    assert not (tmp_path / "run").exists()


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["settings", "network", "environments", "number of them"])
def test_a_resume_that_is_refused_changes_nothing(tmp_path, undisturbed, kind):
    shutil.copytree(undisturbed[2], tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    shutil.rmtree(newest)  # the curves go further than the one before
    for name in ("events.out.tfevents.1.mine", "checkpoints/.mine", ".notes.json.bak"):
        (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path / "run")
    count = 5 if kind == "number of them" else N
    env_id = "Acrobot-v1" if kind == "environments" else "CartPole-v1"
    envs = make_vec(env_id, count, seed=0)
    config = replace(CONFIG, gamma=0.5) if kind == "settings" else CONFIG
    config = replace(CONFIG, net_arch=(9,)) if kind == "network" else config
    spaces = envs.single_observation_space, envs.single_action_space
    if kind == "environments":  # the agent fits, they do not
        spaces = make_vec("CartPole-v1", 1).single_observation_space, gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match="Received"):
        train(A2C(*spaces, config, seed=0), envs, 10**4, logdir=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
    trained(tmp_path / "run", resume=True)  # and files of others are left alone by one that may
    for name in ("events.out.tfevents.1.mine", "checkpoints/.mine", ".notes.json.bak"):
        assert (tmp_path / "run" / name).read_text() == "mine"


def test_commands_that_start_at_once_take_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: _new_logdir("a2c", "a/B-v0", 3), range(16)))
    names = sorted(f"a2c-a-B-v0-seed3-{n}" for n in range(1, 17))
    assert sorted(path.name for path in made) == names
    assert all(path.is_dir() and path.is_absolute() for path in made)


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)],
)
def test_a_log_directory_that_cannot_be_written(tmp_path, monkeypatch, number):
    """It is said at once, and the folder is free for the next attempt."""
    run = tmp_path / "run"
    for part in (".lock", ".config.json", "events.out"):
        with monkeypatch.context() as patch:
            Disk(patch, lambda name, path: number if f"{run}/{part}" in path else None)  # noqa: B023
            with pytest.raises(OSError, match=os.strerror(number)), warnings.catch_warnings():
                warnings.simplefilter("error")
                trained(run, resume=True)
    assert trained(run, resume=True)["env_steps"] == STEPS


HOLD = """
import sys, time
from vantage.training.runs.folder import Folder
try:
    Folder(sys.argv[1], {}, resume=True)
except ValueError as error:
    sys.exit(str(error))
print("open", flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that opens the folder of a run and keeps it open."""
    started = []

    def start():
        pipes = {"stdout": forks.PIPE, "stderr": forks.PIPE, "text": True}
        process = forks.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], **pipes)
        started.append(process)
        return process, process.stdout.readline()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_process_at_a_time(tmp_path, hold):
    """The second is refused and named the first; one that was killed leaves no lock."""
    first, said = hold()
    assert said == "open\n"
    second, said = hold()
    assert said == "" and second.wait(30) == 1
    (line,) = second.stderr.read().splitlines()
    assert "A run must have its folder for itself." in line
    assert f"process {first.pid} on " in line and "Choose" in line
    with pytest.raises(ValueError, match=f"process {first.pid} "):
        trained(tmp_path / "run", resume=True)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    assert (tmp_path / "run" / ".lock").exists()
    third, said = hold()
    assert said == "open\n"
    third.kill()
    third.wait(30)
    assert trained(tmp_path / "run", resume=True)["env_steps"] == STEPS
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_is_alone_in_its_own_process_too(tmp_path):
    folder = Folder(tmp_path / "run", {})
    with pytest.raises(ValueError, match="for itself"):
        Folder(tmp_path / "run", {}, resume=True)
    folder.close()
    Folder(tmp_path / "run", {}, resume=True).close()


FLAGS = ["train", "a2c", "CartPole-v1", "--no-preset", "--num-envs", "4", "--net-arch", "8"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Real runs that a signal stopped, and a second one that wanted the folder of the first."""
    top = tmp_path_factory.mktemp("stopped")
    pipes = {"stdout": forks.PIPE, "stderr": forks.PIPE, "text": True}

    def start(number):
        flags = ["--total-steps", "100000000", "--checkpoint-every", "20"]
        words = [VANTAGE, *FLAGS, *flags, "--logdir", str(top / number.name)]
        return forks.Popen(words, **pipes)

    started, deadline = {number: start(number) for number in CODES}, time.monotonic() + 300
    try:
        waiting = dict(started)
        while waiting:
            assert time.monotonic() < deadline
            for number, process in list(waiting.items()):
                assert process.poll() is None, process.communicate()
                if list((top / number.name).glob("checkpoints/step-*")):
                    process.send_signal(signal.SIGSTOP)  # it waits, its folder in its hands
                    del waiting[number]
            time.sleep(0.02)
        refused = io.StringIO()
        with contextlib.redirect_stderr(refused), contextlib.redirect_stdout(io.StringIO()):
            with pytest.raises(SystemExit) as stop:
                main([*FLAGS, "--logdir", str(top / "SIGINT"), "--resume"])
        for number, process in started.items():
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
        spoken = {n: process.communicate(timeout=60) for n, process in started.items()}
        said = {n: err for n, (_, err) in spoken.items()}
        for number, (out, _) in spoken.items():  # how to go on is the last line
            assert re.fullmatch(
                rf"stopped by {number.name} after [0-9,]+ steps; a checkpoint is written. "
                rf"To continue, pass --logdir {top / number.name} --resume .*",
                out.splitlines()[-1],
            )
        codes = {n: process.returncode for n, process in started.items()}
        return top, codes, said, (refused.getvalue(), stop.value.code)
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def test_a_second_command_is_refused_with_one_line(stopped):
    text, code = stopped[3]
    (line,) = text.splitlines()
    assert code == 2  # as any other wrong argument
    assert line.startswith("error: ") and "A run must have its folder for itself." in line


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(stopped, tmp_path, number, capsys):
    top, codes, said, _ = stopped
    folder = top / number.name
    assert (codes[number], said[number]) == (CODES[number], "")
    reached = json.loads((folder / "summary.json").read_text())["env_steps"]
    assert find_checkpoint(folder).path.name == f"step-{reached:012d}"
    sha256 = {}
    for name, flags in (
        ("resumed", ["--logdir", str(folder), "--resume"]),
        ("whole", ["--logdir", str(tmp_path / "whole")]),
    ):
        main([*FLAGS, "--total-steps", str(reached + 1_001), *flags])
        summary = json.loads((Path(flags[1]) / "summary.json").read_text())
        sha256[name] = summary["weights_sha256"]
    capsys.readouterr()
    assert sha256["resumed"] == sha256["whole"]
    assert points(folder).keys() == points(tmp_path / "whole").keys()
