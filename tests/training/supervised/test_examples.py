"""Examples and targets of every kind are taken as they are or refused before training."""

import numpy as np
import pytest
import tensorflow as tf
from regressions import B, X, Y, regression

from vantage.training import (
    differentiate,
)


class Table:
    """What a data frame is: no array, but one for NumPy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


MIXED = X.astype(object)
HUGE = np.where(np.arange(B)[:, None] == 7, 1e39, X.astype(float))
DATA = {
    "a list of numbers": (X.tolist(), r"Received: [-\d.]+. .*numpy.asarray"),
    "a dataset": (tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), "Received: <_BatchDataset"),
    "a generator": ((row for row in X), "Received: <generator.*batches joined by"),
    "no data": (None, "Received: None"),
    "a sparse tensor": (tf.sparse.from_dense(X), "Received: SparseTensor"),
    "a ragged tensor": (tf.ragged.constant([[1.0], [2.0, 3.0]] * 5), "Received: <tf.RaggedTensor"),
    "objects": (MIXED, r"numbers, bools or strings. Received: object\[10, 3\].*astype"),
    "dates": (X.astype("datetime64[s]"), r"Received: datetime64\[s\]\[10, 3\]"),
    "texts": (X.astype(str), r"real numbers, as the model's are \(float32\). Received: <U"),
    "complex numbers": (X + 1j, "Received: complex.*`array.real`"),
    "masked": (
        np.ma.masked_array(X, X > 1),
        r"masked entries.*Received: \d+ masked of 30. .*filled",
    ),
    "too large": (HUGE, r"fit float32.*Received: 1e\+39 in example 7. Scale"),
}


@pytest.mark.parametrize(("data", "message"), DATA.values(), ids=DATA)
def test_odd_inputs_are_refused_before_anything_is_trained_or_written(data, message, tmp_path):
    trainer = regression()
    before = trainer.model.get_weights()
    with pytest.raises(ValueError, match=message) as raised:
        trainer.fit(data, Y, epochs=1, logdir=tmp_path / "run")
    assert len(str(raised.value)) < 600
    assert not (tmp_path / "run").exists()
    for a, b in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, tf.constant, Table, lambda a: a.astype(np.float64), np.asfortranarray],
    ids=["NumPy", "tensor", "table", "double", "Fortran"],
)
def test_arrays_of_any_kind_train_the_same(convert):
    histories = [regression().fit(f(X), f(Y), 3)["loss"] for f in (np.asarray, convert)]
    np.testing.assert_array_equal(*histories)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_data_are_trained_on_in_single_precision(dtype):
    x, y = (tf.cast(array, dtype) for array in (X, Y))
    assert np.isfinite(regression().fit(x, y, 2)["loss"]).all()


@pytest.mark.parametrize("targets", [Y.astype(int), Y > 0], ids=["int", "bool"])
def test_targets_of_another_kind_than_the_loss_takes(targets):
    with pytest.raises(ValueError, match=r"type of the targets. Received: targets (int64|bool)\["):
        regression().fit(X, targets, 1)


def test_targets_may_be_none_for_a_loss_without(tmp_path):
    loss = differentiate(lambda y, targets: tf.reduce_mean(y**2))
    assert len(regression(loss).fit(X, (), 2, logdir=tmp_path)["loss"]) == 2
