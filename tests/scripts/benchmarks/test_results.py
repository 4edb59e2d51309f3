"""`vantage benchmark results`: what is run, what is not run again, and what the table says."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import forks
import numpy as np
import pytest

from vantage.agents.configs.presets import PRESETS
from vantage.agents.configs.registry import ALGORITHMS
from vantage.scripts import main
from vantage.scripts.benchmarks import children, declared, processes, results, tables
from vantage.scripts.benchmarks.children import Children, StoppedError
from vantage.scripts.benchmarks.declared import TABLE, Entry, chosen, is_at_preset, listed
from vantage.scripts.reading import bands
from vantage.training.runs.folder import newest_checkpoint

pytestmark = pytest.mark.costly_setup

SMALL = (
    Entry("a2c", "CartPole-v1", 5, 500, seeds=2, by_mean=True),
    Entry("ppo", "CartPole-v1", 501, 500, seeds=1),
)
SHORT = ("--", "--total-steps", "1000", "--stop-at-return", "None")


def command(*arguments):
    main.main(["benchmark", "results", *map(str, arguments)])


def refusal(capsys, *arguments, code=2):
    """The last line on standard error of a refused command."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


def record(entry, **changed):
    """A result as a run by the preset would leave it."""
    preset = entry.preset
    config = dataclasses.asdict(preset.config)
    settings = {n: getattr(preset, n) for n in ("num_envs", "vectorization", "stop_at_return")}
    run = {"config": config, **settings, "total_steps": preset.total_steps, "seed": 0}
    run |= {"env_steps": preset.total_steps, "solved_at_steps": None, "steps_per_second": 1_000.0}
    return json.loads(json.dumps(run | {"mean": 1.0, "episodes": 100} | changed))


@pytest.fixture(scope="module", autouse=True)
def forked():
    """Runs are forks; those of the command that signals stop are started by Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "subprocess", forks)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The small table, run; its folder and what was printed."""
    logdir = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(declared, "TABLE", SMALL)
        command("--logdir", logdir, "--jobs", 2, *SHORT)
    return logdir


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(declared, "TABLE", SMALL)


def test_a_result_says_what_was_run_and_what_came_of_it(finished):
    names = sorted(str(path.relative_to(finished)) for path in finished.glob("*/*.json"))
    a2c = [f"a2c-CartPole-v1/seed-{seed}.json" for seed in range(2)]
    assert names == [*a2c, "ppo-CartPole-v1/seed-0.json"]
    kept = json.loads((finished / a2c[1]).read_text())
    assert (kept["algorithm"], kept["env_id"], kept["seed"]) == ("a2c", "CartPole-v1", 1)
    assert kept["config"]["learning_rate"] == PRESETS["a2c", "CartPole-v1"].config.learning_rate
    assert kept["total_steps"] == 1_000 <= kept["env_steps"] and kept["episodes"] == 100
    rate = kept["env_steps"] / kept["seconds"]
    assert kept["steps_per_second"] == pytest.approx(rate)
    assert kept["ci95"][0] <= kept["mean"] <= kept["ci95"][1] and kept["std"] >= 0
    assert kept["versions"]["keras"] and len(kept["weights_sha256"]) == 64
    run = json.loads((finished / "a2c-CartPole-v1" / "seed-1" / "summary.json").read_text())
    assert run["weights_sha256"] == kept["weights_sha256"]
    assert "mean return" in (finished / "a2c-CartPole-v1" / "seed-1.log").read_text()


def test_what_is_finished_is_not_run_again(finished, small, capsys, monkeypatch):
    monkeypatch.setattr(Children, "run_vantage", lambda *_: pytest.fail("was run again"))
    command("--logdir", finished)
    said = capsys.readouterr().out
    assert "3 runs: 3 finished, 0 to do" in said
    assert "| CartPole-v1 | a2c | 2 |" in said and "| yes |" in said
    assert "| CartPole-v1 | ppo | 1 |" in said and "| — | 501 | no |" in said
    assert "the current preset: a2c-CartPole-v1 (seeds 0, 1), ppo-CartPole-v1 (seeds 0)." in said


