"""`vantage tensorboard`: the real server, asked over HTTP."""

import json
import re
import select
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

from vantage.scripts.main import main
from vantage.training.tensorboard.events import TensorBoardWriter

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A real run of an agent, and points written by hand."""
    folder = tmp_path_factory.mktemp("board") / "runs"
    flags = ["--num-envs", "4", "--net-arch", "8", "--total-steps", "400", "--log-every", "50"]
    main(["train", "a2c", "CartPole-v1", *flags, "--logdir", str(folder / "agent")])
    writer = TensorBoardWriter(folder / "by-hand")
    writer.scalars(7, {"train/loss": 0.25})
    writer.close()
    return folder


class Served:
    """The command in a process of its own."""

    def __init__(self, cwd, *arguments):
        self.process = subprocess.Popen(
            [VANTAGE, "tensorboard", *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = ""
        if select.select([self.process.stdout], [], [], 120)[0]:
            self.line = self.process.stdout.readline()
        self.url = "".join(re.findall(r"http://\S+", self.line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def ask(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def wait_for(self, path, accepted):
        """What the server answers once it has read the files."""
        for _ in range(60):
            if accepted(found := self.ask(path)):
                return found
            time.sleep(0.5)
        raise AssertionError(found)


def test_it_serves_what_the_runs_hold_until_ctrl_c(runs):
    # Without the data server, which not every system has.
    with Served(runs.parent, "--", "--port", "0", "--load_fast", "false") as served:
        assert served.line == f"TensorBoard of runs: {served.url} (Ctrl-C ends it)\n"
        assert re.fullmatch(r"http://localhost:\d+/", served.url)
        found = served.wait_for("data/runs", lambda found: len(found) == 2)
        assert sorted(found) == ["agent", "by-hand"]
        tags = served.wait_for("data/plugin/scalars/tags", lambda found: len(found) == 2)
        assert set(tags["by-hand"]) == {"train/loss"}
        assert "rollout/ep_rew_mean" in tags["agent"]
        points = served.ask("data/plugin/scalars/scalars?run=by-hand&tag=train/loss")
        assert [point[1:] for point in points] == [[7, 0.25]]
        plugins = served.ask("data/plugins_listing")
        assert {"scalars", "images", "text", "histograms", "hparams"} <= set(plugins)
        maps = Path(f"/proc/{served.process.pid}/maps")  # of Linux
        if maps.exists():  # importing TensorFlow takes ten times as long as all else
            assert "_pywrap_tensorflow" not in maps.read_text()
        served.process.send_signal(signal.SIGINT)
        _, err = served.process.communicate(timeout=30)
        assert served.process.returncode == 0
        assert "Traceback" not in err


def test_a_single_run_and_sigterm(runs, tmp_path):
    with Served(tmp_path, runs / "by-hand", "--", "--port=0", "--host", "127.0.0.1") as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert served.wait_for("data/runs", bool) == ["."]
        served.process.terminate()
        assert served.process.wait(timeout=30) == 0


def assert_refused(cwd, arguments, *parts):
    done = subprocess.run(
        [VANTAGE, "tensorboard", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    last = done.stderr.rstrip("\n").splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.fullmatch(r"error: .{15,} Received: .+[.)] \S.{8,}", last), last
    for part in parts:
        assert part in last, last


def test_a_port_that_is_taken(runs, tmp_path):
    with socket.create_server(("localhost", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_refused(tmp_path, [str(runs), "--", "--port", port], port, "in use", "--port 0")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["'runs'", "not there"]),
        (["file"], ["'file'", "a file"]),
        (["empty"], ["'empty'", "event files"]),
        (["some", "--port", "1"], ["some --port 1", "vantage tensorboard some -- --port 1"]),
        (["--port", "1"], ["vantage tensorboard runs -- --port 1"]),
        (["some", "other"], ["other", "--help"]),
        (["some", "--", "--colour"], ["--colour", "-- --help"]),
        (["some", "--", "--port", "many"], ["--port many", "'many'"]),
        (["some", "--", "--port", "99999"], ["99999", "65535"]),
        (["some", "--", "--host", "192.0.2.1"], ["192.0.2.1"]),  # of nobody: RFC 5737
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused(tmp_path, runs, arguments, parts):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    shutil.copytree(runs / "by-hand", tmp_path / "some")
    assert_refused(tmp_path, arguments, *parts)
