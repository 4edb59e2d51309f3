"""Standard output and standard error: whatever becomes of them ends no run, and no text of a file
controls the terminal."""

import ast
import io
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import forks
import pytest

from vantage import scripts, training
from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.scripts.main import main
from vantage.training import train
from vantage.training.common.console import Stream, printable, say, surviving

VANTAGE = str(Path(sysconfig.get_path("scripts")) / "vantage")
TRAIN = ("train", "a2c", "talking:Talking-v0", "--num-envs", "2", "--net-arch", "8")
TALKING = """
import gymnasium, os, sys
from gymnasium.envs.classic_control import CartPoleEnv
class Talking(CartPoleEnv):
    def step(self, action):
        print("a step"); print("a step", file=sys.stderr)
        return super().step(action)
class Closing(CartPoleEnv):
    def step(self, action):
        os.closerange(0, 3)
        print("a step"); print("a step", file=sys.stderr)
        return super().step(action)
class Shut(Talking):
    def reset(self, **options):
        sys.stdout.close(); sys.stderr.close()
        return super().reset(**options)
gymnasium.register("Talking-v0", Talking, max_episode_steps=50)
gymnasium.register("Closing-v0", Closing, max_episode_steps=50)
gymnasium.register("Shut-v0", Shut, max_episode_steps=50)
"""


