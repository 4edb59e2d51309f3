"""Several updates that take turns in one call: equal to single steps, gated, and bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training.core import step as step_module
from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import external
from vantage.training.core.lifts import differentiate
from vantage.training.core.table import NonfiniteUpdate
from vantage.training.core.turns import Average, Turn, compile_turns

B, K = 6, 3  # examples per update, rounds in one call
X = np.random.default_rng(0).normal(size=(K * B, 2)).astype(np.float32)
ROWS = np.arange(K * B, dtype=np.int32).reshape(K, B)


def mse(y, targets):
    return tf.reduce_mean(tf.square(y - targets)), {"mean": tf.reduce_mean(y)}


def pair():
    """Two models, the second on top of the first, and the turn of either."""
    keras.utils.set_random_seed(0)
    first = keras.Sequential([keras.Input((2,)), layers.Dense(3, "tanh")])
    second = keras.Sequential(
        [keras.Input((3,)), layers.BatchNormalization(momentum=0.5), layers.Dense(2)]
    )

    def on_top(x):
        with keras.StatelessScope():
            hidden = first(x)
        return second(hidden, training=True)

    def through(x):
        hidden = first(x)
        with keras.StatelessScope():
            return second(hidden, training=True)

    turns = {
        "top": Turn(on_top, differentiate(mse), second.trainable_variables, sgd()),
        "base": Turn(through, differentiate(mse), first.trainable_variables, adam()),
    }
    return (first, second), turns


def sgd():
    return keras.optimizers.SGD(0.1, momentum=0.5)


def adam():
    return keras.optimizers.Adam(0.01)


def signature(examples=B):
    return tf.TensorSpec((examples, 2)), tf.TensorSpec((examples, 2))


def state(models, turns):
    owners = [*models, *(turn.optimizer for turn in turns.values())]
    return [variable.numpy().copy() for owner in owners for variable in owner.variables]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_turns_in_one_call_equal_single_steps_in_turn(jit_compile, monkeypatch):
    """In one piece, and in as many as there are updates."""
    monkeypatch.setattr(step_module, "PIECE_SECONDS", 1e9 if jit_compile else 0.0)
    models, turns = pair()
    single = {name: compile_step(*turn, signature()) for name, turn in turns.items()}
    expected = []
    for rows in ROWS:
        own = {name: step(X[rows], X[rows]) for name, step in single.items()}
        expected.append(
            {f"{n}_{key}": v for n, metrics in own.items() for key, v in metrics.items()}
        )
    others, others_turns = pair()
    step = compile_turns(others_turns, signature(K * B), updates=(K, B), jit_compile=jit_compile)
    metrics = step(X, X, ROWS)
    assert (
        set(metrics)
        == set(expected[0])
        == {f"{name}_{key}" for name in ("top", "base") for key in ("loss", "grad_norm", "mean")}
    )
    for name, values in metrics.items():
        np.testing.assert_allclose(values, [each[name] for each in expected], rtol=2e-5, atol=1e-7)
    for ours, theirs in zip(state(others, others_turns), state(models, turns), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_later_turn_sees_what_an_earlier_one_changed():
    models, turns = pair()
    compile_turns(turns, signature())(X[:B], X[:B])
    swapped_models, swapped = pair()
    compile_turns(dict(reversed(swapped.items())), signature())(X[:B], X[:B])
    assert not np.allclose(
        models[0].get_weights()[0], swapped_models[0].get_weights()[0], rtol=1e-6
    )


def test_after_a_bad_turn_the_later_ones_change_nothing():
    models, turns = pair()
    step = compile_turns(turns, signature())
    before = state(models, turns)
    bad = X[:B].copy()
    bad[2] = np.nan
    with pytest.raises(FloatingPointError, match="top_loss=nan"):
        step(X[:B], bad)
    for a, b in zip(before, state(models, turns), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_bad_later_turn_keeps_the_earlier_one():
    (first, second), turns = pair()
    turns["base"] = turns["base"]._replace(
        loss_gradient=differentiate(lambda y, targets: tf.reduce_mean(y) / 0.0)
    )
    step = compile_turns(turns, signature())
    before = first.get_weights(), second.get_weights()
    with pytest.raises(FloatingPointError, match="base_loss="):
        step(X[:B], X[:B])
    assert all(np.array_equal(a, b) for a, b in zip(before[0], first.get_weights(), strict=True))
    assert not any(
        np.array_equal(a, b) for a, b in zip(before[1], second.get_weights(), strict=True)
    )


def on_host(y, targets):
    difference = y - targets
    return np.mean(difference**2), 2 * difference / difference.size, {"mean": np.mean(y)}


@pytest.mark.parametrize("hosts", [("top",), ("base",), ("top", "base")], ids="+".join)
@pytest.mark.parametrize("updates", [None, (K, B)], ids=["one", "several"])
def test_turns_with_losses_on_the_host(hosts, updates):
    """A loss in NumPy, between compiled parts, trains as the same one in TensorFlow."""
    rows = (ROWS,) if updates else ()
    size = len(X) if updates else B
    states, reports = [], []
    for lifts in ((), hosts):
        models, turns = pair()
        for name in lifts:
            turns[name] = turns[name]._replace(loss_gradient=external(on_host))
        step = compile_turns(turns, signature(size), updates=updates)
        reports.append([step(X[:size], X[:size] ** 2, *rows) for _ in range(3)])
        states.append(state(models, turns))
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for one, other in zip(*reports, strict=True):
        assert set(one) == set(other)
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6)


def test_a_host_loss_of_a_turn_that_raises_changes_nothing():
    models, turns = pair()

    def broken(y, targets):
        raise KeyError("the simulator")

    turns["top"] = turns["top"]._replace(loss_gradient=external(broken))
    step, before = compile_turns(turns, signature()), state(models, turns)
    with pytest.raises(KeyError, match="the simulator"):
        step(X[:B], X[:B])
    for a, b in zip(before, state(models, turns), strict=True):
        np.testing.assert_array_equal(a, b)


def test_turns_on_the_host_receive_texts_unchanged():
    seen = []

    def spell(y, words):
        seen.append(words.tolist())
        return np.mean(y), np.full_like(y, 1 / y.size)

    _, turns = pair()
    turns = {name: each._replace(loss_gradient=external(spell)) for name, each in turns.items()}
    step = compile_turns(turns, (tf.TensorSpec((B, 2)), tf.TensorSpec((B,), tf.string)))
    words = np.array(list("abcdef"))
    step(X[:B], words)
    assert seen == [words.tolist()] * 2


def test_bad_turns():
    _, turns = pair()
    with pytest.raises(ValueError, match="must have turns.* Received: none"):
        compile_turns({}, signature())
    shared = external(on_host)
    both = {name: turn._replace(loss_gradient=shared) for name, turn in turns.items()}
    with pytest.raises(ValueError, match="the same one for top, base. Call `external`"):
        compile_turns(both, signature())
    host = turns["top"]._replace(loss_gradient=external(on_host))
    with pytest.raises(ValueError, match="Received: 'top' and 'top_2'. Rename one"):
        compile_turns({"top": host, "top_2": turns["base"]}, signature())
    texts = tf.TensorSpec((B, 2)), tf.TensorSpec((B,), tf.string)
    with pytest.raises(ValueError, match="strings must be for losses on the host alone"):
        compile_turns({"top": host, "base": turns["base"]}, texts)
    with pytest.raises(ValueError, match="must have variables to train"):
        compile_turns({"top": turns["top"]._replace(variables=[])}, signature())


TURN = pair()[1]["top"]
MODEL = keras.Sequential([keras.Input((2,)), layers.Dense(2)])


def weights(*shape, dtype="float32"):
    return keras.Variable(np.zeros(shape, dtype), dtype=dtype)


BAD_TYPES = {
    "list": ([TURN], {}, "a dict of Turn by name. Received: list"),
    "none": (None, {}, "a dict of Turn by name. Received: NoneType"),
    "tuple": ({"a": tuple(TURN)}, {}, "a dict of Turn by name. Received: tuple"),
    "forward": ({"a": TURN._replace(forward=None)}, {}, "`forward` must be .*Received: None"),
    "arguments": ({"a": TURN._replace(forward=lambda: 0)}, {}, r"`forward` must be .*meters \(\)"),
    "variables": ({"a": TURN._replace(variables=MODEL)}, {}, "`variables` .*: <Sequential"),
    "optimizer": ({"a": TURN._replace(optimizer="adam")}, {}, "optimizer of turn 'a' .*: 'adam'"),
    "average": ({"a": TURN}, {"averages": Average([], [], 1.0)}, "list of Average. Rec.*: Average"),
    "averages": ({"a": TURN}, {"averages": [3]}, "list of Average. Received: int"),
    "tau": ({"a": TURN}, {"averages": [Average([], [], np.nan)]}, "Received: 0 and 0, tau=nan"),
    "pairs": (
        {"a": TURN},
        {"averages": [Average(MODEL.weights, MODEL.weights[:1], 0.5)]},
        "Received: 2 and 1, tau=0.5",
    ),
    "shapes": (
        {"a": TURN},
        {"averages": [Average([weights(4, 2)], [weights(2)], 0.5)]},
        r"have its leader's shape. .*: \w+ float32\[4, 2\] that follows \w+ float32\[2\]",
    ),
    "seeds": (
        {"a": TURN},
        {"averages": [Average([weights(2, dtype="int64")], [weights(2, dtype="int64")], 0.5)]},
        r"Received: \w+ int64\[2\] that .*Pass the `weights` \(not the `variables`",
    ),
    "updates": ({"a": TURN}, {"updates": 0}, "Received: updates=0"),
    "nameless": ({"": TURN}, {}, "names, such as 'actor'. Received: ''"),
    "numbered": ({1: TURN}, {}, "names, such as 'actor'. Received: 1"),
    "compiler": ({"a": TURN}, {"jit_compile": "yes"}, "Received: jit_compile='yes'"),
}


@pytest.mark.parametrize(("turns", "options", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_arguments_of_another_type(turns, options, message):
    with pytest.raises(ValueError, match=message):
        compile_turns(turns, signature(), **options)


def named(turn, metric):
    loss = differentiate(lambda y, targets: (mse(y, targets)[0], {metric: True}))
    return turn._replace(loss_gradient=loss)


def test_metrics_of_turns_have_names_of_their_own():
    _, turns = pair()
    with pytest.raises(ValueError, match="Received: stop. Rename it: it cannot be stopped"):
        compile_turns({"top": named(turns["top"], "stop")}, signature())
    same = {"a_b": named(turns["top"], "c"), "a": named(turns["base"], "b_c")}
    with pytest.raises(ValueError, match="another turn does not use .* Received: a_b_c. Rename"):
        compile_turns(same, signature())


def test_averages_follow_after_each_round():
    """θ' ← τθ + (1 − τ)θ', K times in one call, against NumPy after each single update."""
    (first, second), turns = pair()
    follower = keras.models.clone_model(first)
    follower.set_weights([w + 1 for w in first.get_weights()])
    average = Average(follower.weights, first.weights, 0.25)
    expected = [w.copy() for w in follower.get_weights()]
    step = compile_turns(turns, signature(), averages=[average])
    for k in range(K):
        step(X[ROWS[k]], X[ROWS[k]])
        expected = [0.25 * w + 0.75 * e for w, e in zip(first.get_weights(), expected, strict=True)]
        for a, e in zip(follower.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-6)
    (again, _), turns = pair()
    other = keras.models.clone_model(again)
    other.set_weights([w + 1 for w in again.get_weights()])
    average = Average(other.weights, again.weights, 0.25)
    many = compile_turns(turns, signature(K * B), averages=[average], updates=(K, B))
    many(X, X, ROWS)
    for a, e in zip(other.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_a_bad_round_moves_no_average():
    (first, _), turns = pair()
    follower = keras.models.clone_model(first)
    follower.set_weights([w + 1 for w in first.get_weights()])
    before = follower.get_weights()
    average = Average(follower.weights, first.weights, 0.25)
    step = compile_turns(turns, signature(), averages=[average])
    with pytest.raises(FloatingPointError):
        step(X[:B], np.full((B, 2), np.inf, np.float32))
    for a, b in zip(follower.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_whole_numbers_are_copied_and_never_averaged():
    """As the count of a Normalization layer is."""
    _, turns = pair()
    leader, follower = (keras.Variable([n, n], dtype="int32", trainable=False) for n in (7, 0))
    average = Average([follower], [leader], 1.0)
    compile_turns(turns, signature(), averages=[average])(X[:B], X[:B])
    np.testing.assert_array_equal(follower.numpy(), [7, 7])


@pytest.mark.parametrize("steps", [1, 3])
def test_averages_move_outside_of_a_call(steps):
    leader, follower = (keras.Variable(np.full(2, n, np.float32)) for n in (4.0, 0.0))
    Average([follower], [leader], 0.25).move(steps)
    np.testing.assert_allclose(follower.numpy(), 4.0 * (1.0 - 0.75**steps), rtol=1e-6)


def test_a_float32_average_of_half_precision_follows():
    """In bfloat16 itself a small τ would be rounded away."""
    (first, _), turns = pair()
    keras.utils.set_random_seed(0)
    half = keras.Sequential([keras.Input((2,)), layers.Dense(2, dtype="bfloat16")])
    follower = [keras.Variable(np.zeros(w.shape, "float32")) for w in half.weights]
    step = compile_turns(turns, signature(), averages=[Average(follower, half.weights, 1e-3)])
    step(X[:B], X[:B])
    for a, b in zip(follower, half.weights, strict=True):
        expected = 1e-3 * np.asarray(b.value, np.float32)
        np.testing.assert_allclose(a.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("updates", [None, K])
def test_the_error_names_the_turns_that_were_made(updates):
    """The first turn is good in every round, the second bad in the second round."""
    (first, second), turns = pair()

    def late(y, targets):
        is_bad = turns["top"].optimizer.iterations.value >= (1 if updates is None else 2)
        return tf.where(is_bad, np.inf, 1.0) * mse(y, targets)[0]

    turns["base"] = turns["base"]._replace(loss_gradient=differentiate(late))
    step = compile_turns(turns, signature(), updates=updates, jit_compile=False)
    before = [model.get_weights() for model in (first, second)]
    with pytest.raises(NonfiniteUpdate, match="ended after turn 'top', which had") as caught:
        step(X[:B], X[:B])
    assert caught.value.turns == ("top",)
    assert caught.value.made == ("1 of 3 steps and " if updates else "") + "of this step turn 'top'"
    moved = [
        any((a != b).any() for a, b in zip(model.get_weights(), old, strict=True))
        for model, old in zip((first, second), before, strict=True)
    ]
    assert moved == [updates is not None, True]
