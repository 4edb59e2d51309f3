"""An option of a run is written once: in `TrainOptions`."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from vantage.agents import A2C
from vantage.envs import make_vec
from vantage.scripts.cli.flags import OPTION, option_names, with_options
from vantage.scripts.commands.train import TrainFlags
from vantage.training import TrainOptions, train
from vantage.training.common.descriptions import descriptions
from vantage.training.runs.options import LEAST

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = {field.name: field for field in dataclasses.fields(TrainOptions)}
NO_FLAGS = {
    "callbacks": "functions",
    "evaluation_envs": "the command makes them of ENV_ID",
    "video_env": "the command makes it of ENV_ID",
    "config": "the command records its flags there",
    "import_seconds": "the command measures it",
    "verbose": "a command always prints",
    "progress": "the terminal decides",
}
"""Options that no flag sets, and why."""
NARROWER = {"checkpoint_every", "logdir"}  # words of a command line, and paths


def test_train_takes_every_option_with_its_type_and_default():
    parameters = list(inspect.signature(train).parameters.values())
    assert [each.name for each in parameters] == ["agent", "envs", *FIELDS]
    hints = get_type_hints(train)
    for parameter in parameters[2:]:
        field = FIELDS[parameter.name]
        assert hints[parameter.name] == get_type_hints(TrainOptions)[parameter.name]
        if parameter.name != "total_steps":
            assert parameter.default == field.default
            assert parameter.kind == parameter.KEYWORD_ONLY


def test_train_hands_on_every_option(monkeypatch):
    """Each by itself: `train` passes them all by name."""
    received = {}

    class Stop(Exception):
        pass

    def note(options):
        received.update({name: getattr(options, name) for name in FIELDS})
        raise Stop

    monkeypatch.setattr(TrainOptions, "__post_init__", note)
    envs = make_vec("CartPole-v1", 1)
    given = {name: object() for name in FIELDS}
    with pytest.raises(Stop):
        train(A2C(envs.single_observation_space, envs.single_action_space), envs, **given)
    assert received == given


def test_every_option_is_described_and_help_shows_it():
    texts = descriptions(TrainOptions)
    assert set(texts) == set(FIELDS)
    shown = " ".join(train.__doc__.split())
    for name, text in texts.items():
        assert f" {name}: {' '.join(text.split())}" in shown


def test_every_option_is_a_flag_or_says_why_not():
    names = option_names(TrainFlags)
    assert sorted([*names.values(), *NO_FLAGS]) == sorted(FIELDS)
    hints = get_type_hints(TrainOptions)
    for flag, hint in get_type_hints(TrainFlags).items():
        if flag in names and flag not in NARROWER:
            assert hint == hints[names[flag]], flag


def test_a_flag_is_completed_from_its_option():
    @dataclass
    class Options:
        size: int | None = 3
        """Of what.

        More for a script."""
        where: str = "here"
        """Where it is."""

    @dataclass
    @with_options(Options, {"length": "size"}, {"length": 4})
    class Flags:
        length: Any = OPTION
        where: Any = OPTION
        """On this machine."""

    hints = get_type_hints(Flags, include_extras=True)
    assert get_origin(hints["length"]) is Annotated and hints["where"] is str
    kind, described = get_args(hints["length"])
    assert (kind, described.help) == (int | None, "Of what.")
    assert Flags() == Flags(4, "here") and option_names(Flags)["length"] == "size"


@pytest.mark.parametrize("name", LEAST)
def test_the_least_value_of_a_number(name):
    given = {"total_steps": 10, "evaluation_envs": make_vec("CartPole-v1", 1)}
    video: Callable = lambda: type("Env", (), {"render_mode": "rgb_array"})()  # noqa: E731
    given |= {"video_env": video(), name: LEAST[name]}
    assert getattr(TrainOptions(**given), name) == LEAST[name]
    with pytest.raises(ValueError, match=f"{name} must be at least {LEAST[name]}. Received"):
        TrainOptions(**given | {name: LEAST[name] - 1})
    if FIELDS[name].default is not None:
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            TrainOptions(**given | {name: None})


def test_periods_that_are_left_out_follow_from_the_length_of_the_run():
    assert TrainOptions(10_000).log_period == 1_000
    assert TrainOptions(10_000_000).log_period == 20_000
    assert TrainOptions(10_000).histograms_period == 1_000  # no more often than there are points
    assert TrainOptions(100_000).histograms_period == 4_000
    assert TrainOptions(100_000, log_every=5, histograms_every=0).histograms_period == 0
    assert TrainOptions(100_000, log_every=5).log_period == 5


WRONG = {
    "logdir": [3, b"run", "", True],
    "config": [3, "a", [("a", 1)], {"a": float("nan")}, {3: 1}, {"a": object()}],
    "import_seconds": ["1", float("nan"), True],
    "resume": ["yes", True],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, each in WRONG.items() for v in each])
def test_options_are_checked(name, value):
    """resume=True alone has no folder to resume from."""
    with pytest.raises(ValueError, match=rf"^{name}.* Received: "):
        TrainOptions(10, **{name: value})


def test_entries_of_the_user_do_not_contradict_the_run(tmp_path):
    envs = make_vec("CartPole-v1", num_envs=1, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space)
    for config in ({"algorithm": "ppo"}, {"config": {}}, {"num_envs": 3}):
        with pytest.raises(ValueError, match="must not contradict.* Received: another"):
            train(agent, envs, 10, logdir=tmp_path / "run", config=config)
    train(agent, envs, 10, logdir=tmp_path / "run", config={"num_envs": 1, "mine": 2})
