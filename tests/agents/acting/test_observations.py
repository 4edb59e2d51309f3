"""What the network sees of every observation space, and the networks that see it."""

from __future__ import annotations

import warnings

import gymnasium as gym
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from vantage.agents import A2C, DQN, PPO, SAC, TD3, A2CConfig
from vantage.agents.acting.observations import Encoder, image_axes
from vantage.agents.acting.spaces import space_from_json, space_to_json

NESTED = spaces.Dict(
    {
        "joint": spaces.Box(-9, 9, (2,), np.float64),
        "pair": spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiBinary(2)]),
        "words": spaces.Text(4),
    }
)
SPACES = {
    "float64": spaces.Box(-1, 1, (2, 3), np.float64),
    "int": spaces.Box(-5, 5, (3,), np.int64),
    "unbounded int": spaces.Box(-(2**62), 2**62, (2,), np.int64),
    "uint8 vector": spaces.Box(0, 255, (4,), np.uint8),
    "ram": spaces.Box(0, 255, (3, 4), np.uint8),
    "discrete": spaces.Discrete(4, start=-1),
    "multidiscrete": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [0, 9]]),
    "multibinary": spaces.MultiBinary((2, 3)),
    "image": spaces.Box(0, 255, (9, 8, 3), np.uint8),
    "stack of images": spaces.Box(0, 255, (4, 40, 36), np.uint8),
    "stack of coloured images": spaces.Box(0, 255, (2, 10, 10, 3), np.uint8),
    "nested": NESTED,
    "camera and speed": spaces.Dict(
        {"camera": spaces.Box(0, 255, (10, 10, 3), np.uint8), "speed": spaces.Box(-1, 1, (1,))}
    ),
}


def batch(space, count=3):
    """A batch as a vector environment returns it."""
    batched = batch_space(space, count)
    batched.seed(0)
    return batched.sample()


def test_floats_are_cast_only():
    encoder = Encoder(spaces.Box(-1, 1, (2, 3), np.float64))
    observations = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3))
    encoded = encoder.encode(observations)
    assert encoder.shape == (2, 3) and encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, observations.astype(np.float32))
    ready = encoded.copy()
    assert encoder.encode(ready) is ready  # nothing is done where nothing is needed


def test_integers_are_scaled_between_their_bounds():
    encoder = Encoder(spaces.Box(np.array([0, -10, 5]), np.array([4, 10, 5]), dtype=np.int64))
    encoded = encoder.encode(np.array([[0, -10, 5], [4, 10, 5], [1, 0, 5]]))
    np.testing.assert_array_equal(encoded, [[0, 0, 0], [1, 1, 0], [0.25, 0.5, 0]])
    encoded = Encoder(SPACES["uint8 vector"]).encode(np.array([[0, 51, 102, 255]], np.uint8))
    np.testing.assert_allclose(encoded, [[0, 0.2, 0.4, 1]])
    raw = np.array([[7, -3]])
    np.testing.assert_array_equal(Encoder(SPACES["unbounded int"]).encode(raw), raw)


def test_discrete_ones_are_one_hot():
    encoded = Encoder(spaces.Discrete(4, start=-1)).encode(np.array([-1, 2, 0]))
    np.testing.assert_array_equal(encoded, np.eye(4)[[0, 3, 1]])
    space = SPACES["multidiscrete"]
    encoded = Encoder(space).encode(np.array([[[1, 3], [2, 9]]]))
    np.testing.assert_array_equal(encoded, [[0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0]])
    bits = np.array([[[1, 0, 1], [0, 0, 1]]], np.int8)
    np.testing.assert_array_equal(Encoder(SPACES["multibinary"]).encode(bits), [[1, 0, 1, 0, 0, 1]])


