"""How an environment that breaks is named, whatever it raises; in turn and in workers."""

import contextlib

import gymnasium as gym
import numpy as np
import pytest
from commands import caller
from gymnasium.envs.registration import EnvSpec

from vantage.envs import BrokenEnvironmentError, make_vec
from vantage.envs.vector.broken import raised, traceback_of


class PanicException(BaseException):
    """As Rust code raises it."""


class Textless(Exception):
    def __str__(self):
        raise RuntimeError("no text")


RAISED = {
    "long": lambda: ValueError("x" * 10**8),
    "lines": lambda: ValueError("x\n" * 10**6),
    "textless": Textless,
    "surrogate": lambda: ValueError("\udcff\x1b[31m"),
    "cannot be pickled": lambda: ValueError(lambda: 1),
    "panic": lambda: PanicException("index out of bounds"),
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "SystemExit": lambda: SystemExit(0),
}
SAID = {
    "long": "raised ValueError: xxx",
    "lines": "raised ValueError: x x x",
    "textless": "raised Textless: (its __str__ raises an exception itself)",
    "panic": "raised PanicException: index out of bounds",
    "GeneratorExit": "raised GeneratorExit",
    "SystemExit": "raised SystemExit: 0",
}


class Raising(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, kind="", where="step"):
        self.kind, self.where = kind, where

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.where == "reset":
            raise RAISED[self.kind]()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        raise RAISED[self.kind]()

    def close(self):
        if self.where == "close":
            raise RAISED[self.kind]()


@pytest.mark.thinned
@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_every_exception_is_named_in_a_short_line(kind, how):
    envs = make_vec(Raising, 1, seed=0, env_kwargs={"kind": kind}, vectorization=how)
    with contextlib.closing(envs):
        envs.reset()
        with pytest.raises(BrokenEnvironmentError) as caught:
            envs.step([0])
    assert f"environment 0 {SAID.get(kind, 'raised ')}" in caught.value.first_line
    assert len(caught.value.first_line) < 1_000 and len(str(caught.value)) < 300_000


def test_a_panic_elsewhere():
    kwargs = {"kind": "panic"}
    with pytest.raises(BrokenEnvironmentError, match="in reset"):
        make_vec(Raising, 1, seed=0, env_kwargs={**kwargs, "where": "reset"})
    envs = make_vec(Raising, 1, seed=0, env_kwargs={**kwargs, "where": "close"})
    with pytest.warns(UserWarning, match="raised PanicException: index out of bounds in close"):
        envs.close()


def test_the_users_interrupt_is_no_fault(monkeypatch):
    monkeypatch.setitem(RAISED, "interrupt", KeyboardInterrupt)
    with contextlib.closing(make_vec(Raising, 1, env_kwargs={"kind": "interrupt"})) as envs:
        envs.reset()
        with pytest.raises(KeyboardInterrupt):
            envs.step([0])


@pytest.mark.parametrize("kind", RAISED)
def test_tracebacks_are_short(kind):
    try:
        raise RAISED[kind]()
    except BaseException as error:
        said, trace = raised(error), traceback_of(error)
    assert len(said) < 400 and said.startswith("raised ")
    assert len(trace) < 300_000 and "test_tracebacks_are_short" in trace


@pytest.mark.parametrize(
    "kind",
    [
        "long",
        "panic",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("textless", "surrogate")),
    ],
)
def test_a_command_ends_with_one_line(tmp_path, kind, monkeypatch, capfd):
    """Exit code 1, after the traceback of the environment; nothing controls the terminal."""
    spec = EnvSpec("Raising-v0", entry_point=Raising, kwargs={"kind": kind})
    monkeypatch.setitem(gym.registry, spec.id, spec)
    words = ("train", "a2c", spec.id, "--net-arch", "8", "--logdir", tmp_path / "run")
    code, _, err = caller(capfd)(*words)
    *trace, last = err.splitlines()
    assert code == 1 and last.startswith("error: An environment must not break.")
    assert any("in step" in line for line in trace)
    assert "\x1b" not in err and len(err) < 300_000
