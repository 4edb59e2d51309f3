"""How the updates of agents are compiled, and agents that are compiled once for many tests."""

import pytest

from vantage.training.core import arguments


@pytest.fixture(params=["graph", pytest.param("xla", marks=pytest.mark.slow)])
def compiler(request, monkeypatch):
    """An agent compiles several updates in one call by XLA, which takes longer than a small test.

    The default run makes graphs of them, and compiles by XLA only where a test does not ask for
    this fixture.
    """
    if request.param == "graph":
        by_default = arguments.as_jit_compile
        monkeypatch.setattr(arguments, "as_jit_compile", lambda given: bool(by_default(given)))
    return request.param


@pytest.fixture(scope="module")
def compiled(request):
    """An agent that the file's own `begun` makes, and its first state."""
    agent = request.module.begun()
    return agent, agent.get_state()


@pytest.fixture
def fresh(compiled):
    """What `begun()` makes, compiled once for all tests that ask for it."""
    agent, state = compiled
    agent.set_state(state)
    return agent
