"""Configs, recorded flags and spaces from files: valid ones, or a ValueError of one line."""

import copy
import dataclasses
import json
import math
import string
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from vantage.agents import A2CConfig, SACConfig
from vantage.agents.acting.observations import Encoder
from vantage.agents.acting.spaces import (
    MAX_NUMBERS,
    is_same_space,
    is_saved_space,
    space_from_json,
    space_to_json,
)
from vantage.agents.configs.fields import Positive, Rule, check_fields, config_from_json
from vantage.agents.configs.presets import PRESETS
from vantage.agents.configs.registry import ALGORITHMS
from vantage.scripts.commands.train import TrainFlags
from vantage.scripts.reading.recorded import NOT_RECORDED, recorded_flags
from vantage.training.storage.checkpoint import load_checkpoint, save_checkpoint
from vantage.training.storage.packing import pack, unpack

FUZZED = {"deadline": None, "derandomize": True, "database": None}

odd = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 0.0, -0.0, 0.5, 1.0, 1.5, 5.0, -0.1, math.nan, math.inf]
    + [-math.inf, 2**31, 2**63, 65_537, 10**7 + 1, -(10**30), 10**400, 1e308, "", "0.5"]
    + ["linear", "sine", "two\nlines", "\x1b[2J\u2028\ud800", "x" * 10_000, [], {}, [0], [64, 0]]
    + [[64, True], [64, 1.5], [8] * 65, [65_537], [[8]], ["8"], [None], {"a": [8]}, [10**400]]
)
json_values = st.recursive(
    odd | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4)
    ),
    max_leaves=8,
)


def assert_one_line(error, length=1_000):
    """In the house's form, short, and nothing in it that a terminal would obey."""
    text = str(error.value if isinstance(error, pytest.ExceptionInfo) else error)
    assert "Received: " in text and text.isprintable() and len(text) < length, text


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


# ------------------------------------------------------------------------------------- configs

POSITIVES = ["learning_rate", "max_grad_norm", "rms_prop_eps", "clip_range", "ent_coef_init"]
NON_NEGATIVES = ["ent_coef", "vf_coef", "action_noise", "target_policy_noise", "target_noise_clip"]
FRACTIONS = ["gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_initial_eps"]
FRACTIONS += ["exploration_final_eps", "priority_alpha", "priority_beta"]
COUNTS = ["n_steps", "batch_size", "n_epochs", "buffer_size", "train_freq", "policy_delay"]
COUNTS += ["target_update_interval", "n_quantiles"]
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**300)
VALID = {
    **dict.fromkeys(POSITIVES, POSITIVE),
    **dict.fromkeys(NON_NEGATIVES, st.just(0) | POSITIVE),
    **dict.fromkeys(FRACTIONS, st.floats(0, 1) | st.integers(0, 1)),
    **dict.fromkeys(COUNTS, st.integers(1, 10**7)),
    **dict.fromkeys(["sde_sample_freq", "gradient_steps"], st.just(-1) | st.integers(1, 10**7)),
    **dict.fromkeys(["clip_range_vf", "target_kl"], st.none() | POSITIVE),
    **dict.fromkeys(["lr_schedule", "clip_schedule"], st.sampled_from(["constant", "linear"])),
    "learning_starts": st.integers(0, 10**12),
    "log_std_init": st.floats(allow_nan=False, allow_infinity=False),
    "target_entropy": st.just("auto") | st.floats(allow_nan=False, allow_infinity=False),
    "net_arch": st.lists(st.integers(1, 65_536), max_size=64),
    "optimizer": st.sampled_from(["rmsprop", "adam"]),
    "activation": st.sampled_from(["tanh", "relu", "elu"]),
}


def valid_of(config_type):
    """A strategy for every field."""
    names = [field.name for field in dataclasses.fields(config_type)]
    valid = {name: VALID.get(name, st.booleans()) for name in names}
    return valid | ({"ent_coef": st.just("auto") | POSITIVE} if config_type is SACConfig else {})