@pytest.mark.parametrize("wrong", [-2, 3])
def test_a_discrete_observation_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least \[-1\] and less than \[3\]. Received: \[0, "):
        Encoder(spaces.Discrete(4, start=-1)).encode(np.array([0, wrong]))


def test_nested_entries_are_joined_in_order():
    encoder = Encoder(NESTED)
    assert [entry.name for entry in encoder.entries] == ["joint", "pair.0", "pair.1"]
    encoded = encoder.encode(
        {
            "joint": np.array([[1.5, -2], [0, 3]]),
            "pair": (np.array([5, 7]), np.array([[1, 0], [1, 1]], np.int8)),
            "words": ("a", "b"),
        }
    )
    np.testing.assert_array_equal(encoded, [[1.5, -2, 1, 0, 0, 1, 0], [0, 3, 0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(encoder.normalizable, [1, 1, 0, 0, 0, 0, 0])


def test_one_warning_names_what_is_left_out():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        A2C(NESTED, spaces.Discrete(2))
        A2C(SPACES["discrete"], spaces.Discrete(2))
    assert [str(w.message) for w in caught] == [
        "The agent does not see these entries of the observations: words. No network accepts "
        "their spaces."
    ]
    assert caught[0].filename.endswith("on_policy.py") or caught[0].filename == __file__


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({"a": spaces.Text(3)})], ids=str)
def test_a_space_with_nothing_to_see_is_refused(space):
    with pytest.raises(ValueError, match="must hold a Box, Discrete.*Received:.*Wrap"):
        Encoder(space)


@pytest.mark.parametrize(
    ("low", "dtype"),
    [(2**60, np.int64), (17 * 10**17, np.int64), (-(2**62), np.int64), (2**63, np.uint64)],
)
def test_whole_numbers_far_from_0_are_told_apart(low, dtype):
    """Float64 has steps of 256 near 2**60."""
    encoder = Encoder(spaces.Box(low, low + 10, (1,), dtype))
    seen = np.array([[low + k] for k in range(11)], dtype)
    np.testing.assert_allclose(encoder.encode(seen)[:, 0], np.arange(11) / 10, rtol=1e-6)


@pytest.mark.parametrize("space", [spaces.Discrete(10**9), spaces.MultiDiscrete([10**9, 3])])
def test_more_values_than_a_network_can_have_inputs(space):
    with pytest.raises(ValueError, match="at most 10,000,000 values.*Received: 1,000,000,0"):
        Encoder(spaces.Dict({"a": space, "b": spaces.Discrete(2)}))


@pytest.mark.thinned
@pytest.mark.parametrize("kind", [A2C, PPO, DQN, SAC, TD3])
@pytest.mark.parametrize("seed", [-1, "3", True, 0.5, np.nan])
def test_odd_seeds(kind, seed):
    actions = spaces.Discrete(2) if kind is DQN else spaces.Box(-1, 1, (1,))
    with pytest.raises(ValueError, match="seed must be .*Received: "):
        kind(spaces.Box(-1, 1, (2,)), actions, seed=seed)


NOTHING = spaces.Box(-1, 1, (0,))


@pytest.mark.parametrize("space", [NOTHING, spaces.Dict({"a": NOTHING})], ids=str)
def test_a_space_without_numbers_is_refused(space):
    with pytest.raises(ValueError, match="at least one number. Received:.*Return"):
        Encoder(space)
    some = spaces.Dict({"a": NOTHING, "b": spaces.Box(-1, 1, (2,))})
    assert Encoder(some).shape == (2,)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((84, 84, 3), (0, 1, 2)),
        ((4, 84, 84), (1, 2, 0)),
        ((3, 84, 3), (0, 1, 2)),  # square in no pair that tells: channels last
        ((84, 84), (0, 1)),
        ((4, 84, 84, 3), (1, 2, 0, 3)),
        ((7, 7, 3), (0, 1, 2)),
        ((3, 4), None),
        ((128,), None),
        ((4, 2, 2, 3), None),
    ],
)
def test_the_axes_of_images(shape, axes):
    assert image_axes(spaces.Box(0, 255, shape, np.uint8)) == axes
    assert image_axes(spaces.Box(0, 1, shape, np.float32)) is None


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.filterwarnings("ignore:The agent does not see")
def test_an_agent_sees_every_space(name):
    """Batches and single observations give the same; saved spaces come back."""
    space = SPACES[name]
    agent = A2C(space, spaces.Discrete(3), seed=1)
    many = batch(space)
    actions, values = agent.act(many, deterministic=True), agent.value(many)
    assert actions.shape == values.shape == (3,) and np.isfinite(values).all()
    space.seed(1)
    single = space.sample()
    assert agent.act(single) in range(3) and agent.value(single).shape == ()
    again = space_from_json(space_to_json(space))
    if "words" not in str(space):
        assert again == space
    assert Encoder(again).shape == Encoder(space).shape


@pytest.mark.filterwarnings("ignore:The agent does not see")
def test_saved_agents_of_nested_spaces_act_alike(tmp_path):
    agent = A2C(NESTED, spaces.Discrete(3), seed=1)
    agent.save(tmp_path / "agent")
    loaded, many = A2C.load(tmp_path / "agent"), batch(NESTED)
    np.testing.assert_array_equal(loaded.value(many), agent.value(many))


