"""What compiles the updates of agents where the compiler is not what is tested."""

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
