"""Environments in worker processes: as in turn, and nothing is left of those that break."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode
from specimens import KINDS, Specimen, assert_same, expected_rows, faulty

from vantage.envs import BrokenEnvironmentError
from vantage.envs.common.episodes import episode_seed
from vantage.envs.vector.sync import LeanSyncVectorEnv
from vantage.envs.vector.workers import WorkerVectorEnv

TIMEOUT = 6.0  # more than it takes to start a worker on a busy machine
HAPPENED = {
    "raise": "raised Boom: it went boom",
    "sys.exit": "raised SystemExit: 3",
    "os._exit": "exited with code 7",
    "SIGKILL": "was killed by SIGKILL",
    "sleep": "gave no answer within the timeout of 6 s (--env-timeout)",
    "fork": "was killed by SIGKILL",
}

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for orphans there")


class Marked:
    """Finds all processes that descend from here, by a variable that they inherit."""

    def __init__(self, monkeypatch):
        self.mark = f"MARK_OF_A_TEST={uuid.uuid4()}"
        monkeypatch.setenv(*self.mark.split("="))

    def pids(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def gone_after(self, seconds):
        deadline = time.monotonic() + seconds
        while self.pids():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    """After every test no process may be left."""
    marked = Marked(monkeypatch)
    yield marked
    all_gone = marked.gone_after(1.0)
    for pid in marked.pids():
        os.kill(pid, signal.SIGKILL)
    assert all_gone, "a test left processes behind"


def opened(makers, timeout=TIMEOUT, restart=False):
    return contextlib.closing(WorkerVectorEnv(makers, timeout, restart))


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# ---------------------------------------------------------------- as in turn


@pytest.mark.parametrize(
    "kind", ["CartPole", "infos", "dict", "text", "sequence", "graph", "own", "nested actions"]
)
def test_equal_to_those_in_turn(kind):
    make = KINDS[kind]
    in_turn = LeanSyncVectorEnv([make] * 2)
    with opened([make] * 2, 60) as envs:
        assert envs.observation_space == in_turn.observation_space
        assert envs.action_space == in_turn.action_space
        assert envs.metadata == in_turn.metadata and envs.render_mode == in_turn.render_mode
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        options = {"seed": 3, "options": {"color": 3}}
        assert_same(envs.reset(**options), in_turn.reset(**options))
        in_turn.action_space.seed(0)
        kept, ends = [], 0
        for _ in range(40):
            actions = in_turn.action_space.sample()
            received, expected = envs.step(actions), in_turn.step(actions)
            assert_same(received, expected)
            kept.append((received[0], expected[0]))
            ends += int((expected[2] | expected[3]).sum())
        assert ends > 1
        assert_same(envs.reset(), in_turn.reset())
        assert envs.episodes.tolist() == in_turn.episodes.tolist()
        assert envs.run_seed == in_turn.run_seed == 3
        assert envs.np_random_seed == in_turn.np_random_seed == envs.get_attr("np_random_seed")
        for a, b in kept:
            assert_same(a, b)


def test_attributes_and_frames():
    with opened([Specimen, Specimen]) as envs:
        envs.reset(seed=0)
        envs.step(np.zeros(2, int))
        assert [frame[0, 0, 0] for frame in envs.render()] == [1, 1]
        envs.set_attr("at", 5)
        envs.set_attr("how", ["a", "b"])
        assert envs.get_attr("at") == (5, 5) and envs.get_attr("how") == ("a", "b")
        assert envs.call("look", expression="1 + 1") == (2, 2)
        assert len(set(envs.call("pid")) | {os.getpid()}) == 3
        with pytest.raises(BrokenEnvironmentError, match="environment 0 raised AttributeError"):
            envs.get_attr("missing")
        assert envs.call("look", "1 + 2") == (3, 3)  # all goes on
        with pytest.raises(ValueError, match="one value for each of 2"):
            envs.set_attr("at", [1, 2, 3])
        with pytest.raises(ValueError, match="an action for each of 2 environments. Received: 3"):
            envs.step(np.zeros(3, int))


def test_a_worker_is_prepared(capfd, monkeypatch, tmp_path):
    """One thread for NumPy, the same folder, prints that arrive, no reaction to Ctrl-C."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with opened([Specimen]) as envs:
        assert envs.call("look", "os.environ['OMP_NUM_THREADS']") == ("1",)
        assert envs.call("look", "os.getcwd()") == (os.getcwd(),)
        assert envs.call("look", "sys.path")[0] == sys.path
        envs.call("look", "print('told by a worker') or sys.stderr.write('and this')")
        assert capfd.readouterr() == ("told by a worker\n", "and this")
        os.kill(envs.call("pid")[0], signal.SIGINT)
        assert envs.call("look", "1") == (1,)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Handling(Specimen):
    """Sets its own handlers, as many simulators do, and has processes of its own."""

    def reset(self, **options):
        for number in ENDING:
            signal.signal(number, lambda *_: sys.exit(5))
        return super().reset(**options)

    def ended(self, how):
        """How a process ends that is forked or started here, and asked to by SIGTERM."""
        if how == "fork":
            pid = os.fork()
            if pid == 0:
                time.sleep(20)
                os._exit(0)
        else:
            pid = subprocess.Popen(["sleep", "20"]).pid
        time.sleep(0.2)
        os.kill(pid, signal.SIGTERM)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_workers_leave_signals_to_the_main_process(number):
    """Those of a whole service, job or container; at any time of a worker's life."""
    envs = None
    made = threading.Event()

    def signal_children():
        folder = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        while not made.is_set():
            for pid in map(int, folder.read_text().split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.01)

    thread = threading.Thread(target=signal_children)
    thread.start()
    try:
        envs = WorkerVectorEnv([Handling] * 2, 60)
        made.set()
        envs.reset(seed=0)  # sets handlers of its own
        for _ in range(3):
            for pid in envs.call("pid"):
                os.kill(pid, number)
            envs.step([0, 0])
        assert envs.restarts == 0
    finally:
        made.set()
        thread.join()
        if envs is not None:
            envs.close()