def test_images_stay_bytes_until_the_network():
    """What is stored is uint8; the network divides by 255 and orders the axes itself."""
    encoder = Encoder(SPACES["stack of images"])
    images = batch(SPACES["stack of images"])
    assert encoder.encode(images) is images and encoder.dtype is np.uint8
    network = A2C(SPACES["stack of images"], spaces.Discrete(3)).network
    assert network.get_layer("image_axes").output.shape == (None, 40, 36, 4)
    assert [layer.kernel_size for layer in network.layers if hasattr(layer, "kernel_size")] == [
        (8, 8),
        (4, 4),
        (3, 3),
    ]
    small = A2C(SPACES["stack of coloured images"], spaces.Discrete(3)).network
    assert small.get_layer("image_channels").output.shape == (None, 10, 10, 6)
    scaled = network.get_layer("image_scale")(np.full((1, 4, 40, 36), 255, np.uint8))
    np.testing.assert_allclose(scaled, 1.0)


def test_the_channels_of_an_image_become_the_last_axis():
    """Moved, not reshaped: a pixel keeps its place."""
    space = SPACES["stack of images"]
    network, image = A2C(space, spaces.Discrete(3)).network, batch(space, 1)
    x = np.asarray(network.get_layer("image_axes")(network.get_layer("image_scale")(image)))
    np.testing.assert_allclose(x[0, 4, 7], image[0, :, 4, 7] / 255, rtol=1e-6)


def test_a_network_of_slices_acts():
    """A slice is an operation without variables; NumPy does not mirror it."""
    x = keras.Input((4,))
    y = keras.layers.Dense(3)(keras.layers.Concatenate()([x[:, 2:], x[:, :1]]))
    network = keras.Model(x, (y, keras.layers.Dense(1)(x[:, 1:])))
    agent = A2C(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), network=network)
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    policy, values = network(observations)
    np.testing.assert_allclose(agent.value(observations), np.ravel(values), rtol=1e-5)
    np.testing.assert_array_equal(agent.act(observations, True), np.argmax(policy, 1))


def test_the_frames_of_a_stack_become_channels():
    """Of [frames, height, width, channels], a pixel's channels are next to each other."""
    space = SPACES["stack of coloured images"]
    network = A2C(space, spaces.Discrete(3)).network
    image = batch(space, 1)
    x = network.get_layer("image_axes")(network.get_layer("image_scale")(image))
    x = np.asarray(network.get_layer("image_channels")(x))
    np.testing.assert_allclose(x[0, 4, 7], image[0, :, 4, 7].ravel() / 255, rtol=1e-6)


def test_entries_among_images_reach_the_network():
    """Values depend on the camera and on the speed, and on every pixel's place."""
    space = SPACES["camera and speed"]
    agent = A2C(space, spaces.Discrete(2), seed=0)
    one = batch(space, 1)
    value = agent.value(one)[0]
    other = {**one, "speed": one["speed"] + 0.5}
    assert agent.value(other)[0] != value
    camera = one["camera"].copy()
    camera[0, 3, 4, 1] ^= 255
    assert agent.value({**one, "camera": camera})[0] != value


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"camera": np.zeros((10, 10, 3), np.uint8)}, "must hold the entry 'speed'"),
        (
            {"camera": np.zeros((10, 10, 3), np.uint8), "speed": np.zeros(2)},
            r"of shape \[1\], or one more axis in front. Received: float64 of shape \[2\] as speed",
        ),
        (
            {"camera": np.zeros((2, 10, 10, 3), np.uint8), "speed": np.zeros(1)},
            "in every entry or in none. Received: {'camera': True, 'speed': False}",
        ),
        (np.zeros(3), "must hold the entry 'camera'"),
        (({"camera": 0, "speed": 0}, {}), r"without the info. Received: a tuple \(observation, i"),
        (
            {"camera": np.zeros((10, 10, 3), np.uint8), "speed": np.zeros(1), "sped": 0},
            r"no other entries than the space: \['camera', 'speed'\]. Received: \['sped'\] as well",
        ),
        (
            {"camera": np.zeros((10, 10, 3), np.uint8), "speed": np.ma.masked_less([0.5], 1)},
            r"Received: float64 of shape \[1\] with a mask as speed. Pass .*filled",
        ),
        (
            {"camera": np.zeros((10, 10, 3), np.uint8), "speed": [0.5, [0.5]]},
            r"Received: \[0.5, \[0.5\]\] as speed",
        ),
        (
            {"camera": np.zeros((10, 10, 3), np.uint8), "speed": np.array(["0.5"])},
            r"must be float32 of shape \[1\].* Received: <U3 of shape \[1\] as speed",
        ),
    ],
)
def test_observations_that_do_not_fit(observation, said):
    agent = A2C(SPACES["camera and speed"], spaces.Discrete(2))
    with pytest.raises(ValueError, match=said):
        agent.act(observation)


BINARY = spaces.Discrete(2)


