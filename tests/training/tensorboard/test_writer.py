"""What the writer writes, read back by TensorBoard: its event reader and its server."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.util import tensor_util

from vantage.training import TensorBoardWriter
from vantage.training.storage.crc32c import masked_crc32c
from vantage.training.tensorboard.summaries import histogram

GIF = bytes.fromhex(  # two frames of 1 x 1 pixels
    "4749463839610100010080000000000000ffffff21ff0b4e45545343415045322e30030100000021f904000a0000"
    "002c000000000100010000020244010021f904000a0000002c00000000010001000002024c01003b"
)
VALUES = {
    "weights/normal": np.random.default_rng(0).normal(size=(40, 25)).astype(np.float32),
    "weights/constant": np.full(4, 2.5),
    "weights/empty": np.zeros((0, 3)),
    "weights/broken": np.array([np.nan, 1.0, np.inf, 3.0, -np.inf]),
}
CONFIG = {
    "lr": 1e-3,
    "steps": np.int64(5),
    "normalize": True,
    "algorithm": "a2c",
    "limit": None,
    "schedule": {"kind": "linear", "ends": [1, 0.5]},
    "clip": float("inf"),
}
ROW = {
    "lr": 1e-3,
    "steps": 5,
    "normalize": True,
    "algorithm": "a2c",
    "limit": "None",
    "schedule.kind": "linear",
    "schedule.ends": "[1, 0.5]",
    "clip": "inf",
}
LAYOUT = {"Learning": {"loss": ["train/loss", "validation/.*"], "speed": ["time/fps"]}}


def network(name="twin"):
    """Two inputs, a shared layer, a sequential model within, an operation, two outputs."""
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    shared = layers.Dense(4, name="shared")
    trunk = keras.Sequential([keras.Input((8,)), layers.Dense(5, name="hidden")], name="trunk")
    hidden = trunk(keras.ops.concatenate([shared(a), shared(b)], -1)) * 2
    return keras.Model([a, b], [layers.Dense(2, name="pi")(hidden), hidden], name=name)


class Own(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def write_everything(folder, k=0, **options):
    writer = TensorBoardWriter(folder)
    writer.hparams({**CONFIG, "lr": 1e-3 * (k + 1), f"only_{k}": k}, **options)
    writer.layout(LAYOUT)
    writer.graph([("twin", network()), ("own", Own())])
    writer.text(0, "config", "| lr | 0.001 |")
    for step in (1, 2):
        writer.scalars(step, {"train/loss": k + 1 / step, "time/fps": 10.0})
        writer.histograms(step, VALUES)
        writer.image(step, "samples", np.full((2, 3, 1), 9, np.uint8))
        writer.video(step, "episode", GIF, (2, 1, 1, 3))
    writer.hparams_end("failure" if k == 1 else "success")
    writer.close()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    write_everything(folder)
    return EventAccumulator(str(folder), {"tensors": 0}).Reload()


# ------------------------------------------------------------------------------- the event reader


def table_of(events, tag):
    event = events.Tensors(tag)[-1]
    assert event.step == 2
    return tensor_util.make_ndarray(event.tensor_proto)


def test_histograms_count_every_finite_number(events):
    values = VALUES["weights/normal"].astype(np.float64)
    counts, edges = np.histogram(values, 30)
    table = table_of(events, "weights/normal")
    np.testing.assert_allclose(table[:, 0], edges[:-1])
    np.testing.assert_allclose(table[:, 1], edges[1:])
    np.testing.assert_array_equal(table[:, 2], counts)
    broken = table_of(events, "weights/broken")
    assert (broken[0, 0], broken[-1, 1], broken[:, 2].sum()) == (1.0, 3.0, 2)
    assert broken[0, 2] == broken[-1, 2] == 1
    constant = table_of(events, "weights/constant")
    assert constant[-1].tolist() == [2.5, 2.5, 4] and not constant[:-1, 2].any()
    assert not table_of(events, "weights/empty").any()
    plugin = events.SummaryMetadata("weights/normal").plugin_data
    assert plugin.plugin_name == "histograms"


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 5e-324],  # a width that is no number any more
        [1e-320, 3e-320],
        [-1e299, 1e299, 1e308, -1e308],
        [1e16, 1e16 + 2, 1e16 + 4],
        np.array([True, False]),
        np.arange(7),
        np.float16([1, 2, 60_000]),
    ],
    ids=str,
)
def test_histograms_of_awkward_numbers(values):
    table = histogram(values)
    kept = [value for value in np.asarray(values, float) if abs(value) < 1e300]
    assert np.isfinite(table).all() and table[:, 2].sum() == len(kept)
    assert (table[:, 1] >= table[:, 0]).all() and table[0, 0] == min(kept)
    assert table[-1, 1] == max(kept)


def test_a_histogram_is_as_tensorboards_own():
    import tensorflow as tf
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb

    for name, values in VALUES.items():
        finite = values[np.isfinite(values)].astype(np.float64)
        theirs = tf.make_ndarray(histogram_pb("tag", finite).value[0].tensor)
        if name == "weights/empty":
            assert not theirs.any()
        else:
            np.testing.assert_allclose(histogram(finite), theirs, rtol=1e-9, err_msg=name)


def test_all_histograms_of_a_step_are_one_record(tmp_path):
    writer, records = TensorBoardWriter(tmp_path), []
    writer._events.write = records.append
    writer.histograms(3, VALUES)
    writer.close()
    (record,) = records
    assert [value.tag for value in record.summary.value] == list(VALUES)


def graph_of(*models):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    from vantage.training.tensorboard import summaries

    graph = summaries.graph((model.name, model) for model in models)
    return {node.name: node for node in GraphDef.FromString(graph["graph_def"]).node}


def test_the_graph_of_a_functional_model(events):
    nodes = {node.name: node for node in events.Graph().node}
    assert nodes["own"].op == "Own" and not nodes["own"].input
    inputs = {name: list(node.input) for name, node in nodes.items() if name != "own"}
    (sum_,) = (name for name in inputs if name.startswith("twin/multiply"))
    (joined,) = (name for name in inputs if name.startswith("twin/concatenate"))
    first_input = next(name for name in inputs if name.startswith("twin/trunk/input"))
    assert inputs["twin/a"] == inputs["twin/b"] == []
    assert sorted([*inputs["twin/shared"], *inputs["twin/shared_"]]) == ["twin/a", "twin/b"]
    assert inputs[first_input] == [joined]
    assert sorted(inputs[joined]) == ["twin/shared", "twin/shared_"]
    assert inputs["twin/trunk/hidden"] == [first_input]
    assert inputs[sum_] == ["twin/trunk/hidden"]
    assert inputs["twin/pi"] == [sum_]
    assert nodes["twin/pi"].op == "Dense" and nodes["twin/pi"].attr["parameters"].i == 12


def test_the_graph_of_other_models():
    dense = [layers.Dense(2, name="first"), layers.Dense(1, name="second")]
    unbuilt = keras.Sequential(dense, name="unbuilt")
    nodes = graph_of(unbuilt, Own(), Own(), network(), network())
    assert list(nodes)[:2] == ["unbuilt/first", "unbuilt/second"]
    assert nodes["unbuilt/second"].input == ["unbuilt/first"]
    assert {"own", "own_", "twin/pi", "twin_/pi"} <= set(nodes)
    built = Own()
    built(np.zeros((1, 2)))
    assert graph_of(built)["own"].attr["parameters"].i == 9
    wired = graph_of(keras.Sequential([keras.Input((2,)), Own()], name="outer"))
    assert list(wired["outer/own"].input) == [next(iter(wired))]


def test_every_input_of_a_graph_is_a_node():
    nodes = graph_of(network(), network(), Own())
    assert {source for node in nodes.values() for source in node.input} <= set(nodes)


# ------------------------------------------------------------------------------------- the server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running TensorBoard over twenty runs: `ask(path, **query)` or `ask(path, post)`."""
    folder = tmp_path_factory.mktemp("server")
    for k in range(20):
        write_everything(folder / f"run_{k}", k)
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--port", "0", "--logdir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = ""
        while "http://" not in line:
            line = process.stdout.readline()
            assert line, "TensorBoard did not start"
        root = re.search(r"http://\S+:\d+/", line)[0]

        def ask(path, post=None, **query):
            url = f"{root}data/plugin/{path}?{urllib.parse.urlencode(query)}"
            data = None if post is None else json.dumps(post).encode()
            headers = {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
                body = answer.read()
                is_json = answer.headers.get_content_type() == "application/json"
                return json.loads(body) if is_json else (answer.headers["Content-Type"], body)

        deadline = time.monotonic() + 60
        while len(ask("scalars/tags")) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield ask
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_server_shows_scalars_and_histograms(server):
    assert set(server("scalars/tags")["run_3"]) == {"train/loss", "time/fps"}
    assert set(server("histograms/tags")["run_3"]) == set(VALUES)
    (_, step, buckets), *_ = server("histograms/histograms", run="run_3", tag="weights/broken")
    assert step == 1 and sum(bucket[2] for bucket in buckets) == 2
    bands = server("distributions/distributions", run="run_3", tag="weights/normal")
    assert len(bands) == 2


def test_twenty_runs_are_twenty_rows_that_sort(server):
    experiment = server("hparams/experiment", {"experimentName": ""})
    columns = {each["name"]: each for each in experiment["hparamInfos"]}
    assert set(columns) == set(ROW) | {f"only_{k}" for k in range(20)}
    assert columns["lr"]["differs"] and not columns["steps"].get("differs")
    assert columns["lr"]["domainInterval"] == {"minValue": 1e-3, "maxValue": 2e-2}
    tags = [each["name"]["tag"] for each in experiment["metricInfos"]]
    assert tags == ["time/fps", "train/loss"]
    question = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE"],
        "colParams": [
            {"metric": {"tag": "train/loss", "group": ""}, "order": "ORDER_DESC"},
            {"hparam": "lr"},
        ],
        "startIndex": 0,
        "sliceSize": 100,
    }
    rows = server("hparams/session_groups", question)["sessionGroups"]
    losses = [
        metric["value"]
        for row in rows
        for metric in row["metricValues"]
        if metric["name"]["tag"] == "train/loss"
    ]
    assert losses == [k + 0.5 for k in range(19, -1, -1)]
    assert rows[-1]["hparams"] == {**ROW, "only_0": 0}
    assert [row["sessions"][0]["status"] for row in rows].count("STATUS_FAILURE") == 1


