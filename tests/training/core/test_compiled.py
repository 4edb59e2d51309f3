"""Calling a compiled function at its floor."""

import gc

import numpy as np
import pytest
import tensorflow as tf

from vantage import agents
from vantage.envs import make_vec
from vantage.training.core.checks import describe
from vantage.training.core.compiled import Compiled

PAIR = tf.TensorSpec((2,)), {"b": tf.TensorSpec((), tf.int32), "a": tf.TensorSpec((2,))}


def combine(x, rest):
    return x * tf.cast(rest["b"], tf.float32) + rest["a"]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_nests_arrive_where_they_belong(jit_compile):
    call = Compiled(combine, PAIR, jit_compile=jit_compile)
    for b in (3, np.int64(3), np.int32(3), np.array(3)):
        vector = call(np.array([1.0, 2.0]), {"a": np.ones(2), "b": b})
        assert isinstance(vector, tf.Tensor) and vector.dtype == tf.float32
        np.testing.assert_array_equal(vector, [4, 7])


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_variables_are_read_and_written_and_kept_alive(jit_compile):
    def build():
        variable = tf.Variable([1.0, 2.0])

        def function(x):
            variable.assign_add(x)
            return variable * 1.0

        return Compiled(function, (tf.TensorSpec((2,)),), jit_compile=jit_compile)

    call = build()
    gc.collect()
    call(np.ones(2))
    np.testing.assert_array_equal(call(np.ones(2)), [3, 4])


def test_the_result_is_a_copy():
    variable = tf.Variable([1.0, 2.0])
    call = Compiled(lambda x: variable.assign_add(x), (tf.TensorSpec((2,)),), jit_compile=False)
    first = call(np.ones(2))
    call(np.ones(2))
    np.testing.assert_array_equal(first, [2, 3])


def test_jit_compile_means_xla():
    """Which has no host functions; a graph has."""

    def function(x):
        return tf.ensure_shape(tf.numpy_function(lambda x: x + 1, [x], tf.float32), (2,))

    graph = Compiled(function, (tf.TensorSpec((2,)),), jit_compile=False)
    np.testing.assert_array_equal(graph(np.zeros(2)), [1, 1])
    xla = Compiled(function, (tf.TensorSpec((2,)),), jit_compile=True)
    with pytest.raises(ValueError, match="that XLA can compile. Received: .*PyFunc"):
        xla(np.zeros(2))


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        (np.zeros(2, np.float64), True),
        (np.zeros(2, np.float16), True),
        (np.zeros(2, int), True),
        (np.zeros(2, bool), True),
        (np.zeros(4, np.float32)[::2], True),
        (np.zeros(2, ">f4"), True),
        (tf.zeros(2), True),
        (np.zeros((2, 1)), False),
        (np.zeros(3), False),
        (np.zeros(2, complex), False),
        (np.array(["1", "2"]), False),
        (np.array([None, None]), False),
        (1.0, False),
    ],
    ids=str,
)
def test_kinds_and_shapes(array, fits):
    call = Compiled(lambda x: x + 1.0, (tf.TensorSpec((2,)),), jit_compile=False)
    if fits:
        np.testing.assert_array_equal(call(array), [1, 1])
    else:
        with pytest.raises(ValueError, match=r"Argument 0 of the call must be float32\[2\] .* Rec"):
            call(array)


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, np.float32), np.array([1.5, 2.5])])
def test_floats_are_no_integers(array):
    call = Compiled(
        lambda x: tf.cast(x, tf.float32), (tf.TensorSpec((2,), tf.int32),), jit_compile=False
    )
    with pytest.raises(
        ValueError, match=r"must be int32\[2\] as in the signature. Received: float"
    ):
        call(array)


@pytest.mark.parametrize(
    "rest",
    [{"a": np.ones(2)}, {"a": np.ones(2), "c": 3}, (np.ones(2), 3), [np.ones(2), 3], np.ones(2)],
    ids=["missing", "renamed", "tuple", "list", "leaf"],
)
def test_structures(rest):
    call = Compiled(combine, PAIR, jit_compile=False)
    with pytest.raises(ValueError, match="structure of the signature.*Pass the same") as error:
        call(np.ones(2), rest)
    assert str(describe(PAIR)) in str(error.value)


