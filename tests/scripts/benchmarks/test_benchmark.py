"""`vantage benchmark speed`: usage, arithmetic and that every measurement runs; never a time."""

from __future__ import annotations

import ast
import functools
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import forks
import numpy as np
import pytest

from vantage.agents.configs.presets import PRESETS
from vantage.scripts import main
from vantage.scripts.benchmarks import floor, measure, processes, speed
from vantage.scripts.benchmarks.figures import Figure, meets, shown, summarised, table
from vantage.scripts.commands import benchmark

ROOT = Path(__file__).parents[3]
SIZES = {
    "training": {"vectorization": "sync", "num_envs": 2, "n_steps": 5, "updates": 300},
    "micro": {"num_envs": 4, "n_steps": 2, "updates": 5},
    "regression": {"epochs": 20},
    "regression_by_hand": {"epochs": 5, "compiled": False},
    "gan": {"steps": 5},
    "gan_by_hand": {"steps": 3, "compiled": False},
    "lbfgs": {"problem": "network", "updates": 5},
    "lbfgs_by_scipy": {"problem": "rosenbrock"},
    "growth": {"num_envs": 8, "n_steps": 5, "total_steps": 5_000},
    "saving": {"net_arch": [8], "saves": 2},
    "watching": {"num_envs": 2, "n_steps": 5, "total_steps": 400, "pairs": 1},
}


def refusal(capsys, *arguments):
    """The last line on standard error of a refused command."""
    with pytest.raises(SystemExit) as stop:
        main.main(["benchmark", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["fast"],
            "must be one of results, seeds, peer, speed, fit, physics, kills. Received: 'fast'",
        ),
        (
            ["seeds", "a2c", "CartPole-v1", "--no-preset", "--num-envs=2", "--seeds", "2"],
            "come after --. Received: --no-preset --num-envs=2 before it. Write: vantage "
            "benchmark seeds ALGO ENV_ID -- --no-preset",
        ),
        (["speed"], "Received: none"),
        (["speed", "p", "--only", "native", "fast"], "names of rows. Received: fast. Choose"),
        (["speed", "p", "--rounds", "0"], "rounds must be at least 1. Received: 0"),
        (["physics", "no/python"], "imports deepxde and torch. Received: 'no/python'. Create one:"),
        (["speed", "no/python"], "imports stable_baselines3. Received: 'no/python'. Create one:"),
        (["speed", sys.executable], "peer/bin/pip install stable-baselines3"),
        (["peer", "p", "--algorithm", "td3"], "Flags must be known ones"),
        (["peer", "p", "--rounds", "0"], "rounds must be at least 1. Received: 0"),
        (
            ["peer", "p", "--algorithm", "dqn", "--n-steps", "5"],
            "needs an algorithm with rollouts. Received: --n-steps 5 for dqn. Leave out --n-steps.",
        ),
        (["peer", "no/python"], "imports stable_baselines3. Received: 'no/python'. Create one:"),
    ],
)
def test_refuses_on_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, *arguments)
    assert line.startswith("error: ") and said in line
    assert not any(tmp_path.iterdir())


def test_refuses_a_folder_that_holds_results(capsys, tmp_path):
    (tmp_path / "speed.json").write_text("{}")
    line = refusal(capsys, "speed", "p", "--logdir", str(tmp_path))
    assert "must be new or empty" in line and "speed.json" in line


def test_loads_without_tensorflow():
    code = "import sys, vantage.scripts.commands.benchmark; print('tensorflow' in sys.modules)"
    assert processes.run_process(sys.executable, "-c", code).printed == "False\n"


def test_a_process_tells_its_seconds_and_its_peak():
    """Asked by a small process: a peak is no less than that of the one that asks."""
    code = """if True:
        import sys
        from vantage.scripts.benchmarks.processes import run_process
        for size in (300_000_000, 1_000):
            done = run_process(sys.executable, "-c", f"x = b'x' * {size}; print('{{}}')")
            print(done.json(), done.seconds > 0, done.peak > 300, done.peak > 10)
    """
    printed = processes.run_process(sys.executable, "-c", code).printed
    assert printed.splitlines() == ["{} True True True", "{} True False True"]