def test_only_a_missing_evaluation_is_made(finished, small, capsys, monkeypatch, tmp_path):
    """The run itself has got to its end."""
    commands = []
    run = Children.run_vantage

    def counted(self, log, *arguments):
        commands.append(arguments[0])
        run(self, log, *arguments)

    monkeypatch.setattr(Children, "run_vantage", counted)
    path = finished / "ppo-CartPole-v1" / "seed-0.json"
    before = path.read_text()
    path.unlink()
    command("--logdir", finished, "--only", "ppo")
    assert commands == ["evaluate"] and path.read_text() == before
    assert "1 runs: 0 finished, 1 to do" in capsys.readouterr().out


def test_render_runs_nothing_and_shows_what_is_there(finished, small, capsys):
    command("--logdir", finished, "--render", "--only", "a2c", "--seeds", 1)
    said = capsys.readouterr().out
    assert said.startswith("| environment |") and said.count("CartPole-v1 | a2c | 1 |") == 1
    command("--logdir", finished / "nowhere", "--render")
    assert "nothing is finished" in capsys.readouterr().out


def test_pictures_of_the_learning_curves(finished, small, capsys, tmp_path):
    command("--logdir", finished, "--render", "--plots", tmp_path / "plots")
    picture = tmp_path / "plots" / "CartPole-v1.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture) in capsys.readouterr().out


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((signal.SIGINT,), id="one"),
        pytest.param((signal.SIGINT, signal.SIGTERM), id="two", marks=pytest.mark.slow),
    ],
)
def test_signals_keep_what_was_done_and_the_next_command_goes_on(numbers, tmp_path):
    code = f"""if True:
        import sys
        from vantage.scripts import main
        from vantage.scripts.benchmarks import declared
        declared.TABLE = (declared.Entry("a2c", "CartPole-v1", 5, 500, seeds=1),)
        main.main(["benchmark", "results", "--logdir", {str(tmp_path)!r}, *sys.argv[1:]])
    """
    words = ("--", "--stop-at-return", "None", "--checkpoint-every", "20", "--total-steps", "40000")
    command = [sys.executable, "-c", code, *words]
    folder, result = tmp_path / "a2c-CartPole-v1" / "seed-0", tmp_path / "a2c-CartPole-v1"
    reached = [0]
    for number in numbers:
        process = forks.Popen(command, stdout=forks.PIPE, text=True)
        before = newest_checkpoint(folder)
        while process.poll() is None and newest_checkpoint(folder) == before:
            time.sleep(0.01)
        process.send_signal(number)
        assert "run the same command again" in process.communicate(timeout=60)[0]
        assert process.returncode == 128 + number
        reached.append(json.loads((folder / "summary.json").read_text())["env_steps"])
        assert reached[-2] < reached[-1] < 40_000 and not results.is_trained(folder)
        assert not (folder / ".lock").exists() and not list(result.glob("*.json"))
    assert "a2c-CartPole-v1 seed 0: " in processes.run_process(*command).printed
    kept = json.loads((result / "seed-0.json").read_text())
    assert kept["resumed_from"] == reached[-1] and kept["env_steps"] >= 40_000


def test_nothing_is_started_after_a_stop(tmp_path):
    group = Children()
    assert group.stop() and not group.stop()
    with pytest.raises(StoppedError):
        group.run_vantage(tmp_path / "log", "--version")
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")
def test_a_process_that_is_killed_from_outside_has_failed(tmp_path):
    group = Children()
    with ThreadPoolExecutor(1) as pool:
        logdir = str(tmp_path / "run")
        done = pool.submit(
            group.run_vantage,
            tmp_path / "log",
            "train",
            "a2c",
            "CartPole-v1",
            "--logdir",
            logdir,
        )
        while not group._running and not done.done():
            time.sleep(0.01)
        next(iter(group._running)).kill()
        with pytest.raises(ValueError, match="killed by signal 9"):
            done.result()


def test_a_failed_run_does_not_stop_the_others(finished, monkeypatch, capsys):
    table = (Entry("nosuch", "CartPole-v1", 1, 1, seeds=1), SMALL[1])
    (finished / "ppo-CartPole-v1" / "seed-0.json").unlink()
    monkeypatch.setattr(declared, "TABLE", table)
    monkeypatch.setitem(declared.PRESETS, ("nosuch", "CartPole-v1"), SMALL[0].preset)
    with pytest.raises(SystemExit) as stop:
        command("--logdir", finished, "--jobs", 1)
    printed = capsys.readouterr()
    assert stop.value.code == 1 and "| CartPole-v1 | ppo | 1 |" in printed.out
    listed_line, last = printed.err.splitlines()[-2:]
    assert listed_line.startswith("failed: nosuch-CartPole-v1 seed 0: ALGO must be one of a2c, ")
    assert last.startswith("error: Every run must succeed. Received: 1 of 2 that failed, nosuch")


