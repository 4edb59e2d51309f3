"""Several updates in one call against single ones; a step is traced once."""

import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    ROWS,
    SIGNATURE,
    WORDS,
    Adam,
    B,
    LossScale,
    X,
    Y,
    assert_same,
    assert_unchanged,
    embedding,
    host_mse,
    mse,
    small_and_stateful,
    stateful,
    stateful_without_dropout,
    step_for,
    twins,
    values,
)

from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import external
from vantage.training.core.lifts import differentiate


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, (3, 4)])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_traced_exactly_once(updates, jit_compile):
    model, optimizer = small_and_stateful(), Adam(0.02)
    runs = {"forward": 0, "loss": 0}

    def forward(x):
        runs["forward"] += 1
        return model(x, training=True)

    def loss(y, t):
        runs["loss"] += 1
        return mse(y, t)

    step = compile_step(
        forward,
        differentiate(loss),
        model.trainable_variables,
        optimizer,
        SIGNATURE,
        updates=updates,
        jit_compile=jit_compile,
    )
    rows = [] if updates is None else [np.zeros(updates, np.int64)]
    for inputs in (X, X.astype(np.float64), np.asfortranarray(X), X.astype(int), tf.constant(X)):
        step(inputs, Y, *rows)
        optimizer.learning_rate = float(optimizer.learning_rate) / 2
        model.set_weights(model.get_weights())
    assert runs == {"forward": 1, "loss": 1}


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_several_updates_on_all_examples_equal_single_ones(jit_compile):
    model, reference = twins(small_and_stateful)
    ours, other = Adam(0.02), Adam(0.02)
    many = step_for(model, None, ours, updates=5, jit_compile=jit_compile)
    one = step_for(reference, None, other)
    received, expected = many(X, Y), [one(X, Y) for _ in range(5)]
    for name, column in received.items():
        np.testing.assert_allclose(column, [each[name] for each in expected], rtol=1e-4)
    assert_same(values(model, ours), values(reference, other))
    with pytest.raises(ValueError, match="structure of the signature"):
        many(X, Y, ROWS.astype(np.int32))


@pytest.mark.parametrize("case", ["graph", "xla", "host", "words", "scaled"])
def test_several_updates_equal_single_ones(case):
    make = {"words": embedding, "xla": stateful_without_dropout}.get(case, stateful)
    inputs, dtype = (WORDS, tf.int32) if make is embedding else (X, tf.float32)
    specs = [(tf.TensorSpec((size, 3), dtype), tf.TensorSpec((size, 2))) for size in (B, 4)]
    model, reference = twins(make)
    one, many = (Adam(0.02) for _ in range(2))
    if case == "scaled":  # the first updates overflow, and stop nothing
        one, many = (LossScale(Adam(0.02), initial_scale=3e38) for _ in range(2))
    loss = external(host_mse) if case == "host" else differentiate(mse)
    step = step_for(reference, loss, one, specs[1])
    rows = np.concatenate([ROWS, ROWS]) if case == "scaled" else ROWS
    expected = [step(inputs[row], Y[row]) for row in rows]
    several = step_for(
        model,
        loss,
        many,
        specs[0],
        updates=rows.shape,
        jit_compile=None if case == "xla" else False,
    )
    metrics = several(inputs, Y, rows)
    assert metrics.keys() == expected[0].keys()
    for name, column in metrics.items():
        assert column.shape == (len(rows),)
        np.testing.assert_allclose(column, [row[name] for row in expected], rtol=1e-4)
    assert_same(values(model, many), values(reference, one))


@pytest.mark.thinned
@pytest.mark.parametrize("updates", [None, 3, ROWS.shape], ids=str)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_what_is_prepared_is_what_every_update_sees(updates, jit_compile):
    """It is made once, of all examples, and assigns nothing: not even what layers would."""
    model, reference = twins(stateful_without_dropout)
    teacher, again = twins(stateful_without_dropout)
    kept, optimizers = teacher.get_weights(), (Adam(0.02), Adam(0.02))
    runs = []

    def prepare(inputs, targets):
        runs.append(inputs.shape)
        return inputs * 0.5, targets + teacher(inputs, training=True)

    steps = [
        compile_step(
            m, differentiate(mse), m.trainable_variables, optimizer, SIGNATURE,
            updates=updates, jit_compile=is_xla, prepare=how,
        )
        for m, optimizer, how, is_xla in zip(
            (model, reference), optimizers, (prepare, None), (jit_compile, False), strict=True
        )
    ]  # fmt: skip
    rows = [ROWS.astype(np.int32)] if updates == ROWS.shape else []
    received = steps[0](X, Y, *rows)
    expected = steps[1](X * np.float32(0.5), Y + again(X, training=True).numpy(), *rows)
    assert runs == [X.shape]
    for name, column in received.items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-4)
    assert_same(values(model, optimizers[0]), values(reference, optimizers[1]))
    for before, after in zip(kept, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("case", ["graph", "xla", "host"])
def test_updates_before_a_bad_one_count_and_none_after(case):
    rows = np.array([[0, 1, 2], [2, 3, 4], [5, 6, 7], [0, 1, 2]])  # example 7 is bad
    loss = external(host_mse) if case == "host" else differentiate(mse)
    model, reference = twins(small_and_stateful if case == "xla" else stateful)
    ours, other = Adam(0.02), Adam(0.02)
    options = {"jit_compile": case == "xla", "mirror": model.variables[:3]}
    step = step_for(model, loss, ours, updates=(4, 3), **options)
    bad_inputs = X.copy()
    bad_inputs[7] = np.nan
    with pytest.raises(FloatingPointError, match="in update 3 of 4: loss=nan"):
        step(bad_inputs, Y, rows)
    single = step_for(reference, loss, other, (tf.TensorSpec((3, 3)), tf.TensorSpec((3, 2))))
    for row in rows[:2]:
        single(X[row], Y[row])
    assert_same(values(model, ours), values(reference, other))
    assert_unchanged(step.weights, values(model)[:3])
    metrics = step(X, Y, rows)
    assert all(column.shape == (4,) for column in metrics.values())