@pytest.mark.parametrize("how", ["fork", "start"])
def test_what_an_environment_starts_obeys_signals(how):
    with opened([Handling]) as envs:
        envs.reset()
        assert envs.call("ended", how) == (signal.SIGTERM,)


# ---------------------------------------------------------------- what cannot be


def test_different_spaces_are_refused():
    with pytest.raises(ValueError, match="must all have the same spaces.*of environment 1"):
        WorkerVectorEnv([KINDS["CartPole"], KINDS["Pendulum"]])


def test_what_cannot_be_sent():
    lock = threading.Lock()
    with pytest.raises(ValueError, match="must be picklable.*inside it, or use vectorization"):
        WorkerVectorEnv([lambda: lock and Specimen()])


def test_what_cannot_come_back():
    class Locked(Specimen):
        def step(self, action):
            return *super().step(action)[:4], {"lock": threading.Lock()}

    with opened([Specimen, Locked]) as envs:
        envs.reset()
        with pytest.raises(BrokenEnvironmentError, match="environment 1 raised TypeError.*pickle"):
            envs.step([0, 0])


def test_nothing_after_close():
    envs = WorkerVectorEnv([Specimen])
    envs.close()
    envs.close()
    for use in (envs.reset, lambda: envs.step([0]), lambda: envs.call("pid")):
        with pytest.raises(ClosedEnvironmentError, match="after close"):
            use()