@pytest.mark.parametrize("spec", [tf.TensorSpec((None, 3)), tf.TensorSpec(None), np.zeros(3), 3])
def test_signatures(spec):
    with pytest.raises(ValueError, match="must hold tf.TensorSpecs of known shape. Received: "):
        Compiled(lambda x: x, (spec,), jit_compile=False)


def loop_of(function):
    """The function twice, in a loop, as many updates in one call are."""
    return lambda x: tf.while_loop(lambda k, _: k < 2, lambda k, x: (k + 1, function(x)), (0, x))[1]


def convolved(x):
    image = tf.nn.conv2d(tf.reshape(x, (1, 4, 4, 1)), tf.ones((3, 3, 1, 1)), 1, "SAME")
    return tf.reshape(image, (16,))


def pooled(x):
    return tf.reshape(tf.nn.max_pool2d(tf.reshape(x, (1, 4, 4, 1)), 1, 1, "SAME"), (16,))


def by_python(x):
    return tf.ensure_shape(tf.py_function(lambda x: x + 1.0, [x], tf.float32), (16,))


def doubled_string(x):
    return tf.strings.to_number(tf.strings.as_string(x))


@pytest.mark.parametrize(
    ("function", "suits"),
    [
        (lambda x: x * 2.0, True),
        (convolved, False),
        (tf.function(convolved), False),
        (pooled, False),
        (by_python, False),
        (doubled_string, False),
    ],
    ids=["dense", "convolution", "in a function", "pooling", "py_function", "strings"],
)
def test_the_compiler_is_chosen_by_what_the_function_contains(function, suits, capsys):
    """What XLA would compute slowly is a graph; so is what it cannot compile, which a line says."""
    x = np.arange(16, dtype=np.float32)
    call = Compiled(loop_of(function), (tf.TensorSpec((16,)),), jit_compile=None)
    expected = function(function(tf.constant(x)))
    np.testing.assert_allclose(call(x), expected, rtol=1e-6)
    assert call.is_xla == suits
    says = "computed as a graph, for XLA cannot compile it: " in capsys.readouterr().err
    assert says == (function in (by_python, doubled_string))


def test_xla_that_is_asked_for_is_obeyed_or_refused():
    convolution = Compiled(loop_of(convolved), (tf.TensorSpec((16,)),), jit_compile=True)
    assert convolution.is_xla and convolution(np.zeros(16)).shape == (16,)
    call = Compiled(loop_of(by_python), (tf.TensorSpec((16,)),), jit_compile=True)
    with pytest.raises(ValueError, match="Received: .*EagerPyFunc.* pass jit_compile=False"):
        call(np.zeros(16))


LABELS = tf.TensorSpec((2,), tf.int32)
EXACT = [
    ("arithmetic", lambda x, n: tf.reduce_mean(tf.tanh(x)), False),  # a mean divides by a constant
    ("call", lambda x, n: tf.function(tf.nn.softmax)(x), False),
    ("assertion", lambda x, n: [tf.debugging.assert_less(x, 9.0), x][1], True),
    ("label", lambda x, n: tf.nn.sparse_softmax_cross_entropy_with_logits(n, x[:, None] + x), True),
    ("index", lambda x, n: tf.gather(x, n), True),
    ("division", lambda x, n: tf.cast(7 // n, tf.float32), True),
    ("numpy", lambda x, n: tf.numpy_function(np.sin, [x], tf.float32), True),
    ("in a call", lambda x, n: tf.function(tf.gather)(x, n), True),
    ("factors", lambda x, n: tf.linalg.cholesky(x[:, None] * x), True),
]


@pytest.mark.parametrize(
    ("function", "fails"), [case[1:] for case in EXACT], ids=[c[0] for c in EXACT]
)
def test_variables_are_kept_for_calls_that_may_fail(function, fails):
    """And for no others, whose updates would be slower."""
    variable = tf.Variable(1.0)

    def assigning(x, n):
        variable.assign_add(1.0)
        return tf.reshape(function(x, n), (-1,))

    call = Compiled(assigning, (PAIR[0], LABELS), jit_compile=False)
    assert [kept is variable for kept, _ in call.state()] == ([True] if fails else [])


@pytest.mark.parametrize("agent", ["sac", "td3", "dqn"])
def test_updates_of_agents_do_not_fail(agent):
    env = make_vec("CartPole-v1" if agent == "dqn" else "Pendulum-v1", 1)
    made = getattr(agents, agent.upper())(env.single_observation_space, env.single_action_space)
    made.begin(1, 10_000)
    assert made._step._traced.state() == []