def test_a_process_that_fails_is_one_error():
    with pytest.raises(ValueError, match="Received: exit code 1, ZeroDivisionError"):
        processes.run_process(sys.executable, "-c", "1 / 0")


def test_bounds():
    assert meets(4.0, ">= 4") and not meets(3.9, ">= 4")
    assert meets(10.0, "<= 10") and not meets(10.1, "<= 10")
    assert meets(1.0, "") is None


def test_numbers_are_shown_with_three_digits():
    numbers = [shown(value, "s") for value in (0.01234, 5.678, 99.96, 512_345.6, -0.5, 0.0)]
    assert numbers == ["0.0123 s", "5.68 s", "100 s", "512,346 s", "-0.5 s", "0 s"]
    assert shown(2.0, "") == "2"


def test_table():
    figures = [Figure("sync", "ours ÷ theirs", v, asked=">= 4") for v in (3.0, 9.0, 5.0)]
    beside = [Figure("large", "rate", v, "steps/s") for v in (1e6, 3e6)]
    rows = [summarised(figures), summarised(beside)]
    assert rows[0]["rounds"] == [3.0, 9.0, 5.0] and rows[0]["met"] is True
    assert table(rows) == (
        "| row | what | median (min to max) | asked | met |\n|---|---|---|---|---|\n"
        "| sync | ours ÷ theirs | 5 × (3 to 9) | ≥ 4 × | yes |\n\n"
        "| row | what | median (min to max) |\n|---|---|---|\n"
        "| large | rate | 2,000,000 steps/s (1,000,000 to 3,000,000) |"
    )


def test_slope_is_per_hundred_thousand_steps():
    points = [(steps, 300.0 + 2e-5 * steps) for steps in range(0, 1_000_000, 1_000)]
    assert measure.slope(points) == pytest.approx(2.0)
    noisy = [(steps, y + 5 * (-1) ** i) for i, (steps, y) in enumerate(points)]
    assert measure.slope(noisy) == pytest.approx(2.0, abs=0.01)


@functools.cache
def measured(name):
    return measure.MEASUREMENTS[name](**SIZES[name])


@pytest.mark.parametrize("name", measure.MEASUREMENTS)
def test_every_measurement_runs(name):
    values = {**measured(name)}
    slope = values.pop("slope", 0.0)  # of any sign
    assert all(np.isfinite(each).all() for each in values.values()), values
    shares = {"cost", "least", "most"}  # of time: by chance below 0
    assert all(np.all(np.greater(each, 0)) for key, each in values.items() if key not in shares)
    assert math.isfinite(slope) and values.get("traces", 1) == 1
    json.dumps(values)


def test_the_parts_of_training_are_all_of_it():
    values = measured("training")
    parts = ("act", "environments", "storing", "advantages", "update", "overhead")
    assert sum(values[part] for part in parts) == pytest.approx(100)


def test_a_measurement_in_a_process_of_its_own():
    assert set(processes.run_measurement("micro", **SIZES["micro"])) == {
        *("act", "sync", "native", "returns", "update")
    }