class Broken(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    flush = close = lambda self: self.write("")


ERRORS = [BrokenPipeError(32, "gone"), OSError(28, "full"), OSError(5, "no terminal"),
          OSError(9, "closed"), BlockingIOError(11, "busy"), ValueError("closed file")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_script_trains_whatever_becomes_of_its_streams(monkeypatch, error, tmp_path):
    """The lines of `verbose=True`, and those of environments and callbacks."""
    envs = make_vec("CartPole-v1", 2, seed=0)
    agent = A2C(
        envs.single_observation_space, envs.single_action_space, A2CConfig(net_arch=(8,)), seed=0
    )
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Broken(error))
    before = sys.stdout, sys.stderr
    options = {"logdir": tmp_path / "run", "log_every": 50, "verbose": True}
    summary = train(agent, envs, 100, callbacks=[lambda *_: print("on")], resume=True, **options)
    assert summary["env_steps"] >= 100 and (tmp_path / "run" / "summary.json").exists()
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.thinned
@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("environment", ["Talking", "Closing", "Shut"])
def test_a_command_trains_to_its_end_after_its_reader_left(tmp_path, environment, how):
    (tmp_path / "talking.py").write_text(TALKING)
    words = [VANTAGE, *TRAIN, "--total-steps", "600", "--vectorization", how, "--logdir", "run"]
    words[3] = f"talking:{environment}-v0"
    process = forks.Popen(words, stdout=forks.PIPE, stderr=forks.PIPE, cwd=tmp_path)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(120) == 0
    assert (tmp_path / "run" / "summary.json").exists()
    done = subprocess.run([VANTAGE, "runs", tmp_path / "run"], capture_output=True, text=True)
    assert "1 finished" in done.stdout


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("{train} >&- 2>&-", 0, ""),
        ("{runs} > /dev/full", 2, "error: Standard output must take what the command prints."),
        ("{runs} >&-", 0, ""),
        ("{runs} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{none} > /dev/full 2>&1", 2, ""),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_exit_codes_where_nobody_takes_what_is_printed(tmp_path, command, code, said):
    train = f"{VANTAGE} train a2c CartPole-v1 --total-steps 300 --net-arch 8 --logdir run"
    (tmp_path / "runs").mkdir()
    text = command.format(train=train, runs=f"{VANTAGE} runs", none=f"{VANTAGE} runs nowhere")
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr[: len(said)]) == (code, said), done.stderr
    if "train" in command:
        assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_its_output_ends_no_training(tmp_path):
    words = ["train", "a2c", "CartPole-v1", "--total-steps", "300", "--net-arch", "8"]
    words = [VANTAGE, *words, "--logdir", "run"]
    with open("/dev/full", "w") as full:
        done = forks.run(words, stdout=full, stderr=forks.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("note: Standard output must take what the command prints.")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_before_the_training_ends_the_command(tmp_path, number, code):
    """While the environments are made; it is no fault of an environment."""
    (tmp_path / "slow.py").write_text(
        "import gymnasium, time\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Slow(CartPoleEnv):\n"
        "    def __init__(self): open('made', 'w').close(); time.sleep(60)\n"
        "gymnasium.register('Slow-v0', Slow)\n"
    )
    words = [VANTAGE, "train", "a2c", "slow:Slow-v0"]
    process = forks.Popen(words, cwd=tmp_path, stderr=forks.PIPE, text=True)
    while not (tmp_path / "made").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert (process.wait(20), process.stderr.read()) == (code, "")
    process.stderr.close()


def test_streams_are_as_they_were_afterwards():
    before = sys.stdout, sys.stderr
    with surviving():
        assert isinstance(sys.stdout, Stream) and sys.stdout.isatty() is before[0].isatty()
        sys.stdout.close()
        with surviving():
            print("still open")
    assert (sys.stdout, sys.stderr) == before and not before[0].closed


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    say("σ = 1")
    assert raw.getvalue() == b"\\u03c3 = 1\n"
    monkeypatch.setattr(sys, "stdout", None)  # as of a program without a console
    say("nobody hears this")


def test_closed_handles_are_not_taken_by_files(tmp_path):
    code = (
        "import os\nfrom vantage.training.common.console import surviving\n"
        "for handle in (0, 1, 2): os.close(handle)\n"
        "with surviving(): number = os.open('file', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(number, str(number).encode())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert int((tmp_path / "file").read_text()) > 2


HOSTILE = {
    "a\x1b]0;title\x07b": "a\\x1b]0;title\\x07b",
    "\x9b31mred": "\\x9b31mred",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066x\u2069\u200f": "\\u2066x\\u2069\\u200f",
    "new\nline\tand\rreturn": "new\\nline\\tand\\rreturn",
    os.fsdecode(b"\xff\xfe"): "\\udcff\\udcfe",
    "plain σ — × 日本": "plain σ — × 日本",
}


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_control_characters_are_shown(text, capsys):
    assert printable(text) == HOSTILE[text]
    say(text)
    assert capsys.readouterr().out.count("\x1b") == 0


class Textless(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_long_texts_and_those_that_are_none():
    assert printable("x" * 10**6, most=10) == "x" * 10 + "…"
    assert printable(Textless()) == "<Textless without a text>"


FILES = [
    path
    for package in (scripts, training)
    for path in sorted(Path(package.__file__).parent.rglob("*.py"))
    if path.parent.name != "examples"  # they print what a user would
]
ALONE = (
    *("measure.py", "measure_runs.py", "peer_sb3.py", "peer_torch.py", "floor.py", "by_hand.py"),
    *("sides.py", "solving.py", "peer_deepxde.py"),
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_all_that_is_printed_goes_through_one_place(path):
    """Programs that measure print JSON for the process that started them."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Call)]  # fmt: skip
    printed = any(isinstance(call, ast.Name) and call.id == "print" for call in calls)
    assert not printed or path.name in ALONE


def test_names_in_errors_and_warnings_do_not_reach_the_terminal_as_they_are(tmp_path, capfd):
    folder = tmp_path / "\x1b[31mred\u202e"
    folder.mkdir()
    (folder / "config.json").write_text('{"algorithm": "\\u001b]0;x\\u0007", "env_id": "\\u009b"}')
    for words in (["evaluate"], ["watch"], ["plot"], ["runs"], ["tensorboard"], ["runs", "x\x1bx"]):
        with pytest.raises(SystemExit) if words != ["runs"] else surviving():
            main([*words[:1], str(folder) if len(words) == 1 else words[1]])
        out, err = capfd.readouterr()
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(out + err), words


def test_colours_of_the_parser_are_no_escapes(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    with pytest.raises(SystemExit):
        main(["runs", "--bogus"])
    said = capsys.readouterr().err
    assert "Unrecognized options" in said and "x1b" not in said and "\x1b" not in said