def is_valid(name, value):
    """What a config may hold, written out once more."""
    number = type(value) is float and math.isfinite(value)
    if name in ("clip_range_vf", "target_kl") and value is None:
        return True
    if name in ("ent_coef", "target_entropy") and value == "auto":
        return True
    if name in (*POSITIVES, "clip_range_vf", "target_kl"):
        return number and value > 0
    if name in FRACTIONS:
        return number and 0 <= value <= 1
    if name in NON_NEGATIVES:
        return number and value >= 0
    if name in ("log_std_init", "target_entropy"):
        return number
    if name in ("sde_sample_freq", "gradient_steps") and value == -1:
        return type(value) is int
    if name in (*COUNTS, "sde_sample_freq", "gradient_steps"):
        return type(value) is int and 1 <= value <= 10**7
    if name == "learning_starts":
        return type(value) is int and 0 <= value <= 10**12
    if name == "net_arch":
        widths = all(type(width) is int and 1 <= width <= 65_536 for width in value)
        return type(value) is tuple and len(value) <= 64 and widths
    choices = {
        "lr_schedule": ("constant", "linear"),
        "clip_schedule": ("constant", "linear"),
        "optimizer": ("rmsprop", "adam"),
        "activation": ("tanh", "relu", "elu"),
    }
    return value in choices[name] if name in choices else type(value) is bool


def near_misses(right):
    """What is almost like a right value: of another type, or just out of range."""
    if isinstance(right, bool):
        return [0, 1, "True", None]
    if isinstance(right, str):
        return [f"{right}\n", right.upper() + "x", True, None, [right], ""]
    if isinstance(right, list | tuple):
        lists = [[8] * 65, [65_537], [0], [True], [8.0], ["8"], [[8]], [10**400], [None]]
        return [*lists, 8, "8", None, {"8": 8}]
    odd_ones = [-0.1, -1, 1.5, math.nan, math.inf, -math.inf, 10**400, True, "1", None, [right]]
    return [*odd_ones, 0, 5.0, 65_537, 10**7 + 1, 2**128, 10**15 + 1]


def misses(rights):
    """Every right value replaced by each of its near misses, one at a time."""
    return [{name: miss} for name, right in rights.items() for miss in near_misses(right)]


def fuzz(attempt, examples, rights, valid):
    """Attempts all near misses, then `examples` dicts and other values that Hypothesis draws.

    Of the valid entries of a dict none, one, or more are replaced by anything.
    """
    for values in [*misses(rights), {"x" * 5_000: 1}, {"two\nlines": 1}]:
        attempt(values)
    names = st.sampled_from(list(valid)) | st.text(max_size=8)
    anything = st.dictionaries(names, json_values, max_size=2)
    changes = st.just({}) | anything | st.sampled_from(misses(rights))
    some = st.fixed_dictionaries({}, optional=valid)
    dicts = st.builds(lambda values, changed: values | changed, some, changes)
    settings(max_examples=examples, **FUZZED)(given(dicts | json_values)(attempt))()


CONFIGS = [each.config for each in ALGORITHMS.values()]