def test_a_missing_environment_names_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(declared, "TABLE", (Entry("a2c", "LunarLander-v3", 1, 1, seeds=1),))
    monkeypatch.setitem(results.NEEDS, "LunarLander-v3", "no_such_module")
    with pytest.raises(SystemExit) as stop:
        command("--logdir", tmp_path)
    line = capsys.readouterr().err.splitlines()[-2]
    assert stop.value.code == 1 and line.startswith("failed: a2c-LunarLander-v3 seed 0: ")
    assert "Received: an installation without it" in line and "'vantage-rl[envs]'" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "flags"), [("scipy", ()), ("matplotlib", ("--plots", "p"))])
def test_a_missing_extra_is_named_before_anything_runs(
    module, flags, tmp_path, monkeypatch, capsys
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == module else find(name)
    )
    monkeypatch.setattr(results, "run_all", lambda *_: pytest.fail("was run"))
    line = refusal(capsys, "--logdir", tmp_path, *flags)
    assert f"Received: an environment without {module}." in line
    assert "pip install 'vantage-rl[results]'" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "a2c", "reinforce"], "entries of the table. Received: reinforce. Choose from"),
        (["--seeds", "0"], "seeds must be at least 1. Received: 0"),
        (["--jobs", "0"], "jobs must be at least 1. Received: 0"),
        (["CartPole-v1"], "Flags must be known ones"),
    ],
)
def test_refuses_on_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, *arguments)
    assert line.startswith("error: ") and said in line and not any(tmp_path.iterdir())


def test_loads_nothing_heavy():
    heavy = ("tensorflow", "scipy", "matplotlib")
    module = "vantage.scripts.benchmarks.results"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert processes.run_process(sys.executable, "-c", code).printed == "[]\n"


def test_the_declared_table():
    names = [entry.name for entry in TABLE]
    assert len(set(names)) == len(names) == 24
    for entry in TABLE:
        assert (entry.algorithm, entry.env_id) in PRESETS and entry.algorithm in ALGORITHMS
        least = 475 if entry.algorithm == "qrdqn" else 495
        assert entry.asked is None or not entry.by_mean or entry.asked == least
    assert {entry.seeds for entry in TABLE} == {1, 3, 5}
    assert len(listed(TABLE).splitlines()) == 24 and "20,000 steps, no figure" in listed(TABLE)


def test_filters():
    def named(*only, **keywords):
        return [entry.name for entry in chosen(TABLE, only, **keywords)]

    assert len(named()) == 23 and len(named(existing=True)) == 24
    assert named("td3") == ["td3-Pendulum-v1"]
    assert named("ppo-CartPole-v1", "dqn-Acrobot-v1") == ["ppo-CartPole-v1", "dqn-Acrobot-v1"]
    assert named("Pendulum-v1") == [f"{name}-Pendulum-v1" for name in ("a2c", "ppo", "sac", "td3")]
    # It takes days, so that its algorithm alone does not name it.
    assert "sac-HalfCheetah-v5" not in named("sac") + named("HalfCheetah-v5")
    assert named("sac-HalfCheetah-v5") == ["sac-HalfCheetah-v5"]
    assert "sac-HalfCheetah-v5" in named("sac", existing=True)


def quantiles_by_hand(values, statistic):
    """The 95 % interval over all draws with replacement, of which the bootstrap takes some."""
    draws = itertools.product(values, repeat=len(values))
    return np.percentile([statistic(draw) for draw in draws], [2.5, 97.5], method="inverted_cdf")


@pytest.mark.parametrize("values", [[1.0, 5.0, 2.0, 40.0, 3.0], [7.0, 1.0, 4.0], [500.0] * 5])
def test_numbers_against_all_draws(values):
    def middle(draw):  # without the ⌊n/4⌋ lowest and highest
        cut = len(draw) // 4
        return np.mean(sorted(draw)[cut : len(draw) - cut])

    found = tables.aggregate(values)
    assert found.seeds == len(values) and found.mean == pytest.approx(np.mean(values))
    assert found.iqm == pytest.approx(middle(values))
    expected = quantiles_by_hand(values, middle)
    assert found.interval == pytest.approx(tuple(expected), rel=0.03)
    assert found == tables.aggregate(values)  # the same always


