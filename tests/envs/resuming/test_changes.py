"""What `set_attr` has set is set again at its place."""

from __future__ import annotations

import contextlib

import gymnasium as gym
import numpy as np
import pytest
from resumed_envs import Wanderer, actions_of, goes_on, played, through_a_file

from vantage.envs import make_vec
from vantage.envs.common.storable import StateError


class Level(Wanderer):
    """What a curriculum sets decides how far an action reaches, and where episodes begin."""

    level, legs_of = 1.0, (1, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.position += self.level
        return self._observation(), {}

    def step(self, action):
        self.position += 0.01 * self.level * action
        return super().step(action)


class TellingLevel(Level):
    def get_state(self):
        return {name: getattr(self, name) for name in ("position", "steps", "spread", "legs")}

    def set_state(self, state):
        vars(self).update(state)


class Quiet(gym.Wrapper):
    level = 2.0


@pytest.mark.parametrize("kind", ["sync", "async", "wrapped", "telling", "rebuilt"])
def test_what_set_attr_has_set_is_set_again_at_its_place(kind):
    def make():
        wrappers = [Quiet] if kind == "wrapped" else ()
        options = {"vectorization": "async"} if kind == "async" else {}
        env = TellingLevel if kind == "telling" else Level
        return make_vec(env, 2, wrappers=wrappers, **options)

    with contextlib.closing(make()) as envs:
        envs.set_attr("level", 7.0)
        envs.reset(seed=5)
        for k, action in enumerate(actions_of(envs, 90)):
            if k % 4 == 1:
                envs.set_attr("level", [float(k), np.float32(k / 2)])
            if k % 11 == 3:
                envs.set_attr("legs_of", [(k, 1), (k, 2)])
            envs.step(action)
            if k in (0, 2, 30, 60, 89):
                exactness = "state" if kind == "telling" else "replay"
                state = through_a_file(envs.get_state())
                assert state["exactness"] == exactness
                with contextlib.closing(make()) as other:
                    assert other.set_state(state) == ""
                    assert other.get_attr("level") == envs.get_attr("level")
                    assert other.get_attr("legs_of") == envs.get_attr("legs_of")
        goes_on(make, envs, exactness, actions_of(envs, 60, seed=2))
        assert all(len(made) < 60 for made in envs.get_state()["changes"])


def test_what_set_attr_has_set_outlives_a_restart_of_episodes_and_of_instances():
    class Breaking(Level):
        def step(self, action):
            if self.steps == 3 and self.np_random_seed % 2:
                raise RuntimeError
            return super().step(action)

    envs = make_vec(Breaking, 2, restart_broken_envs=True, seed=0)
    envs.set_attr("level", 5.0)
    played(envs, actions_of(envs, 30))
    assert envs.restarts and envs.get_attr("level") == (5.0, 5.0)
    other, state = make_vec(Level, 2), envs.get_state()
    for name in ("actions", "outcomes", "before", "observations"):
        state.pop(name, None)
    state |= {"exactness": "restart", "why": "broken"}
    assert other.set_state(state) and other.get_attr("level") == (5.0, 5.0)


@pytest.mark.parametrize(
    ("name", "value"), [("level", object()), ("level", lambda: 0), ("_elapsed", 3)]
)
def test_what_cannot_be_set_again_is_told(name, value):
    envs = make_vec(Level, 2, seed=0)
    envs.set_attr(name, value)
    state = through_a_file(envs.get_state())
    assert (state["exactness"], state["why"]) == ("restart", "changes")
    assert "set_attr" in make_vec(Level, 2).set_state(state)


def test_a_forged_change_is_refused():
    envs = make_vec(Level, 2, seed=0)
    envs.set_attr("level", 2.0)
    state = envs.get_state()
    for forged in ([1], [0, 0, "__class__", 1.0], [0, 0, "_x", 1.0], [-3, 0, "level", 1.0]):
        with pytest.raises(StateError, match="Received"):
            make_vec(Level, 2).set_state({**state, "changes": [[forged], []]})