@pytest.mark.parametrize("examples", [50, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("config_type", CONFIGS)
def test_fuzzed_configs(config_type, examples):
    """Each one is valid and survives JSON, or is refused in one line."""
    outcomes, valid = Counter(), valid_of(config_type)

    def attempt(values):
        try:
            config = config_from_json(config_type, values)
        except ValueError as error:
            outcomes["refused"] += 1
            return assert_one_line(error)
        outcomes["valid"] += 1
        for name in valid:
            assert is_valid(name, getattr(config, name)), name
        for name, value in values.items():  # no text and no bool became a number
            taken = getattr(config, name)
            assert not isinstance(value, str | bool) or type(taken) is type(value), name
            assert value is None or taken == type(taken)(value), name
        text = json.dumps(dataclasses.asdict(config), allow_nan=False)
        assert config_from_json(config_type, json.loads(text)) == config
        assert hash(config) == hash(dataclasses.replace(config))

    fuzz(attempt, examples, dataclasses.asdict(config_type()), valid)
    assert outcomes["valid"] > 0.1 * examples and outcomes["refused"] > 0.3 * examples, outcomes


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"learning_rate": "x"}, "a finite number greater than 0"),
        ({"learning_rate": 10**400}, "a finite number greater than 0"),
        ({"learning_rate": 10**5000}, "a finite number greater than 0"),
        ({"learning_rate": True}, "a finite number greater than 0"),
        ({"learning_rate": math.inf}, "a finite number greater than 0"),
        ({"learning_rate": 0}, "a finite number greater than 0"),
        ({"max_grad_norm": None}, "a finite number greater than 0"),
        ({"rms_prop_eps": [1e-5]}, "a finite number greater than 0"),
        ({"gamma": math.nan}, "a finite number between 0 and 1"),
        ({"gae_lambda": -0.1}, "a finite number between 0 and 1"),
        ({"ent_coef": -1}, "a finite number of at least 0"),
        ({"vf_coef": "0.5"}, "a finite number of at least 0"),
        ({"log_std_init": -math.inf}, "a finite number"),
        ({"n_steps": 0}, "an integer of at least 1"),
        ({"n_steps": 5.0}, "an integer of at least 1"),
        ({"n_steps": True}, "an integer of at least 1"),
        ({"n_steps": 10**7 + 1}, "at most 10,000,000"),
        ({"share_trunk": 1}, "True or False"),
        ({"overlap_update": "yes"}, "True or False"),
        ({"optimizer": "sgd"}, "one of rmsprop, adam"),
        ({"optimizer": ["adam"]}, "one of rmsprop, adam"),
        ({"activation": None}, "one of tanh, relu, elu"),
        ({"lr_schedule": "two\nlines"}, "one of constant, linear"),
        ({"net_arch": 64}, "a tuple of at most 64 widths"),
        ({"net_arch": "64"}, "a tuple of at most 64 widths"),
        ({"net_arch": [8] * 65}, "a tuple of at most 64 widths"),
        ({"net_arch": [0]}, "each between 1 and 65,536"),
        ({"net_arch": [65_537]}, "each between 1 and 65,536"),
        ({"net_arch": [True]}, "each between 1 and 65,536"),
        ({"net_arch": [8.0]}, "each between 1 and 65,536"),
        ({"net_arch": deep(500)}, "each between 1 and 65,536"),
        ({"net_arch": {"0": 64}}, "a tuple of at most 64 widths"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(next(iter(value))),
)
def test_a_setting_is_checked(values, rule):
    (name,) = values
    with pytest.raises(ValueError, match="Leave it out for the default, ") as error:
        config_from_json(A2CConfig, values)
    assert str(error.value).startswith(f"{name} must be ") and rule in str(error.value)
    assert_one_line(error, 300)
    with pytest.raises(ValueError, match="Received: "):
        A2CConfig(**values)


def test_the_error_in_full():
    with pytest.raises(ValueError) as error:
        A2CConfig(learning_rate="x")
    assert str(error.value) == (
        "learning_rate must be a finite number greater than 0. Received: learning_rate='x'. "
        "Leave it out for the default, 0.0007."
    )


@pytest.mark.parametrize(
    "values", [None, 3, "config", [], ["gamma"], [["gamma", 0.9]], deep(500), {"colour": "blue"}]
)
def test_what_is_no_config_is_refused(values):
    with pytest.raises(ValueError, match=r"A config must .*Known are learning_rate, ") as error:
        config_from_json(A2CConfig, values)
    assert_one_line(error)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"Received: \['colour', 'size'\]. Known are .*gamma"):
        config_from_json(A2CConfig, {"colour": 1, "gamma": 0.9, "size": 2})


def test_what_numpy_computes_becomes_pythons():
    config = A2CConfig(
        learning_rate=np.float64(0.5),
        gamma=np.float32(0.5),
        n_steps=np.int64(3),
        net_arch=[np.int32(8), 7],
        share_trunk=np.bool_(True),
        max_grad_norm=2,
    )
    expected = A2CConfig(0.5, n_steps=3, gamma=0.5, net_arch=(8, 7), share_trunk=True)
    assert config == dataclasses.replace(expected, max_grad_norm=2.0)
    for name in valid_of(A2CConfig):
        assert is_valid(name, getattr(config, name)), name
    json.dumps(dataclasses.asdict(config))
    for value in (np.float64("nan"), np.str_("x"), np.zeros(1), np.datetime64(1, "s")):
        with pytest.raises(ValueError, match="Received: "):
            A2CConfig(learning_rate=value)


@pytest.mark.parametrize("config_type", CONFIGS)
def test_defaults_and_presets_are_as_written(config_type):
    """The checks change nothing of what is of its type already."""
    for field in dataclasses.fields(config_type):
        value = getattr(config_type(), field.name)
        assert type(value) is type(field.default) and value == field.default
    for preset in PRESETS.values():
        assert dataclasses.replace(preset.config) == preset.config