@pytest.mark.parametrize("compiled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_regression_by_hand_learns_what_ours_does(compiled):
    ours, by_hand = measured("regression"), measure.regression_by_hand(20, compiled)
    for name in ("first_loss", "last_loss"):
        assert ours[name] == pytest.approx(by_hand[name], rel=1e-4)
    assert by_hand["last_loss"] < by_hand["first_loss"]


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gan_by_hand_updates_both_players(compiled):
    *models, _, _ = players = measure._players()
    before = [[v.numpy() for v in model.trainable_variables] for model in models]
    history = measure.by_hand.gan(*players, measure._pixels(), 64, compiled)(2)
    assert history.shape == (2, 2) and np.isfinite(history).all()
    for model, values in zip(models, before, strict=True):
        for variable, value in zip(model.trainable_variables, values, strict=True):
            assert np.abs(variable.numpy() - value).max() > 0, variable.path


def test_medians_are_of_pairwise_ratios_and_raw_numbers_are_kept(monkeypatch, tmp_path, capsys):
    ours, eager = iter([1.0, 2.0, 4.0]), iter([10.0, 60.0, 60.0])
    order = []

    def measured(name, compiled=None, **_):
        order.append((name, compiled))
        seconds = next(eager) if compiled is False else 0.5 if compiled else next(ours)
        return {"seconds": seconds, "compile_seconds": 1.0}

    monkeypatch.setattr(speed, "run_measurement", measured)
    monkeypatch.setattr(speed, "check_peer", lambda python: {"torch": "2"})
    speed.run(["p", "--only", "gan", "--rounds", "3", "--logdir", str(tmp_path / "new")])
    assert order == [("gan", None), ("gan_by_hand", False), ("gan_by_hand", True)] * 3
    kept = json.loads((tmp_path / "new" / "speed.json").read_text())
    row = kept["rows"][0]
    assert row["rounds"] == [10.0, 30.0, 15.0]
    assert (row["median"], row["min"], row["max"], row["met"]) == (15.0, 10.0, 30.0, True)
    assert kept["raw"]["gan"][1]["eager"]["seconds"] == 60.0
    assert kept["machine"]["cores"] and kept["machine"]["versions"]["torch"] == "2"
    assert "| gan | GAN of 784 pixels, batch 64: eager loop's" in capsys.readouterr().out


def test_only_the_chosen_run_of_ours_is_made(monkeypatch):
    trained = []

    def train(self, name, *_):
        trained.append(name)
        return None, {"steps_per_second": 50.0}

    monkeypatch.setattr(speed.Round, "train", train)
    monkeypatch.setattr(speed.Round, "train_peer", lambda *_: (None, {"steps_per_second": 10.0}))
    _, figures = speed.rates(speed.Round(Path("p"), 0, Path("x"), ("native",)))
    assert trained == ["native", "native-ov"]  # without and with overlap_update
    assert [(figure.row, figure.value) for figure in figures] == [("native", 5.0)] * 2


@pytest.mark.parametrize(("solved", "ratio", "whole"), [(True, 10.0, 5.0), (False, 0.0, 0.0)])
def test_a_run_of_ours_that_does_not_solve_counts_as_nothing(monkeypatch, solved, ratio, whole):
    ours = {"seconds": 4.0, "env_steps": 9, "solved_at_steps": 5, "solved_at_seconds": 2.0}
    if not solved:
        ours |= {"solved_at_steps": None, "solved_at_seconds": None}
    theirs = {"seconds": 20.0, "env_steps": 7, "solved_at_seconds": 20.0}
    done = [processes.Finished("", seconds, 1.0) for seconds in (6.0, 30.0)]
    monkeypatch.setattr(speed.Round, "train", lambda *_: (done[0], ours))
    monkeypatch.setattr(speed.Round, "train_peer", lambda *_: (done[1], theirs))
    _, figures = speed.solve(speed.Round(Path("p"), 0, Path("x"), speed.NAMES))
    bounded = {figure.row: figure.value for figure in figures if figure.asked}
    assert bounded == {"solve": ratio, "process": whole}


def test_the_page_says_what_every_row_means():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in speed.NAMES:
        assert f"**{name}**" in page, name


def test_the_table_of_seeds():
    """Steps where nothing was to be solved; otherwise when it was."""
    run = {"env_steps": 1_024, "seconds": 2.0, "mean": 10.0, "std": 1.0, "episodes": 100}
    rows = [run | {"solved_at_steps": None}, run | {"solved_at_steps": None, "mean": 30.0}]
    assert benchmark._table(rows) == (
        "| seed | steps | seconds | evaluation, 100 episodes |\n|---|---|---|---|\n"
        "| 0 | 1,024 | 2.0 | 10.0 ± 1.0 |\n| 1 | 1,024 | 2.0 | 30.0 ± 1.0 |\n"
        "evaluation: mean of the seeds 20.0, worst 10.0; seconds: median 2.00"
    )
    rows = [run | {"solved_at_steps": steps} for steps in (900, 1_000, None)]
    *lines, last = benchmark._table(rows).splitlines()
    assert lines[0].startswith("| seed | solved at step") and "| 2 | not solved |" in lines[4]
    assert last.startswith("solved: 2 of 3; steps to solved: median 1,000, 95 % interval [900, inf")


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_for_seeds(count, capsys, tmp_path):
    """What is finished is read, not run again."""
    words = ["benchmark", "seeds", "a2c", "CartPole-v1", "--seeds", str(count)]
    words += ["--logdir", str(tmp_path)]
    words += ["--", "--total-steps", "200"]
    main.main(words)
    printed = capsys.readouterr().out
    last = count - 1
    assert (
        f"seed {last}: " in printed
        and f"| {last} | " in printed
        and "evaluation: mean of the" in printed
    )
    kept = [(tmp_path / f"seed-{n}" / "summary.json").stat().st_mtime_ns for n in range(count)]
    main.main(words)
    assert kept == [
        (tmp_path / f"seed-{n}" / "summary.json").stat().st_mtime_ns for n in range(count)
    ]


def words_of(command):
    """The flags of a command, by name; those without a value stand for themselves."""
    words = list(command)
    return {
        word: words[at + 1] if at + 1 < len(words) else word
        for at, word in enumerate(words)
        if word.startswith("--")
    }


@pytest.mark.parametrize(
    ("algorithm", "env_id", "total_steps", "num_envs", "n_steps"),
    [
        ("a2c", "CartPole-v1", "300000", "8", "5"),
        ("ppo", "CartPole-v1", "100000", "8", "32"),
        ("dqn", "CartPole-v1", "50000", "1", None),
        ("sac", "Pendulum-v1", "3000", "1", None),
    ],
)
def test_the_peer_is_given_our_setting(
    algorithm, env_id, total_steps, num_envs, n_steps, monkeypatch, tmp_path, capsys
):
    """And the faster of its numbers of threads; rounds alternate, ratios are of pairs."""
    ours, theirs = iter([60.0, 20.0, 90.0]), iter([30.0, 20.0, 10.0])
    calls = []

    def run_ours(*arguments):
        calls.append(("ours", arguments))
        folder = Path(words_of(arguments)["--logdir"])
        folder.mkdir(parents=True)
        rate = next(ours)
        summary = {"steps_per_second": rate, "seconds": 9.0, "updates": 3_000}
        (folder / "summary.json").write_text(json.dumps(summary))

    def run_theirs(python, *arguments):
        calls.append(("peer", arguments))
        words = words_of(arguments)
        is_trial = words.get("--stop-at-return") == "inf"
        rate = {"1": 5.0, "2": 6.0}[words["--threads"]] if is_trial else next(theirs)
        return processes.Finished(json.dumps({"steps_per_second": rate}), 1.0, 1.0)

    monkeypatch.setattr(benchmark, "check_peer", lambda python: {})
    monkeypatch.setattr(benchmark, "run_vantage", run_ours)
    monkeypatch.setattr(benchmark, "run_peer", run_theirs)
    flags = ("--algorithm", algorithm, "--rounds", "3", "--logdir", str(tmp_path))
    main.main(["benchmark", "peer", "p", *flags])

    assert [who for who, _ in calls] == ["peer"] * 4 + ["ours", "peer"] * 3
    trials = [words_of(arguments) for _, arguments in calls[:4]]
    assert [trial["--threads"] for trial in trials] == ["1", "2", "2", "1"]
    assert {trial["--total-steps"] for trial in trials} == {str(int(total_steps) // 4)}
    for seed, (mine, other) in enumerate(zip(calls[4::2], calls[5::2], strict=True)):
        assert mine[1][:3] == ("train", algorithm, env_id)
        assert ("--no-preset" in mine[1]) == (algorithm == "a2c")
        own, mine, other = mine[1], words_of(mine[1]), words_of(other[1])
        assert other["--algorithm"] == algorithm and other["--env-id"] == env_id
        assert mine["--vectorization"] == "sync" and mine["--stop-at-return"] == "None"
        assert "--stop-at-return" not in other and other["--threads"] == "2"
        assert mine["--seed"] == other["--seed"] == str(seed)
        assert mine["--total-steps"] == other["--total-steps"] == total_steps
        assert mine["--num-envs"] == other["--num-envs"] == num_envs
        assert other.get("--n-steps") == n_steps
        assert mine.get("--n-steps") == ("1" if algorithm == "dqn" else n_steps)  # one-step returns
        assert ("--no-double" in own) == (algorithm == "dqn")
    printed = capsys.readouterr().out
    assert "threads of the peer: 2 (5 steps/s with 1, 6 with 2)" in printed
    assert "median of pairwise ratios 2.00" in printed  # of 2, 1 and 9
    kept = json.loads((tmp_path / "peer.json").read_text())
    assert (kept["algorithm"], kept["threads"], kept["median_ratio"]) == (algorithm, 2, 2.0)
    assert ("an update of ours: 3.00 ms" in printed) == ("floor" in kept) == (algorithm == "sac")
    calls.clear()
    with pytest.raises(SystemExit):  # at once, not after the peer's trials
        main.main(["benchmark", "peer", "p", *flags])
    assert not calls and "must be new or empty" in capsys.readouterr().err


def test_the_products_of_sac_are_those_of_its_networks():
    """By multiply-adds: with one width for all layers each product has M·w²."""
    products = floor.products_of_sac(4, 4, (4, 4), 5)
    forward, to_weights = {(5, 4, 4), (5, 4, 8), (5, 8, 4), (5, 4, 1)}, {(4, 5, 4), (4, 5, 8)}
    to_weights |= {(8, 5, 4), (4, 5, 1)}
    assert set(products) == forward | to_weights | {(5, 4, 4), (5, 8, 4), (5, 1, 4), (5, 4, 8)}
    forward_and_back = 3 + 2 * 3 + 2 * (3 + 3 + 2) + (3 + 3 + 2) + 2 * (3 + 3)
    assert len(products) == forward_and_back
    assert floor.seconds_of(products, repeats=3) > 0


@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
def test_the_peer_has_the_settings_of_our_preset(algorithm):
    """Its script cannot be imported here: the dictionary is read from its text."""
    tree = ast.parse((ROOT / "scripts" / "benchmarks" / "peer_sb3.py").read_text(encoding="utf-8"))
    settings = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.target.id == "SETTINGS"
    )
    entries = {key.value: value for key, value in zip(settings.keys, settings.values, strict=True)}
    pairs = entries[algorithm].elts[1]
    theirs = {key.value: value for key, value in zip(pairs.keys, pairs.values, strict=True)}
    scheduled = {name for name, value in theirs.items() if isinstance(value, ast.Lambda)}
    values = {
        name: value.body.left.value if name in scheduled else ast.literal_eval(value)
        for name, value in theirs.items()
    }
    setting = benchmark.SETTINGS[algorithm]
    preset = PRESETS[algorithm, setting.env_id]
    ours = dict(vars(preset.config))
    if algorithm == "dqn":
        told = words_of(setting.flags)
        ours["learning_rate"] = float(told["--learning-rate"])
    if "policy_kwargs" in values:
        values["net_arch"] = tuple(values.pop("policy_kwargs")["net_arch"])
    assert {name: ours[name] for name in values} == values
    assert setting.num_envs == preset.num_envs and setting.n_steps in (None, ours["n_steps"])
    if algorithm == "ppo":
        assert scheduled == {"learning_rate", "clip_range"}
        assert ours["lr_schedule"] == ours["clip_schedule"] == "linear"


def test_a_signal_ends_what_is_waited_for():
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with main.obeying_signals(), pytest.raises(main.Stopped) as stop:
        processes.run_process("sleep", "60")
    assert stop.value.code == 143 and time.monotonic() - began < 20
    assert not processes._running


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["kills", "--total-steps", "100000000"], marks=pytest.mark.slow),
        ["seeds", "a2c", "CartPole-v1", "--seeds", "1"],
    ],
)
def test_a_command_that_a_signal_ends_leaves_no_process(tmp_path, words):
    """Though it alone is signalled, not its children."""
    logdir = ["--logdir", str(tmp_path / "logs")]
    command = [sys.executable, "-m", "vantage.scripts.main", "benchmark", *words, *logdir]
    process = forks.Popen(command, stdout=forks.PIPE, stderr=forks.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not list((tmp_path / "logs").glob("*/config.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    started = children.read_text().split()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert process.returncode == 143 and started
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