def test_a_single_seed_has_no_interval():
    assert tables.aggregate([3.0]) == tables.Aggregate(3.0, 3.0, None, 1)


@pytest.mark.parametrize(
    ("entry", "mean", "interval", "reached"),
    [
        (Entry("a2c", "E", -83, None), -90.0, (-99.0, -83.0), True),
        (Entry("a2c", "E", -83, None), -90.0, (-99.0, -83.1), False),
        (Entry("a2c", "E", 495, None, by_mean=True), 494.0, (400.0, 500.0), False),
        (Entry("a2c", "E", 495, None, by_mean=True), 495.0, (400.0, 500.0), True),
        (Entry("a2c", "E", 9500, None), 9_600.0, None, True),
        (Entry("a2c", "E", 9500, None), 9_400.0, None, False),
        (Entry("a2c", "E", None, None), 1.0, (0.0, 2.0), None),
    ],
)
def test_what_reaches_a_figure(entry, mean, interval, reached):
    assert tables.is_reached(entry, tables.Aggregate(mean, mean, interval, 5)) is reached


def test_the_table_in_markdown():
    solved = Entry("a2c", "CartPole-v1", 495, 500, by_mean=True)
    alone = Entry("sac", "HalfCheetah-v5", 9500, 9536, seeds=1, remark="theirs")
    free = Entry("td3", "Pendulum-v1", None, None)
    runs = [record(solved, mean=500.0, env_steps=9_000 + n, solved_at_steps=9) for n in range(3)]
    said = tables.table(
        {
            solved: runs,
            alone: [record(alone, mean=9_499.6, steps_per_second=51.0)],
            free: [record(free, mean=value) for value in (-150.25, -150.25)],
        }
    )
    head, line, *rows, empty, last = said.splitlines()
    assert head.count("|") == line.count("|") == rows[0].count("|") and empty == ""
    assert rows == [
        "| CartPole-v1 | a2c | 3 | 500 | 500 | 500 to 500 | 495 (mean) | yes | 9,001 | 1,000 "
        "| 500 |",
        "| HalfCheetah-v5 | sac | 1 | 9,500 | 9,500 | — | 9,500 | no | 1,000,000 | 51 | "
        "9,536 (theirs) |",
        "| Pendulum-v1 | td3 | 2 | -150.2 | -150.2 | -150.2 to -150.2 | — | — | 20,000 | 1,000 "
        "| — |",
    ]
    assert last == "Returns: means of 100 deterministic episodes."


def test_a_result_of_another_setting_is_named():
    entry = Entry("ppo", "CartPole-v1", 495, 500)
    assert is_at_preset(entry, record(entry))
    config = record(entry)["config"]
    assert is_at_preset(entry, record(entry, config={**config, "of_old": 1}))  # a field that went
    older = {name: value for name, value in config.items() if name != "target_kl"}
    assert is_at_preset(entry, record(entry, config=older))  # a field that came, at its default
    assert not is_at_preset(entry, record(entry, config={**config, "net_arch": [8]}))
    assert not is_at_preset(entry, record(entry, num_envs=4))
    assert not is_at_preset(entry, record(entry, env_steps=99_999))
    assert "(seeds 3)" in tables.table({entry: [record(entry, seed=3, total_steps=5)]})


def test_a_band_is_the_mean_and_its_interval():
    curves = [
        (np.array([0.0, 100.0]), np.array([0.0, 100.0])),
        (np.array([10.0, 50.0]), np.array([10.0, 50.0])),  # solved: it stays at 50
        (np.array([0.0, 200.0]), np.array([0.0, 0.0])),
    ]
    steps, mean, low, high = bands.band(curves, points=191)
    assert (steps[0], steps[-1]) == (10.0, 200.0)
    assert mean[0] == pytest.approx(20 / 3) and mean[-1] == pytest.approx(50.0)
    assert mean[np.flatnonzero(steps == 50.0)[0]] == pytest.approx(100 / 3)
    assert (low[-1], high[-1]) == (0.0, 100.0) and (low <= mean).all() and (mean <= high).all()
    steps, mean, low, high = bands.band(curves[:1])
    assert (low == mean).all() and (high == mean).all()


def test_runs_without_a_curve_are_left_out(tmp_path):
    said = bands.draw("CartPole-v1", {"a2c": [tmp_path / "gone"]}, tmp_path)
    assert said == "no learning curves of CartPole-v1: its runs have none"
    assert not list(tmp_path.iterdir())