@dataclass(frozen=True)
class OtherConfig(A2CConfig):
    """One that inherits, and has the type hints that A2C does not need."""

    target_entropy: float | Literal["auto"] = "auto"
    buffer: Annotated[int, Rule("that is even", lambda n: n % 2 == 0)] | None = None
    ent_coef: Positive = 1.0


def test_configs_that_inherit_are_checked_too():
    config = config_from_json(OtherConfig, {"target_entropy": -1, "buffer": 4, "net_arch": [8]})
    assert config == OtherConfig(net_arch=(8,), target_entropy=-1.0, buffer=4)
    assert OtherConfig() == OtherConfig(target_entropy="auto", buffer=None)
    for values in (
        {"target_entropy": "manual"},
        {"target_entropy": math.nan},
        {"buffer": 3},
        {"buffer": False},
        {"ent_coef": 0},
        {"gamma": 2},
    ):
        with pytest.raises(ValueError, match=next(iter(values))) as error:
            config_from_json(OtherConfig, values)
        assert_one_line(error, 300)


def test_a_field_without_a_default_is_checked():
    @dataclass(frozen=True)
    class Settings:
        size: "int"

        __post_init__ = check_fields

    with pytest.raises(ValueError, match=r"size must be an integer. Received: size='x'. Pass"):
        Settings("x")


# ------------------------------------------------------------------------------ recorded flags

FLAGS = {
    "total_steps": st.integers(1, 10**15),
    "num_envs": st.integers(1, 65_536),
    "seed": st.integers(0, 2**128 - 1),
    "vectorization": st.sampled_from(["sync", "async", "native"]),
    "max_episode_steps": st.none() | st.integers(1, 10**15),
    "env_timeout": st.floats(0.1, 1e6),
    "restart_broken_envs": st.booleans(),
    "stop_at_return": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "checkpoint_every": st.none() | st.integers(1, 10**15),
    "eval_every": st.none() | st.integers(1, 10**15),
    "log_every": st.integers(1, 10**15),
    "device": st.text(string.ascii_letters + ":0", max_size=8),
}
RIGHT_FLAGS = {name: getattr(TrainFlags(config=None), name) for name in FLAGS}


def test_three_hundred_fuzzed_records_of_flags():
    """Entries of the flags' types and in range, or a refusal in one line."""
    outcomes = Counter()

    def attempt(saved):
        try:
            flags = recorded_flags(TrainFlags, saved)
        except ValueError as error:
            outcomes["refused"] += 1
            return assert_one_line(error)
        outcomes["valid"] += 1
        TrainFlags(config=None, **flags)
        for name, value in flags.items():
            assert value == saved[name] and not isinstance(value, list | dict)
            least, most = {"seed": (0, 2**128 - 1), "num_envs": (1, 65_536)}.get(name, (1, 10**15))
            assert type(value) is not int or least <= value <= most, name
            assert type(value) is not float or math.isfinite(value), name
        assert json.loads(json.dumps(flags, allow_nan=False)) == flags

    fuzz(attempt, 300, RIGHT_FLAGS, FLAGS)
    assert outcomes["valid"] > 30 and outcomes["refused"] > 60, outcomes


def test_every_recorded_flag_comes_back():
    flags = TrainFlags(config=A2CConfig(), seed=3, stop_at_return=9.0, eval_every=20)
    names = [field.name for field in dataclasses.fields(flags)]
    recorded = {name: getattr(flags, name) for name in names if name not in NOT_RECORDED}
    saved = {"env_id": "CartPole-v1", "algorithm": "a2c", **recorded}
    assert recorded_flags(TrainFlags, json.loads(json.dumps(saved))) == recorded


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_no_file_says_what_is_read_or_written_where(name):
    assert name in {field.name for field in dataclasses.fields(TrainFlags)}
    assert recorded_flags(TrainFlags, {name: "/etc", "seed": 1}) == {"seed": 1}