def test_the_server_shows_images_texts_graphs_and_the_layout(server):
    (first, second) = server("images/images", run="run_0", tag="episode", sample=0)
    kind, body = server(f"images/individualImage?{second['query']}&x")
    assert (kind, body) == ("image/gif", GIF)
    assert first["step"] == 1
    assert "0.001" in server("text/text", run="run_0", tag="config")[0]["text"]
    assert server("graphs/info")["run_0"]["run_graph"]
    kind, body = server("graphs/graph", run="run_0", conceptual="false")
    assert b'name: "twin/trunk/hidden"' in body
    layout = server("custom_scalars/layout")
    (category,) = layout["category"]
    assert category["title"] == "Learning"
    assert category["chart"][0]["multiline"]["tag"] == ["train/loss", "validation/.*"]
    found = server("custom_scalars/scalars", run="run_0", tag="train/loss")
    assert found["regex_valid"] and list(found["tag_to_events"]) == ["train/loss"]


def test_chosen_metrics_and_a_group(tmp_path):
    from tensorboard.plugins.hparams import metadata

    write_everything(tmp_path, metrics=["time/fps", "train/loss"], group="a2c")
    events = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    content = {
        tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.Tags()["tensors"]
    }
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert [each.name.tag for each in experiment.metric_infos] == ["time/fps", "train/loss"]
    kinds = {each.name: each.type for each in experiment.hparam_infos}
    assert list(kinds) == [*ROW, "only_0"]
    assert (kinds["algorithm"], kinds["normalize"], kinds["lr"]) == (1, 2, 3)  # text, truth, number
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == "a2c" and start.start_time_secs > 0


