"""Environments that tests register."""

import gymnasium as gym
import pytest


@pytest.fixture
def registered():
    """Registers an environment as Own-v0."""

    def register(env, **options):
        gym.register("Own-v0", entry_point=env, **options)

    yield register
    gym.registry.pop("Own-v0", None)