@pytest.mark.parametrize(
    ("saved", "rule"),
    [
        ({"total_steps": 0}, "an integer of at least 1 and at most 10**15"),
        ({"total_steps": "1000"}, "an integer of at least 1"),
        ({"total_steps": 10**400}, "an integer of at least 1"),
        ({"num_envs": True}, "an integer of at least 1 and at most 65,536"),
        ({"num_envs": 10**9}, "at most 65,536"),
        ({"seed": -1}, "an integer of at least 0"),
        ({"vectorization": "warp"}, "one of sync, async, native"),
        ({"vectorization": []}, "one of sync, async, native"),
        ({"max_episode_steps": 0}, "an integer of at least 1 and at most 10**15 or None"),
        ({"env_timeout": 1e300}, "a finite number greater than 0"),
        ({"stop_at_return": math.nan}, "a finite number or None"),
        ({"restart_broken_envs": "no"}, "True or False"),
        ({"device": "cpu\n"}, "a short text on one line"),
        ({"device": "c" * 10_000}, "a short text on one line"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(next(iter(value))),
)
def test_a_recorded_flag_is_checked(saved, rule):
    with pytest.raises(ValueError, match="Correct it in config.json") as error:
        recorded_flags(TrainFlags, {"seed": 1, **saved})
    assert rule in str(error.value)
    assert_one_line(error, 300)


def test_flags_of_other_dataclasses_are_read_by_their_types():
    @dataclass
    class Flags:
        folder: Path = Path("a")
        share: Annotated[float, Rule("of at most 1", lambda x: x <= 1)] = 0.5
        size: Annotated[int | None, "for tyro"] = None

    expected = {"folder": Path("b"), "share": 1.0, "size": 7}
    assert recorded_flags(Flags, {"folder": "b", "share": 1, "size": 7}) == expected
    for saved in ({"folder": 3}, {"share": 2}, {"size": 0}, {"size": "x"}):
        with pytest.raises(ValueError, match=next(iter(saved))):
            recorded_flags(Flags, saved)


# -------------------------------------------------------------------------------------- spaces

SPACES = [
    spaces.Box(-np.inf, np.inf, (2,), np.float32),
    spaces.Box(np.array([[-np.inf, -0.1]]), np.array([[0.1, np.inf]]), dtype=np.float64),
    spaces.Box(0, 255, (2, 3, 1), np.uint8),
    spaces.Box(-5, 5, (), np.int64),
    spaces.Box(0, 1, (2,), np.bool_),
    spaces.Box(-1, 1, (2,), np.float16),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 2]], dtype=np.int8),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple([spaces.MultiBinary(2), spaces.Text(3)])),
    spaces.Tuple([spaces.Dict({"x": spaces.Box(0, 1, (2,)), 1: spaces.Discrete(3)})]),
]
SPACES_JSON = [space_to_json(space) for space in SPACES]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back(space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert is_same_space(space, again) and is_same_space(again, space)
    assert again == space or "Text" in str(space)
    assert not any(is_same_space(space, other) for other in SPACES if other is not space)


LARGE = {
    "equal": spaces.Box(0, 255, (40, 50, 3), np.uint8),
    "equal, infinite": spaces.Box(-np.inf, np.inf, (2000,), np.float32),
    "floats": spaces.Box(-np.inf, np.linspace(0, 1, 2000, dtype=np.float64), dtype=np.float64),
    "zeros of both signs": spaces.Box(np.array([0.0, -0.0] * 600), np.ones(1200), dtype=np.float64),
    "integers": spaces.Box(np.arange(-2000, 0), np.arange(2000), dtype=np.int64),
    "bools": spaces.Box(np.arange(1100) % 2 > 0, np.ones(1100, bool), dtype=np.bool_),
    "MultiDiscrete": spaces.MultiDiscrete(np.arange(1, 1200), start=np.arange(1199)),
    "nested": spaces.Dict(a=spaces.Box(-1, np.linspace(0, 1, 2000), dtype=np.float64)),
}


@pytest.mark.parametrize("space", LARGE.values(), ids=LARGE)
def test_large_spaces_come_back_and_take_no_text(space, tmp_path):
    arrays, packed = pack("space", space_to_json(space))
    assert len(json.dumps(packed)) < 300
    save_checkpoint(tmp_path / "saved", arrays, {"space": packed})
    arrays, manifest = load_checkpoint(tmp_path / "saved")
    data = unpack(manifest["space"], arrays)
    again = space_from_json(data)
    assert again == space and is_saved_space(space, data)
    assert is_same_space(space, again) and is_same_space(again, space)
    assert not any(is_same_space(space, other) for other in LARGE.values() if other is not space)


@pytest.mark.parametrize(
    "change",
    [{"shape": [2**26]}, {"shape": [5], "low": np.zeros(6, np.uint32)}]
    + [{"shape": [5], "low": np.zeros(5, np.float32)}, {"low": np.full(5, 2**32 - 1, np.uint32)}],
    ids=["too large", "another length", "another type", "NaN"],
)
def test_forged_large_bounds_are_refused(change):
    data = {"type": "Box", "dtype": "float32", "low": "0.0", "high": "1.0", "shape": [5], **change}
    with pytest.raises(ValueError, match="A saved space must be readable"):
        space_from_json(data)


def test_a_limit_on_boxes_holds_before_anything_is_allocated():
    box = {"type": "Box", "dtype": "float32", "low": "0.0", "high": "1.0", "shape": [100, 100]}
    data = {"type": "Tuple", "entries": [box] * 10}
    assert space_from_json(data, 100_000) is not None
    with pytest.raises(ValueError, match="at most 99,999 numbers in Boxes"):
        space_from_json(data, 99_999)


class Mission(spaces.Space):
    """A space whose repr is another one in every process, as MiniGrid's."""

    def __init__(self):
        super().__init__(dtype=str)


def test_what_is_saved_of_a_space_is_the_same_in_every_process():
    def space():
        return spaces.Dict(a=Mission(), b=spaces.Text(5, charset="abcdefgh"), c=spaces.Discrete(2))

    one, other = space(), space()
    assert str(one) != str(other)
    assert space_to_json(one) == space_to_json(other)
    assert is_saved_space(one, space_to_json(other))
    assert not is_saved_space(one, space_to_json(spaces.Dict(a=Mission(), c=spaces.Discrete(2))))


def places(data):
    """Every (container, key) in a JSON value."""
    keys = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
    for key in list(keys):
        yield data, key
        yield from places(data[key])


words = st.sampled_from(
    ["Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "other", "os.system"]
    + ["float32", "object", "O", "U8", "f4,f4", "(9,)f4", "a", "complex64", "int8", "uint64"]
    + ["nan", "inf", "-inf", "1e999", "9" * 5000, "True", "0", "-1", "300", "5"]
)
numbers = st.sampled_from(
    [0, -1, True, 1.5, "3", math.nan, 300, 2**31, 2**62, 2**63, 10**8 + 1, 10**12, 10**400]
    + [[2], [-1], [10**9], [2, 3], [[2, 3]], [[2], [2, 3]], [2**62] * 4, ["3"], [2.5], [1] * 33, []]
)


@st.composite
def mutated(draw):
    data = copy.deepcopy(draw(st.sampled_from(SPACES_JSON)))
    for _ in range(draw(st.integers(1, 3))):
        if found := list(places(data)):
            container, key = found[draw(st.integers(0, len(found) - 1))]
            if draw(st.integers(0, 4)) == 0:
                del container[key]
            else:
                kinds = [words, json_values, st.sampled_from(SPACES_JSON)]
                near = words if isinstance(container[key], str) else numbers
                container[key] = copy.deepcopy(draw(draw(st.sampled_from([*kinds, *[near] * 3]))))
    return data


def test_three_hundred_mutated_spaces():
    """A space that an encoder takes and that comes back, or a refusal in one line."""
    outcomes = Counter()

    @settings(max_examples=300, **FUZZED)
    @given(mutated() | json_values)
    def attempt(data):
        try:
            space = space_from_json(data)
        except ValueError as error:
            outcomes["refused"] += 1
            return assert_one_line(error)
        outcomes["valid"] += 1
        assert is_same_space(space_from_json(space_to_json(space)), space)
        try:
            assert Encoder(space).shape[:1] <= (MAX_NUMBERS,)
        except ValueError as error:
            assert "observation space must hold" in str(error)

    attempt()
    assert outcomes["valid"] > 10 and outcomes["refused"] > 100, outcomes


def box(low=("0",), high=("1",), shape=(1,), dtype="float32"):
    bounds = {"low": list(low), "high": list(high)}
    return {"type": "Box", "dtype": dtype, **bounds, "shape": list(shape)}


def discrete(n, start=0, dtype="int64"):
    return {"type": "Discrete", "dtype": dtype, "n": n, "start": start}


def multi_discrete(nvec, start, dtype="int64"):
    return {"type": "MultiDiscrete", "dtype": dtype, "nvec": nvec, "start": start}


def multi_binary(n):
    return {"type": "MultiBinary", "dtype": "int8", "n": n}


def many(*children):
    return {"type": "Tuple", "entries": list(children)}


def nested(levels):
    space = discrete(2)
    for _ in range(levels):
        space = many(space)
    return space


REFUSED = {
    "no object": [],
    "no type": {},
    "a type that is a list": {"type": ["Box"]},
    "a type to import": {"type": "os.system", "dtype": "int64", "n": 2},
    "a shape beyond its bounds": box(shape=(10**9,)),
    "a shape beyond any": box(shape=(10**30, 0)),
    "a shape of -1": box(shape=(-1,)),
    "negative lengths": box(("0", "0"), ("1", "1"), (-1, -2)),
    "a shape of text": box(shape=("1",)),
    "a shape of bools": box(shape=(True,)),
    "33 axes": box(shape=[1] * 33),
    "bounds that are numbers": box((0,), (1,)),
    "NaN as a bound": box(("nan",)),
    "low above high": box(("2",)),
    "a bound beyond its dtype": box(("300",), ("300",), dtype="uint8"),
    "a bound beyond float32": box(high=("1e300",)),
    "a bound of many digits": box(high=("9" * 5000,), dtype="int64"),
    "objects": box(dtype="object"),
    "text": box(dtype="<U8"),
    "structures": box(dtype="f4,f4"),
    "a deprecated dtype": box(dtype="a"),
    "a list as dtype": box(dtype=["f4"]),
    "Discrete of nothing": discrete(0),
    "Discrete below nothing": discrete(-1),
    "Discrete beyond its code": discrete(10**8 + 1),
    "Discrete beyond int32": discrete(2**31),
    "Discrete beyond int64": discrete(10**400),
    "Discrete of text": discrete("3"),
    "Discrete of a bool": discrete(True),
    "Discrete of floats": discrete(3, dtype="float32"),
    "a start of NaN": discrete(3, start=math.nan),
    "a start beyond int64": discrete(3, start=2**63),
    "MultiDiscrete of text": multi_discrete(["3"], [0]),
    "MultiDiscrete of floats": multi_discrete([2.5], [0]),
    "MultiDiscrete of nothing": multi_discrete([2, 0], [0, 0]),
    "MultiDiscrete, ragged": multi_discrete([[2], [2, 3]], [[0], [0, 0]]),
    "MultiDiscrete, other starts": multi_discrete([2, 2], [0]),
    "MultiDiscrete beyond its code": multi_discrete([6 * 10**7] * 2, [0, 0]),
    "MultiDiscrete whose sum overflows": multi_discrete([2**62] * 4, [0] * 4),
    "MultiDiscrete too deep": multi_discrete(deep(33), deep(33)),
    "MultiBinary beyond its bits": multi_binary(10**12),
    "MultiBinary beyond its bits, by axes": multi_binary([10**5, 10**5]),
    "MultiBinary of 33 axes": multi_binary([1] * 33),
    "MultiBinary of text": multi_binary("3"),
    "MultiBinary of floats": multi_binary(3.0),
    "MultiBinary below nothing": multi_binary(-3),
    "entries that are no list": {"type": "Tuple", "entries": {"a": discrete(2)}},
    "entries that are no pairs": {"type": "Dict", "entries": [discrete(2)]},
    "a key that is a list": {"type": "Dict", "entries": [[["a"], discrete(2)]]},
    "a key twice": {"type": "Dict", "entries": [["a", discrete(2)]] * 2},
    "10,001 entries": many(*[discrete(2)] * 10_001),
    "spaces of a space, 33 deep": nested(33),
    "spaces of a space, 400 deep": nested(400),
    "spaces of a space, 5,000 deep": nested(5_000),
    "many that are too much together": many(*[multi_binary(10**7)] * 11),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_an_absurd_space_is_refused_before_anything_is_allocated(data):
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"A saved space must be readable. Received: "
        ) as error:
            space_from_json(data)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert_one_line(error, 600)


def test_spaces_at_the_limits_are_taken():
    assert space_from_json(discrete(10**8)).n == 10**8
    assert space_from_json(multi_binary(10**8)).shape == (10**8,)
    assert space_from_json(box(shape=[1] * 32)).shape == (1,) * 32
    assert space_from_json(nested(32)) is not None
    assert len(space_from_json(many(*[discrete(2)] * 10_000))) == 10_000