def test_the_file_stays_readable_over_a_resume(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2, 3):
        writer.histograms(step, {"h": np.arange(step + 1.0)})
    writer.close()
    again = TensorBoardWriter(tmp_path)
    again.resume(1)
    again.histograms(2, {"h": np.arange(9.0)})
    again.close()
    # What the server reads with; the other reader keeps histograms that were taken back.
    from tensorboard.backend.event_processing import plugin_event_accumulator

    events = plugin_event_accumulator.EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    points = events.Tensors("h")
    counts = [tensor_util.make_ndarray(point.tensor_proto)[:, 2].sum() for point in points]
    assert [(point.step, count) for point, count in zip(points, counts, strict=True)] == [
        (1, 2),
        (2, 9),
    ]


def test_the_null_writer_reads_nothing():
    """Whatever it is handed costs no look at it, and no import of TensorBoard."""
    code = (
        "import sys; from vantage.training.tensorboard.writer import Writer; w = Writer()\n"
        "w.scalars(1, None); w.histograms(1, None); w.text(1, 't', None); w.image(1, 't', None)\n"
        "w.video(1, 't', None, None); w.graph(None); w.layout(None); w.hparams(None)\n"
        "w.hparams_end(); w.resume(1); w.flush(); w.close()\n"
        "print([name for name in ('tensorboard', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 1023, 1024, 1025, 5_000])
def test_checksums_are_those_of_tensorboard(size):
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as reference

    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == reference(data)


def test_another_writer_in_the_folder_has_a_file_of_its_own(tmp_path, monkeypatch):
    """TensorBoard's own names its file by second, host, process and count, too, and empties it."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    monkeypatch.setattr("vantage.training.tensorboard.events._numbers", itertools.count())
    monkeypatch.setattr(time, "time", lambda: 1e9)
    with contextlib.closing(TensorBoardWriter(tmp_path)) as writer:
        writer.scalars(1, {"mine": 1.0})
        event_file_writer.EventFileWriter(str(tmp_path)).close()
        writer.scalars(2, {"mine": 2.0})
    assert len(list(tmp_path.iterdir())) == 2
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in read.Scalars("mine")] == [1, 2]


@pytest.mark.parametrize("clock", [[1e9] * 3, [1e9, 1e9 - 3600, 5e8]], ids=["stands", "set back"])
def test_what_is_written_later_is_read_later(tmp_path, monkeypatch, clock):
    """TensorBoard reads files in the order of their names, in which 10 comes before 9."""
    monkeypatch.setattr("vantage.training.tensorboard.events._numbers", itertools.count(9))
    for step, now in enumerate(clock):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with contextlib.closing(TensorBoardWriter(tmp_path)) as writer:
            writer.scalars(step, {"mine": float(step)})
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in read.Scalars("mine")] == [0, 1, 2]
