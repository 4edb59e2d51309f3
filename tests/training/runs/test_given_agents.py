"""What `train` says of an agent that lacks a method."""

import numpy as np
import pytest

from vantage.envs import make_vec
from vantage.training import Agent, train
from vantage.training.runs.given_agents import METHODS, OWN


class Still:
    """An agent that always does the same and learns nothing."""

    def begin(self, num_envs, total_steps, done_steps=0, masked=False):
        self.count = num_envs

    def explore(self, observations, action_masks=None):
        return np.zeros(self.count, int)

    def observe(self, transition):
        return None

    def settle(self):
        pass

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


METHODS_OF_STILL = {name: vars(Still)[name] for name in METHODS}


def refused(agent, *parts):
    with pytest.raises(ValueError, match="An agent must be an object with the methods") as error:
        train(agent, make_vec("CartPole-v1", num_envs=2, seed=0), 10)
    assert all(part in str(error.value) for part in parts)


MISSING = [(object, name) for name in METHODS] + [(Agent, name) for name in OWN]


@pytest.mark.parametrize(("base", "name"), MISSING)
def test_a_missing_method_is_named_before_anything_is_trained(base, name):
    methods = {each: method for each, method in METHODS_OF_STILL.items() if each != name}
    refused(type("Lacking", (base,), methods)(), f"Lacking, which does not define {name}.")


@pytest.mark.parametrize("agent", [None, "ppo", lambda observations: 0])
def test_what_is_no_agent(agent):
    refused(agent, type(agent).__name__)


def test_a_class_is_not_its_object():
    refused(Still, "the class Still itself", "Pass Still(...)")


@pytest.mark.parametrize("base", [object, Agent], ids=["no base", "the protocol"])
def test_one_with_all_methods_is_trained(base):
    """Nothing to prepare and nothing to wait for may be inherited."""
    methods = {n: METHODS_OF_STILL[n] for n in (OWN if base is Agent else METHODS)}
    if base is Agent:
        methods["count"] = 2
    agent = type("Whole", (base,), methods)()
    assert train(agent, make_vec("CartPole-v1", num_envs=2, seed=0), 10)["updates"] == 0


RETURNED = {
    "too few actions": ("explore", np.zeros(1, int), r"Received: \(1,\) for 2 environments"),
    "no actions": ("explore", None, "Received: NoneType for 2 environments"),
    "one action": ("explore", np.zeros((), int), "an action for every environment"),
    "a list": ("observe", [1.0], "a dict of metrics after an update.*Received: list"),
    "a bool": ("observe", True, "a dict of metrics after an update.*Received: bool"),
    "a text": ("observe", {"loss": "low"}, "must be numbers.*Received: loss='low'"),
    "no state": ("get_state", None, "must return a dict.*Received: NoneType from Wrong"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_an_agent_returns_is_named(case, tmp_path):
    name, returned, message = RETURNED[case]
    agent = type("Wrong", (Still,), {name: lambda *arguments, **keywords: returned})()
    with pytest.raises(ValueError, match=message):
        train(agent, make_vec("CartPole-v1", num_envs=2, seed=0), 10, logdir=tmp_path / "run")
