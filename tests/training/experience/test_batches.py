"""Your own vector environment must return what fits its spaces."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import train
from vantage.training.experience.batches import BatchCheck

N = 3
BOX = spaces.Box(-1, 1, (2,), np.float32)
RESULT = (np.zeros(N), np.zeros(N, bool), np.zeros(N, bool))


class Batch(gym.vector.VectorEnv):
    """Returns what it is given."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    num_envs = N
    single_action_space = spaces.Discrete(2)

    def __init__(self, space=BOX, **changed):
        fine = {"first": np.zeros((N, 2), np.float32), "seen": np.zeros((N, 2), np.float32)}
        names = ("rewards", "terminated", "truncated")
        self.single_observation_space = space
        self.given = fine | dict(zip(names, RESULT, strict=True)) | changed

    def reset(self, *, seed=None, options=None):
        return self.given["first"], {}

    def step(self, actions):
        names = ("seen", "rewards", "terminated", "truncated")
        return (*(self.given[name] for name in names), {})


def trained(**changed):
    envs = Batch(**changed)
    agent = A2C(BOX, envs.single_action_space, A2CConfig(n_steps=2, net_arch=(4,)), seed=0)
    return train(agent, envs, 4 * N)


@pytest.mark.parametrize(
    "fine",
    [
        {},
        {"rewards": np.zeros(N, np.float32), "terminated": np.zeros(N, np.uint8)},
        {"rewards": [0, 1, 0], "truncated": [False, np.False_, 0]},
        {"rewards": np.zeros(N, bool), "terminated": np.array([0.0, 1, 0]).astype(int)},
        {"seen": np.zeros((N, 2))},  # float64 of a float32 space
        {"seen": np.zeros((N, 2), np.int64)},  # whole numbers
    ],
)
def test_what_fits_is_taken(fine):
    assert trained(**fine)["updates"] == 2


@pytest.mark.parametrize(
    ("changed", "received"),
    [
        ({"rewards": np.zeros((N, 1))}, r"The rewards .* shape \[3\]. Received: .* \[3, 1\]"),
        ({"rewards": 1.0}, r"The rewards .* Received: float64 of shape \[\]"),
        ({"rewards": np.zeros(N, complex)}, "The rewards .* numbers .*Received: complex128"),
        ({"rewards": ["1"] * N}, "The rewards .*Received: <U1"),
        ({"terminated": np.zeros((1, N), bool)}, r"The terminated .*Received: bool of shape"),
        ({"terminated": np.full(N, 2)}, "The terminated .* True or False"),
        ({"truncated": np.zeros(N)}, "The truncated .*Received: float64"),
        ({"truncated": [None] * N}, "The truncated .*Received: object"),
        (
            {"seen": np.zeros((N, 1), np.float32)},
            r"The observations .*Received: float32 .* \[3, 1\]",
        ),
        ({"seen": np.zeros(2, np.float32)}, r"The observations .*\[3, 2\]. Received: .* \[2\]"),
        ({"first": np.zeros((2, 2), np.float32)}, r"The observations .*Received: .* \[2, 2\]"),
        ({"seen": np.full((N, 2), "x")}, "The observations .*Received: <U1"),
        ({"seen": None}, "The observations .*Received: object"),
        ({"seen": np.ma.masked_equal(np.zeros((N, 2)), 0)}, "Received: an array with a mask"),
        ({"rewards": np.ma.masked_equal(np.zeros(N), 0)}, r"The rewards .* \[3\] with a mask"),
    ],
)
def test_what_would_be_broadcast_or_cast_is_refused(changed, received):
    with pytest.raises(ValueError, match=f"{received}.*Return "):
        trained(**changed)


class Columns(gym.vector.VectorWrapper):
    """Makes the rewards a column, as a wrapper by mistake may do."""

    def step(self, actions):
        observations, rewards, *rest = self.env.step(actions)
        return observations, rewards[:, None], *rest


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_a_wrapper_of_an_environment_that_looks_itself_is_looked_at(vectorization):
    envs = Columns(make_vec("CartPole-v1", N, vectorization=vectorization))
    agent = A2C(envs.single_observation_space, envs.single_action_space, A2CConfig(n_steps=2))
    with pytest.raises(ValueError, match="The rewards .*Received: "):
        train(agent, envs, 4 * N)


LEVEL = spaces.Dict({"a": BOX, "b": spaces.Tuple([spaces.Discrete(3, start=1), BOX])})
FINE = {"a": np.zeros((N, 2), np.float32), "b": (np.ones(N, int), np.zeros((N, 2), np.float32))}


@pytest.mark.parametrize(
    ("space", "batch", "received"),
    [
        (LEVEL, FINE, None),
        (LEVEL, {"a": FINE["a"]}, "Received: entry 'b.0': none with 'b'"),
        (LEVEL, FINE | {"b": (np.ones(N, int),)}, "Received: entry 'b.1': none with 1"),
        (LEVEL, FINE | {"b": (np.zeros(N, int), FINE["a"])}, "entry 'b.0': from 0 to 0"),
        (LEVEL, FINE | {"b": (np.full(N, 4), FINE["a"])}, "entry 'b.0': from 4 to 4"),
        (LEVEL, FINE | {"b": FINE["a"]}, "Received: entry 'b.0': ndarray"),
        (LEVEL, FINE["a"], "Received: entry 'a': ndarray"),
        (spaces.Box(0, 255, (2,), np.uint8), np.full((N, 2), 0.5), "Received: float64"),
        (spaces.Box(0, 255, (2,), np.uint8), np.full((N, 2), 256), "Received: from 256 to 256"),
        (spaces.Box(0, 255, (2,), np.uint8), np.full((N, 2), 255), None),
        (spaces.MultiDiscrete([2, 3]), np.full((N, 2), 2), "from 2 to 2"),
        (spaces.MultiDiscrete([2, 3]), np.ones((N, 2), int), None),
        (spaces.MultiBinary(2), np.zeros((N, 2), np.int8), None),
        (spaces.MultiBinary(2), np.zeros((N, 2)), "Received: float64"),
    ],
)
def test_observations_of_other_spaces(space, batch, received):
    check = BatchCheck(Batch(space=space))
    if received is None:
        assert check(batch, *RESULT) == RESULT
    else:
        with pytest.raises(ValueError, match=received):
            check(batch, *RESULT)
