"""Whoever owns data saves it: what changes in a class with a state is saved, or says why not.

An instance that has been used is compared with one that was made alike and given its state. An
attribute that differs is neither saved nor made by the constructor: it must be in `TRANSIENT`.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections import deque
from collections.abc import Mapping

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import VectorWrapper

import vantage.agents
import vantage.envs
import vantage.training
from vantage.agents import (
    A2C,
    DQN,
    PPO,
    QRDQN,
    SAC,
    TD3,
    A2CConfig,
    DQNConfig,
    PPOConfig,
    QRDQNConfig,
    SACConfig,
    TD3Config,
)
from vantage.envs import make_vec
from vantage.envs.native.cartpole_vector import resumable
from vantage.training import (
    CMAES,
    GAN,
    Evolution,
    OpenAIES,
    Regression,
    Rollout,
    Trainer,
    train,
)
from vantage.training.runs.record import Record

PAIRS = (("get_state", "set_state"), ("arrays", "load"))
"""Methods by which a class saves and restores what it owns."""


def stateful_classes() -> set[type]:
    """Every class of the package that has such a pair; no protocols."""
    found = set()
    for package in (vantage.training, vantage.envs, vantage.agents):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(each.name)
            found |= {
                kind
                for kind in vars(module).values()
                if isinstance(kind, type) and kind.__module__ == module.__name__
                if not getattr(kind, "_is_protocol", False)
                if any(all(hasattr(kind, name) for name in pair) for pair in PAIRS)
            }
    return found


STATEFUL = stateful_classes()

CLOCK = "what a clock showed"
COMPILED = "compiled again when it is called"
AGAIN = "the next update makes it"
TRANSIENT = {
    "Agent": {
        "batch": "for a look inside: of the last update",
        "gradients": "for a look inside: of the last update",
        "construction_seconds": CLOCK,
    },
    "Compiled": {"_is_tried": "whether the compiler has had a chance to fail"},
    "CartPole": {"_rates": "room for a step, which fills it"},
    "Curves": {"_seconds": CLOCK, "_since": CLOCK, "writer": "writes to files of its own"},
    "Cuttable": {"_seconds": CLOCK},
    "Differentiated": {"_aligns": "found again for the shapes of the data"},
    "Facts": {"step": "of the last point", "values": "the last point; Curves save it"},
    "FitFolder": {
        "saved": "what it was resumed from",
        "is_new": "whether it has no curves yet",
        "writer": "writes to files of its own",
        "_calls": CLOCK,
        "_at": CLOCK,
    },
    "Folder": {"saved": "what it was resumed from"},
    "GAN": {"_trained": "looked up when it is called"},
    "Monitor": {"_writer": "writes to files of its own"},
    "Normalizer": {"_seen": "the next observations take its place"},
    "OffPolicyAgent": {"_begins": "whether it still has to look at the first observations"},
    "OverlappedStep": {
        "batch": "for the error of an update: what it was given",
        "_started": "for the error of an update: what it was given",
    },
    "OpenAIES": {"_noise": "the next generation draws it", "_mean": "the next generation reads it"},
    "Past": {"_rows": "the same steps, in one piece"},
    "_Past": {"_parts": "the same epochs, in one piece"},
    "Record": {"_began": CLOCK, "resumed_from": "of this resume"},
    "Recording": {"unrecorded": "episodes before the resume: none of them is running"},
    "Regression": {"_steps": COMPILED},
    "Rollout": {
        "after": "for the error of an update: what followed its rollout",
        "before": "for the error of an update: what followed the rollout before",
    },
    "Rounds": {"_steps": COMPILED},
    "Step": {
        "_flat": AGAIN,
        "_is_new": "whether it still has to be compiled",
        "_joined": "made of the optimizer's variables, which are saved",
        "_piece": "how many updates fit between two looks at the signals",
    },
    "Trainer": {"_steps": COMPILED, "_frozen": "looked up when it is called"},
    "WorkerVectorEnv": {"_workers": "processes"},
}
"""By class: attributes that a resumed run does without, and why."""

OFF_POLICY = {"net_arch": (8,), "buffer_size": 200, "learning_starts": 20, "batch_size": 8}
ONCE = {"net_arch": (8,), "n_steps": 8, "batch_size": 8, "n_epochs": 1}
NORMALISED = {"normalize_observations": True, "normalize_rewards": True}
AGENTS = {
    "a2c": (A2C, A2CConfig(net_arch=(8,), overlap_update=True, **NORMALISED), "CartPole-v1"),
    "ppo": (PPO, PPOConfig(**ONCE, use_sde=True), "Pendulum-v1"),
    "dqn": (DQN, DQNConfig(**OFF_POLICY, prioritized=True), "CartPole-v1"),
    "qrdqn": (QRDQN, QRDQNConfig(**OFF_POLICY, n_quantiles=4), "CartPole-v1"),
    "sac": (SAC, SACConfig(**OFF_POLICY), "Pendulum-v1"),
    "td3": (TD3, TD3Config(**OFF_POLICY), "Pendulum-v1"),
}
NATIVE = "CartPole-v1 Acrobot-v1 MountainCar-v0 MountainCarContinuous-v0 Pendulum-v1".split()
ENVIRONMENTS = {
    **{
        name: lambda name=name: make_vec(name, 2, seed=3, vectorization="native") for name in NATIVE
    },
    "gymnasium": lambda: resumable(CartPoleVectorEnv(2)),
    "sync": lambda: make_vec("CartPole-v1", 2, seed=3),
    "async": lambda: make_vec("CartPole-v1", 2, seed=3, vectorization="async"),
}


class Hold:
    """A callback that holds all instances of stateful classes which there are when a run begins."""

    def __init__(self):
        self.held = []

    def begin(self, writer=None):
        self.held += [each for each in gc.get_objects() if type(each) in STATEFUL]

    def __call__(self, steps, metrics):
        pass


def trained(name, folder, resume=False) -> dict[type, object]:
    """The instances of stateful classes in a run, by class, after it has ended."""
    kind, config, env_id = AGENTS[name]
    gc.collect()
    older = [each for each in gc.get_objects() if type(each) in STATEFUL]
    envs = make_vec(env_id, 2, seed=3, vectorization="native")
    agent = kind(envs.single_observation_space, envs.single_action_space, config)
    hold = Hold()
    train(agent, envs, 75, logdir=folder, resume=resume, log_every=20, callbacks=[hold])
    hold.begin()
    found = {}
    for each in hold.held:
        if not any(each is other for other in older):
            assert found.setdefault(type(each), each) is each, f"two of {type(each).__name__}"
    return found


def stepped(make) -> tuple[object, object]:
    """Environments after some steps, and others that were given their state."""
    used, restored = make(), make()
    used.reset(seed=3)
    for _ in range(30):
        used.step(used.action_space.sample())
    restored.reset(seed=4)
    assert not restored.set_state(used.get_state())
    return used, restored


X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


def network(units=1):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])


def adam():
    return keras.optimizers.Adam(0.01)


FITS = {
    "trainer": lambda: (Trainer(network(), "mse", adam()), (X, X[:, :1], 3), {}),
    "regression": lambda: (
        Regression(network(), "mse", adam(), batch_size=8),
        (X, X[:, :1], 3),
        {},
    ),
    "gan": lambda: (
        GAN(network(2), network(), adam(), adam(), batch_size=8, ema=0.9),
        (X, 12),
        {"report_every": 4},
    ),
}


def fitted(name, folder, resume=False) -> dict[type, object]:
    """The same of a fit."""
    trainer, arguments, options = FITS[name]()
    gc.collect()
    older = [each for each in gc.get_objects() if type(each) in STATEFUL and each is not trainer]
    hold = Hold()
    trainer.fit(*arguments, logdir=folder, resume=resume, callbacks=[hold], **options)
    hold.begin()
    found = {}
    for each in hold.held:
        if not any(each is other for other in older):
            assert found.setdefault(type(each), each) is each, f"two of {type(each).__name__}"
    return found


def evolved(strategy) -> list[tuple[object, object]]:
    """An evolution and its strategy after some generations, and others with their states."""
    score = lambda model: float(np.square(model.predict_on_batch(X)).mean())  # noqa: E731
    strategies = strategy(), strategy()
    used, restored = (Evolution(network(), score, each) for each in strategies)
    used.fit(2)
    restored.set_state(used.get_state())
    return [(used, restored), strategies]


def attributes(instance) -> dict[str, object]:
    """All that an instance holds, as far as it counts."""
    named = dict(vars(instance))
    if isinstance(instance, VectorWrapper):  # its state is that of the environment in it
        named = {**vars(instance.env), **named}
    if isinstance(instance, Rollout):  # what lies behind its steps is overwritten before it is read
        rows = {name: named[name][: instance.steps] for name in named if name in ROWS}
        named |= rows
    return named


ROWS = ("observations", "actions", "values", "parameters", "rewards", "terminated", "ended")
ROWS += ("weights",)


def is_ours(value) -> bool:
    return type(value).__module__.startswith("vantage.") and hasattr(value, "__dict__")


def lost(used, restored, path="", seen=None) -> list[str]:
    """The attributes that differ in two instances of one class, and are not declared transient."""
    seen, found, others = set() if seen is None else seen, [], attributes(restored)
    declared = {n for kind in type(used).__mro__ for n in TRANSIENT.get(kind.__name__, ())}
    for name, value in attributes(used).items():
        if name not in declared:
            found += differences(value, others.get(name, Hold), f"{path}{name}", seen)
    return found


def differences(a, b, path, seen) -> list[str]:
    """Where two values differ, as far as numbers, texts and Keras variables in them go.

    Instances of stateful classes are compared by themselves, and opaque ones by their type.
    """
    a, b = (each.item() if isinstance(each, np.generic) else each for each in (a, b))
    if type(a) is not type(b):
        return [path]
    if a is b or type(a) in STATEFUL or (id(a), id(b)) in seen:
        return []
    seen.add((id(a), id(b)))
    a, b = plain(a), plain(b)
    if isinstance(a, np.ndarray):
        return [] if np.array_equal(a, b, equal_nan=a.dtype.kind == "f") else [path]
    if isinstance(a, list):
        if len(a) != len(b):
            return [path]
        parts = [each for x, y in zip(a, b, strict=True) for each in differences(x, y, path, seen)]
        return list(dict.fromkeys(parts))
    if is_ours(a):
        return lost(a, b, f"{path}.", seen)
    is_value = isinstance(a, bool | int | float | str | bytes | None)
    return [path] if is_value and a != b and a == a else []


def plain(value):
    """Arrays and lists instead of what holds some."""
    if isinstance(value, keras.Model | keras.optimizers.Optimizer):
        return list(value.variables)
    if isinstance(value, np.random.Generator):
        return plain(value.bit_generator.state)
    if isinstance(value, tf.Tensor | tf.Variable | keras.Variable):
        return None if value.dtype == tf.resource else value.numpy()  # of a handle there is none
    if isinstance(value, Mapping):  # without what a clock showed, such as the speed of a run
        pairs = [pair for pair in value.items() if not str(pair[0]).startswith("time/")]
        return [each for pair in pairs for each in pair]
    return list(value) if isinstance(value, tuple | deque) else value


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By class: used instances, each with one that was given its state."""
    found = {}
    for name in AGENTS:
        folder = tmp_path_factory.mktemp("runs") / "run"
        used, restored = trained(name, folder), trained(name, folder, resume=True)
        assert set(used) == set(restored)
        for kind in used:
            found.setdefault(kind, []).append((used[kind], restored[kind]))
    for make in ENVIRONMENTS.values():
        used, restored = stepped(make)
        found.setdefault(type(used), []).append((used, restored))
    for name in FITS:
        folder = tmp_path_factory.mktemp("fits") / "fit"
        used, restored = fitted(name, folder), fitted(name, folder, resume=True)
        assert set(used) == set(restored)
        for kind in used:
            found.setdefault(kind, []).append((used[kind], restored[kind]))
    for strategy in (lambda: OpenAIES(adam()), CMAES):
        for used, restored in evolved(strategy):
            found.setdefault(type(used), []).append((used, restored))
    yield found
    for kind in found:
        if hasattr(kind, "close"):
            [each.close() for pair in found[kind] for each in pair]


@pytest.mark.parametrize("kind", sorted(STATEFUL, key=str), ids=lambda kind: kind.__name__)
def test_what_changes_is_saved_or_declared_transient(kind, pairs):
    if any(kind in other.__mro__[1:] for other in pairs):
        return  # a base class: its attributes are those of the others
    for used, restored in pairs[kind]:
        assert lost(used, restored) == []
        assert set(TRANSIENT.get(kind.__name__, ())) <= set(vars(used))


def test_an_attribute_that_is_forgotten_is_found(pairs):
    used, restored = pairs[Record][0]
    used.forgotten, restored.forgotten = 1, 0
    assert lost(used, restored) == ["forgotten"]
    used, restored = pairs[Rollout][0]
    used.steps -= 1  # what is saved counts as well
    assert "steps" in lost(used, restored)