@pytest.mark.parametrize("kind", [A2C, PPO, DQN])
def test_observations_come_without_the_info(kind):
    for space, observation in [
        (spaces.Box(-1.0, 1.0, (4,)), np.zeros(4, np.float32)),
        (spaces.Discrete(3), 1),
    ]:
        agent = kind(space, BINARY)
        with pytest.raises(ValueError, match="must come without the info.*Pass its first entry"):
            agent.act((observation, {"lives": 3}))
        assert agent.act(observation) in (0, 1)


def test_a_tuple_has_no_more_than_its_space():
    agent = A2C(spaces.Tuple([spaces.Discrete(2), spaces.Dict(a=spaces.Discrete(2))]), BINARY)
    assert agent.act((1, {"a": 0})) in (0, 1)
    for more in ((1, {"a": 0}, 3), (1, {"a": 0, "b": 1})):
        with pytest.raises(ValueError, match=r"no other entries .* Received: \[(2|'b')\] as well"):
            agent.act(more)


class Sighted(gym.Env):
    """A state in {0, 1}, shown in a space of any kind; the action that names it earns 1."""

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space, show):
        self.observation_space, self.show = observation_space, show

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(2))
        return self.show(self.state), {}

    def step(self, action):
        reward, self.state = float(action == self.state), int(self.np_random.integers(2))
        return self.show(self.state), reward, False, False, {}


def image(state, shape=(8, 8, 1)):
    shown = np.zeros(shape, np.uint8)
    shown[2 : 2 + 4 * state] = 255
    return shown


TINY = spaces.Box(0, 255, (8, 8, 1), np.uint8)
SIGHTS = {
    "discrete": (spaces.Discrete(2, start=3), lambda state: state + 3),
    "int": (spaces.Box(0, 1, (1,), np.int64), lambda state: np.array([state])),
    "image": (TINY, image),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(9)]), lambda state: (state, 4)),
    "dict": (
        spaces.Dict({"eye": TINY, "noise": spaces.Box(-1, 1, (1,))}),
        lambda state: {"eye": image(state), "noise": np.zeros(1, np.float32)},
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("image", "dict"))) for n in SIGHTS]
)
def test_an_agent_learns_from_what_it_sees(name):
    """Blindly half of the answers are right; an encoding that hid the state would stay there."""
    from vantage.envs import make_vec
    from vantage.training import train

    space, show = SIGHTS[name]
    envs = make_vec(lambda: Sighted(space, show), 8, seed=0, max_episode_steps=20)
    config = A2CConfig(gamma=0.0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, config, seed=0)
    summary = train(agent, envs, 6_000)
    envs.close()
    assert summary["mean_return_100"] > 16  # of 20
    assert agent.act(show(0), True) == 0 and agent.act(show(1), True) == 1


@pytest.mark.parametrize("dtype", "int8 int16 uint16 int32 uint32 int64 uint64".split())
def test_a_bound_at_the_limit_of_an_integer_type_is_none(dtype):
    """Divided by it, all that is seen would be next to 0."""
    limits = np.iinfo(dtype)
    for low in {0, limits.min}:
        encoder = Encoder(spaces.Box(low, limits.max, (2,), dtype))
        seen = encoder.encode(np.array([[0, 1]], dtype))
        np.testing.assert_array_equal(seen, [[0, 1]])
    bounded = Encoder(spaces.Box(0, 100, (2,), dtype))
    np.testing.assert_array_equal(bounded.encode(np.array([[0, 50]], dtype)), [[0, 0.5]])


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (3, 7)])
def test_images_are_scaled_by_their_bounds(low, high):
    """A grid of 0 and 1 was seen as 0 and 0.004."""
    space = spaces.Box(low, high, (8, 8, 3), np.uint8)
    network = A2C(space, spaces.Discrete(2)).network
    scaled = network.get_layer("image_scale")(np.array([low, high], np.uint8))
    np.testing.assert_allclose(scaled, [0, 1], atol=1e-6)


def test_what_a_normaliser_sees_is_exact():
    """A Unix time in float32 has steps of minutes."""
    x = 1e9 + np.arange(4.0)[:, None]
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    assert len(np.unique(Encoder(space, is_exact=True).encode(x))) == 4
    nested = spaces.Dict({"a": space, "b": spaces.Discrete(2)})
    encoded = Encoder(nested, is_exact=True).encode({"a": x, "b": np.zeros(4, int)})
    np.testing.assert_array_equal(encoded[:, :1], x)
    assert Encoder(space).encode(x).dtype == np.float32
    plain = spaces.Box(-1, 1, (1,), np.float32)
    assert Encoder(plain, is_exact=True).encode(np.zeros((4, 1), np.float32)).dtype == np.float32