# ---------------------------------------------------------------- broken environments


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("where", "how"),
    [  # each that sleeps takes all of the timeout
        *(("__init__", how) for how in ("raise", "os._exit")),
        pytest.param("__init__", "sleep", marks=pytest.mark.slow),
        *(("first reset", how) for how in ("raise", "SIGKILL")),
        ("later reset", "raise"),
        pytest.param("later reset", "sleep", marks=pytest.mark.slow),
        *(("step", how) for how in ("raise", "sys.exit", "os._exit", "SIGKILL", "sleep")),
    ],
)
def test_a_fault_is_found_and_reported(where, how, processes):
    """Within 5 s of the timeout, with all that is needed to see it again."""
    call = where.split()[-1]
    maker = faulty(call, how, at={"later reset": 2, "step": 3}.get(where, 1))
    with within(2 * TIMEOUT + 5), pytest.raises(BrokenEnvironmentError) as caught:
        with opened([Specimen, maker]) as envs:
            envs.reset(seed=8)
            for number in range(20):
                envs.step([number, number])
    error = caught.value
    assert f"environment 1 {HAPPENED[how]} in {call} (" in error.first_line
    assert (error.index, error.call) == (1, call)
    episode = {"__init__": -1, "later reset": 1}.get(where, 0)
    assert error.episode == episode
    assert error.seed == (None if episode < 0 else episode_seed(8, 1, episode))
    assert (error.step, error.action) == ((3, 2) if where == "step" else (0, None))
    if how in ("raise", "sys.exit"):
        assert "in _count\n" in str(error) and "specimens.py" in str(error)
    assert not processes.pids()


@pytest.mark.parametrize("how", ["raise", "os._exit", "SIGKILL", "sleep"])
def test_a_fault_in_close_is_a_warning(how, processes):
    envs = WorkerVectorEnv([Specimen, faulty("close", how)], TIMEOUT)
    envs.reset()
    with within(TIMEOUT + 5), pytest.warns(UserWarning) as warned:
        envs.close()
    assert len(warned) == 1
    assert f"Environment 1 {HAPPENED[how]} in close" in str(warned[0].message)
    assert not processes.pids()


def test_the_others_can_go_on_after_an_exception():
    """Their answers are not mixed up, and neither are those to the one that raised it."""
    with opened([Specimen, faulty("step", at=2), Specimen]) as envs:
        envs.reset(seed=0)
        envs.step([1, 1, 1])
        for _ in range(2):
            with pytest.raises(BrokenEnvironmentError, match="environment 1"):
                envs.step([2, 2, 2])
            envs.set_attr("at", 3)
        observations = envs.step([3, 3, 3])[0]
        assert observations[:, 2].tolist() == [3, 3, 3]


def test_a_dead_worker_stays_dead():
    with opened([Specimen, faulty("step", "os._exit")]) as envs:
        envs.reset(seed=0)
        with pytest.raises(BrokenEnvironmentError, match="environment 1 exited with code 7"):
            envs.step([0, 0])
        with pytest.raises(BrokenEnvironmentError, match="environment 1 had broken before"):
            envs.step([0, 0])


def test_what_a_killed_environment_forked_is_gone_too(processes):
    """Though it holds the worker's end of the pipe."""
    with opened([faulty("step", "fork")], 60) as envs:
        envs.reset()
        with within(5), pytest.raises(BrokenEnvironmentError, match="killed by SIGKILL in step"):
            envs.step([0])
        assert processes.gone_after(1.0)


