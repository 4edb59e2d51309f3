"""A host loss in worker processes: what it computes, what ends it, and what it leaves behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import simulators
import tensorflow as tf

from vantage.training import Regression, compile_step, external
from vantage.training.common.processes import WorkerError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(11, 3)).astype(np.float32)
Y = GENERATOR.normal(size=(11, 2)).astype(np.float32)


def step_of(lift, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    signature = tf.TensorSpec(X.shape), tf.TensorSpec(Y.shape)
    adam = keras.optimizers.Adam(0.1)
    return model, compile_step(model, lift, model.trainable_variables, adam, signature, **options)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def pids_of(lift):
    return [each.process.pid for each in lift.divided._workers._running]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("loss", [simulators.squared, simulators.keras_order])
def test_it_computes_what_one_process_does(loss, workers):
    """11 examples are divided into parts of unequal size."""
    one, step = step_of(external(loss))
    other, divided = step_of(external(loss, workers=workers))
    for _ in range(3):
        expected, found = step(X, Y), divided(X, Y)
        assert found == pytest.approx(expected, rel=1e-5)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_nests_strings_and_targets_without_rows():
    generator = np.random.default_rng(0)
    outputs = {name: generator.normal(size=(7, 1)).astype(np.float32) for name in ("one", "two")}
    targets = {"names": np.array(list("ababbab")), "scale": np.array(3.0)}
    expected = simulators.nested(outputs, targets)
    lift = external(simulators.nested, workers=2)
    value, gradient, _ = lift.divided(outputs, targets)
    assert value == pytest.approx(expected[0])
    for name in outputs:
        np.testing.assert_allclose(gradient[name], expected[1][name], rtol=1e-6)


def test_more_workers_than_examples():
    value, gradient, _ = external(simulators.squared, workers=3).divided(X[:2, :2], Y[:2])
    expected = simulators.squared(X[:2, :2], Y[:2])
    assert value == pytest.approx(expected[0])
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6)


def test_equal_bits_whoever_is_slow():
    """Results are combined by the index of the worker, not in the order of arrival."""
    weights = []
    for how in ("", "slow at first"):
        model, step = step_of(external(simulators.Failing(how), workers=2))
        for _ in range(2):
            step(X, np.abs(Y))
        weights.append(model.get_weights())
    assert all(map(np.array_equal, *weights))


def test_workers_import_neither_tensorflow_nor_a_main_script():
    _, step = step_of(external(simulators.modules, workers=2))
    assert step(X, Y)["tensorflow"] == 0 and step(X, Y)["main"] == 0


def test_the_trainer_validates_with_workers_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    lift = external(simulators.squared, workers=2)
    trainer = Regression(model, lift, keras.optimizers.Adam(0.1), batch_size=4)
    history = trainer.fit(X, Y, epochs=20, validation=(X[:5], Y[:5]))
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise", simulators.Weather, "C"),
        ("exit", SystemExit, "3"),
        ("die", WorkerError, "worker 1 of 2 was killed by SIGKILL"),
        ("hang", WorkerError, "worker 1 of 2 gave no answer within timeout=2 s"),
    ],
)
def test_a_worker_that_fails(how, error, message):
    """The error has its type and its traceback; no weight changes, and the next call works."""
    lift = external(simulators.Failing(how), workers=2, timeout=2)
    model, step = step_of(lift)
    good = np.abs(Y)
    step(X, good)
    bad, before, pids = good.copy(), model.get_weights(), pids_of(lift)
    bad[-1] = -1
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        step(X, bad)
    assert time.monotonic() - began < 8
    assert all(map(np.array_equal, before, model.get_weights()))
    if error is WorkerError:
        assert not any(map(alive, pids))
    else:
        (note,) = caught.value.__notes__
        assert note.startswith("In worker process 1 of 2:") and "simulators.py" in note
        assert pids_of(lift) == pids
    if how == "raise":
        assert (caught.value.degrees, caught.value.unit) == (-40, "C")
    assert np.isfinite(step(X, good)["loss"])


def test_a_stopped_worker_that_does_not_even_read():
    lift = external(simulators.squared, workers=2, timeout=2)
    step = lift.divided
    outputs = np.zeros((200_000, 2), np.float32)
    step(outputs, outputs)
    os.kill(pids_of(lift)[1], signal.SIGSTOP)
    with pytest.raises(WorkerError, match="worker 1 of 2 gave no answer"):
        step(outputs, outputs)


def test_processes_end_with_the_trainer():
    lift = external(simulators.squared, workers=2)
    model, step = step_of(lift)
    step(X, Y)
    pids = pids_of(lift)
    del lift  # the step still has it
    step(X, Y)
    assert all(map(alive, pids))
    del model, step
    gc.collect()
    assert until(lambda: not any(map(alive, pids)))


SCRIPT = """
import sys, time
import numpy as np
from vantage.training.common.processes import Workers  # without TensorFlow, which takes seconds
how = sys.argv[1]

def loss(outputs, targets):  # of the main script: it is sent by value
    if how == "busy" and len(outputs) == 3:
        print("computes", flush=True)
        time.sleep(60)
    return np.mean(outputs), np.full_like(outputs, 1 / outputs.size)

workers = Workers(loss, 2, 60.0, "A host loss")
workers(2 * [(np.ones((2, 1)), ())])
print(*(each.process.pid for each in workers._running), flush=True)
if how == "busy":
    workers(2 * [(np.ones((3, 1)), ())])
if how == "raise":
    raise KeyError
"""


@pytest.mark.parametrize("how", ["end", "raise", "busy"])
def test_processes_end_with_the_interpreter(how, tmp_path):
    """Also if it raises, and if it is killed while they compute."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        if how == "busy":
            assert process.stdout.readline() == b"computes\n"
            process.kill()
        process.wait(30)
    assert until(lambda: not any(map(alive, pids)))


def test_a_loss_that_cannot_be_pickled():
    lock = threading.Lock()
    with pytest.raises(ValueError, match="must be picklable.*Received: .*Open files"):
        external(lambda y, t: (lock, y), workers=2)


def test_a_lift_with_workers_is_not_pickled():
    with pytest.raises(ValueError, match="cannot be copied or pickled"):
        external(simulators.squared, workers=2).divided._workers.__reduce__()


def test_a_sum_over_examples_is_refused():
    model, step = step_of(external(simulators.summed, workers=2))
    before = model.get_weights()
    with pytest.raises(ValueError, match="must be a mean over its examples. Received: L = .*len"):
        step(X, Y)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_random_loss_is_not_taken_for_a_sum():
    _, step = step_of(external(simulators.noisy, workers=2))
    assert np.isfinite(step(X, Y)["loss"])


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "4"])
def test_other_numbers_of_workers(workers):
    with pytest.raises(ValueError, match="workers must be (a whole number|at least 1)"):
        external(simulators.squared, workers=workers)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), "3", True])
def test_other_timeouts(timeout):
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
        external(simulators.squared, workers=2, timeout=timeout)


def test_it_is_faster_than_one_process():
    """The simulator waits 5 ms for each example, so workers gain even on one core."""
    outputs = np.zeros((40, 1), np.float32)
    lift = external(simulators.slow, workers=4)
    lift.divided(outputs, outputs)
    began = time.perf_counter()
    lift.divided(outputs, outputs)
    assert time.perf_counter() - began < 0.15  # one process takes 0.2 s
