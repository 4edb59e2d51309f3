"""`vantage plot`: what is read from event files, how runs are grouped, and what is drawn."""

import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, caller
from rich.console import Console

from vantage.scripts.main import main
from vantage.scripts.reading.bands import Group, Panel, Style, band
from vantage.scripts.reading.curves import read_curves, smoothed
from vantage.scripts.reading.run_folders import find_runs
from vantage.scripts.reading.terminal import HEIGHT, Canvas, show
from vantage.training.storage.files import write_json
from vantage.training.tensorboard.events import TensorBoardWriter

RETURNS = "rollout/ep_rew_mean"
SMALL = ("--num-envs", "4", "--net-arch", "8", "--total-steps", "400", "--log-every", "50")


@pytest.fixture
def call(capsys):
    """Calls `vantage …` in this process: (exit code, stdout, stderr)."""
    return caller(capsys)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a setting, another setting, a regression and a GAN, trained by the commands."""
    folder = tmp_path_factory.mktemp("plot") / "runs"
    for name, flags in {
        "deep/seed-0": ["--seed", "0"],
        "deep/seed-1": ["--seed", "1"],
        "slow": ["--learning-rate", "0.0001"],
    }.items():
        main(["train", "a2c", "CartPole-v1", *SMALL, *flags, "--logdir", str(folder / name)])
    line = ["regression", "target-range", "--epochs", "20"]
    main([*line, "--logdir", str(folder / "line")])
    main(["gan", "ring", "--steps", "4", "--report-every", "1", "--logdir", str(folder / "ring")])
    return folder


def write(folder, values, tag=RETURNS, resume=None, config=None):
    """Event files of a run with points at the steps 0, 10, 20, …; `resume` begins a new file."""
    writer = TensorBoardWriter(folder)
    first = 0
    if resume is not None:
        writer.resume(resume)
        first = resume + 10
    for number, value in enumerate(values):
        writer.scalars(first + 10 * number, {tag: value})
    writer.close()
    if config is not None:
        write_json(Path(folder) / "config.json", config)


# ------------------------------------------------------------------------------------- reading


def test_a_curve_is_what_was_written(tmp_path):
    write(tmp_path, [1.0, 2.5, np.nan, -3.0])
    curve = read_curves(tmp_path)[RETURNS]
    np.testing.assert_array_equal(curve.steps, [0, 10, 30])  # what is not finite is no point
    np.testing.assert_array_equal(curve.values, [1.0, 2.5, -3.0])
    assert read_curves(tmp_path / "gone") == {}


def test_points_that_a_resume_made_again_are_there_once(tmp_path):
    write(tmp_path, [1.0, 1.0, 1.0, 1.0])
    write(tmp_path, [2.0, 2.0, 2.0], resume=10)
    curve = read_curves(tmp_path)[RETURNS]
    np.testing.assert_array_equal(curve.steps, [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(curve.values, [1, 1, 2, 2, 2])


@pytest.mark.parametrize("damage", ["cut", "flipped", "rubbish"])
def test_a_damaged_file_is_read_as_far_as_it_is_whole(tmp_path, damage):
    write(tmp_path, [1.0, 2.0, 3.0])
    path = next(tmp_path.glob("events*"))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-3]
    elif damage == "flipped":
        data[-6] ^= 1
    else:
        data += b"rubbish that is no record, but long enough"
    path.write_bytes(data)
    curve = read_curves(tmp_path)[RETURNS]
    kept = 3 if damage == "rubbish" else 2
    np.testing.assert_array_equal(curve.values, [1.0, 2.0, 3.0][:kept])


def test_seconds_do_not_count_the_pause_before_a_resume(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step, speed in ((100, 10.0), (200, 50.0), (300, 100.0)):
        writer.scalars(step, {"time/fps": speed, RETURNS: 0.0})
    writer.close()
    seconds = read_curves(tmp_path)[RETURNS].seconds
    np.testing.assert_allclose(seconds, [10, 12, 13])  # steps / speed
    write(tmp_path / "other", [1.0, 1.0], tag="train/loss")  # of no speed: by the clock
    seconds = read_curves(tmp_path / "other")["train/loss"].seconds
    assert (seconds >= 0).all() and (seconds < 60).all()


def test_a_real_run_that_was_resumed(runs, tmp_path, call):
    """Every step once, and those of the run before the resume are still there."""
    words = ("train", "a2c", "CartPole-v1", "--logdir", tmp_path / "run")
    assert call(*words, *SMALL)[0] == 0
    before = read_curves(tmp_path / "run")[RETURNS]
    assert call(*words, "--resume", "--total-steps", "800")[0] == 0
    steps = read_curves(tmp_path / "run")[RETURNS].steps
    assert (np.diff(steps) > 0).all() and steps[-1] >= 800
    assert set(before.steps[:-1]) <= set(steps)


def test_smoothing_is_tensorboards():
    values = np.array([1.0, 5.0, 2.0])
    np.testing.assert_array_equal(smoothed(values, 0.0), values)
    last, expected = 0.0, []
    for count, value in enumerate(values, start=1):
        last = last * 0.6 + 0.4 * value
        expected.append(last / (1 - 0.6**count))
    np.testing.assert_allclose(smoothed(values, 0.6), expected)
    np.testing.assert_allclose(smoothed(np.full(9, 7.0), 0.9), 7.0)


def test_folders_are_searched(runs, tmp_path):
    names = [str(path.relative_to(runs)) for path in find_runs([runs])]
    assert names == ["deep/seed-0", "deep/seed-1", "line", "ring", "slow"]
    assert find_runs([runs / "slow", runs / "slow"]) == [runs / "slow"]
    for number in (10, 9, 1):
        write(tmp_path / f"seed-{number}", [1.0])
    assert [path.name for path in find_runs([tmp_path])] == ["seed-1", "seed-9", "seed-10"]


# --------------------------------------------------------------------------------------- bands

CURVES = [
    (np.array([0.0, 10.0]), np.array([0.0, 10.0])),
    (np.array([0.0, 10.0]), np.array([0.0, 20.0])),
    (np.array([0.0, 10.0]), np.array([0.0, 90.0])),
]


def test_bands():
    assert [row[-1] for row in band(CURVES, spread="none")] == [10, 40, 40, 40]
    assert [row[-1] for row in band(CURVES, centre="median", spread="range")] == [10, 20, 10, 90]
    assert [row[-1] for row in band(CURVES)] == [10, 40, 10, 90]  # of 27 draws, 1 is all lowest


def test_the_interval_is_that_of_a_bootstrap():
    """Over many curves it agrees with the normal approximation."""
    values = np.random.default_rng(1).normal(5.0, 2.0, 200)
    *_, low, high = band([(np.array([0.0, 1.0]), np.full(2, value)) for value in values], points=2)
    margin = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + [-margin, margin], atol=0.05)


# ------------------------------------------------------------------------------- the terminal


def drawn(panel, **options):
    console = Console(width=60, record=True, file=io.StringIO(), **options)
    show([panel], Style(), console)
    return console.export_text(styles="color_system" in options).splitlines()


def test_a_rising_line_rises():
    lines = drawn(Panel([Group("line", CURVES[:1])], "steps", "height"))
    assert lines[0] == "height" and "line: 10" in lines[-1]
    rows = lines[1 : HEIGHT + 1]
    assert rows[0].startswith("10 ┤") and rows[-1].startswith(" 0 ┤")
    assert max(map(len, lines)) <= 60
    columns = [np.flatnonzero([0x2800 < ord(sign) <= 0x28FF for sign in row]) for row in rows]
    assert all(len(places) for places in columns)
    assert all(np.diff([places.mean() for places in columns]) < 0)  # the higher, the further right


def test_dots_are_where_braille_has_them():
    canvas = Canvas(width=2, height=1)
    canvas.line(np.array([0.0, 3.0]), np.array([0.0, 3.0]), owner=0)
    assert canvas.rows()[0].plain == "⠑⢄"  # dots 1 and 5, then 3 and 8
    assert Canvas(width=2, height=1).rows()[0].plain == "  "


def test_without_colours_lines_are_letters_and_with_them_not():
    panel = Panel([Group("up", CURVES[:1]), Group("steep", CURVES[2:])], "steps", "height")
    plain = "\n".join(drawn(panel))
    assert "a up: 10" in plain and "b steep: 90" in plain and plain.count("b") > 20
    colourful = "\n".join(drawn(panel, force_terminal=True, color_system="standard"))
    assert "\x1b[34m" in colourful and "\x1b[33m" in colourful and colourful.count("b") < 5


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [1e-9, 1e12]])
def test_points_flat_lines_and_wide_ranges_are_drawn(values):
    xs = np.arange(len(values), dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = "".join(drawn(Panel([Group("x", [(xs, np.array(values))])], "steps", "y")))
    assert any(0x2800 < ord(sign) <= 0x28FF for sign in text)


# ---------------------------------------------------------------------------------- the command


def test_seeds_are_one_line_in_the_terminal(runs, call):
    code, out, err = call("plot", runs / "deep")
    assert (code, err) == (0, "")
    assert "mean return of the last 100 episodes" in out and "environment steps" in out
    assert "a2c CartPole-v1, 2 runs: " in out and "95 % bootstrap interval of the mean" in out
    assert "\x1b" not in out


def test_every_kind_of_run_by_what_it_is_looked_at_for(runs, call):
    code, out, err = call("plot", runs)
    assert (code, err) == (0, "")
    titles = re.findall(r"^(?:mean return|train/).*$", out, re.M)
    assert titles == [
        "mean return of the last 100 episodes",
        "train/loss",
        "train/generator_loss",
        "train/discriminator_loss",
    ]
    assert "a2c CartPole-v1, 3 runs" in out and "regression target-range: " in out
    assert out.count("a2c") == 1  # its loss is not beside the regression's
    assert out.count("gan ring: ") == 2 and "epochs" in out


def test_groups_by_settings_and_single_runs(runs, call):
    _, out, _ = call("plot", runs / "deep", runs / "slow", "--group-by", "learning_rate")
    assert "a2c CartPole-v1 learning_rate=0.0001: " in out
    assert re.search(r"a2c CartPole-v1 learning_rate=0.00\d+, 2 runs: ", out)
    _, out, _ = call("plot", runs / "deep", "--group-by", "run")
    assert f"{runs / 'deep' / 'seed-0'}: " in out and "bootstrap" not in out
    refused = call("plot", runs / "deep", "--group-by", "colour")
    assert_refused(refused, "'colour'", "learning_rate", "seed")


def test_groups_are_sorted_by_what_their_numbers_are(tmp_path, call):
    """Not as texts: 10 comes after 9, and 1e-5 before 0.001."""
    for number, (size, rate) in enumerate([(64, 1e-3), (256, 1e-5), (9, 0.5), (64, 1e-5)]):
        config = {"algorithm": "ppo", "env_id": "E", "config": {"size": size, "rate": rate}}
        write(tmp_path / str(number), [1.0, 2.0], config=config)
    code, out, _ = call("plot", tmp_path, "--group-by", "size", "rate")
    shown = re.findall(r"size=(\d+) rate=([\d.e-]+): ", out)
    expected = [("9", "0.5"), ("64", "1e-05"), ("64", "0.001"), ("256", "1e-05")]
    assert code == 0 and list(dict.fromkeys(shown)) == expected


@pytest.mark.parametrize(
    ("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_pictures(runs, call, tmp_path, ending, begins):
    path = tmp_path / "new" / f"curves.{ending}"
    code, out, err = call("plot", runs / "deep", runs / "slow", "--output", path)
    assert (code, err) == (0, "")
    assert out == f"3 runs in 1 group, {RETURNS}: {path}\n"  # and nothing in the terminal
    assert path.read_bytes().startswith(begins) and path.stat().st_size > 5_000


def test_a_picture_and_the_terminal_with_several_tags(runs, call, tmp_path):
    path = tmp_path / "c.png"
    words = ("--tag", "train/*loss", "time/fps", "--x", "seconds", "--smooth", "0.5")
    code, out, _ = call("plot", runs / "deep", *words, "--output", path, "--terminal")
    assert code == 0 and "train/policy_loss, smoothed by 0.5" in out and "time/fps" in out
    assert "seconds of training" in out and "train/grad_norm" not in out
    assert path.exists()


def test_runs_without_the_curve_are_named_and_left_out(tmp_path, call):
    write(tmp_path / "good", [1.0, 2.0])
    write(tmp_path / "early", [1.0], tag="time/fps")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    code, out, err = call("plot", tmp_path)
    assert code == 0 and f"{tmp_path / 'good'}: 2" in out
    assert "config.json must be a readable JSON file" in err
    last = err.splitlines()[-1]
    assert "skipped" in last and "early" in last and "bad" in last and "good" not in last


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["at least one run"]),
        (["nowhere"], ["'nowhere'", "not there"]),
        (["file"], ["'file'", "a file"]),
        (["empty"], ["'empty'", "none"]),
        (["run", "--tag", "colour"], ["'colour'", "rollout/ep_rew_mean", "--tag"]),
        (["run", "--smooth", "1"], ["smooth", "less than 1"]),
        (["run", "--smooth", "nan"], ["smooth", "nan"]),
        (["run", "--output", "curves.docx"], ["curves.docx", ".png, .svg or .pdf"]),
        (["run", "--x", "hours"], ["hours", "'steps', 'seconds'"]),
        (["run", "--band", "wide"], ["wide", "'interval', 'range', 'none'"]),
        (["run", "--center", "mode"], ["mode", "'mean', 'median'"]),
        (["run", "--group-by", "seed"], ["'seed'", "config.json"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused(tmp_path, monkeypatch, call, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    write(tmp_path / "run", [1.0])
    assert_refused(call("plot", *arguments), *parts)


def test_neither_tensorflow_nor_matplotlib_is_needed_in_the_terminal(runs, tmp_path):
    """And a picture without matplotlib names the extra."""
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from vantage.scripts.main import main\n"
        "main(['plot', *sys.argv[1:]]); print('tensorflow' in sys.modules)"
    )
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-c", code, runs / "slow"], **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n") and "a2c CartPole-v1: " in done.stdout
    words = [runs / "slow", "--output", "x.png"]
    done = subprocess.run([sys.executable, "-c", code, *words], **options)
    assert_refused((done.returncode, "", done.stderr), "pip install 'vantage-rl[plot]'")