def test_a_stopped_worker_is_ended(processes):
    with opened([Specimen, Specimen]) as envs:
        envs.reset()
        os.kill(envs.call("pid")[0], signal.SIGSTOP)
        with (
            within(TIMEOUT + 5),
            pytest.raises(BrokenEnvironmentError, match="environment 0 gave no"),
        ):
            envs.step([0, 0])
        assert len(processes.pids()) == 1


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("where", "how"),
    [
        *(("step", how) for how in ("raise", "os._exit", "SIGKILL", "sleep")),
        *(("reset", how) for how in ("raise", "SIGKILL")),
        ("later reset", "os._exit"),
        ("__init__", "raise"),
    ],
)
def test_a_broken_environment_is_rebuilt(where, how, tmp_path):
    """And no other is moved: theirs are the rows that they would have had without it."""
    steps, call = 14, where.split()[-1]
    if where == "__init__":  # it breaks in a step, and once more while it is made anew
        (tmp_path / "made").touch()
        maker = functools.partial(_breaks_again, tmp_path, how)
    else:
        at = {"step": 4, "later reset": 2}.get(where, 1)
        maker = faulty(call, how, at=at, marker=tmp_path / "marker")
    with opened([Specimen, maker, Specimen], restart=True) as envs:
        infos = envs.reset(seed=6)[1]
        assert ("restarted" in infos) == (where == "reset")
        first_episode = envs.episodes[1]
        assert first_episode == (where == "reset")
        rows, restarts, pids = [], [], set()
        for number in range(steps):
            observations, rewards, terminated, _, infos = envs.step(np.full(3, number))
            restarts.append(infos.get("restarted", np.zeros(3, bool)))
            rows.append((observations, rewards, terminated))
            pids |= set(infos["pid"][infos["_pid"]].tolist())
            if restarts[-1].any():
                assert f"environment 1 {HAPPENED[how]} in {call}" in infos["broken"][1]
        if where == "reset":
            assert envs.restarts == 1 and not np.any(restarts)
        else:
            assert envs.restarts == (2 if where == "__init__" else 1)
            assert np.sum(restarts, 0).tolist() == [0, 1, 0]
            assert len(pids) == 4
        for i in (0, 2):
            expected = expected_rows(6, i, [], steps)
            for (observations, rewards, terminated), (row, reward, end, _) in zip(
                rows, expected, strict=True
            ):
                assert observations[i].tolist() == list(row)
                assert (rewards[i], terminated[i]) == (reward, end)
        seeds = [int(observations[1, 0]) for observations, *_ in rows]
        begun = [episode_seed(6, 1, e) for e in range(envs.episodes[1] + 1)]
        assert set(seeds) <= set(begun) and seeds[-1] == begun[-1] and len(set(seeds)) > 1
        for (observations, rewards, terminated), restarted in zip(rows, restarts, strict=True):
            if restarted[1]:
                assert observations[1, 1:].tolist() == [0, -1]
                assert rewards[1] == 0 and not terminated[1]


def _breaks_again(folder, how):
    """Once after the first time it was made, and in the second step of the first one."""
    if (folder / "made").exists():
        (folder / "made").unlink()
        return Specimen("step", "raise", at=2)
    return Specimen("__init__", how, marker=folder / "marker")


@pytest.mark.parametrize("where", ["reset", "step"])
def test_three_failures_in_a_row_are_too_many(where):
    with opened([Specimen, faulty(where, "os._exit")], restart=True) as envs:
        with pytest.raises(BrokenEnvironmentError, match="environment 1.*three times in a row"):
            envs.reset(seed=0)
            for _ in range(3):
                envs.step([0, 0])
        assert envs.restarts == 2


def crash(steps, chance):
    """Plays with workers that exit at random; how many were rebuilt."""
    with opened([faulty("step", "os._exit", chance=chance)] * 4, 60, True) as envs:
        envs.reset(seed=0)
        restarted, actions = 0, np.zeros(4, int)
        for _ in range(steps // 4):
            observations, *_, infos = envs.step(actions)
            if "restarted" in infos:
                restarted += int(infos["restarted"].sum())
                assert (observations[infos["restarted"], 1] == 0).all()
        assert envs.restarts == restarted
        return restarted


def test_two_thousand_steps_at_a_crash_probability_of_1_in_200():
    assert 2 < crash(2_000, 0.005) < 22


@pytest.mark.slow
def test_a_hundred_thousand_steps_at_a_crash_probability_of_1_in_2000():
    assert 20 < crash(100_000, 0.0005) < 90


# ---------------------------------------------------------------- when the main process ends


def test_garbage_leaves_no_process(processes):
    envs = WorkerVectorEnv([Specimen, Specimen])
    envs.reset()
    assert len(processes.pids()) == 2
    del envs
    gc.collect()
    assert processes.gone_after(0.1)


def test_an_interrupted_step_leaves_nothing_behind():
    """Its late answers are not taken for those to the next request."""

    class Slow(Specimen):
        def step(self, action):
            time.sleep(0.5 if action == 1 else 0.0)
            return super().step(action)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with opened([Slow, Slow], 60) as envs:
            envs.reset(seed=0)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                envs.step([1, 0])
            observations = envs.step([2, 2])[0]
            assert observations[:, 1:].tolist() == [[2, 2], [2, 2]]  # the second step, action 2
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                envs.step([1, 0])
    finally:
        signal.signal(signal.SIGALRM, before)


SCRIPT = """
    import os, sys, time
    import gymnasium as gym
    import numpy as np
    {imports}
    from vantage.envs import make_vec

    class Note:
        pass

    class Mine(gym.Env):
        observation_space, action_space = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {{}}

        def step(self, action):
            {step}
            return np.zeros(1, np.float32), 0.0, False, False, {{"note": Note()}}

        def same(self, note):
            return note if type(note) is Note else None

        def loaded(self, name):
            return name in sys.modules

    gym.register("Mine-v0", entry_point="__main__:Mine")
    envs = make_vec({source}, 2, seed=0, vectorization="async")
    {body}
"""


def script(tmp_path, source="Mine", step="pass", body="", imports=""):
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(SCRIPT).format(source=source, step=step, body=body, imports=imports)
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], start_new_session=True, **pipes)


def finish(process, code=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out, err


@pytest.mark.parametrize("source", ["Mine", "'Mine-v0'"])
def test_a_script_without_a_guard(tmp_path, source):
    """It is not run again; its classes go to the workers and back."""
    body = """
notes = *envs.step([0, 1])[4]["note"], *envs.call("same", Note())
print([type(note) is Note for note in notes])
"""
    assert finish(script(tmp_path, source, body=body)) == (f"{[True] * 4}\n", "")


def test_workers_load_neither_tensorflow_nor_what_a_script_imports(tmp_path):
    """Though this process has loaded the one, and the script, without a guard, the other."""
    pytest.importorskip("tensorflow")
    with opened([Specimen]) as envs:
        assert envs.call("look", "'tensorflow' in sys.modules") == (False,)
    body = "print('colorsys' in sys.modules, envs.call('loaded', 'colorsys'))"
    process = script(tmp_path, body=body, imports="import colorsys")
    assert finish(process)[0] == "True (False, False)\n"


@pytest.mark.slow
def test_workers_never_load_tensorflow(tmp_path):
    """Even though the script imports the agents at its top, and has no guard."""
    pytest.importorskip("tensorflow")
    body = "print(A2C.__name__, 'tensorflow' in sys.modules, envs.call('loaded', 'tensorflow'))"
    process = script(tmp_path, body=body, imports="from vantage.agents import A2C")
    assert finish(process)[0] == "A2C True (False, False)\n"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [("envs.step([0, 0])", 0, ""), ("raise ValueError('end')", 1, "ValueError: end")],
)
def test_a_script_that_does_not_close(tmp_path, processes, body, code, said):
    with within(20):
        assert said in finish(script(tmp_path, body=body), code)[1]
    assert not processes.pids()


@pytest.mark.parametrize("step", ["pass", "time.sleep(3600)", "while True: pass"])
def test_a_killed_main_process_leaves_no_worker(tmp_path, processes, step):
    """Neither an idle one nor one that is busy for long."""
    body = "print('ready', flush=True); envs.step([0, 0]); time.sleep(3600)"
    process = script(tmp_path, step=step, body=body)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        assert len(processes.pids()) == 3
    finally:
        process.kill()
        process.communicate()
    assert processes.gone_after(10)


def test_ctrl_c_is_the_main_process_s(tmp_path, processes):
    """As a terminal sends it: to all of the foreground group."""
    body = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs are started without
try:
    print("ready", flush=True)
    time.sleep(3600)
except KeyboardInterrupt:
    print(len(envs.step([0, 0])[0]), "answers")
    envs.close()
"""
    process = script(tmp_path, body=body)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == ("2 answers\n", "")


def test_a_fork_of_the_main_process_does_not_end_the_workers(tmp_path):
    """When it exits: they are not its own."""
    body = """
if os.fork() == 0:
    sys.exit(0)
os.wait()
print(len(envs.step([0, 0])[0]), "answers")
"""
    assert finish(script(tmp_path, body=body))[0] == "2 answers\n"
